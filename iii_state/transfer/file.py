"""The values in the file of a kv store that no engine has open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from iii_state.adapters.kv.journal.stopped import StoppedFile
from iii_state.adapters.wall_clock import now_ms
from iii_state.transfer.rows import OnConflict, RowOutcome, ValueRow, judged


class FileStore:
    """See `rows.Source` and `rows.Target`. All that is read of it is of one instant: nothing changes it meanwhile."""

    def __init__(self, file: StoppedFile) -> None:
        self._file = file
        self.name = str(file.path)
        self.store: str | None = file.store

    async def scopes(self) -> list[str]:
        return self._file.scopes()

    async def count(self, scopes: Sequence[str]) -> int | None:
        return self._file.count(scopes)

    async def rows(self, scope: str) -> AsyncIterator[Sequence[ValueRow]]:
        for held in self._file.values(scope):
            yield [ValueRow(scope, key, text, deadline_ms) for key, text, deadline_ms in held]

    async def put(self, rows: Sequence[ValueRow], on_conflict: OnConflict) -> list[RowOutcome]:
        now, file = now_ms(), self._file
        outcomes: list[RowOutcome] = []
        with file.transaction():
            for row in rows:
                outcome = RowOutcome.STORED
                if row.deadline_ms is not None and row.deadline_ms <= now:
                    outcome = RowOutcome.EXPIRED
                elif on_conflict != "overwrite" and (there := file.find(row.scope, row.key)) is not None:
                    outcome = RowOutcome.SAME if there == row.text else RowOutcome.TAKEN
                if outcome is RowOutcome.STORED:
                    file.put(row.scope, row.key, row.text, row.deadline_ms)
                outcomes.append(outcome)
        return outcomes

    async def look(self, rows: Sequence[ValueRow]) -> list[RowOutcome]:
        now, found = now_ms(), []
        for row in rows:
            there = self._file.find(row.scope, row.key)
            found.append(judged(row, None if there is None else ValueRow(row.scope, row.key, there), now))
        return found


class NewStore:
    """A store that would be made: for `look` alone."""

    store = None

    def __init__(self, name: str) -> None:
        self.name = name

    async def put(self, rows: Sequence[ValueRow], on_conflict: OnConflict) -> list[RowOutcome]:
        raise NotImplementedError

    async def look(self, rows: Sequence[ValueRow]) -> list[RowOutcome]:
        now = now_ms()
        return [judged(row, None, now) for row in rows]
