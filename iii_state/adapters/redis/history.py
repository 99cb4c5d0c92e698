"""Reading the change logs of the scopes that have one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.mutations.foreign_text import check_event
from iii_state.adapters.redis.shared import Shared
from iii_state.errors import Compacted, StoreError
from iii_state.events import Change, EventType, known_cause
from iii_state.history import PAGE_BYTES, Logged, LogPage, LogRules, Position, check_kept, no_log, parse_position
from iii_state.tasks.results import Result

LOOKED_AT = 1000
"""So many changes are looked at for one page of a key's."""

AGREED_SECONDS = 5.0
"""For so long a reader waits while the fleet has not agreed on the logs again, as when the database has been emptied."""

MAX_READINGS = 10
"""So often the oldest change is looked for: it may be forgotten while it is read."""

_Entry = tuple[bytes, list[bytes]]


class _Found(NamedTuple):
    """What a scope's log holds: the first that is kept and the latest revision, and the entries behind the position asked for."""

    store: str
    first: int
    last: int
    entries: list[_Entry]


class RedisHistory:
    """See `base.History`."""

    def __init__(self, shared: Shared, rules: LogRules) -> None:
        self._keys: Keys = shared.keys
        self._send = shared.connection.send
        self._routes = shared.fanout.routes
        self._store = shared.store
        self._background = shared.background
        self._rules = rules

    def page(self, scope: str, key: str | None, after: str | None, limit: int) -> Result[LogPage]:
        asked = None if after is None else parse_position(after)
        if self._rules.of(scope) is None:
            raise no_log(scope)
        return self._background.call(self._page(scope, key, asked, limit))

    async def _page(self, scope: str, key: str | None, asked: Position | None, limit: int) -> LogPage:
        await self._agreed(scope)
        if asked is not None:
            return await self._page_after(scope, key, asked, limit)
        for _ in range(MAX_READINGS):
            oldest = await self._found(scope, None, 0)
            try:
                return await self._page_after(scope, key, Position(oldest.store, oldest.first - 1), limit)
            except Compacted:
                continue
        raise StoreError(f"the oldest changes of scope {scope!r} were forgotten {MAX_READINGS} times while they were read")

    async def _page_after(self, scope: str, key: str | None, begins: Position, limit: int) -> LogPage:
        found = await self._found(scope, begins.revision, 1)
        check_kept(begins, found.store, found.first, found.last)
        if limit == 0:
            return LogPage([], str(Position(found.store, found.last)), found.first)
        changes: list[Logged] = []
        reached, size = begins.revision, 0
        async for entry_id, fields in self._entries(scope, found, limit if key is None else LOOKED_AT):
            revision, _, at_ms = entry_id.partition(b"-")
            if int(revision) != reached + 1:
                raise Compacted(f"what came after revision {reached} has just been forgotten: read the values again")
            reached += 1
            event = _event(scope, fields)
            if key is None or event.key == key:
                changes.append(Logged(reached, int(at_ms), event.payload()))
                size += event.size
            if len(changes) == limit or size >= PAGE_BYTES:
                break
        return LogPage(changes, str(Position(found.store, reached)), found.first)

    async def _entries(self, scope: str, found: _Found, most: int) -> AsyncIterator[_Entry]:
        """The entries behind a position, of which `found` has the first. The larger they are, the fewer are read at once."""
        entries, count = found.entries, 1
        while entries:
            for entry in entries:
                yield entry
            most -= len(entries)
            revision = int(entries[-1][0].partition(b"-")[0])
            if len(entries) < count or most <= 0 or revision >= found.last:
                return
            each = sum(len(word) for _, fields in entries for word in fields) // len(entries) + 1
            count = max(1, min(most, PAGE_BYTES // each, 20 * count))
            entries = await self._range(scope, revision, count)

    async def _agreed(self, scope: str) -> None:
        """Wait until the fleet's setting has the log that this engine's has."""
        loop = asyncio.get_running_loop()
        until = loop.time() + AGREED_SECONDS
        while (setting := self._routes.logs) is None or setting.of(scope) is None:
            if loop.time() > until:
                raise StoreError(f"the change log of scope {scope!r} is not there yet: the engines have not agreed on it again")
            await asyncio.sleep(0.02)

    async def _found(self, scope: str, after: int | None, count: int) -> _Found:
        """In this order: what is trimmed meanwhile is missed at the latest when entries are counted."""
        name, revisions = self._keys.history(scope.encode()), self._keys.revisions(scope.encode())
        oldest = self._send(b"XRANGE", name, b"-", b"+", b"COUNT", b"1", scope=scope)
        store = self._send(b"GET", self._keys.store)
        known = self._send(b"HMGET", revisions, b"last", b"generation", scope=scope)
        behind = None if after is None else self._range(scope, after, count)
        (last_text, generation), entries = await known, await oldest
        setting = None if self._routes.logs is None else self._routes.logs.of(scope)
        following: list[_Entry] = [] if behind is None else await behind
        last = int(last_text or 0)
        if setting is not None and generation != setting.generation:
            # Nothing has been logged since the log was switched on: what it kept before that is not told, and the revision that
            # stands for what was not logged has been.
            last, entries, following = (last + 1 if last else 0), [], []
        kept = int(entries[0][0].partition(b"-")[0]) if entries else last + 1
        first = kept if setting is None else max(kept, last - setting.rule.max_length + 1)
        found = (await store or b"").decode("utf-8", "replace")
        return _Found(found or self._store.id or "", first, last, following)

    async def _range(self, scope: str, after: int, count: int) -> list[_Entry]:
        name = self._keys.history(scope.encode())
        entries: list[_Entry] = await self._send(b"XRANGE", name, b"%d-0" % (after + 1), b"+", b"COUNT", b"%d" % count, scope=scope)
        return entries


def _event(scope: str, fields: list[bytes]) -> Change:
    held = dict(zip(fields[::2], fields[1::2], strict=True))
    kind: EventType = f"state:{held[b't'].decode()}"  # type: ignore[assignment]
    old, new, cause = held[b"o"] or None, held[b"n"] or None, known_cause(held[b"c"].decode())
    event = Change("", scope, held[b"k"].decode(), kind, old, new, cause)
    check_event(event)
    return event
