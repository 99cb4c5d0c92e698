"""Dead letters on the command line: `iii-state dead list`, `show`, `retry` and `drop`."""

from __future__ import annotations

import click
import msgspec

from iii_state import values
from iii_state.cli.calls import request, run
from iii_state.cli.command_group import CommandGroup
from iii_state.cli.sources import opened, source_options
from iii_state.cli.tables import age, counted, kind, print_table
from iii_state.cli.terminal import is_terminal, name, show
from iii_state.state.functions.admin import MAX_SHOWN


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
                *(row["id"], row["function_id"], row["scope"], row["key"], kind(row)),
                *(str(row["attempts"]), age(row["buried_at_ms"]), row["error"]),
            )
            for row in found["dead"]
        ]
        print_table(("ID", "FUNCTION", "SCOPE", "KEY", "EVENT", "ATTEMPTS", "SINCE", "ERROR"), rows, "there are no dead letters")
        if found["total"] > len(rows):
            click.secho(f"{found['total'] - len(rows):,} more; --limit shows up to {MAX_SHOWN}", dim=True, err=True)

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
        found = msgspec.json.decode(values.members(answer or b"{}")["dead"], type=list[msgspec.Raw])
        if not found and is_terminal():
            click.secho("there are no such dead letters: iii-state dead list shows all", dim=True)
        for dead_letter in found:
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
                click.confirm(f"Drop {counted(count, 'dead letter')} of {name(function_id)}, for good?", abort=True)
            answer = await ask("iii-state::dead_drop", request(function_id=function_id, id=dead_letter_id))
        _print_count(answer, as_json, "dropped", "dropped")

    run(action)


def _print_count(answer: bytes | None, as_json: bool, member: str, word: str) -> None:
    if as_json:
        show(answer, as_json)
    else:
        count = values.decode(answer or b"{}")[member]
        click.echo(f"{counted(count, 'dead letter')} {word}")
        if not count:
            click.secho("there are no such dead letters: iii-state dead list shows all", dim=True, err=True)
