"""The `config` of an `iii-state` entry, checked key by key."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from iii_state.config.checks import (
    MAX_MS,
    Check,
    T,
    boolean,
    integer,
    one_of,
    optional,
    retention,
    secret,
    section,
    shown,
    string,
    websocket_url,
)
from iii_state.config.history import history
from iii_state.config.server import file_path, server
from iii_state.config.settings import MAX_PARTITIONS, BridgeSettings, KvSettings, RedisSettings, RedisTls, Settings
from iii_state.errors import ConfigError
from iii_state.events import DispatchLimits, QueueLimits, RetryPolicy

logger = logging.getLogger(__name__)


def parse(config: Mapping[str, Any] | None) -> Settings:
    """The settings of an `iii-state` entry's `config`. Raises `ConfigError`, which names the key, for what is not known."""
    given = section("", {} if config is None else config, _CHECKS)
    name, adapter = given.pop("adapter", ("kv", {}))
    dispatch = given.pop("dispatch", None) or {}
    older = adapter.pop("dispatch", None)
    if older is not None:
        if dispatch:
            raise ConfigError("dispatch is given twice: at the top and in adapter.config; keep one")
        dispatch = older
    if name == "bridge" and given.get("history"):
        raise ConfigError("history is a setting of the engine that stores the values: set it there, not at one with a bridge")
    save_interval = given.pop("save_interval_ms", None)
    if save_interval is not None and name == "kv":
        adapter["save_interval_ms"] = save_interval
    retention = dispatch.pop("retention_ms", 300_000)
    return Settings(
        adapter=_ADAPTERS[name](adapter),
        retention_ms=retention,
        dispatch=_pick(DispatchLimits, dispatch),
        retry=_pick(RetryPolicy, dispatch),
        queue=_pick(QueueLimits, dispatch),
        **given,
    )


def _pick(kind: type[T], given: Mapping[str, Any]) -> T:
    return kind(**{name: value for name, value in given.items() if name in kind.__struct_fields__})  # type: ignore[attr-defined]


# -- sections

RETRY_CHECKS: dict[str, Check] = {
    "max_attempts": integer(1, 1_000_000),
    "backoff_ms": integer(0, MAX_MS),
    "max_backoff_ms": integer(0, MAX_MS),
    "timeout_ms": integer(1, MAX_MS),
}


def _dispatch(where: str, value: Any) -> dict[str, Any]:
    return section(
        f"{where}.",
        value,
        {
            **RETRY_CHECKS,
            "concurrency": integer(1, 100_000),
            "prefetch": integer(0, 100_000),
            "loop_limit": optional(integer(1, 60_000)),
            "retention_ms": retention,
            "max_queue_length": integer(1),
            "max_queue_bytes": integer(1),
            "on_full": one_of("reject", "drop_oldest"),
            "dead_letter_retention_ms": retention,
        },
    )


def _adapter(where: str, value: Any) -> tuple[str, dict[str, Any]]:
    given = section(f"{where}.", value, {"name": one_of(*_ADAPTERS), "config": lambda _, config: config})
    name = given.get("name", "kv")
    config = given.get("config")
    checks = {**_ADAPTER_CHECKS[name], "dispatch": _dispatch}
    if isinstance(config, Mapping):
        _refuse_of_others(where, name, [str(key) for key in config if key not in checks])
    return name, section(f"{where}.config.", {} if config is None else config, checks)


_CHECKS: dict[str, Check] = {
    "adapter": _adapter,
    "triggers_enabled": boolean,
    "max_value_bytes": optional(integer(1)),
    "save_interval_ms": integer(100, 3_600_000),
    "dispatch": _dispatch,
    "log_level": one_of("debug", "info", "warning", "error"),
    "server": server,
    "history": history,
}

KEYS = frozenset(_CHECKS)
"""The settings of an entry's `config`, by name."""


def _refuse_of_others(where: str, name: str, unknown: list[str]) -> None:
    """Settings that another adapter has, most likely because `name` is missing."""
    for key in unknown:
        for other, checks in _ADAPTER_CHECKS.items():
            if key in checks:
                raise ConfigError(f"unknown key {where}.config.{key}; it is one of the {other} adapter, and {where}.name is {name}")


def _redis_tls(where: str, value: Any) -> RedisTls:
    checks: dict[str, Check] = {"ca": file_path, "cert": file_path, "key": file_path, "server_name": string}
    given = section(f"{where}.", value, checks)
    if ("cert" in given) != ("key" in given):
        raise ConfigError(f"{where}: cert and key belong together; give both, or neither")
    return RedisTls(**given)


def _redis_cluster(where: str, value: Any) -> bool | Literal["auto"]:
    if isinstance(value, bool):
        return value
    if value == "auto":
        return "auto"
    raise ConfigError(f"{where} has to be auto, true or false, not {shown(value)}")


def _redis(config: dict[str, Any]) -> RedisSettings:
    settings = RedisSettings(**config)
    if settings.cluster is False and settings.partitions is not None:
        raise ConfigError("adapter.config.partitions is given, but adapter.config.cluster is false: only a cluster has partitions")
    return settings


def _bridge(config: dict[str, Any]) -> BridgeSettings:
    if "token" in config and "token_file" in config:
        raise ConfigError("adapter.config.token and adapter.config.token_file are both given; keep one")
    if ("cert_file" in config) != ("key_file" in config):
        raise ConfigError("adapter.config.cert_file and adapter.config.key_file belong together; give both, or neither")
    return BridgeSettings(**config)


_ADAPTER_CHECKS: dict[str, dict[str, Check]] = {
    "kv": {
        "store_method": one_of("in_memory", "file_based"),
        "file_path": string,
        "save_interval_ms": integer(100, 3_600_000),
    },
    "redis": {
        "redis_url": string,
        "prefix": string,
        "foreign_writes": boolean,
        "heartbeat_ttl_ms": integer(100, MAX_MS),
        "call_timeout_ms": integer(1, MAX_MS),
        "max_in_flight": integer(1, 1_000_000),
        "wait_replicas": integer(0, 1000),
        "tls": _redis_tls,
        "cluster": _redis_cluster,
        "partitions": integer(1, MAX_PARTITIONS),
    },
    "bridge": {
        "bridge_url": websocket_url,
        "call_timeout_ms": integer(1, MAX_MS),
        "max_in_flight": integer(1, 4096),
        "token": secret,
        "token_file": file_path,
        "ca_file": file_path,
        "cert_file": file_path,
        "key_file": file_path,
    },
}


def _kv(config: dict[str, Any]) -> KvSettings:
    file_based = config.get("store_method", "in_memory") == "file_based"
    directory = Path(config.get("file_path", "kv_store_data.db")) if file_based else None
    return KvSettings(directory, config.get("save_interval_ms", 5000))


_ADAPTERS: dict[str, Callable[[dict[str, Any]], KvSettings | RedisSettings | BridgeSettings]] = {
    "kv": _kv,
    "redis": _redis,
    "bridge": _bridge,
}
