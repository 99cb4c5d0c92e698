"""The values in a Redis, read without being one of its engines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from iii_state.adapters.redis.cluster.reading import ClusterReader
from iii_state.adapters.redis.reading import RedisReader
from iii_state.adapters.wall_clock import now_ms
from iii_state.transfer.rows import ValueRow
from iii_state.transfer.seen import Seen


class RedisSource:
    """See `rows.Source`."""

    def __init__(self, reader: RedisReader | ClusterReader) -> None:
        self._reader = reader
        self.name = f"Redis at {reader.address}"
        self.store = reader.store
        self.scopes = reader.scopes

    async def count(self, scopes: Sequence[str]) -> int | None:
        return await self._reader.count(scopes)

    async def rows(self, scope: str) -> AsyncIterator[Sequence[ValueRow]]:
        with Seen() as seen:
            first: Sequence[ValueRow] | None = None
            async for entries in self._reader.pages(scope):
                # The deadlines are by the fleet's clock, which need not show what this machine's does.
                shift, deadlines = now_ms() - entries.now, entries.deadlines
                rows = [
                    ValueRow(scope, key, text, deadlines[key] + shift if key in deadlines else None) for key, text in entries.rows
                ]
                if first is None:
                    first = rows
                else:  # a scope that is read at one instant is one part, and needs none of this
                    if first:
                        seen.add([row.key for row in first])
                        first = ()
                    is_new = seen.add([row.key for row in rows])
                    rows = [row for row, new in zip(rows, is_new, strict=True) if new]
                yield rows
