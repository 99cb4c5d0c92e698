"""Stores in a Redis Cluster, without an engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from iii_state.adapters.redis.cluster.adapter import ClusterAdapter
from iii_state.adapters.redis.cluster.tags import partition_of, tags
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.opening import cluster_of
from iii_state.config import RedisSettings
from iii_state.events import Delivery, QueueLimits
from tests.support.stores import PARTITIONS
from tests.support.waiting import answer_of


@asynccontextmanager
async def store_on(
    url: str,
    *,
    partitions: int | None = PARTITIONS,
    limits: QueueLimits | None = None,
    wake: Callable[[str], None] = lambda subscription_id: None,
    **settings: Any,
) -> AsyncIterator[ClusterAdapter]:
    """An engine's adapter on a cluster, started."""
    chosen = RedisSettings(redis_url=url, partitions=partitions, **settings)
    adapter = ClusterAdapter(chosen, cluster_of(chosen), limits=limits)
    async with asyncio.timeout(60):
        await adapter.start(wake)
    try:
        yield adapter
    finally:
        async with asyncio.timeout(60):
            await adapter.stop()


def keys_of(scope: str, partitions: int = PARTITIONS) -> Keys:
    """The names of what lies in the partition of a scope."""
    return Keys(tag=tags(partitions)[partition_of(scope.encode(), partitions)])


async def gathered(adapter: ClusterAdapter, subscription_id: str, count: int, *, done: bool = True) -> list[Delivery]:
    """Take until there are so many, and acknowledge them."""
    found: list[Delivery] = []
    async with asyncio.timeout(60):
        while len(found) < count:
            taken = await answer_of(adapter.queues.take(subscription_id, 100))
            found += taken
            if taken and done:
                await answer_of(adapter.queues.ack(taken))
            elif not taken:
                await asyncio.sleep(0.005)
    return found
