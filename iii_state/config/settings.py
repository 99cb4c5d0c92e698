"""What a state module runs with: the settings of the module and of each adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from iii_state.config.server import ServerSettings
from iii_state.events import DispatchLimits, QueueLimits, RetryPolicy
from iii_state.history import LogRule


class KvSettings(msgspec.Struct, frozen=True):
    """The `kv` adapter. `directory` is None for `in_memory`."""

    directory: Path | None = None
    save_interval_ms: int = 5000


class RedisTls(msgspec.Struct, frozen=True):
    """TLS to Redis. `ca` is the authority that is trusted, `cert` and `key` are shown, `server_name` stands in the certificate."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str | None = None


PARTITIONS = 64
"""Into so many parts the state in a Redis Cluster is divided where nothing else is said."""

MAX_PARTITIONS = 1024


class RedisSettings(msgspec.Struct, frozen=True):
    """The `redis` adapter."""

    redis_url: str = "redis://localhost:6379"
    prefix: str = "iii-state"
    foreign_writes: bool = False
    heartbeat_ttl_ms: int = 3000
    call_timeout_ms: int = 5000
    max_in_flight: int = 1024
    wait_replicas: int = 0
    tls: RedisTls | None = None
    cluster: bool | Literal["auto"] = "auto"
    """Whether it is a Redis Cluster; "auto" where that is found out."""
    partitions: int | None = None
    """Of a cluster; None for as many as the store has, or `PARTITIONS` where it is new."""

    def __repr__(self) -> str:
        return f"<redis with the prefix {self.prefix!r}>"


class BridgeSettings(msgspec.Struct, frozen=True):
    """The `bridge` adapter. Without a token here, the environment's `III_TOKEN` is the one that is sent."""

    bridge_url: str = "ws://localhost:49134"
    call_timeout_ms: int = 10_000
    max_in_flight: int = 1024
    token: str | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def __repr__(self) -> str:
        return f"<bridge to {self.bridge_url.rpartition('@')[2].partition('?')[0]}>"


class Settings(msgspec.Struct, frozen=True):
    """What a `StateModule` runs with. `max_value_bytes` None means no limit of one's own."""

    adapter: KvSettings | RedisSettings | BridgeSettings = KvSettings()
    triggers_enabled: bool = True
    max_value_bytes: int | None = None
    dispatch: DispatchLimits = DispatchLimits()
    retry: RetryPolicy = RetryPolicy()
    retention_ms: int | Literal["forever"] = 300_000
    queue: QueueLimits = QueueLimits()
    history: tuple[LogRule, ...] = ()
    """The scopes that have a change log."""
    log_level: Literal["debug", "info", "warning", "error"] = "warning"
    """Which lines of the log are written; of no meaning to the module itself."""
    server: ServerSettings = ServerSettings()
    """Whom an engine lets in; of no meaning to the module itself."""
