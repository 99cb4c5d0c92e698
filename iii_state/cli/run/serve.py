"""`iii-state serve`: an engine on a WebSocket port."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any, Literal

import click
import uvloop

from iii_state.cli.run.process import collect_less, reloading, stopped_by_signals
from iii_state.cli.run.store import Load, bridge_leads_to, configured, store_options
from iii_state.engine import Engine
from iii_state.errors import ConfigError, StoreError
from iii_state.state.module import StateModule

DEFAULT_PORT = 49134
Duplicates = Literal["round-robin", "first-wins"]


def _given_host(_: click.Context, __: click.Parameter, host: str) -> str:
    """An empty one, of a variable that is not set, say, would be every address."""
    if not host.strip():
        raise click.BadParameter("it is empty: name an address, or leave it out for 127.0.0.1")
    return host


@click.command()
@store_options
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    callback=_given_host,
    help="The address to listen on; 0.0.0.0 is every one.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="0 takes a free one.")
@click.option(
    "--duplicates",
    type=click.Choice(["round-robin", "first-wins"]),
    default="round-robin",
    show_default=True,
    help="Two workers that register the same function share its calls, or the second one is refused.",
)
@click.option("--no-state", is_flag=True, help="No state module: a worker may bring state, such as iii-state attach.")
def serve(
    config_path: Path | None,
    adapter: str | None,
    file_path: str | None,
    redis_url: str | None,
    bridge_url: str | None,
    host: str,
    port: int,
    duplicates: Duplicates,
    no_state: bool,
) -> None:
    """Run an engine: workers connect to ws://HOST:PORT.

    Prints one line, `listening on ws://HOST:PORT`, on standard error when it is ready. SIGTERM and Ctrl-C stop it cleanly (a second
    one at once), SIGHUP applies `triggers_enabled` and `max_value_bytes` of the --config anew.
    """

    if no_state and any((config_path, adapter, file_path, redis_url, bridge_url)):
        raise click.UsageError("--no-state leaves nothing to configure: give it without --config and the options of adapters.")
    load = None if no_state else configured(config_path, adapter, {"kv": file_path, "redis": redis_url, "bridge": bridge_url})
    try:
        config = None if load is None else load()
        if config is not None:
            _refuse_own_address(config, host, port)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(load, config, host, port, duplicates))
    except (ConfigError, StoreError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror or error}") from None


def _refuse_own_address(config: dict[str, Any], host: str, port: int) -> None:
    """Refuse a bridge that leads to this engine itself, before anything listens; the adapter finds longer ways back."""
    if bridge_leads_to(config, host, port):
        raise ConfigError(
            f"a bridge must not lead back to itself: ws://{host}:{port} is the address that this engine is to listen on; "
            "name another engine with --bridge-url, or listen elsewhere with --port"
        )


async def _serve(load: Load | None, config: dict[str, Any] | None, host: str, port: int, duplicates: Duplicates) -> None:
    loop = asyncio.get_running_loop()
    stopped = stopped_by_signals()
    module = None if config is None else StateModule(config)
    async with Engine(duplicates=duplicates) as engine:
        if module is not None and load is not None:
            await engine.add_module(module)
            loop.add_signal_handler(signal.SIGHUP, reloading(module, load))
        address = await engine.serve(host, port)
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        collect_less()
        click.echo(f"listening on ws://{shown}:{address[1]}", err=True)
        await stopped.wait()
