"""What a state module runs with: the settings of the module and of each adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from iii_state.config.server import ServerSettings
from iii_state.events import DispatchLimits, QueueLimits, RetryPolicy


class KvSettings(msgspec.Struct, frozen=True):
    """The `kv` adapter. `directory` is None for `in_memory`."""

    directory: Path | None = None
    save_interval_ms: int = 5000


class RedisSettings(msgspec.Struct, frozen=True):
    """The `redis` adapter."""

    redis_url: str = "redis://localhost:6379"
    prefix: str = "iii-state"
    foreign_writes: bool = False
    heartbeat_ttl_ms: int = 3000
    call_timeout_ms: int = 5000
    max_in_flight: int = 1024
    wait_replicas: int = 0


class BridgeSettings(msgspec.Struct, frozen=True):
    """The `bridge` adapter."""

    bridge_url: str = "ws://localhost:49134"
    call_timeout_ms: int = 10_000
    max_in_flight: int = 1024


class Settings(msgspec.Struct, frozen=True):
    """What a `StateModule` runs with. `max_value_bytes` None means no limit of one's own."""

    adapter: KvSettings | RedisSettings | BridgeSettings = KvSettings()
    triggers_enabled: bool = True
    max_value_bytes: int | None = None
    dispatch: DispatchLimits = DispatchLimits()
    retry: RetryPolicy = RetryPolicy()
    retention_ms: int | Literal["forever"] = 300_000
    queue: QueueLimits = QueueLimits()
    server: ServerSettings = ServerSettings()
    """Whom an engine lets in; of no meaning to the module itself."""
