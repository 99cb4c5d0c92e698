"""Settings by the names that they have in a configuration: to show them, and to say which of them have changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from iii_state.config.settings import BridgeSettings, KvSettings, RedisSettings, Settings

LIVE = ("triggers_enabled", "max_value_bytes", "save_interval_ms", "log_level", "server.")
"""Settings, and beginnings of names of settings, that are applied while it runs."""

FIXED = ("server.host", "server.port", "server.metrics_scopes")
"""Those among them that need a restart all the same."""

_ADAPTERS = {KvSettings: "kv", RedisSettings: "redis", BridgeSettings: "bridge"}


def named(settings: Settings) -> dict[str, Any]:
    """Every setting with its full name, such as `adapter.config.prefix`, in the order of the documentation."""
    return dict(_named(settings))


def _named(settings: Settings) -> Iterator[tuple[str, Any]]:
    adapter = settings.adapter
    yield "adapter.name", _ADAPTERS[type(adapter)]
    for name, value in _flat("", msgspec.structs.asdict(settings)):
        group, _, rest = name.partition(".")
        if name == "adapter.directory":
            yield "adapter.config.store_method", "in_memory" if value is None else "file_based"
            if value is not None:
                yield "adapter.config.file_path", value
        elif name == "adapter.save_interval_ms":
            yield "save_interval_ms", value
        elif group == "adapter":
            yield f"adapter.config.{rest}", value
        elif group in ("retry", "queue"):
            yield f"dispatch.{rest}", value
        elif name == "retention_ms":
            yield "dispatch.retention_ms", value
        else:
            yield name, value


def _flat(where: str, given: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in given.items():
        if isinstance(value, msgspec.Struct):
            yield from _flat(f"{where}{key}.", msgspec.structs.asdict(value))
        else:
            yield f"{where}{key}", str(value) if isinstance(value, Path) else _in_builtins(value)


def _in_builtins(value: Any) -> Any:
    """A list of structs as it stands in a configuration."""
    is_of_structs = isinstance(value, tuple) and value and isinstance(value[0], msgspec.Struct)
    return msgspec.to_builtins(list(value)) if is_of_structs else value


def need_restart(before: Settings, after: Settings) -> list[str]:
    """The names of the settings that differ, and cannot be changed while it runs."""
    old, new = named(before), named(after)
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return sorted(name for name in changed if not name.startswith(LIVE) or name in FIXED)
