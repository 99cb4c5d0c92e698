"""Reading, changing and watching the state of a running engine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime
from difflib import get_close_matches
from itertools import takewhile
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click
import msgspec

from iii_state import values
from iii_state.cli.terminal import check_output, exact_name, is_terminal, name, print_line, printable, show
from iii_state.client.about import About
from iii_state.client.client import Client
from iii_state.errors import ConfigError, ConnectionLost, FunctionError, InvalidValue, StoreError, WorkerRejected
from iii_state.host import Caller, Handler
from iii_state.values import Json

C = TypeVar("C", bound=Callable[..., Any])

DEFAULT_URL = "ws://127.0.0.1:49134"


def an_address(context: click.Context, option: click.Parameter, url: str) -> str:
    """An engine's address, refused as wrong usage where nothing can ever answer at it."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("ws", "wss", "http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise click.BadParameter(f"it has to be an address like {DEFAULT_URL}, not {url!r}")
    return url


def url_option(name: str = "--url", variable: str = "III_STATE_URL") -> Callable[[C], C]:
    """The address of an engine, of every command that talks to one."""
    return click.option(
        name,
        "url",
        envvar=variable,
        default=DEFAULT_URL,
        show_default=True,
        show_envvar=True,
        callback=an_address,
        help="The engine.",
    )


def engine_options(command: C) -> C:
    """`--url` and `--json`."""
    url = url_option()
    as_json = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON, as the engine gave it.")
    return url(as_json(command))


def ttl_option(command: C) -> C:
    """`--ttl-ms`, of every command that gives a value a deadline."""
    return click.option("--ttl-ms", type=int, help="The value goes after so many milliseconds, 1 or more.")(command)


def json_text(name: str, text: str) -> bytes:
    """An argument that is JSON text, or `-` for standard input; checked here, so that a slip of the pen gets a good message."""
    given = _standard_input(name) if text == "-" else text.encode("utf-8", "surrogateescape")
    try:
        given.decode("utf-8")
        msgspec.json.decode(given)
    except RecursionError:
        raise click.BadParameter(f"nests deeper than {values.MAX_DEPTH} levels", param_hint=name) from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        why = str(error) if isinstance(error, UnicodeDecodeError) else values.fault(given, error)
        shown = given if len(given) <= 60 else given[:57] + b"..."
        hint = f""" A string needs quotes of its own: '"{text}"'.""" if text.replace("_", "").replace("-", "").isalnum() else ""
        raise click.BadParameter(f"{shown.decode(errors='replace')!r} is no JSON: {why}.{hint}", param_hint=name) from None
    return given


def _standard_input(name: str) -> bytes:
    if sys.stdin is None:
        raise click.BadParameter("standard input is closed", param_hint=name)
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        raise click.BadParameter(f"standard input cannot be read: {error.strerror}", param_hint=name) from None


def run(action: Callable[[], Awaitable[None]]) -> None:
    """Run a command; what goes wrong is one line on standard error, and exit code 1."""

    async def main() -> None:
        await action()

    check_output()
    try:
        asyncio.run(main())
    except FunctionError as error:
        raise click.ClickException(printable(f"{error.code}: {error.message}")) from None
    except (ConfigError, ConnectionLost, InvalidValue, WorkerRejected, StoreError) as error:
        raise click.ClickException(printable(str(error))) from None
    except BrokenPipeError:
        sys.stderr.close()  # whoever read the output has gone; nothing is left to say


def request(**fields: Any) -> bytes:
    """The JSON text of a request; `bytes` fields are JSON text already, those that are None are left out."""
    given = {name: field for name, field in fields.items() if field is not None}
    return values.compact_members(
        {name: field if isinstance(field, bytes) else _encoded(name, field) for name, field in given.items()}
    )


def _encoded(name: str, field: Any) -> bytes:
    try:
        return values.encode(field)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=name.upper()) from None


@click.command()
@click.argument("scope")
@click.argument("key")
@engine_options
def get(scope: str, key: str, url: str, as_json: bool) -> None:
    """Print the value at SCOPE and KEY; null if there is none."""

    async def action() -> None:
        async with Client(url) as client:
            value = await client.call("state::get", request(scope=scope, key=key))
        show(value, as_json)
        if value is None and is_terminal():
            click.secho(f"(nothing is stored at {name(scope)} {name(key)})", dim=True, err=True)

    run(action)


