"""Pages over a scope as it was at one moment: `state::list_entries`.

The first call reads the scope, and keeps what does not fit into its page; each cursor hands out the next page, once. What has
been handed out is kept no longer. What has reached its deadline meanwhile is left out of the later pages.
"""

from __future__ import annotations

import secrets
from functools import partial
from typing import NamedTuple

from iii_state import values
from iii_state.adapters.base import Adapter, Entries
from iii_state.adapters.selection import KeySelection
from iii_state.errors import Code, FunctionError
from iii_state.state.functions.requests import EntriesRequest
from iii_state.tasks.awake import AwakeTimer
from iii_state.tasks.results import Result, then
from iii_state.values.requests import within

EXPIRY_SECONDS = 120.0
"""A cursor that has not been used for so long is forgotten, and what it stands for with it."""

MAX_SNAPSHOTS = 64
MAX_BYTES = 256 * 1024 * 1024
"""Bounds of all snapshots together. One that does not fit is refused, and none is dropped for another."""

MAX_LIMIT, DEFAULT_LIMIT = 1000, 100
MIN_PAGE_BYTES, MAX_PAGE_BYTES, DEFAULT_PAGE_BYTES = 256, 8_000_000, 1_000_000

ROW_BYTES = 100
"""What a row takes besides its key and value, about."""

_PAGE = b'{"entries":[%b],"next_cursor":%b,"done":%b,"offset":%d,"total":%d%b}'
_TTLS = b',"ttl_ms":{%b}'
_CURSOR_BYTES = 24

DEADLINE_BYTES = 100
"""What its deadline takes, about."""

Row = tuple[str, bytes]
"""A key and a stored text."""


