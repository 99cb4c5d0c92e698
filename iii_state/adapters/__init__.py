"""Where values and queues live: kv, redis, bridge. No adapter knows another."""

from __future__ import annotations

from iii_state.adapters.base import Adapter
from iii_state.adapters.bridge import BridgeAdapter
from iii_state.adapters.kv import KvAdapter
from iii_state.adapters.redis import RedisAdapter
from iii_state.adapters.redis.cluster.adapter import ClusterAdapter
from iii_state.adapters.redis.opening import cluster_of, is_parted
from iii_state.config import KvSettings, RedisSettings, Settings
from iii_state.history import LogRules


async def recognised(settings: Settings, adapter: Adapter) -> Adapter:
    """The adapter for what is there, in the place of what `open_adapter` has made of the settings: a Redis may turn out to be a
    cluster. Raises `ConfigError` and `StoreError` in words."""
    chosen = settings.adapter
    if not isinstance(chosen, RedisSettings) or not await is_parted(chosen):
        return adapter
    return ClusterAdapter(chosen, cluster_of(chosen), limits=settings.queue, history=LogRules(settings.history))


def open_adapter(settings: Settings) -> Adapter:
    """The adapter that the settings name, not started yet."""
    chosen = settings.adapter
    if isinstance(chosen, KvSettings):
        return KvAdapter(
            chosen.directory, save_interval_ms=chosen.save_interval_ms, limits=settings.queue, history=LogRules(settings.history)
        )
    if isinstance(chosen, RedisSettings):
        return RedisAdapter(chosen, limits=settings.queue, history=LogRules(settings.history))
    return BridgeAdapter(chosen, limits=settings.queue, dispatch=settings.dispatch)
