"""`iii-state serve`: an engine on a WebSocket port."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import click
import uvloop

from iii_state import config as configuration
from iii_state.engine import Engine
from iii_state.errors import ConfigError, StoreError
from iii_state.module import StateModule

logger = logging.getLogger(__name__)

DEFAULT_PORT = 49134
LOOPBACK = ("localhost", "127.0.0.1", "::1")
Duplicates = Literal["round-robin", "first-wins"]


@click.command()
@click.option("--config", "config_path", type=click.Path(dir_okay=False, path_type=Path), help="An iii config.yaml.")
@click.option("--adapter", type=click.Choice(["kv", "redis", "bridge"]), help="Where values are stored (kv unless told).")
@click.option("--file-path", help="A directory for the kv adapter: values and events last. Without it they live in memory.")
@click.option("--redis-url", help="The Redis of the redis adapter, e.g. redis://localhost:6379.")
@click.option("--bridge-url", help="The engine whose state the bridge adapter uses, e.g. ws://localhost:49134.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on; 0.0.0.0 is every one.")
@click.option("--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="0 takes a free one.")
@click.option(
    "--duplicates",
    type=click.Choice(["round-robin", "first-wins"]),
    default="round-robin",
    show_default=True,
    help="Two workers that register the same function share its calls, or the second one is refused.",
)
def serve(
    config_path: Path | None,
    adapter: str | None,
    file_path: str | None,
    redis_url: str | None,
    bridge_url: str | None,
    host: str,
    port: int,
    duplicates: Duplicates,
) -> None:
    """Run an engine: workers connect to ws://HOST:PORT.

    Prints one line, `listening on ws://HOST:PORT`, on standard error when it is ready. SIGTERM and Ctrl-C stop it cleanly, SIGHUP
    applies `triggers_enabled` and `max_value_bytes` of the --config anew.
    """

    def load() -> dict[str, Any]:
        given = {} if config_path is None else configuration.load(config_path)
        return _with_options(given, adapter, {"kv": file_path, "redis": redis_url, "bridge": bridge_url})

    try:
        _refuse_own_address(load(), host, port)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(load, host, port, duplicates))
    except (ConfigError, StoreError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror or error}") from None


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


def _refuse_own_address(config: dict[str, Any], host: str, port: int) -> None:
    """The shortest ring is found before anything listens; the longer ones are the adapter's to find."""
    adapter = configuration.parse(config).adapter
    if not isinstance(adapter, configuration.BridgeSettings):
        return
    there = urlsplit(adapter.bridge_url)
    is_here = there.hostname == host or (there.hostname in LOOPBACK and host in (*LOOPBACK, "0.0.0.0", "::"))
    if is_here and (there.port or 80) == port:
        raise ConfigError(
            f"a bridge must not lead back to itself: {adapter.bridge_url} is the address that this engine is to listen on; "
            "name another engine with --bridge-url, or listen elsewhere with --port"
        )


def _collect_less() -> None:
    """What was imported lives for ever and is not looked at any more; a call makes no cycles, so they are looked for seldom.

    With the defaults, full collections stop an engine with many values for some 25 ms at a time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def _serve(load: Callable[[], dict[str, Any]], host: str, port: int, duplicates: Duplicates) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    module = StateModule(load())
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with Engine(duplicates=duplicates) as engine:
        await engine.add_module(module)
        address = await engine.serve(host, port)
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]

        def reload() -> None:
            try:
                module.reconfigure(load())
            except (ConfigError, click.ClickException) as error:
                logger.error("the configuration is as it was: %s", error)

        loop.add_signal_handler(signal.SIGHUP, reload)
        _collect_less()
        click.echo(f"listening on ws://{shown}:{address[1]}", err=True)
        await stopped.wait()
        loop.remove_signal_handler(signal.SIGINT)  # a second Ctrl-C stops at once
