"""A single Redis in the place of a cluster: all partitions lie there, each with connections of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from iii_state.adapters.redis.cluster.adapter import ClusterAdapter
from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.connection import RedisConnection
from iii_state.adapters.redis.connection.pubsub import PubSub
from iii_state.adapters.redis.connection.socket import open_server
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.scripts.loader import Scripts
from iii_state.config import RedisSettings
from iii_state.events import QueueLimits
from iii_state.history import NO_LOGS, LogRules


class OneRedis:
    """The `Nodes` of a store whose partitions are all on one server."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        self.address = Address.parse(settings.redis_url)

    async def start(self) -> None:
        """There is nothing to find."""

    async def stop(self) -> None:
        """There is nothing to let go of."""

    async def can_shard(self) -> bool:
        return False

    async def ask(self, slot: int, *commands: Sequence[bytes]) -> list[Any]:
        socket = await open_server(self.address, "iii-state:test")
        try:
            return await socket.ask(*commands)
        finally:
            socket.abort()
            await socket.closed

    def connection(self, slot: int, keys: Keys, scripts: Scripts) -> RedisConnection:
        return RedisConnection(
            self.address,
            keys.session,
            call_timeout_ms=self._settings.call_timeout_ms,
            max_in_flight=self._settings.max_in_flight,
            scripts=scripts,
        )

    def pubsub(self, slot: int) -> PubSub:
        return PubSub(partial(open_server, self.address), silence_seconds=self._settings.call_timeout_ms / 1000)

    def masters(self, slots: Sequence[int]) -> list[list[int]]:
        return [list(range(len(slots)))]


def parted(
    settings: RedisSettings, *, partitions: int = 8, limits: QueueLimits | None = None, history: LogRules | None = NO_LOGS
) -> ClusterAdapter:
    """An adapter of so many partitions on one server."""
    settings = msgspec.structs.replace(settings, partitions=partitions)
    return ClusterAdapter(settings, OneRedis(settings), limits=limits, history=history)