class Snapshots:
    """The snapshots that callers of one engine page through."""

    def __init__(
        self,
        adapter: Adapter,
        *,
        expiry_seconds: float = EXPIRY_SECONDS,
        max_snapshots: int = MAX_SNAPSHOTS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._adapter = adapter
        self._expiry_seconds = expiry_seconds
        self._max_snapshots = max_snapshots
        self._max_bytes = max_bytes
        self._held: dict[str, _Snapshot] = {}
        """Cursor → the snapshot that it goes on with."""
        self._readers: dict[str, _Reader] = {}
        """Those who have cursors, or are about to get one, by their workers' ids."""

    def page(self, request: EntriesRequest, worker_id: str) -> Result[bytes]:
        """The JSON text of the next page for a worker.

        Raises `InvalidValue` for a limit out of range, `StoreError` where the scope cannot be read, and `FunctionError`:
        `INVALID_CURSOR`, `ROW_TOO_LARGE` (the cursor can be used again, with a larger `max_bytes`), `SNAPSHOT_CAPACITY`.
        """
        limit = DEFAULT_LIMIT if request.limit is None else request.limit
        max_bytes = DEFAULT_PAGE_BYTES if request.max_bytes is None else request.max_bytes
        within("limit", limit, 1, MAX_LIMIT)
        within("max_bytes", max_bytes, MIN_PAGE_BYTES, MAX_PAGE_BYTES)
        if request.cursor is None:
            reader = self._readers.setdefault(worker_id, _Reader(worker_id))
            reader.open += 1
            try:
                if request.prefix is None and request.order is None:
                    answer = self._adapter.values.entries(request.scope)
                else:
                    answer = self._adapter.values.entries(request.scope, KeySelection(request.prefix or "", request.order))
            except BaseException:
                self._leave(reader)
                raise
            return then(
                answer,
                lambda entries: self._first(_Snapshot(request, reader, entries), entries.now, limit, max_bytes),
                partial(self._unread, reader),
            )
        snapshot = self._held.get(request.cursor)
        now = self._adapter.values.now() if snapshot is not None and snapshot.deadlines else 0
        return then(now, lambda now: self._following(request, worker_id, now, limit, max_bytes))

    def _following(self, request: EntriesRequest, worker_id: str, now: int, limit: int, max_bytes: int) -> bytes:
        """A page behind the first one, of what is there at this time."""
        cursor = request.cursor or ""
        snapshot = self._held.get(cursor)
        if snapshot is None or (snapshot.scope, snapshot.reader.worker_id) != (request.scope, worker_id):
            raise FunctionError(
                Code.INVALID_CURSOR,
                "the cursor is not known: it has been used, or has expired "
                f"({self._expiry_seconds:g} s), or is of another scope, caller or connection; begin again without one",
            )
        try:
            page = snapshot.take(now, limit, max_bytes)
        except FunctionError:
            if max_bytes == MAX_PAGE_BYTES:
                self._drop(cursor)  # no page holds what is left
            raise
        self._forget(cursor)
        return self._answer(snapshot, page)

    def end(self, worker_id: str) -> None:
        """A worker's connection has ended, and with it its cursors."""
        reader = self._readers.pop(worker_id, None)
        if reader is not None:
            reader.is_gone = True
            for cursor in [cursor for cursor, snapshot in self._held.items() if snapshot.reader is reader]:
                self._drop(cursor)

    def close(self) -> None:
        """Forget all snapshots."""
        for cursor in list(self._held):
            self._drop(cursor)

    def _unread(self, reader: _Reader, error: BaseException) -> BaseException:
        self._leave(reader)
        return error

    def _leave(self, reader: _Reader) -> None:
        """One cursor, or reading, of a worker's less."""
        reader.open -= 1
        if not reader.open and self._readers.get(reader.worker_id) is reader:
            del self._readers[reader.worker_id]

    def _first(self, snapshot: _Snapshot, now: int, limit: int, max_bytes: int) -> bytes:
        try:
            page = snapshot.take(now, limit, max_bytes)
            self._check_room(snapshot)
        except FunctionError:
            self._leave(snapshot.reader)
            raise
        return self._answer(snapshot, page)

    def _check_room(self, snapshot: _Snapshot) -> None:
        if snapshot.rows:
            if len(self._held) >= self._max_snapshots:
                raise FunctionError(
                    Code.SNAPSHOT_CAPACITY,
                    f"{self._max_snapshots} scopes are being read in pages already; try again when one has been read to its end, "
                    f"or its cursor has expired ({self._expiry_seconds:g} s)",
                )
            free = self._max_bytes - sum(held.bytes for held in self._held.values())
            if snapshot.bytes > free:
                raise FunctionError(
                    Code.SNAPSHOT_CAPACITY,
                    f"beyond its first page the scope takes {snapshot.bytes} bytes; of the {self._max_bytes} bytes for scopes that "
                    f"are read in pages {free} are free; try again later, or read it with state::list_keys and state::get",
                )

    def _answer(self, snapshot: _Snapshot, page: _Page) -> bytes:
        """A page, and a cursor for what is left of the snapshot."""
        next_cursor = b"null"
        if not snapshot.rows or snapshot.reader.is_gone:
            self._leave(snapshot.reader)
        else:
            cursor = secrets.token_urlsafe(_CURSOR_BYTES * 3 // 4)
            next_cursor = b'"%b"' % cursor.encode()
            self._held[cursor] = snapshot
            snapshot.expiry = AwakeTimer(self._expiry_seconds, lambda: self._drop(cursor))
        done = b"false" if snapshot.rows else b"true"
        ttls = _TTLS % b",".join(page.ttls) if snapshot.tells_ttls else b""
        return _PAGE % (b",".join(page.texts), next_cursor, done, page.offset, snapshot.total, ttls)

    def _drop(self, cursor: str) -> None:
        self._leave(self._forget(cursor).reader)

    def _forget(self, cursor: str) -> _Snapshot:
        snapshot = self._held.pop(cursor)
        if snapshot.expiry is not None:
            snapshot.expiry.cancel()
        return snapshot


class _Reader:
    """A worker that reads scopes in pages, for as long as it has something open."""

    def __init__(self, worker_id: str) -> None:
        self.worker_id = worker_id
        self.open = 0
        """Its cursors, and first pages that are being read."""
        self.is_gone = False
        """Whether its connection has ended."""


class _Page(NamedTuple):
    """Rows that are handed out together."""

    offset: int
    """Where they begin in the snapshot, what has been left out counted."""
    texts: list[bytes]
    ttls: list[bytes]
    """Members of an object: how long those that have a deadline have left."""


class _Snapshot:
    """The rows of a scope that are still to be handed out, the next one last."""

    def __init__(self, request: EntriesRequest, reader: _Reader, entries: Entries) -> None:
        self.scope = request.scope
        self.tells_ttls = request._iii_state_deadlines
        self.reader = reader
        self.total = len(entries.rows)
        # Rows that no page can hold come last, so that they keep nobody from reading the others.
        self.rows = entries.rows[::-1]
        self.rows.sort(key=lambda row: _size(row) < MAX_PAGE_BYTES)
        self.deadlines = entries.deadlines
        self.bytes = sum(map(_size, entries.rows)) + DEADLINE_BYTES * len(self.deadlines)
        self.expiry: AwakeTimer | None = None

    def take(self, now: int, limit: int, max_bytes: int) -> _Page:
        """Take out the next rows that are there at this time, as many as fit into a page, and what is over on the way.

        Raises `FunctionError` where not even one fits.
        """
        page = _Page(self.total - len(self.rows), [], [])
        ttls = _TTLS % b"" if self.tells_ttls else b""
        free = max_bytes - len(_PAGE % (b"", b"null", b"false", self.total, self.total, ttls)) + 1
        left = len(self.rows)
        while left and len(page.texts) < limit:
            key, value = self.rows[left - 1]
            deadline = self.deadlines.get(key)
            if deadline is not None and deadline <= now:
                left -= 1
                continue
            name = values.encode_string(key)
            text = b"[%b,%b]" % (name, value)
            ttl = b"" if deadline is None or not self.tells_ttls else b"%b:%d" % (name, deadline - now)
            free -= len(text) + 1 + (len(ttl) + 1 if ttl else 0)
            if free < (_CURSOR_BYTES - 2 if left > 1 else 0):
                if not page.texts:
                    raise FunctionError(
                        Code.ROW_TOO_LARGE,
                        f"the entry of key {key[:200]!r} takes {len(text)} bytes, and does not fit into a response of max_bytes "
                        f"{max_bytes} (at most {MAX_PAGE_BYTES}); call again with more, or read it with state::get",
                    )
                break
            left -= 1
            page.texts.append(text)
            if ttl:
                page.ttls.append(ttl)
        taken = self.rows[left:]
        had_deadlines = sum(self.deadlines.pop(key, None) is not None for key, _ in taken) if self.deadlines else 0
        self.bytes -= sum(map(_size, taken)) + DEADLINE_BYTES * had_deadlines
        del self.rows[left:]
        return page


def _size(row: Row) -> int:
    return len(row[0]) + len(row[1]) + ROW_BYTES