class _TakesNumbers(click.Command):
    """A command whose arguments may be negative numbers. Whatever else begins with a dash is an option, or stands behind `--`."""

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        known = {name for option in self.get_params(context) if isinstance(option, click.Option) for name in option.opts}
        for argument in takewhile(lambda argument: argument != "--", arguments):
            option = argument.partition("=")[0]
            if _OPTION.match(argument) and option not in known:
                raise click.NoSuchOption(
                    option,
                    f"No such option: {option}; an argument that begins with a dash stands behind --.",
                    get_close_matches(option, known),
                    context,
                )
        return super().parse_args(context, arguments)


_OPTION = re.compile(r"-[^\d]")


@click.command("set", cls=_TakesNumbers, context_settings={"ignore_unknown_options": True})  # a VALUE may be -5
@click.argument("scope")
@click.argument("key")
@click.argument("value")
@ttl_option
@engine_options
def set_value(scope: str, key: str, value: str, ttl_ms: int | None, url: str, as_json: bool) -> None:
    """Store VALUE (JSON, or - for standard input) at SCOPE and KEY; print old and new value.

    \b
    iii-state set users ada '{"name": "Ada", "visits": 0}'
    """
    text = json_text("VALUE", value)

    async def action() -> None:
        async with Client(url) as client:
            show(await client.call("state::set", request(scope=scope, key=key, value=text, ttl_ms=ttl_ms)), as_json)

    run(action)


@click.command()
@click.argument("scope")
@click.argument("key")
@click.argument("ops")
@ttl_option
@engine_options
def update(scope: str, key: str, ops: str, ttl_ms: int | None, url: str, as_json: bool) -> None:
    """Apply OPS (a JSON list of operations, or - for standard input) to the value at SCOPE and KEY, atomically.

    An operation that fails is skipped and reported, and the exit code is 1; the others count.

    \b
    iii-state update users ada '[{"type": "increment", "path": "visits", "by": 1}]'
    """
    text = json_text("OPS", ops)

    async def action() -> None:
        async with Client(url) as client:
            answer = await client.call("state::update", request(scope=scope, key=key, ops=text, ttl_ms=ttl_ms))
        show(answer, as_json)
        errors = values.decode(answer or b"{}").get("errors", [])
        for error in errors:
            click.secho(printable(f"op {error['op_index']}: {error['code']}: {error['message']}"), fg="red", err=True)
        if errors:
            raise SystemExit(1)

    run(action)


@click.command()
@click.argument("scope")
@click.argument("key")
@engine_options
def delete(scope: str, key: str, url: str, as_json: bool) -> None:
    """Remove the value at SCOPE and KEY; print what was there."""

    async def action() -> None:
        async with Client(url) as client:
            show(await client.call("state::delete", request(scope=scope, key=key)), as_json)

    run(action)


@click.command("list")
@click.argument("scope")
@engine_options
def list_values(scope: str, url: str, as_json: bool) -> None:
    """Print the values of SCOPE: one a line in a pipe, one list with --json."""

    async def action() -> None:
        async with Client(url) as client:
            answer = await client.call("state::list", request(scope=scope))
        if as_json:
            show(answer, as_json)
            return
        for value in msgspec.json.decode(answer or b"[]", type=list[msgspec.Raw]):
            show(value, as_json)

    run(action)


@click.command()
@click.argument("scope")
@engine_options
def keys(scope: str, url: str, as_json: bool) -> None:
    """Print the keys of SCOPE, one a line."""

    async def action() -> None:
        async with Client(url) as client:
            answer = await client.call("state::list_keys", request(scope=scope))
        if as_json:
            show(answer, as_json)
            return
        _print_names(values.decode(answer or b"{}").get("keys", []))

    run(action)


