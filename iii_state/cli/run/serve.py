"""`iii-state serve`: an engine on a WebSocket port."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click
import uvloop

from iii_state import config as configuration
from iii_state.cli.run.guard import guard_options, server_settings, token_of_environment
from iii_state.cli.run.process import collect_less, stopped_by_signals
from iii_state.cli.run.store import Load, bridge_leads_to, configured, store_options
from iii_state.engine import Engine
from iii_state.errors import ConfigError, StoreError
from iii_state.guard import Guard
from iii_state.state.module import StateModule
from iii_state.tasks.background import Background

logger = logging.getLogger(__name__)

Duplicates = Literal["round-robin", "first-wins"]


@click.command()
@store_options
@guard_options
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
    duplicates: Duplicates,
    no_state: bool,
    **given: Any,
) -> None:
    """Run an engine: workers connect to ws://HOST:PORT.

    Prints one line, `listening on ws://HOST:PORT`, on standard error when it is ready. SIGTERM and Ctrl-C stop it cleanly (a second
    one at once). SIGHUP applies `triggers_enabled` and `max_value_bytes` of the --config anew, tokens, certificates, origins, hosts
    and limits, too.
    """
    if no_state and any((config_path, adapter, file_path, redis_url, bridge_url)):
        raise click.UsageError("--no-state leaves nothing to configure: give it without --config and the options of adapters.")
    if given["host"] is not None and not given["host"].strip():  # of a variable that is not set, say: it would be every address
        raise click.BadParameter("it is empty: name an address, or leave it out for 127.0.0.1", param_hint="'--host'")
    load = None if no_state else configured(config_path, adapter, {"kv": file_path, "redis": redis_url, "bridge": bridge_url})
    where = ""
    try:
        config = None if load is None else load()
        settings = server_settings(config, given)
        where = f"{settings.host}:{settings.port}"
        if config is not None:
            _refuse_own_address(config, settings.host, settings.port)
        guard = Guard(settings, token_of_environment())
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(load, config, guard, given, duplicates))
    except (ConfigError, StoreError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"cannot listen on {where}: {error.strerror or error}") from None


def _refuse_own_address(config: dict[str, Any], host: str, port: int) -> None:
    """Refuse a bridge that leads to this engine itself, before anything listens; the adapter finds longer ways back."""
    if bridge_leads_to(config, host, port):
        raise ConfigError(
            f"a bridge must not lead back to itself: ws://{host}:{port} is the address that this engine is to listen on; "
            "name another engine with --bridge-url, or listen elsewhere with --port"
        )


async def _serve(
    load: Load | None, config: dict[str, Any] | None, guard: Guard, given: Mapping[str, Any], duplicates: Duplicates
) -> None:
    loop = asyncio.get_running_loop()
    stopped = stopped_by_signals()
    module = None if config is None else StateModule(config)
    settings = guard.settings
    tasks = Background()
    async with Engine(duplicates=duplicates, guard=guard) as engine:
        if module is not None:
            await engine.add_module(module)
        reload = partial(_reload, engine, module, load, given)
        loop.add_signal_handler(signal.SIGHUP, lambda: tasks.start(reload(), "reading the configuration again"))
        try:
            address = await engine.serve(settings.host, settings.port)
            shown = f"[{address[0]}]" if ":" in address[0] else address[0]
            collect_less()
            click.echo(f"listening on {'ws' if settings.tls is None else 'wss'}://{shown}:{address[1]}", err=True)
            await stopped.wait()
        finally:
            await tasks.stop()


async def _reload(engine: Engine, module: StateModule | None, load: Load | None, given: Mapping[str, Any]) -> None:
    """What SIGHUP does: everything that can be changed is read again, or nothing is changed."""
    try:
        config = None if load is None else load()
        settings = server_settings(config, given)
        configuration.parse(config)
        before = engine.guard.settings
        await engine.reload_guard(settings)
        if module is not None and config is not None:
            module.reconfigure(config)
    except (ConfigError, click.ClickException) as error:
        logger.error("the configuration is as it was: %s", error)
        return
    if (settings.host, settings.port) != (before.host, before.port):
        logger.warning("the engine goes on listening where it does: another host or port needs a restart")
