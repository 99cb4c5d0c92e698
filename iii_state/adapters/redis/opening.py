"""What a Redis takes, a single one or a cluster: an adapter, a look at its queues, a reading of its values."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from iii_state.adapters.redis.adapter import RedisAdapter
from iii_state.adapters.redis.admin import RedisAdmin, redis_inspection
from iii_state.adapters.redis.cluster.adapter import ClusterAdapter
from iii_state.adapters.redis.cluster.admin import ClusterAdmin
from iii_state.adapters.redis.cluster.reading import ClusterReader, cluster_inspection, cluster_reading
from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.cluster.cluster import Cluster
from iii_state.adapters.redis.connection.cluster.recognition import is_cluster
from iii_state.adapters.redis.reading import RedisReader, redis_reading
from iii_state.config import RedisSettings
from iii_state.errors import ConfigError
from iii_state.events import QueueLimits
from iii_state.history import NO_LOGS, LogRules


async def is_parted(settings: RedisSettings) -> bool:
    """Whether the state lies in the partitions of a cluster. Raises `ConfigError` and `StoreError` in words."""
    address = Address.parse(settings.redis_url, settings.tls)
    found = await is_cluster(address, settings.cluster, timeout_ms=settings.call_timeout_ms)
    if not found and settings.partitions is not None and settings.cluster is not False:
        raise ConfigError(f"adapter.config.partitions is given, but Redis at {address} is no Redis Cluster")
    return found


def cluster_of(settings: RedisSettings) -> Cluster:
    """The cluster that the settings name, not looked for yet."""
    address = Address.parse(settings.redis_url, settings.tls)
    return Cluster(address, call_timeout_ms=settings.call_timeout_ms, max_in_flight=settings.max_in_flight)


async def open_redis(
    settings: RedisSettings, *, limits: QueueLimits | None = None, history: LogRules | None = NO_LOGS
) -> RedisAdapter | ClusterAdapter:
    """The adapter for what the settings name, not started yet. Raises `ConfigError` and `StoreError` in words."""
    if await is_parted(settings):
        return ClusterAdapter(settings, cluster_of(settings), limits=limits, history=history)
    return RedisAdapter(settings, limits=limits, history=history)


@asynccontextmanager
async def inspection(settings: RedisSettings) -> AsyncIterator[RedisAdmin | ClusterAdmin]:
    """Look at the queues of a store without being one of its engines. Raises `ConfigError` and `StoreError` in words."""
    if await is_parted(settings):
        async with cluster_inspection(cluster_of(settings), settings.prefix) as parts:
            yield parts
    else:
        async with redis_inspection(settings) as whole:
            yield whole


@asynccontextmanager
async def reading(settings: RedisSettings) -> AsyncIterator[RedisReader | ClusterReader]:
    """Read the values of a store without being one of its engines. Raises `ConfigError` and `StoreError` in words."""
    if await is_parted(settings):
        async with cluster_reading(cluster_of(settings), settings.prefix) as parts:
            yield parts
    else:
        async with redis_reading(settings) as whole:
            yield whole
