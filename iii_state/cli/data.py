"""Values of a running engine: `iii-state get`, `set`, `update` and `delete`."""

from __future__ import annotations

import re
from difflib import get_close_matches
from itertools import takewhile

import click

from iii_state import values
from iii_state.cli.asking import check_features, condition_options, meta_option
from iii_state.cli.calls import engine_at, engine_options, json_text, request, run, ttl_option
from iii_state.cli.terminal import is_terminal, name, printable, show
from iii_state.client.client import Client


@click.command()
@click.argument("scope")
@click.argument("key")
@meta_option
@engine_options
def get(scope: str, key: str, meta: bool, url: str, as_json: bool) -> None:
    """Print the value at SCOPE and KEY; null if there is none. With --meta {"value", "ttl_ms", "etag", "revision"}."""

    async def action() -> None:
        async with Client(engine_at(url)) as client:
            await check_features(client, [("meta", meta)])
            value = await client.call("state::get", request(scope=scope, key=key, meta=meta or None))
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
@condition_options
@meta_option
@engine_options
def set_value(
    scope: str, key: str, value: str, ttl_ms: int | None, only_if: bytes | None, meta: bool, url: str, as_json: bool
) -> None:
    """Store VALUE (JSON, or - for standard input) at SCOPE and KEY; print old and new value.

    Where a condition (--if-absent and the like) does not hold, nothing changes, and the exit code is 1.

    \b
    iii-state set users ada '{"name": "Ada", "visits": 0}'
    iii-state set leases printer '"ada"' --if-absent --ttl-ms 30000
    """
    text = json_text("VALUE", value)

    async def action() -> None:
        asked = {"if": only_if, "meta": meta or None, "ttl_ms": ttl_ms}
        async with Client(engine_at(url)) as client:
            await check_features(client, [("if", only_if is not None), ("meta", meta)])
            show(await client.call("state::set", request(scope=scope, key=key, value=text, **asked)), as_json)

    run(action)


@click.command(short_help="Apply operations to the value at SCOPE and KEY.")
@click.argument("scope")
@click.argument("key")
@click.argument("ops")
@ttl_option
@click.option("--strict", is_flag=True, help="An operation that fails refuses all.")
@condition_options
@meta_option
@engine_options
def update(
    scope: str, key: str, ops: str, ttl_ms: int | None, strict: bool, only_if: bytes | None, meta: bool, url: str, as_json: bool
) -> None:
    """Apply OPS (a JSON list of operations, or - for standard input) to the value at SCOPE and KEY, atomically.

    An operation that fails is skipped and reported, and the exit code is 1; the others count. With --strict none does. Where a
    condition (--if and the like) does not hold, nothing changes, and the exit code is 1.

    \b
    iii-state update users ada '[{"type": "increment", "path": "visits", "by": 1}]'
    iii-state update shop tea '[{"type": "decrement", "path": "stock", "by": 1}]' --if '[{"path": "stock", "gte": 1}]'
    """
    text = json_text("OPS", ops)

    async def action() -> None:
        asked = {"if": only_if, "meta": meta or None, "strict": strict or None, "ttl_ms": ttl_ms}
        async with Client(engine_at(url)) as client:
            await check_features(client, [("if", only_if is not None), ("meta", meta or strict)])
            answer = await client.call("state::update", request(scope=scope, key=key, ops=text, **asked))
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
@condition_options
@engine_options
def delete(scope: str, key: str, only_if: bytes | None, url: str, as_json: bool) -> None:
    """Remove the value at SCOPE and KEY; print what was there.

    Where a condition (--if-etag and the like) does not hold, nothing changes, and the exit code is 1.

    \b
    iii-state delete leases printer --if-equals '"ada"'
    """

    async def action() -> None:
        async with Client(engine_at(url)) as client:
            await check_features(client, [("if", only_if is not None)])
            show(await client.call("state::delete", request(scope=scope, key=key, **{"if": only_if})), as_json)

    run(action)
