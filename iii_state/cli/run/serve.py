"""`iii-state serve`: an engine on a WebSocket port."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click
import msgspec
import uvloop

from iii_state import config as configuration
from iii_state.cli.run.guard import guard_options, server_settings, token_of_environment
from iii_state.cli.run.log_format import LoggedCommand, log_format_option, say
from iii_state.cli.run.process import asks_for_level, collect_less, stopped_by_signals, why_not
from iii_state.cli.run.reloading import Reloading
from iii_state.cli.run.store import Load, bridge_leads_to, configured, metrics_scopes_option, store_options
from iii_state.cli.run.traces import traces_option, tracing
from iii_state.config import ServerSettings, Settings
from iii_state.engine import Engine
from iii_state.errors import ConfigError, StoreError
from iii_state.guard import Guard
from iii_state.state.module import StateModule

logger = logging.getLogger(__name__)

Duplicates = Literal["round-robin", "first-wins"]


@click.command(cls=LoggedCommand)
@store_options
@guard_options
@log_format_option
@traces_option
@metrics_scopes_option
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
    traces: bool,
    metrics_scopes: str | None,
    **given: Any,
) -> None:
    """Run an engine: workers connect to ws://HOST:PORT.

    Prints one line, `listening on ws://HOST:PORT`, on standard error when it is ready. SIGTERM and Ctrl-C stop it cleanly (a second
    one at once). SIGHUP, or a change of a file, applies tokens, certificates, origins, hosts and limits anew, and of the --config
    `triggers_enabled`, `max_value_bytes`, `save_interval_ms` and `log_level`.
    """
    if no_state and any((config_path, adapter, file_path, redis_url, bridge_url, traces, metrics_scopes)):
        raise click.UsageError("--no-state leaves nothing to configure: give it without --config and the options of adapters.")
    if given["host"] is not None and not given["host"].strip():  # of a variable that is not set, say: it would be every address
        raise click.BadParameter("it is empty: name an address, or leave it out for 127.0.0.1", param_hint="'--host'")
    places = {"kv": file_path, "redis": redis_url, "bridge": bridge_url}
    load = None if no_state else configured(config_path, adapter, places, metrics_scopes)
    where = ""
    try:
        config = None if load is None else load()
        settings = server_settings(config, given)
        where = f"{settings.host}:{settings.port}"
        if config is not None:
            _refuse_own_address(config, settings.host, settings.port)
        guard = Guard(settings, token_of_environment())
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(load, config, config_path, guard, given, duplicates, traces))
    except (ConfigError, StoreError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"cannot listen on {where}: {why_not(error)}") from None


def _refuse_own_address(config: dict[str, Any], host: str, port: int) -> None:
    """Refuse a bridge that leads to this engine itself, before anything listens; the adapter finds longer ways back."""
    if bridge_leads_to(config, host, port):
        raise ConfigError(
            f"a bridge must not lead back to itself: ws://{host}:{port} is the address that this engine is to listen on; "
            "name another engine with --bridge-url, or listen elsewhere with --port"
        )


async def _serve(
    load: Load | None,
    config: dict[str, Any] | None,
    config_path: Path | None,
    guard: Guard,
    given: Mapping[str, Any],
    duplicates: Duplicates,
    traces: bool,
) -> None:
    stopped = stopped_by_signals()
    settings = guard.settings
    async with tracing(traces) as tracer, Engine(duplicates=duplicates, guard=guard) as engine:
        module = None if config is None else StateModule(config, tracing=tracer)
        if module is not None:
            await engine.add_module(module)
        reloading = Reloading(
            partial(_apply, engine, module, load, given),
            partial(_files, config_path),
            _parsed(config, settings),
            keeps_level=asks_for_level(),
        )
        reloading.start()
        try:
            address = await engine.serve(settings.host, settings.port)
            shown = f"[{address[0]}]" if ":" in address[0] else address[0]
            collect_less()
            say(f"listening on {'ws' if settings.tls is None else 'wss'}://{shown}:{address[1]}")
            await stopped.wait()
        finally:
            await reloading.stop()


def _files(config_path: Path | None, settings: Settings) -> list[Path]:
    """What the settings of an engine came from."""
    server = settings.server
    tls = () if server.tls is None else (server.tls.cert, server.tls.key, server.tls.client_ca)
    return [path for path in (config_path, server.token_file, server.tokens_file, *tls) if path is not None]


def _parsed(config: dict[str, Any] | None, server: ServerSettings) -> Settings:
    return msgspec.structs.replace(configuration.parse(config), server=server)


async def _apply(engine: Engine, module: StateModule | None, load: Load | None, given: Mapping[str, Any]) -> Settings:
    """Read everything again and apply what can be, or change nothing."""
    config = None if load is None else load()
    settings = _parsed(config, server_settings(config, given))
    await engine.reload_guard(settings.server)
    if module is not None and config is not None:
        module.reconfigure(config)
    return settings
