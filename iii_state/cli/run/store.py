"""Where a state module stores its values, as options and the configuration say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from iii_state import config as configuration

C = TypeVar("C", bound=Callable[..., Any])
Load = Callable[[], dict[str, Any]]
"""Reads the configuration, now; raises `ConfigError` or `click.UsageError`."""


def store_options(command: C) -> C:
    """`--config`, `--adapter`, `--file-path`, `--redis-url` and `--bridge-url`."""
    for option in reversed(
        (
            click.option("--config", "config_path", type=click.Path(dir_okay=False, path_type=Path), help="An iii config.yaml."),
            click.option(
                "--adapter", type=click.Choice(["kv", "redis", "bridge"]), help="Where values are stored (kv unless told)."
            ),
            click.option(
                "--file-path", help="A directory for the kv adapter: values and events last. Without it they live in memory."
            ),
            click.option("--redis-url", help="The Redis of the redis adapter, e.g. redis://localhost:6379."),
            click.option("--bridge-url", help="The engine whose state the bridge adapter uses, e.g. ws://localhost:49134."),
        )
    ):
        command = option(command)
    return command


def with_metrics_scopes(config: dict[str, Any], scopes: str | None) -> dict[str, Any]:
    """The configuration with these scopes, which commas separate, as those that have figures of their own."""
    if scopes is None:
        return config
    server = config.get("server", {})
    if not isinstance(server, dict):
        return config  # whoever reads it says what is wrong
    named = [scope for scope in (each.strip() for each in scopes.split(",")) if scope]
    return {**config, "server": {**server, "metrics_scopes": named}}


def metrics_scopes_option(command: C) -> C:
    """`--metrics-scopes`."""
    about = "Scopes that have figures of their own, separated by commas; 100 at most."
    return click.option("--metrics-scopes", metavar="SCOPES", help=about)(command)


def configured(
    config_path: Path | None, adapter: str | None, places: dict[str, str | None], metrics_scopes: str | None = None
) -> Load:
    """Reads the configuration that the options name; `places` are those of each adapter's store."""

    def load() -> dict[str, Any]:
        given = {} if config_path is None else configuration.load(config_path)
        return with_metrics_scopes(_with_options(given, adapter, places), metrics_scopes)

    return load


_OPTIONS = {"kv": "--file-path", "redis": "--redis-url", "bridge": "--bridge-url"}


def _with_options(config: dict[str, Any], adapter: str | None, places: dict[str, str | None]) -> dict[str, Any]:
    """The configuration with what the options say in place of what the file says; `places` are those of each adapter's store."""
    implied = [name for name, place in places.items() if place is not None]
    if len(implied) > 1:
        given = " and ".join(f"{_OPTIONS[name]} (the {name} adapter's)" for name in implied)
        raise click.UsageError(f"one engine has one store: {given} were given; give one of them.")
    if adapter is not None and implied and adapter != implied[0]:
        raise click.UsageError(f"{_OPTIONS[implied[0]]} is for the {implied[0]} adapter, not for --adapter {adapter}.")
    name = adapter or (implied[0] if implied else None)
    if name is None:
        return config
    entry = config.get("adapter") if isinstance(config.get("adapter"), dict) else None
    same = entry is not None and entry.get("name", "kv") == name
    settings = dict(entry.get("config") or {}) if entry is not None and same else {}
    place = places[name]
    if name == "kv" and place is not None:
        settings.update(store_method="file_based", file_path=place)
    elif place is not None:
        settings[f"{name}_url"] = place
    return {**config, "adapter": {"name": name, "config": settings}}


DEFAULT_PORTS = {"ws": 80, "http": 80, "wss": 443, "https": 443}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def bridge_leads_to(config: dict[str, Any], host: str | None, port: int) -> bool:
    """Whether the configuration's adapter is a bridge to that very address; raises `ConfigError`."""
    adapter = configuration.parse(config).adapter
    if not isinstance(adapter, configuration.BridgeSettings):
        return False
    there = urlsplit(adapter.bridge_url)
    is_there = there.hostname == host or (there.hostname in _LOOPBACK and host in (*_LOOPBACK, "0.0.0.0", "::"))
    return is_there and (there.port or DEFAULT_PORTS[there.scheme]) == port
