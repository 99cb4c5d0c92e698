"""Configuration: the `iii-state` entry of an iii `config.yaml`, checked key by key."""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec
import yaml

from iii_state.errors import ConfigError
from iii_state.events import FOREVER, DispatchLimits, QueueLimits, RetryPolicy

logger = logging.getLogger(__name__)

T = TypeVar("T")
Check = Callable[[str, Any], Any]
"""Takes a key's full name and its value; returns the value as it is used, or raises `ConfigError`."""

MAX_MS = 10**13
ENTRY_NAMES = ("iii-state", "state")
ENTRY_CLASS = "modules::state::StateModule"


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


def parse(config: Mapping[str, Any] | None) -> Settings:
    """The settings of an `iii-state` entry's `config`. Raises `ConfigError`, which names the key, for what is not known."""
    given = section(
        "",
        {} if config is None else config,
        {
            "adapter": _adapter,
            "triggers_enabled": boolean,
            "max_value_bytes": optional(integer(1)),
            "save_interval_ms": integer(100, 3_600_000),
            "dispatch": _dispatch,
        },
    )
    name, adapter = given.pop("adapter", ("kv", {}))
    dispatch = given.pop("dispatch", None) or {}
    older = adapter.pop("dispatch", None)
    if older is not None:
        if dispatch:
            raise ConfigError("dispatch is given twice: at the top and in adapter.config; keep one")
        dispatch = older
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


# -- checks of one value


def section(where: str, value: Any, checks: Mapping[str, Check]) -> dict[str, Any]:
    """Check a mapping key by key; unknown keys are errors that name the nearest known one."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where.rstrip('.') or 'the configuration'} has to be a mapping, not {_kind(value)}")
    checked = {}
    for key, item in value.items():
        if key not in checks:
            near = difflib.get_close_matches(str(key), checks, 1, 0.5)
            hint = f"did you mean {where}{near[0]}?" if near else f"known here: {', '.join(sorted(checks))}"
            raise ConfigError(f"unknown key {where}{key}; {hint}")
        checked[key] = checks[key](f"{where}{key}", item)
    return checked


def boolean(where: str, value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{where} has to be true or false, not {_kind(value)}")
    return value


def string(where: str, value: Any) -> str:
    """A string that is not empty."""
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where} has to be a string that is not empty, not {_kind(value)}")
    return value


def websocket_url(where: str, value: Any) -> str:
    """`ws://HOST:PORT` or `wss://HOST:PORT`."""
    url = string(where, value)
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("ws", "wss") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{where} has to be an address like ws://localhost:49134, not {url!r}")
    return url


def integer(low: int, high: int | None = None) -> Check:
    """A whole number from `low` to `high`."""

    def check(where: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
            bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
            raise ConfigError(f"{where} has to be a whole number {bounds}, not {_kind(value)}")
        return value

    return check


def one_of(*known: str) -> Check:
    """One of some words."""

    def check(where: str, value: Any) -> str:
        if value not in known:
            near = difflib.get_close_matches(str(value), known, 1, 0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{where} has to be one of {', '.join(known)}, not {value!r}{hint}")
        return str(value)

    return check


def optional(check: Check) -> Check:
    """Null as well."""
    return lambda where, value: None if value is None else check(where, value)


def retention(where: str, value: Any) -> int | str:
    """Milliseconds, or "forever"."""
    if value == FOREVER:
        return FOREVER
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_MS:
        raise ConfigError(f'{where} has to be a number of milliseconds or "forever", not {_kind(value)}')
    return value


def _kind(value: Any) -> str:
    return "null" if value is None else f"{type(value).__name__} {value!r}"


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
            "retention_ms": retention,
            "max_queue_length": integer(1),
            "max_queue_bytes": integer(1),
            "on_full": one_of("reject", "drop_oldest"),
        },
    )


def _adapter(where: str, value: Any) -> tuple[str, dict[str, Any]]:
    given = section(f"{where}.", value, {"name": one_of(*_ADAPTERS), "config": lambda _, config: config})
    name = given.get("name", "kv")
    config = given.get("config")
    checks = {**_ADAPTER_CHECKS[name], "dispatch": _dispatch}
    return name, section(f"{where}.config.", {} if config is None else config, checks)


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
    },
    "bridge": {
        "bridge_url": websocket_url,
        "call_timeout_ms": integer(1, MAX_MS),
        "max_in_flight": integer(1, 4096),
    },
}


def _kv(config: dict[str, Any]) -> KvSettings:
    file_based = config.get("store_method", "in_memory") == "file_based"
    directory = Path(config.get("file_path", "kv_store_data.db")) if file_based else None
    return KvSettings(directory, config.get("save_interval_ms", 5000))


_ADAPTERS: dict[str, Callable[[dict[str, Any]], KvSettings | RedisSettings | BridgeSettings]] = {
    "kv": _kv,
    "redis": lambda config: RedisSettings(**config),
    "bridge": lambda config: BridgeSettings(**config),
}

# -- the file

_PLACEHOLDER = re.compile(r"\$\{([^}:]+)(?::([^}]*))?\}")


def load(path: Path) -> dict[str, Any]:
    """The `config` of the state module's entry in an iii `config.yaml`, placeholders expanded; empty if there is no entry.

    Raises `ConfigError` for a file that cannot be read or is no configuration.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no YAML: {error}") from None
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path} has to hold a mapping with a list `workers`, not {_kind(document)}")
    found: list[dict[str, Any]] = []
    for list_name, is_ours in (("workers", _is_our_worker), ("modules", _is_our_class)):
        entries = document.get(list_name)
        if entries is None:
            continue
        if not isinstance(entries, list):
            raise ConfigError(f"{path}: {list_name} has to be a list, not {_kind(entries)}")
        for entry in entries:
            if not isinstance(entry, dict):
                raise ConfigError(f"{path}: an item of {list_name} has to be a mapping, not {_kind(entry)}")
            if is_ours(entry):
                found.append(entry)
            else:
                logger.info("%s: %s is not ours, and is ignored", path, entry.get("name") or entry.get("class") or entry)
    if len(found) > 1:
        raise ConfigError(f"{path} has {len(found)} entries for the state module (iii-state and state are one); keep one")
    if not found:
        logger.warning("%s has no entry iii-state under workers; running with the defaults", path)
        return {}
    config = expand(found[0].get("config"), os.environ)
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: the config of iii-state has to be a mapping, not {_kind(config)}")
    return config


def _is_our_worker(entry: dict[str, Any]) -> bool:
    return entry.get("name") in ENTRY_NAMES


def _is_our_class(entry: dict[str, Any]) -> bool:
    return entry.get("class") == ENTRY_CLASS


def expand(value: Any, environment: Mapping[str, str]) -> Any:
    """Replace `${VAR}` and `${VAR:default}` in every string; a value that is nothing but a placeholder is typed anew."""
    if isinstance(value, dict):
        return {key: expand(item, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [expand(item, environment) for item in value]
    if not isinstance(value, str) or "${" not in value:
        return value

    def replace(match: re.Match[str]) -> str:
        name, default = match.groups()
        found = environment.get(name, default)
        if found is None:
            raise ConfigError(f"the environment variable {name} is not set, and {match.group()} has no default")
        return found

    expanded = _PLACEHOLDER.sub(replace, value)
    if _PLACEHOLDER.fullmatch(value) is None:
        return expanded
    try:
        typed = yaml.safe_load(expanded)
    except yaml.YAMLError:
        return expanded
    return typed if isinstance(typed, bool | int | float | None) else expanded
