"""Values of a running engine: `iii-state get`, `set`, `update`, `delete`, `list`, `keys`, `entries` and `groups`."""

from __future__ import annotations

import re
from difflib import get_close_matches
from itertools import takewhile

import click
import msgspec

from iii_state import values
from iii_state.cli.calls import engine_at, engine_options, json_text, request, run, ttl_option
from iii_state.cli.terminal import exact_name, is_terminal, name, print_line, printable, show
from iii_state.client.client import Client


@click.command()
@click.argument("scope")
@click.argument("key")
@engine_options
def get(scope: str, key: str, url: str, as_json: bool) -> None:
    """Print the value at SCOPE and KEY; null if there is none."""

    async def action() -> None:
        async with Client(engine_at(url)) as client:
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


@click.command(
    "set", short_help="Store VALUE at SCOPE and KEY.", cls=_TakesNumbers, context_settings={"ignore_unknown_options": True}
)  # a VALUE may be -5
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
        async with Client(engine_at(url)) as client:
            show(await client.call("state::set", request(scope=scope, key=key, value=text, ttl_ms=ttl_ms)), as_json)

    run(action)


@click.command(short_help="Apply operations to the value at SCOPE and KEY.")
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
        async with Client(engine_at(url)) as client:
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
        async with Client(engine_at(url)) as client:
            show(await client.call("state::delete", request(scope=scope, key=key)), as_json)

    run(action)


@click.command("list", short_help="Print the values of SCOPE.")
@click.argument("scope")
@engine_options
def list_values(scope: str, url: str, as_json: bool) -> None:
    """Print the values of SCOPE: one a line in a pipe, one list with --json."""

    async def action() -> None:
        async with Client(engine_at(url)) as client:
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
        async with Client(engine_at(url)) as client:
            answer = await client.call("state::list_keys", request(scope=scope))
        if as_json:
            show(answer, as_json)
            return
        _print_names(values.decode(answer or b"{}").get("keys", []))

    run(action)


@click.command(short_help="Print keys and values of SCOPE.")
@click.argument("scope")
@engine_options
def entries(scope: str, url: str, as_json: bool) -> None:
    """Print keys and values of SCOPE as they were at one moment, however many there are: ["key", value], one a line."""

    async def action() -> None:
        cursor = None
        async with Client(engine_at(url)) as client:
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
        async with Client(engine_at(url)) as client:
            answer = await client.call("state::list_groups", b"{}")
        if as_json:
            show(answer, as_json)
            return
        _print_names(values.decode(answer or b"{}").get("groups", []))

    run(action)


def _print_names(names: list[str]) -> None:
    for each in names:
        print_line(name(each) if is_terminal() else exact_name(each))
