"""What is in a scope of a running engine: `iii-state list`, `keys`, `entries` and `groups`."""

from __future__ import annotations

import click
import msgspec

from iii_state import values
from iii_state.cli.asking import check_features, part_options
from iii_state.cli.calls import engine_at, engine_options, request, run
from iii_state.cli.terminal import exact_name, is_terminal, name, print_line, show
from iii_state.client.client import Client


@click.command("list", short_help="Print the values of SCOPE.")
@click.argument("scope")
@part_options("prefix", "limit", "order")
@engine_options
def list_values(scope: str, prefix: str | None, limit: int | None, order: str | None, url: str, as_json: bool) -> None:
    """Print the values of SCOPE: one a line in a pipe, one list with --json.

    \b
    iii-state list orders --prefix 2026-11- --order desc --limit 10
    """
    asked = {"prefix": prefix, "limit": limit, "order": order}

    async def action() -> None:
        async with Client(engine_at(url)) as client:
            await check_features(client, [("prefix", any(each is not None for each in asked.values()))])
            answer = await client.call("state::list", request(scope=scope, **asked))
        if as_json:
            show(answer, as_json)
            return
        for value in msgspec.json.decode(answer or b"[]", type=list[msgspec.Raw]):
            show(value, as_json)

    run(action)


@click.command()
@click.argument("scope")
@part_options("prefix", "limit", "order")
@click.option("--after", metavar="KEY", help="Only of those behind this key.")
@engine_options
def keys(scope: str, prefix: str | None, limit: int | None, order: str | None, after: str | None, url: str, as_json: bool) -> None:
    """Print the keys of SCOPE, one a line. The last of one page is the --after of the next.

    \b
    iii-state keys orders --limit 100
    iii-state keys orders --limit 100 --after o100
    """
    asked = {"prefix": prefix, "limit": limit, "order": order, "after": after}

    async def action() -> None:
        async with Client(engine_at(url)) as client:
            await check_features(client, [("prefix", any(each is not None for each in asked.values()))])
            answer = await client.call("state::list_keys", request(scope=scope, **asked))
        if as_json:
            show(answer, as_json)
            return
        _print_names(values.decode(answer or b"{}").get("keys", []))

    run(action)


@click.command(short_help="Print keys and values of SCOPE.")
@click.argument("scope")
@part_options("prefix", "order")
@engine_options
def entries(scope: str, prefix: str | None, order: str | None, url: str, as_json: bool) -> None:
    """Print keys and values of SCOPE as they were at one moment, however many there are: ["key", value], one a line."""

    async def action() -> None:
        asked = {"prefix": prefix, "order": order}
        async with Client(engine_at(url)) as client:
            await check_features(client, [("prefix", any(each is not None for each in asked.values()))])
            while True:
                answer = await client.call("state::list_entries", request(scope=scope, limit=1000, max_bytes=8_000_000, **asked))
                page = _page.decode(answer or b"{}")
                for entry in page.entries:
                    show(entry, as_json)
                if page.next_cursor is None:
                    break
                asked = {"cursor": page.next_cursor}

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
