"""Values at a scope and a key: reading them at one instant where that is little enough, else in pages; each change one script."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

from iii_state.adapters.base import Entries, Reading, Replaced, Updated
from iii_state.adapters.redis.connection.call import RedisCall, Reply
from iii_state.adapters.redis.fleet.retention import HOLD_SECONDS
from iii_state.adapters.redis.keyspace.scopes import Scopes
from iii_state.adapters.redis.mutations.commands import (
    Remove,
    RemoveIf,
    RemoveWithMeta,
    Replace,
    ReplaceIf,
    ReplaceWithMeta,
    Touch,
    Update,
    UpdateIf,
)
from iii_state.adapters.redis.mutations.foreign_text import checked, is_ours
from iii_state.adapters.redis.mutations.mutation import Mutation
from iii_state.adapters.redis.mutations.replicas import Replicas
from iii_state.adapters.redis.mutations.transaction import Transact
from iii_state.adapters.redis.scripts.loader import script
from iii_state.adapters.redis.scripts.mutations import Postponed
from iii_state.adapters.redis.scripts.packing import pack
from iii_state.adapters.redis.sessions import RedisSessions
from iii_state.adapters.redis.shared import Shared
from iii_state.adapters.selection import KeySelection
from iii_state.errors import StoreError
from iii_state.sessions import Request
from iii_state.tasks.results import Result, result_of
from iii_state.values.conditions import Conditions
from iii_state.values.ops import Plan
from iii_state.values.transactions import Done, Step

T = TypeVar("T")

_GLOB = re.compile(rb"[*?\[\]\\^-]")
"""What has a meaning in a pattern of Redis's."""

INSTANT_VALUES = 2000
INSTANT_BYTES = 1_000_000
"""Up to here the values of a scope are read at one instant."""

INSTANT_KEYS = 10_000
"""Up to here its keys are, without the values: about a millisecond of Redis's time."""

PAGE_VALUES = 200
PAGE_BYTES = 500_000
"""Beyond it they are read in pages of about this size, each well within a millisecond of Redis's time per 100 KB."""


