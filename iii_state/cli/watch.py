"""`iii-state watch`: changes as they happen, across restarts of the engine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import uuid
from datetime import datetime
from typing import Any

import click
import msgspec

from iii_state import values
from iii_state.access import WATCH_FUNCTIONS
from iii_state.cli.calls import engine_at, engine_options, request, run
from iii_state.cli.changes import change_line
from iii_state.cli.log_watch import PAUSE_SECONDS, LogWatch
from iii_state.cli.terminal import is_terminal, name
from iii_state.client.about import About
from iii_state.client.address import shown
from iii_state.client.client import Client
from iii_state.client.following import Following
from iii_state.client.serving import Listener
from iii_state.errors import ConnectionLost
from iii_state.state.watch import WATCH_BOUNDS, dropped_before
from iii_state.values import Json


@click.command(short_help="Print changes as they happen, until Ctrl-C.")
@click.argument("scope", required=False)
@click.argument("key", required=False)
@click.option("--after", metavar="POSITION", help="Begin behind this position of SCOPE's change log.")
@click.option("--initial", is_flag=True, help="Show what is there first, as created; SCOPE needs a change log.")
@engine_options
def watch(scope: str | None, key: str | None, after: str | None, initial: bool, url: str, as_json: bool) -> None:
    """Print changes as they happen, until Ctrl-C: all of them, or those of SCOPE, or of SCOPE and KEY.

    When the engine goes away, it is waited for, and so is said on standard error; what changes meanwhile is not shown.
    With --after or --initial it is, from the change log of SCOPE: nothing is missed, and nothing comes twice. The position
    where it has ended goes to standard error: --after goes on from there.
    """
    if (after is not None or initial) and scope is None:
        raise click.UsageError("--after and --initial need a SCOPE, whose change log is read.")
    if after is not None and initial:
        raise click.UsageError("--after goes on behind what has been seen, and --initial begins with what is there: give one.")

    stop = asyncio.Event()
    dropped = 0

    def show(event: Json) -> None:
        try:
            if as_json or not is_terminal():
                click.echo(msgspec.json.format(event, indent=-1))
            else:
                click.echo(change_line(values.decode(event), datetime.now()))
        except BrokenPipeError:  # the reader of the output has gone
            stop.set()

    def show_event(event: Json, metadata: Json | None) -> None:
        nonlocal dropped
        before = 0 if metadata is None else dropped_before(values.decode(metadata))
        if before > dropped:
            click.echo(f"{before - dropped} events were dropped, since they were not taken in time", err=True)
        dropped = before
        show(_without_caller(event))

    what = "everything" if scope is None else name(scope) if key is None else f"{name(scope)} {name(key)}"
    config = msgspec.json.decode(request(scope=scope, key=key, concurrency=1)) | WATCH_BOUNDS

    async def action() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
        function_id = f"{WATCH_FUNCTIONS}{uuid.uuid4()}"
        if scope is not None and (after is not None or initial):
            words = f"watching {what} at {shown(url)}; Ctrl-C ends" * is_terminal()
            await LogWatch(url, (scope, key), Following(after, initial=initial), show, stop).run(words)
            return
        async with Client(engine_at(url), About(f"iii-state-watch:{os.getpid()}")) as client:
            await _watch(
                client, function_id, show_event, config, stop, f"watching {what} at {shown(url)}; Ctrl-C ends" * is_terminal()
            )
        while not stop.is_set():
            click.echo(f"the connection to {shown(url)} was lost; waiting for the engine to come back", err=True)
            await _come_back(url, function_id, show_event, config, stop)

    run(action)


async def _watch(
    client: Client, function_id: str, show_event: Listener, config: dict[str, Any], stop: asyncio.Event, words: str
) -> None:
    """Show the events of a connection until it is over, or `stop`."""
    client.serving.register_listener(function_id, show_event, "A watch of the command line")
    stopped = asyncio.create_task(stop.wait())
    lost = asyncio.create_task(client.closed())
    try:
        await client.triggers.register("state", function_id, config)
        if words:
            click.secho(words, dim=True, err=True)
        await asyncio.wait({stopped, lost}, return_when=asyncio.FIRST_COMPLETED)
    except ConnectionLost:
        pass
    finally:
        stopped.cancel()
        lost.cancel()
        await asyncio.gather(stopped, lost, return_exceptions=True)


async def _come_back(url: str, function_id: str, show_event: Listener, config: dict[str, Any], stop: asyncio.Event) -> None:
    """Try to connect until the engine is there or `stop` is set; then watch on, until that connection is over."""
    while not stop.is_set():
        try:
            async with Client(engine_at(url), About(f"iii-state-watch:{os.getpid()}")) as client:
                await _watch(client, function_id, show_event, config, stop, "watching again; what changed meanwhile is not shown")
                return
        except ConnectionLost:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), PAUSE_SECONDS)


def _without_caller(event: Json) -> bytes:
    members = {name: text for name, text in values.members(event).items() if name != "_caller_worker_id"}
    return values.compact_members(members)
