"""What operators see and put right: `iii-state triggers`, and `iii-state dead list`, `show`, `retry` and `drop`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import click
import msgspec
from click.core import ParameterSource

from iii_state import values
from iii_state.adapters.redis.opening import inspection
from iii_state.cli.calls import engine_at, request, run, url_option
from iii_state.cli.command_group import CommandGroup
from iii_state.cli.terminal import exact_name, is_terminal, name, print_line, show
from iii_state.client.client import Client
from iii_state.config import RedisSettings
from iii_state.events import known_cause
from iii_state.host import LOCAL
from iii_state.state.functions.admin import MAX_SHOWN, AdminFunctions
from iii_state.tasks.results import result_of

C = TypeVar("C", bound=Callable[..., Any])

Ask = Callable[[str, bytes], Awaitable[bytes | None]]
"""Calls a function `iii-state::*` by its id."""


def source_options(command: C) -> C:
    """`--url`, or `--redis-url` and `--prefix`, and `--json`."""
    url = url_option()
    redis_url = click.option("--redis-url", help="A Redis to look at instead, with no engine in between.")
    prefix = click.option("--prefix", default=RedisSettings().prefix, show_default=True, help="Of the keys in that Redis.")
    as_json = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
    return url(redis_url(prefix(as_json(command))))


def _is_typed(option: str) -> bool:
    return click.get_current_context().get_parameter_source(option) is ParameterSource.COMMANDLINE


@asynccontextmanager
async def opened(url: str, redis_url: str | None, prefix: str) -> AsyncIterator[Ask]:
    """Ask an engine, or Redis itself. Options that would be passed over are wrong usage: they name another place."""
    if redis_url is None and _is_typed("prefix"):
        raise click.UsageError("--prefix is of the keys in a Redis: give --redis-url with it, or leave it out to ask an engine.")
    if redis_url is not None and _is_typed("url"):
        raise click.UsageError("--url (an engine) and --redis-url (Redis itself) were given; give one of them.")
    if redis_url is None:
        async with Client(engine_at(url)) as client:
            yield client.call
        return
    async with inspection(RedisSettings(redis_url=redis_url, prefix=prefix)) as inspected:
        functions = {function_id: function for function_id, function, _ in AdminFunctions(inspected)}

        async def ask(function_id: str, data: bytes) -> bytes | None:
            return await result_of(functions[function_id](data, LOCAL))

        yield ask


@click.command(short_help="Print each trigger, and what waits for it.")
@source_options
def triggers(url: str, redis_url: str | None, prefix: str, as_json: bool) -> None:
    """Print who wants which events: hosts, and what waits, is out, is tried again, is dead or was dropped.

    OLDEST is how long the oldest event has been waiting or out; HOSTS are the engines that serve the function now; LOOP is
    "looping" for a function that was seen to lead to itself within the last two minutes.
    """

    async def action() -> None:
        async with opened(url, redis_url, prefix) as ask:
            answer = await ask("iii-state::triggers", b"{}")
        if as_json:
            show(answer, as_json)
            return
        rows = values.decode(answer or b"{}")["triggers"]
        rows.sort(key=lambda row: (row["namespace"], row["function_id"], row["scope"] or "", row["key"] or ""))
        _print_table(
            ("FUNCTION", "SCOPE", "KEY", "DELIVERY", "HOSTS", "WAITING", "OUT", "RETRYING", "OLDEST", "DEAD", "DROPPED", "LOOP"),
            [_trigger_cells(row) for row in rows],
            "nobody wants any events",
        )

    run(action)


@click.group(cls=CommandGroup, short_help="Look at dead letters, deliver them again, or drop them.")
def dead() -> None:
    """Look at dead letters (events whose handler kept failing), deliver them again, or drop them."""


_function = click.argument("function_id", metavar="FUNCTION")
_maybe_function = click.argument("function_id", metavar="[FUNCTION]", required=False)
_id = click.option("--id", "dead_letter_id", help="Only the dead letter with this id.")
_limit = click.option(
    "--limit", type=click.IntRange(1, MAX_SHOWN), default=100, show_default=True, help="How many at most, the oldest first."
)


@dead.command("list", short_help="Print dead letters, and why they are dead.")
@_maybe_function
@_limit
@source_options
def dead_list(function_id: str | None, limit: int, url: str, redis_url: str | None, prefix: str, as_json: bool) -> None:
    """Print dead letters, of FUNCTION or of all: why, after how many attempts, and when."""

    async def action() -> None:
        async with opened(url, redis_url, prefix) as ask:
            answer = await ask("iii-state::dead_list", request(function_id=function_id, limit=limit))
        if as_json:
            show(answer, as_json)
            return
        found = values.decode(answer or b"{}")
        rows = [
            (
                *(row["id"], row["function_id"], row["scope"], row["key"], _kind(row)),
                *(str(row["attempts"]), _age(row["buried_at_ms"]), row["error"]),
            )
            for row in found["dead"]
        ]
        _print_table(("ID", "FUNCTION", "SCOPE", "KEY", "EVENT", "ATTEMPTS", "SINCE", "ERROR"), rows, "there are no dead letters")
        if found["total"] > len(rows):
            click.secho(f"{found['total'] - len(rows)} more; --limit shows up to {MAX_SHOWN}", dim=True, err=True)

    run(action)


@dead.command("show", short_help="Print dead letters with their events.")
@_function
@_id
@_limit
@source_options
def dead_show(
    function_id: str, dead_letter_id: str | None, limit: int, url: str, redis_url: str | None, prefix: str, as_json: bool
) -> None:
    """Print the dead letters of FUNCTION with their events, one a line in a pipe."""

    async def action() -> None:
        async with opened(url, redis_url, prefix) as ask:
            answer = await ask("iii-state::dead_show", request(function_id=function_id, id=dead_letter_id, limit=limit))
        if as_json:
            show(answer, as_json)
            return
        for dead_letter in msgspec.json.decode(values.members(answer or b"{}")["dead"], type=list[msgspec.Raw]):
            show(dead_letter, as_json)

    run(action)


@dead.command("retry", short_help="Deliver dead letters again.")
@_function
@_id
@source_options
def dead_retry(function_id: str, dead_letter_id: str | None, url: str, redis_url: str | None, prefix: str, as_json: bool) -> None:
    """Deliver the dead letters of FUNCTION again, each as a first attempt behind what waits for its key."""

    async def action() -> None:
        async with opened(url, redis_url, prefix) as ask:
            answer = await ask("iii-state::dead_retry", request(function_id=function_id, id=dead_letter_id))
        _print_count(answer, as_json, "retried", "delivered again")

    run(action)


@dead.command("drop")
@_function
@_id
@click.option("--yes", is_flag=True, help="Do not ask.")
@source_options
def dead_drop(
    function_id: str, dead_letter_id: str | None, yes: bool, url: str, redis_url: str | None, prefix: str, as_json: bool
) -> None:
    """Drop the dead letters of FUNCTION, for good."""

    async def action() -> None:
        async with opened(url, redis_url, prefix) as ask:
            if is_terminal() and not yes:
                found = await ask("iii-state::dead_list", request(function_id=function_id, id=dead_letter_id, limit=1))
                count = values.decode(found or b"{}")["total"]
                click.confirm(f"Drop {count} dead letters of {name(function_id)}?", abort=True)
            answer = await ask("iii-state::dead_drop", request(function_id=function_id, id=dead_letter_id))
        _print_count(answer, as_json, "dropped", "dropped")

    run(action)


def _print_count(answer: bytes | None, as_json: bool, member: str, word: str) -> None:
    if as_json:
        show(answer, as_json)
    else:
        count = values.decode(answer or b"{}")[member]
        click.echo(f"{count} dead letter{'' if count == 1 else 's'} {word}")


def _trigger_cells(row: dict[str, Any]) -> tuple[str, ...]:
    function = row["function_id"] if row["namespace"] == "default" else f"{row['namespace']}/{row['function_id']}"
    if row["condition_function_id"] is not None:
        function += f" if {row['condition_function_id']}"
    if only := _particulars(row):
        function += f" ({only})"
    counts = [str(row[name]) for name in ("waiting", "pending", "retrying")]
    oldest = "-" if row["oldest_at_ms"] is None else _age(row["oldest_at_ms"])
    scope, key = (f"{row.get(f'{name}_prefix', '')}*" if row[name] is None else row[name] for name in ("scope", "key"))
    hosts = ", ".join(row["hosts"]) or "nobody"
    loop = "looping" if row.get("looping") else "-"
    return (function, scope, key, row["delivery"], hosts, *counts, oldest, str(row["dead"]), str(row["dropped"]), loop)


def _particulars(row: dict[str, Any]) -> str:
    """What else a trigger's config says of which events it wants, and how."""
    told = [kind.removeprefix("state:") for kind in row.get("event_types", ())]
    for member in ("changed", "when", "payload", "batch", "on_full", "max_queue_length", "max_queue_bytes"):
        if member in row:
            text = values.encode(row[member]).decode() if not isinstance(row[member], str) else row[member]
            told.append(f"{member} {text if len(text) <= 60 else text[:57] + '…'}")
    return ", ".join([*told, "coalesce"] if row.get("coalesce") else told)


def _kind(row: dict[str, Any]) -> str:
    cause = known_cause(row.get("cause"))
    kind: str = row["event_type"].removeprefix("state:")
    return kind if cause is None else f"{kind} ({cause})"


def _age(since_ms: int) -> str:
    seconds = max(0.0, time.time() - since_ms / 1000)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
    """Columns on a terminal, tab-separated lines with a head in a pipe."""
    cells = [[name(cell) if is_terminal() else exact_name(cell) for cell in row] for row in rows]
    if not is_terminal():
        for row in (head, *cells):
            print_line("\t".join(row))
        return
    if not cells:
        click.secho(empty, dim=True)
        return
    widths = [max(len(row[column]) for row in (head, *cells)) for column in range(len(head))]
    for number, row in enumerate((head, *cells)):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        click.secho(line, dim=number == 0)
