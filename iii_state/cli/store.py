"""What the commands that run a state module have in common: where values are stored, signals, the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from iii_state import config as configuration
from iii_state.errors import ConfigError
from iii_state.state.module import StateModule

logger = logging.getLogger(__name__)

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


def configured(config_path: Path | None, adapter: str | None, places: dict[str, str | None]) -> Load:
    """Reads the configuration that the options name; `places` are those of each adapter's store."""

    def load() -> dict[str, Any]:
        given = {} if config_path is None else configuration.load(config_path)
        return _with_options(given, adapter, places)

    return load


def reloading(module: StateModule, load: Load) -> Callable[[], None]:
    """What SIGHUP does."""

    def reload() -> None:
        try:
            module.reconfigure(load())
        except (ConfigError, click.ClickException) as error:
            logger.error("the configuration is as it was: %s", error)

    return reload


def stopped_by_signals() -> asyncio.Event:
    """Set by SIGTERM or Ctrl-C, for a clean stop; another one of either ends the process at once."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()

    def stop(number: signal.Signals) -> None:
        if stopped.is_set():  # it had arrived together with the first one
            _end_at_once(number)
        stopped.set()
        # The loop's handlers stay, for a signal that it has not looked at yet. Not SIG_DFL: Python has nobody to tell then of a
        # signal that it has noted already, and prints a traceback.
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, _end_at_once)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    return stopped


def _end_at_once(number: int, _: FrameType | None = None) -> None:
    """End as a program does that handles no signals."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


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


def collect_less() -> None:
    """What was imported lives for ever and is not looked at any more; a call makes no cycles, so they are looked for seldom.

    With the defaults, full collections stop an engine with many values for some 25 ms at a time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