@click.command()
@click.argument("scope")
@engine_options
def entries(scope: str, url: str, as_json: bool) -> None:
    """Print keys and values of SCOPE as they were at one moment, however many there are: ["key", value], one a line."""

    async def action() -> None:
        cursor = None
        async with Client(url) as client:
            while True:
                answer = await client.call(
                    "state::list_entries", request(scope=scope, cursor=cursor, limit=1000, max_bytes=8_000_000)
                )
                page = _page.decode(answer or b"{}")
                for entry in page.entries:
                    show(entry, as_json)
                cursor = page.next_cursor
                if cursor is None:
                    break

    run(action)


class _Page(msgspec.Struct):
    entries: list[msgspec.Raw]
    next_cursor: str | None


_page = msgspec.json.Decoder(_Page)


@click.command()
@engine_options
def groups(url: str, as_json: bool) -> None:
    """Print the scopes that have values, one a line."""

    async def action() -> None:
        async with Client(url) as client:
            answer = await client.call("state::list_groups", b"{}")
        if as_json:
            show(answer, as_json)
            return
        _print_names(values.decode(answer or b"{}").get("groups", []))

    run(action)


def _print_names(names: list[str]) -> None:
    for each in names:
        print_line(name(each) if is_terminal() else exact_name(each))


@click.command()
@click.argument("scope", required=False)
@click.argument("key", required=False)
@engine_options
def watch(scope: str | None, key: str | None, url: str, as_json: bool) -> None:
    """Print changes as they happen, until Ctrl-C: all of them, or those of SCOPE, or of SCOPE and KEY.

    When the engine goes away, it is waited for, and so is said on standard error; what changes meanwhile is not shown.
    """

    stop = asyncio.Event()

    def show_event(event: Json, caller: Caller) -> None:
        try:
            if as_json or not is_terminal():
                click.echo(msgspec.json.format(_without_caller(event), indent=-1))
            else:
                click.echo(_event_line(values.decode(event)))
        except BrokenPipeError:  # whoever read the output has gone
            stop.set()

    what = "everything" if scope is None else name(scope) if key is None else f"{name(scope)} {name(key)}"
    config = msgspec.json.decode(request(scope=scope, key=key, retention_ms=0, concurrency=1))

    async def action() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
        function_id = f"iii-state::watch::{uuid.uuid4()}"
        async with Client(url, About(f"iii-state-watch:{os.getpid()}")) as client:
            await _watch(client, function_id, show_event, config, stop, f"watching {what} at {url}; Ctrl-C ends" * is_terminal())
        while not stop.is_set():
            click.echo(f"the connection to {url} was lost; waiting for the engine to come back", err=True)
            await _come_back(url, function_id, show_event, config, stop)

    run(action)


PAUSE_SECONDS = 0.5
"""Between two looks for an engine that has gone away."""


async def _watch(
    client: Client, function_id: str, show_event: Handler, config: dict[str, Any], stop: asyncio.Event, words: str
) -> None:
    """Show the events of a connection until it is over, or `stop`."""
    client.serving.register_function(function_id, show_event)
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


async def _come_back(url: str, function_id: str, show_event: Handler, config: dict[str, Any], stop: asyncio.Event) -> None:
    """Look for the engine until it is there or `stop`; then watch on, until that connection is over."""
    while not stop.is_set():
        try:
            async with Client(url, About(f"iii-state-watch:{os.getpid()}")) as client:
                await _watch(client, function_id, show_event, config, stop, "watching again; what changed meanwhile is not shown")
                return
        except ConnectionLost:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), PAUSE_SECONDS)


def _without_caller(event: Json) -> bytes:
    members = {name: text for name, text in values.members(event).items() if name != "_caller_worker_id"}
    return values.compact_members(members)


def _event_line(event: dict[str, Any]) -> str:
    kind = event["event_type"].removeprefix("state:")
    colour = {"created": "green", "updated": "yellow", "deleted": "red"}.get(kind)
    old, new = (_short(event[name]) for name in ("old_value", "new_value"))
    change = {"created": new, "deleted": old}.get(kind, f"{old} → {new}")
    time = click.style(f"{datetime.now():%H:%M:%S}", dim=True)
    place = click.style(f"{name(event['scope'])} {name(event['key'])}", bold=True)
    return f"{time} {click.style(f'{kind:<8}', fg=colour)} {place}  {change}"


def _short(value: Any) -> str:
    text = values.encode(value).decode()
    return printable(text if len(text) <= 100 else f"{text[:97]}…")
