"""Reading the values in a Redis without being one of its engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from iii_state.adapters.redis.adapter import shared_of
from iii_state.adapters.redis.connection.checks import refuse_newer
from iii_state.adapters.redis.keyspace.scopes import Scopes
from iii_state.adapters.redis.listing import Listing
from iii_state.adapters.redis.shared import Shared
from iii_state.config import RedisSettings
from iii_state.events import QueueLimits

COUNTED_AT_ONCE = 500


class RedisReader:
    """The values in a Redis. The stock engine's lie where ours do, so they are read, too."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self.index = Scopes(shared)
        """Which scopes there are."""
        self.pages = Listing(shared, self.index).pages

    @property
    def store(self) -> str | None:
        """The id of what is stored there."""
        return self._shared.store.id

    @property
    def address(self) -> str:
        """Where that is, for people."""
        return str(self._shared.connection.address)

    @property
    def has_foreign_writes(self) -> bool:
        """Whether its engines have agreed on watching the writes of other programs."""
        return self._shared.fanout.routes.shadows is not None

    async def scopes(self) -> list[str]:
        """The scopes that have a key, those of other programs included."""
        await self.index.scan()
        return await self.index.all()

    async def count(self, scopes: Sequence[str]) -> int:
        """How many values these scopes hold, those included whose deadline is over and that have not gone yet."""
        shared, count = self._shared, 0
        for start in range(0, len(scopes), COUNTED_AT_ONCE):
            part = scopes[start : start + COUNTED_AT_ONCE]
            count += sum(
                await asyncio.gather(*(shared.connection.send(b"HLEN", shared.keys.values(scope.encode())) for scope in part))
            )
        return count


@asynccontextmanager
async def redis_reading(settings: RedisSettings) -> AsyncIterator[RedisReader]:
    """Read a Redis. Raises `StoreError` in words.

    Nothing is written but the index of scopes, a session that expires, and the id of the store where there is none.
    """
    shared = shared_of(settings, QueueLimits())
    connection = shared.connection
    await connection.start()
    try:
        held = await connection.send(b"GET", shared.keys.format)
        if held is not None:
            refuse_newer(connection.address, held)
        await shared.store.read()
        await shared.fanout.read()
        yield RedisReader(shared)
    finally:
        await shared.background.stop()
        await connection.stop()
