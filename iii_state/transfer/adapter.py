"""Values put into a store by an adapter that runs here: a Redis whose fleet it joins for a while, or a file with its queues."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from msgspec import Raw

from iii_state import values
from iii_state.adapters.base import Adapter
from iii_state.adapters.wall_clock import now_ms
from iii_state.errors import ConditionFailed, InvalidValue, StateError
from iii_state.tasks.results import Result, result_of
from iii_state.transfer.rows import OnConflict, RowOutcome, ValueRow, judged
from iii_state.values.conditions import Conditions, parse

_raw = msgspec.json.Decoder(Raw)
_ABSENT = parse(b'[{"absent":true}]')


class AdapterTarget:
    """The store of an adapter that runs here. See `rows.Target`."""

    def __init__(self, adapter: Adapter, name: str) -> None:
        self._adapter = adapter
        self._values = adapter.values
        self.name = name

    @property
    def store(self) -> str | None:
        return self._adapter.store

    async def put(self, rows: Sequence[ValueRow], on_conflict: OnConflict) -> list[RowOutcome]:
        conditions, now = None if on_conflict == "overwrite" else _ABSENT, now_ms()
        made = [self._begin(row, conditions, now) for row in rows]
        if waiting := [answer for answer in made if isinstance(answer, asyncio.Future)]:
            await asyncio.wait(waiting)
            [answer.exception() for answer in waiting]  # of those that have failed the first is raised below
        return [_outcome(row, answer) for row, answer in zip(rows, made, strict=True)]

    def _begin(self, row: ValueRow, conditions: Conditions | None, now: int) -> Result[bytes | None] | RowOutcome | Exception:
        ttl_ms = None
        if row.deadline_ms is not None and (ttl_ms := row.deadline_ms - now) <= 0:
            return RowOutcome.EXPIRED
        try:
            return self._values.set(row.scope, row.key, row.text, ttl_ms=ttl_ms, conditions=conditions)
        except StateError as error:
            return error

    async def look(self, rows: Sequence[ValueRow]) -> list[RowOutcome]:
        found = await asyncio.gather(*(result_of(self._values.get(row.scope, row.key)) for row in rows))
        now = now_ms()
        return [
            judged(row, None if text is None else ValueRow(row.scope, row.key, text), now)
            for row, text in zip(rows, found, strict=True)
        ]


def _outcome(row: ValueRow, made: Result[bytes | None] | RowOutcome | Exception) -> RowOutcome:
    """What became of a row. Raises what its call has failed with."""
    if isinstance(made, RowOutcome):
        return made
    error = made.exception() if isinstance(made, asyncio.Future) else made if isinstance(made, Exception) else None
    if error is None:
        return RowOutcome.STORED
    if isinstance(error, ConditionFailed):
        return RowOutcome.SAME if _is_text_of(row, error.text) else RowOutcome.TAKEN
    raise error


def _is_text_of(row: ValueRow, there: bytes | None) -> bool:
    """Whether what is there is the value of a row: in Redis it may be another program's, in another spelling."""
    if there is None or there == row.text or there.startswith(values.FRAME_START):
        return there == row.text
    try:
        return values.to_stored(_raw.decode(there)) == row.text
    except (msgspec.MsgspecError, InvalidValue, UnicodeError, RecursionError):
        return False
