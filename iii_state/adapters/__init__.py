"""Where values and queues live: kv, redis, bridge. No adapter knows another."""

from __future__ import annotations

from iii_state.adapters.base import Adapter
from iii_state.adapters.bridge import BridgeAdapter
from iii_state.adapters.kv import KvAdapter
from iii_state.adapters.redis import RedisAdapter
from iii_state.config import KvSettings, RedisSettings, Settings
from iii_state.history import LogRules


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
