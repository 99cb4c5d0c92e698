"""The values of a running engine, by its `state::*` functions: to export them, and to put others there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

import msgspec
from msgspec import Raw

from iii_state import values
from iii_state.adapters.wall_clock import now_ms
from iii_state.client.client import Client
from iii_state.errors import Code, FunctionError, InvalidValue, TransferError
from iii_state.transfer.rows import PART_BYTES, OnConflict, RowOutcome, ValueRow, judged
from iii_state.transfer.seen import Seen
from iii_state.values import Json

T = TypeVar("T")

PAGE = b'"limit":1000,"max_bytes":8000000,"_iii_state_deadlines":true'
CALL_SECONDS = 300.0
"""The first page of a scope comes when the engine has read all of it."""

TOGETHER = 64
"""So many values are read at once that come in no page, if they are not large."""


class _Groups(msgspec.Struct):
    groups: list[str]


class _Keys(msgspec.Struct):
    keys: list[str]


class _Page(msgspec.Struct):
    entries: list[tuple[str, Raw]]
    next_cursor: str | None
    ttl_ms: dict[str, int] = {}


class _Meta(msgspec.Struct):
    value: Raw
    etag: str | None
    ttl_ms: int | None = None


class _Applied(msgspec.Struct):
    """What a `set` with a condition answers: `applied` only where that does not hold."""

    applied: bool = True
    value: Raw = Raw(b"null")
    """What is there."""


class _Trigger(msgspec.Struct):
    function_id: str


class _Triggers(msgspec.Struct):
    triggers: list[_Trigger]


class EngineStore:
    """The store of an engine. Call `look_around` first. See `rows.Source` and `rows.Target`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.name = client.url
        self.store: str | None = None
        self._is_ours = False
        self._features: frozenset[str] = frozenset()

    async def look_around(self) -> None:
        """Learn which store that is, and what the engine can do."""
        try:
            answer = await self._client.call("engine::functions::info", b'{"function_id":"state::set"}')
        except FunctionError as error:
            if error.code not in (Code.FUNCTION_NOT_FOUND, Code.NOT_FOUND):
                raise
            raise TransferError(
                f"the engine at {self.name} has no state (state::set): serve one with a store, or attach a state worker to it"
            ) from None
        about = values.decode(answer or b"{}")
        ours = ((about.get("metadata") or {}) if isinstance(about, dict) else {}).get("iii_state")
        if isinstance(ours, dict):
            self._is_ours = True
            self.store = ours.get("store")
            self._features = frozenset(ours.get("features") or ())

    # --- reading

    async def scopes(self) -> list[str]:
        return (await self._ask("state::list_groups", b"{}", _Groups)).groups

    async def count(self, scopes: Sequence[str]) -> int | None:
        return None

    async def rows(self, scope: str) -> AsyncIterator[Sequence[ValueRow]]:
        name = values.encode_string(scope)
        cursor = b""
        with Seen() as seen:
            while True:
                try:
                    page = await self._ask("state::list_entries", b'{"scope":%b,%b%b}' % (name, PAGE, cursor), _Page)
                except FunctionError as error:
                    if error.code not in (Code.ROW_TOO_LARGE, Code.SNAPSHOT_CAPACITY):
                        raise self._explained(error) from None
                    async for rows in self._by_key(scope, seen):
                        yield rows
                    return
                now = now_ms()
                if page.next_cursor is not None or cursor:  # a single page leaves nothing to be read by key
                    seen.add([key for key, _ in page.entries])
                ttls = page.ttl_ms
                yield [ValueRow(scope, key, _stored(text), now + ttls[key] if key in ttls else None) for key, text in page.entries]
                if page.next_cursor is None:
                    return
                cursor = b',"cursor":%b' % values.encode_string(page.next_cursor)

    async def _by_key(self, scope: str, seen: Seen) -> AsyncIterator[Sequence[ValueRow]]:
        """What comes in no page: a value that is too large for one, a scope that is too large for the engine's snapshots."""
        keys = (await self._ask("state::list_keys", b'{"scope":%b}' % values.encode_string(scope), _Keys)).keys
        missing = seen.new(keys)
        start, step = 0, 1
        while start < len(missing):
            found = await asyncio.gather(*(self._at(scope, key) for key in missing[start : start + step]))
            rows = [row for row in found if row is not None]
            yield rows
            start += step
            size = sum(len(row.text) for row in rows)
            step = 1 if size > PART_BYTES else min(2 * step, TOGETHER)

    async def _at(self, scope: str, key: str) -> ValueRow | None:
        place = _place(scope, key)
        if "meta" in self._features:
            found = await self._ask("state::get", b'{%b,"meta":true}' % place, _Meta)
            if found.etag is None:
                return None
            return ValueRow(scope, key, _stored(found.value), None if found.ttl_ms is None else now_ms() + found.ttl_ms)
        text = await self._client.call("state::get", b"{%b}" % place)
        return None if text is None else ValueRow(scope, key, _stored(text))

    def _explained(self, error: FunctionError) -> Exception:
        if error.code != Code.FUNCTION_NOT_FOUND:
            return error
        return TransferError(
            f"the engine at {self.name} has no state::list_entries (stock engines have it since 0.24), and tells the values of a "
            "scope only, not their keys: read its Redis (--redis-url) or its files (iii-state import --from-iii)"
        )

    # --- writing

    async def triggers(self) -> list[str] | None:
        """The functions that get events of what is written here; None where this may not be known, or the engine cannot tell."""
        try:
            found = await self._ask("iii-state::triggers", b"{}", _Triggers)
        except FunctionError:
            return None
        return [trigger.function_id for trigger in found.triggers]

    def check(self, on_conflict: OnConflict) -> None:
        """Raise `TransferError` where the engine cannot do that."""
        if on_conflict != "overwrite" and "if" not in self._features:
            raise TransferError(
                f"the engine at {self.name} knows no conditions (UNSUPPORTED), and would overwrite what is there: give "
                "--on-conflict overwrite, import into its store (--redis-url, --file-path), or use a newer engine"
            )

    async def put(self, rows: Sequence[ValueRow], on_conflict: OnConflict) -> list[RowOutcome]:
        now = now_ms()
        made = [self._begin(row, on_conflict, now) for row in rows]
        if waiting := [answer for answer in made if not isinstance(answer, RowOutcome)]:
            await asyncio.wait(waiting)
            [answer.exception() for answer in waiting]  # of those that have failed the first is raised below
        return [self._outcome(row, answer) for row, answer in zip(rows, made, strict=True)]

    def _begin(self, row: ValueRow, on_conflict: OnConflict, now: int) -> asyncio.Future[bytes | None] | RowOutcome:
        ttl = b""
        if row.deadline_ms is not None:
            if row.deadline_ms <= now:
                return RowOutcome.EXPIRED
            if not self._is_ours:
                raise TransferError(
                    f"scope {row.scope!r}, key {row.key!r} has a deadline, which the engine at {self.name} would ignore; "
                    "import into an engine of iii-state"
                )
            ttl = b',"ttl_ms":%d' % (row.deadline_ms - now)
        returned = b',"return":"none"' if "meta" in self._features else b""
        condition = b"" if on_conflict == "overwrite" else b',"if":[{"absent":true}],"if_failed":"return"'
        place = _place(row.scope, row.key)
        return self._client.call("state::set", b'{%b,"value":%b%b%b%b}' % (place, row.text, ttl, returned, condition))

    def _outcome(self, row: ValueRow, made: asyncio.Future[bytes | None] | RowOutcome) -> RowOutcome:
        """What became of a row. Raises what its call has failed with."""
        if isinstance(made, RowOutcome):
            return made
        answer = self._read("state::set", made.result(), _Applied)
        if answer.applied:
            return RowOutcome.STORED
        return RowOutcome.SAME if _stored(answer.value) == row.text else RowOutcome.TAKEN

    async def look(self, rows: Sequence[ValueRow]) -> list[RowOutcome]:
        found = await asyncio.gather(*(self._at(row.scope, row.key) for row in rows))
        now = now_ms()
        return [judged(row, there, now) for row, there in zip(rows, found, strict=True)]

    async def _ask(self, function_id: str, data: Json, reply: type[T]) -> T:
        return self._read(function_id, await self._client.call(function_id, data), reply)

    def _read(self, function_id: str, text: bytes | None, reply: type[T]) -> T:
        try:
            return msgspec.json.decode(text or b"null", type=reply)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise TransferError(f"the answer of {self.name} to {function_id} cannot be used: {error}") from None


def _place(scope: str, key: str) -> bytes:
    return b'"scope":%b,"key":%b' % (values.encode_string(scope), values.encode_string(key))


def _stored(text: Json) -> bytes:
    """The stored form of a value that an engine has answered. Raises `TransferError` for what is never stored."""
    text = bytes(text)
    try:
        return text if text.startswith(values.FRAME_START) else values.to_stored(text)
    except InvalidValue as error:
        raise TransferError(f"an engine has answered what is no value: {error}") from None
