"""`iii-state attach`: the external state worker of an iii engine."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import uvloop

from iii_state import config as configuration
from iii_state.attach import Attachment
from iii_state.attach.metrics_port import MetricsPort
from iii_state.cli.calls import engine_at, url_option
from iii_state.cli.run.guard import token_of_environment
from iii_state.cli.run.log_format import LoggedCommand, log_format_option, say
from iii_state.cli.run.process import asks_for_level, collect_less, stopped_by_signals, why_not
from iii_state.cli.run.reloading import Reloading
from iii_state.cli.run.store import DEFAULT_PORTS, Load, bridge_leads_to, configured, metrics_scopes_option, store_options
from iii_state.cli.run.traces import traces_option, tracing
from iii_state.client.address import shown
from iii_state.config import Settings
from iii_state.engine.probes import Probes
from iii_state.errors import AttachRefused, ConfigError, StoreError
from iii_state.guard import Guard
from iii_state.state.module import StateModule
from iii_state.state.tracing import Tracing

_ID = re.compile(r"[^\s:]+(::[^\s:]+)*")


@click.command(cls=LoggedCommand, short_help="Serve state to an engine that has none of its own.")
@url_option("--engine", "III_URL")
@store_options
@click.option("--prefix", default="state", show_default=True, help="Serve PREFIX::set and so on, and the trigger type PREFIX.")
@click.option("--name", default="state", show_default=True, help="What the worker is called; NAME-2, … where that is taken.")
@click.option(
    "--metrics-port", type=click.IntRange(0, 65535), help="Answer GET /metrics and probes on this port; 0 takes a free one."
)
@click.option("--metrics-host", default="127.0.0.1", show_default=True, help="The address of --metrics-port; 0.0.0.0 is every one.")
@log_format_option
@traces_option
@metrics_scopes_option
@click.argument("rest", nargs=-1, type=click.UNPROCESSED, metavar="")
def attach(
    url: str,
    config_path: Path | None,
    adapter: str | None,
    file_path: str | None,
    redis_url: str | None,
    bridge_url: str | None,
    prefix: str,
    name: str,
    metrics_port: int | None,
    metrics_host: str,
    traces: bool,
    metrics_scopes: str | None,
    rest: tuple[str, ...],
) -> None:
    """Serve state to an engine that has none of its own, as a worker of it.

    Prints a line on standard error when it serves (`attached to …`), and when another one of the same store does (`standby at …`):
    then it waits, and takes over when that one goes. It waits for an engine that is not there, too. SIGTERM and Ctrl-C stop it
    cleanly (a second one at once). SIGHUP, or a change of the --config, applies `triggers_enabled`, `max_value_bytes`,
    `save_interval_ms` and `log_level` anew.
    """
    if rest:
        hint = f"an engine is named with --engine: iii-state attach --engine {shown(rest[0])}" if "://" in rest[0] else ""
        raise click.UsageError(f"unexpected argument {shown(rest[0])}{'; ' if hint else ''}{hint}")
    if _ID.fullmatch(prefix) is None or prefix.split("::")[0] == "engine":
        raise click.BadParameter("it has to be words joined by ::, such as shared::state, and not engine's", param_hint="--prefix")
    if not name.strip() or name == "iii-state":
        raise click.BadParameter(
            "it has to be something else than nothing and iii-state, a stock engine's own", param_hint="--name"
        )
    if not metrics_host.strip():  # of a variable that is not set, say: it would be every address
        raise click.BadParameter("it is empty: name an address, or leave it out for 127.0.0.1", param_hint="'--metrics-host'")
    metrics = None if metrics_port is None else (metrics_host, metrics_port)
    load = configured(config_path, adapter, {"kv": file_path, "redis": redis_url, "bridge": bridge_url}, metrics_scopes)
    try:
        config = load()
        _refuse_own_engine(config, url)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_attach(load, config, config_path, partial(_attachment, config, url, prefix, name), metrics, traces))
    except (ConfigError, StoreError, AttachRefused) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"cannot listen on {metrics_host}:{metrics_port}: {why_not(error)}") from None


def _refuse_own_engine(config: dict[str, Any], url: str) -> None:
    """An engine whose state is a bridge to itself would answer no call."""
    engine = urlsplit(url)
    if bridge_leads_to(config, engine.hostname, engine.port or DEFAULT_PORTS[engine.scheme]):
        raise ConfigError(
            f"a bridge must not lead back to itself: {shown(url)} is the engine that this worker is to serve; "
            "name another engine with --bridge-url, or with --engine"
        )


def _attachment(config: dict[str, Any], url: str, prefix: str, name: str, tracer: Tracing | None) -> tuple[StateModule, Attachment]:
    module = StateModule(config, tracing=tracer)
    return module, Attachment(module, engine_at(url), prefix=prefix, name=name, say=say)


async def _attach(
    load: Load,
    config: dict[str, Any],
    config_path: Path | None,
    attachment_with: Callable[[Tracing | None], tuple[StateModule, Attachment]],
    metrics: tuple[str, int] | None,
    traces: bool,
) -> None:
    async with tracing(traces) as tracer:
        await _run(load, config, config_path, *attachment_with(tracer), metrics)


async def _run(
    load: Load,
    config: dict[str, Any],
    config_path: Path | None,
    module: StateModule,
    attachment: Attachment,
    metrics: tuple[str, int] | None,
) -> None:
    stopped = stopped_by_signals()
    guard = Guard(configuration.parse(config).server, token_of_environment()) if metrics is not None else None

    async def apply() -> Settings:
        config = load()
        settings = configuration.parse(config)
        if guard is not None:
            guard.reload(settings.server)
        module.reconfigure(config)
        return settings

    files = [] if config_path is None else [config_path]
    reloading = Reloading(apply, lambda _: files, configuration.parse(config), keeps_level=asks_for_level())
    reloading.start()
    collect_less()
    try:
        async with AsyncExitStack() as stack:
            if metrics is not None and guard is not None:
                probes = Probes(guard, attachment.health, attachment.readiness)
                port = await stack.enter_async_context(MetricsPort(guard, probes, attachment.figures))
                say(f"metrics at {await port.listen(*metrics)}")
            await attachment.run(stopped)
    finally:
        await reloading.stop()