class RedisValues:
    """The values. With `replicas`, a change is answered when these have it."""

    def __init__(self, shared: Shared, sessions: RedisSessions, scopes: Scopes, replicas: Replicas | None) -> None:
        self._keys = shared.keys
        self._call = shared.connection.call
        self._send = shared.connection.send
        self._fanout = shared.fanout
        self._routes = shared.fanout.routes
        self._background = shared.background
        self._sessions = sessions
        self._scopes = scopes
        self._replicas = replicas

    # -- one value

    def get(self, scope: str, key: str) -> Result[bytes | None]:
        """The stored text, None for a missing key, and for one whose deadline is over."""
        return self._call(Get(scope, key, self._names_of(scope)))

    def read(self, scope: str, key: str) -> Result[Reading]:
        """The stored text, how long it has left, and its revision."""
        names, generation = self._names_of(scope), None
        logs = self._routes.logs
        if logs is not None and (log := logs.of(scope)) is not None:
            encoded, generation = scope.encode(), log.generation
            names = (names[0], self._keys.deadlines_of(encoded), self._keys.clock, self._keys.revisions(encoded))
        return self._call(Read(scope, key, names, generation))

    def get_many(self, scope: str, keys: Sequence[str]) -> Result[list[bytes | None]]:
        """The stored texts at these keys, at one instant."""
        return self._call(GetMany(scope, keys, self._names_of(scope))) if keys else []

    def set(
        self,
        scope: str,
        key: str,
        value: bytes,
        *,
        ttl_ms: int | None = None,
        request: Request | None = None,
        conditions: Conditions | None = None,
    ) -> Result[bytes | None]:
        """Store a value; answers what was there before."""
        if conditions is None:
            return self._change(Replace(self._fanout, scope, key, (value,), request, ttl_ms))
        return self._change(ReplaceIf(self._fanout, scope, key, (value,), request, ttl_ms, conditions))

    def delete(
        self, scope: str, key: str, *, request: Request | None = None, conditions: Conditions | None = None
    ) -> Result[bytes | None]:
        """Remove a value; answers what was there."""
        if conditions is None:
            return self._change(Remove(self._fanout, scope, key, (), request))
        return self._change(RemoveIf(self._fanout, scope, key, (), request, None, conditions))

    def update(
        self,
        scope: str,
        key: str,
        plan: Plan,
        limit: int,
        *,
        ttl_ms: int | None = None,
        request: Request | None = None,
        conditions: Conditions | None = None,
        strict: bool = False,
        meta: bool = False,
    ) -> Result[Updated]:
        """Apply a plan to a value."""
        change = (plan, limit)
        if conditions is None and not strict and not meta:
            return self._change(Update(self._fanout, scope, key, change, request, ttl_ms))
        return self._change(UpdateIf(self._fanout, scope, key, change, request, ttl_ms, conditions, strict=strict, meta=meta))

    def replace(
        self,
        scope: str,
        key: str,
        value: bytes | None,
        *,
        ttl_ms: int | None = None,
        request: Request | None = None,
        conditions: Conditions | None = None,
    ) -> Result[Replaced]:
        """Store a value, or remove it; answers the revision, too."""
        if value is None:
            return self._change(RemoveWithMeta(self._fanout, scope, key, (), request, None, conditions))
        return self._change(ReplaceWithMeta(self._fanout, scope, key, (value,), request, ttl_ms, conditions))

    def touch(self, scope: str, key: str, ttl_ms: int | None, *, request: Request | None = None) -> Result[bool]:
        """Let a value go after `ttl_ms`, or stay; answers whether there is one."""
        return self._change(Touch(self._fanout, scope, key, (), request, ttl_ms))

    def transact(self, scope: str, steps: Sequence[Step], limit: int, *, request: Request | None = None) -> Result[list[Done]]:
        """Carry out steps, all or none."""
        return self._change(Transact(self._fanout, scope, steps, limit, request))

    def _change(self, mutation: Mutation[T]) -> Result[T]:
        if mutation.request is not None:
            self._sessions.keep(mutation.request.session)
        if mutation.ttl_ms is None or mutation.scope in self._routes.with_deadlines:
            return self._confirmed(mutation)
        mutation.can_be_held = True
        return self._background.call(self._first_deadline(mutation, self._confirmed(mutation)))

    def _confirmed(self, mutation: Mutation[T]) -> asyncio.Future[T]:
        answer = self._call(mutation)
        return answer if self._replicas is None else self._replicas.confirmed(answer)

    async def _first_deadline(self, mutation: Mutation[T], answer: asyncio.Future[T]) -> T:
        """The first deadline of a scope changes the routes, which may have to hold still."""
        while (result := await answer) is Postponed.HELD:
            await asyncio.sleep(HOLD_SECONDS)
            mutation.begin_again()
            answer = self._confirmed(mutation)
        return result

    # -- the values of a scope

    def texts(self, scope: str, selection: KeySelection | None = None) -> Result[list[bytes]]:
        """The stored texts of a scope, or those that are asked for."""
        return self._background.call(self._texts(scope) if selection is None else self._selected_texts(scope, selection))

    def entries(self, scope: str, selection: KeySelection | None = None) -> Result[Entries]:
        """Keys and stored texts of a scope, or those that are asked for, and their deadlines."""
        return self._background.call(self._entries(scope, selection))

    async def pages(self, scope: str) -> AsyncIterator[Entries]:
        """The same in parts, of a scope of any size. Of one that is not read at one instant, a key may be in several."""
        async for found, ends in self._read(scope, with_ends=True):
            deadlines = {key.decode(): int(float(end)) for key, end in ends.items()}
            yield Entries(_rows(scope, found), deadlines, await result_of(self.now()) if deadlines else 0)

    def now(self) -> Result[int]:
        """The time of the fleet, in milliseconds since 1970."""
        return self._send(b"EVALSHA", script("deadlines/now").sha1, b"1", self._keys.clock)

    def keys(self, scope: str, selection: KeySelection | None = None) -> Result[list[str]]:
        """The keys of a scope, or those that are asked for."""
        return self._background.call(self._keys_of(scope) if selection is None else self._selected_keys(scope, selection))

    def scopes(self) -> Result[list[str]]:
        """The scopes that have a key."""
        return self._background.call(self._scopes.all())

    async def _texts(self, scope: str) -> list[bytes]:
        return [text for _, text in _rows(scope, await self._found(scope))]

    async def _entries(self, scope: str, selection: KeySelection | None) -> Entries:
        ends: dict[bytes, bytes] = {}
        found = await self._found(scope, ends, selection)
        rows = _rows(scope, found)
        if selection is not None:
            rows = selection.sorted_rows(rows)
        deadlines = {key.decode(): int(float(end)) for key, end in ends.items() if key in found}
        return Entries(rows, deadlines, await result_of(self.now()) if deadlines else 0)

    async def _selected_texts(self, scope: str, selection: KeySelection) -> list[bytes]:
        if selection.limit is None:
            return [text for _, text in selection.sorted_rows(_rows(scope, await self._found(scope, None, selection)))]
        if (page := await self._snapshot(scope)) is not None:
            small = dict(zip(page[::2], page[1::2], strict=True))
            return [
                text for _, text in _rows(scope, {key: small[key] for key in selection.first(filter(selection.matches, small))})
            ]
        keys = await self._selected_keys(scope, selection)
        found: list[bytes] = []
        for first in range(0, len(keys), PAGE_VALUES):
            texts = await result_of(self.get_many(scope, keys[first : first + PAGE_VALUES]))
            found += [text for text in texts if text is not None]
        return found

    async def _selected_keys(self, scope: str, selection: KeySelection) -> list[str]:
        """There is no index of them: all keys of the scope are looked at, but where any will do."""
        names = self._names_of(scope)
        if len(names) == 1 and await self._send(b"HLEN", *names, scope=scope) <= INSTANT_KEYS:
            keys = selection.first(filter(selection.matches, await self._send(b"HKEYS", *names, scope=scope)))
        else:
            keys = []
            enough = None if selection.limit is None else selection.limit if selection.order is None else 4 * selection.limit + 1000
            async for page in self._pages(names, scope, selection=selection):
                keys += filter(selection.matches, page[::2])
                if enough is not None and len(keys) >= enough:
                    keys = selection.first(dict.fromkeys(keys))
                    if selection.order is None and len(keys) >= enough:
                        break
            keys = selection.first(dict.fromkeys(keys))
        return [_decoded(scope, key) for key in keys]

    async def _snapshot(self, scope: str, *, with_ends: bool = False) -> list[bytes] | None:
        """A scope at one instant, as `_pages` has it; None for one that is too large for that."""
        names = self._names_of(scope)
        arguments = [b"%d" % INSTANT_VALUES, b"%d" % INSTANT_BYTES, *([b"1"] if with_ends else [])]
        snapshot = script("values/snapshot").sha1
        page: list[bytes] | None = await self._send(b"EVALSHA", snapshot, b"%d" % len(names), *names, *arguments, scope=scope)
        return page

    async def _found(
        self, scope: str, ends: dict[bytes, bytes] | None = None, selection: KeySelection | None = None
    ) -> dict[bytes, bytes]:
        """Key → text of a scope, or of what matches there. The deadlines of those that have one go into `ends`, if given."""
        found: dict[bytes, bytes] = {}
        async for texts, ends_of_page in self._read(scope, selection, with_ends=ends is not None):
            found.update(texts)
            if ends is not None:
                ends.update(ends_of_page)
        return found if selection is None else {key: text for key, text in found.items() if selection.matches(key)}

    async def _read(
        self, scope: str, selection: KeySelection | None = None, *, with_ends: bool
    ) -> AsyncIterator[tuple[dict[bytes, bytes], dict[bytes, bytes]]]:
        """Key → text of a scope, and key → deadline of those that have one: at one instant, or page by page.

        Of pages a key may be in several. Of a selection at least what matches is there.
        """
        names = self._names_of(scope)
        with_ends = with_ends and len(names) > 1
        page = await self._snapshot(scope, with_ends=with_ends)
        pages = _only(page) if page is not None else self._pages(names, scope, with_ends=with_ends, selection=selection)
        width = 3 if with_ends else 2
        async for page in pages:
            ends = {key: end for key, end in zip(page[::3], page[2::3], strict=True) if end} if with_ends else {}
            yield dict(zip(page[::width], page[1::width], strict=True)), ends

    async def _keys_of(self, scope: str) -> list[str]:
        names = self._names_of(scope)
        if len(names) == 1 and await self._send(b"HLEN", *names, scope=scope) <= INSTANT_KEYS:
            found = await self._send(b"HKEYS", *names, scope=scope)
        else:
            found = {key: None async for page in self._pages(names, scope) for key in page[::2]}
        return [_decoded(scope, key) for key in found]

    def _names_of(self, scope: str) -> tuple[bytes, ...]:
        """The keys that a read of a scope has to look at: its values, and its deadlines where it has any."""
        encoded = scope.encode()
        name = self._keys.values(encoded)
        return (name, self._keys.deadlines_of(encoded), self._keys.clock) if scope in self._routes.with_deadlines else (name,)

    async def _pages(
        self, names: tuple[bytes, ...], scope: str, *, with_ends: bool = False, selection: KeySelection | None = None
    ) -> AsyncIterator[list[bytes]]:
        """Keys and values (and deadlines) in turn of a scope of any size; a key may come twice. Of a selection, as far as Redis can
        tell, those whose keys have its prefix."""
        cursor, count = b"0", PAGE_VALUES
        match = (
            ()
            if selection is None or not selection.prefix
            else (b"MATCH", _GLOB.sub(rb"\\\g<0>", selection.prefix.encode()) + b"*")
        )
        flag = (b"1",) if with_ends else ()
        while True:
            if len(names) == 1:
                words: tuple[bytes, ...] = (b"HSCAN", *names, cursor, *match, b"COUNT", b"%d" % count)
            else:
                words = (b"EVALSHA", script("values/page").sha1, b"3", *names, cursor, b"%d" % count, *flag)
            cursor, page = await self._send(*words, scope=scope)
            yield page
            if cursor == b"0":
                break
            if match:
                continue
            each = sum(map(len, page)) // (len(page) // (3 if with_ends else 2) or 1) + 1
            count = max(10, min(5 * PAGE_VALUES, PAGE_BYTES // each))


class Get(RedisCall[bytes | None]):
    """Reads one value. `names` are its key in Redis, and those of its scope's deadlines and of the clock where it has any."""

    __slots__ = ("_key", "_names")

    scope: str

    def __init__(self, scope: str, key: str, names: tuple[bytes, ...]) -> None:
        super().__init__(scope=scope)
        self._key = key
        self._names = names

    def command(self, session: bytes, epoch: int) -> bytes:
        if len(self._names) == 1:
            return pack((b"HGET", self._names[0], self._key.encode()))
        return pack((b"EVALSHA", script("values/get").sha1, b"3", *self._names, self._key.encode()))

    def result(self, reply: Reply) -> bytes | None:
        if reply is None or is_ours(reply):
            return reply  # type: ignore[no-any-return]
        return checked(self.scope, self._key, reply)


class Read(RedisCall[Reading]):
    """Reads one value, what is left of its time, and its revision. `names` are as of `Get`, or, of a scope whose change log has a
    `generation`, all of those and that of its revisions."""

    __slots__ = ("_generation", "_key", "_names")

    scope: str

    def __init__(self, scope: str, key: str, names: tuple[bytes, ...], generation: bytes | None) -> None:
        super().__init__(scope=scope)
        self._key = key
        self._names = names
        self._generation = generation

    def command(self, session: bytes, epoch: int) -> bytes:
        if len(self._names) == 1:
            return pack((b"HGET", self._names[0], self._key.encode()))
        words = (self._key.encode(), b"1") if self._generation is None else (self._key.encode(), b"1", self._generation)
        return pack((b"EVALSHA", script("values/get").sha1, b"%d" % len(self._names), *self._names, *words))

    def result(self, reply: Reply) -> Reading:
        text, ttl_ms, revision = (reply, None, None) if len(self._names) == 1 else reply
        if text is None:
            return Reading(None)
        return Reading(text if is_ours(text) else checked(self.scope, self._key, text), ttl_ms, revision)


class GetMany(RedisCall[list[bytes | None]]):
    """Reads several values of a scope, as `Get` reads one."""

    __slots__ = ("_keys", "_names")

    scope: str

    def __init__(self, scope: str, keys: Sequence[str], names: tuple[bytes, ...]) -> None:
        super().__init__(scope=scope)
        self._keys = keys
        self._names = names

    def command(self, session: bytes, epoch: int) -> bytes:
        keys = [key.encode() for key in self._keys]
        if len(self._names) == 1:
            return pack((b"HMGET", self._names[0], *keys))
        return pack((b"EVALSHA", script("values/get_many").sha1, b"3", *self._names, *keys))

    def result(self, reply: Reply) -> list[bytes | None]:
        pairs = zip(self._keys, reply, strict=True)
        return [text if text is None or is_ours(text) else checked(self.scope, key, text) for key, text in pairs]


async def _only(page: list[bytes]) -> AsyncIterator[list[bytes]]:
    yield page


def _rows(scope: str, found: dict[bytes, bytes]) -> list[tuple[str, bytes]]:
    rows = []
    for key, text in found.items():
        decoded = _decoded(scope, key)
        rows.append((decoded, text if is_ours(text) else checked(scope, decoded, text)))
    return rows


def _decoded(scope: str, key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise StoreError(f"scope {scope!r} has a key that is not ours, and no UTF-8: {key[:200]!r}") from None
