"""Listing the values of a scope: at one instant where they are little enough, else in pages."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from iii_state.adapters.base import Entries
from iii_state.adapters.redis.keyspace.scopes import Scopes
from iii_state.adapters.redis.mutations.foreign_text import checked, is_ours
from iii_state.adapters.redis.reads import GetMany
from iii_state.adapters.redis.shared import Shared
from iii_state.adapters.selection import KeySelection
from iii_state.errors import StoreError
from iii_state.tasks.results import Result, result_of

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


class Listing:
    """The scopes, and all or some of what each of them holds. See `base.Values`."""

    def __init__(self, shared: Shared, scopes: Scopes) -> None:
        self._keys = shared.keys
        self._call = shared.connection.call
        self._send = shared.connection.send
        self._scripts = shared.connection.scripts
        self._routes = shared.fanout.routes
        self._background = shared.background
        self._scopes = scopes

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
        return self._send(b"EVALSHA", self._scripts.of("deadlines/now").sha1, b"1", self._keys.clock)

    def keys(self, scope: str, selection: KeySelection | None = None) -> Result[list[str]]:
        """The keys of a scope, or those that are asked for."""
        return self._background.call(self._keys_of(scope) if selection is None else self._selected_keys(scope, selection))

    def count(self, scope: str) -> Result[int | None]:
        """The fields of its hash."""
        return self._send(b"HLEN", self._keys.values(scope.encode()), scope=scope)

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
            texts = await self._call(GetMany(scope, keys[first : first + PAGE_VALUES], self._names_of(scope), self._scripts))
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
        snapshot = self._scripts.of("values/snapshot").sha1
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
                words = (b"EVALSHA", self._scripts.of("values/page").sha1, b"3", *names, cursor, b"%d" % count, *flag)
            cursor, page = await self._send(*words, scope=scope)
            yield page
            if cursor == b"0":
                break
            if match:
                continue
            each = sum(map(len, page)) // (len(page) // (3 if with_ends else 2) or 1) + 1
            count = max(10, min(5 * PAGE_VALUES, PAGE_BYTES // each))


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
