"""Values put into a store by an adapter that runs here: a Redis whose fleet it joins for a while, or a file with its queues."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from iii_state.adapters.base import Adapter
from iii_state.adapters.wall_clock import now_ms
from iii_state.tasks.results import result_of
from iii_state.transfer.rows import OnConflict, RowOutcome, ValueRow, all_of, judged


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
        return all_of(await asyncio.gather(*(self._put(row, on_conflict) for row in rows), return_exceptions=True))

    async def _put(self, row: ValueRow, on_conflict: OnConflict) -> RowOutcome:
        ttl_ms = None if row.deadline_ms is None else row.deadline_ms - now_ms()
        if ttl_ms is not None and ttl_ms <= 0:
            return RowOutcome.EXPIRED
        if on_conflict != "overwrite":
            there = await result_of(self._values.get(row.scope, row.key))
            if there is not None:
                return RowOutcome.SAME if there == row.text else RowOutcome.TAKEN
        await result_of(self._values.set(row.scope, row.key, row.text, ttl_ms=ttl_ms))
        return RowOutcome.STORED

    async def look(self, rows: Sequence[ValueRow]) -> list[RowOutcome]:
        found = await asyncio.gather(*(result_of(self._values.get(row.scope, row.key)) for row in rows))
        now = now_ms()
        return [
            judged(row, None if text is None else ValueRow(row.scope, row.key, text), now)
            for row, text in zip(rows, found, strict=True)
        ]
