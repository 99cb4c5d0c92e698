"""`iii-state triggers`: who wants which events; and `pause`, `resume`, `purge` and `remove` of the subscriptions of a function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from iii_state import values
from iii_state.cli.calls import request, run
from iii_state.cli.command_group import CommandGroup
from iii_state.cli.sources import opened, source_options
from iii_state.cli.tables import ID_SHOWN, TRIGGER_HEAD, Row, by_name, counted, print_table, trigger_cells
from iii_state.cli.terminal import is_terminal, name, show
from iii_state.errors import Code, FunctionError, unsupported
from iii_state.events import TRIGGERS_PAUSE

C = TypeVar("C", bound=Callable[..., Any])


@click.group(cls=CommandGroup, invoke_without_command=True, short_help="Print each trigger, and what waits for it; pause it, …")
@source_options
@click.pass_context
def triggers(context: click.Context, url: str, redis_url: str | None, prefix: str, as_json: bool) -> None:
    """Print who wants which events: hosts, and what waits, is out, is tried again, is dead or was dropped.

    OLDEST is how long the oldest event has been waiting or out; HOSTS are the engines that serve the function now; STATE is
    "paused", and for how long, where an operator has paused it, and "looping" for a function that was seen to lead to itself within
    the last two minutes. ID is how the id of the subscription begins, which `--json` prints whole.
    """
    if context.invoked_subcommand is not None:
        for option in context.command.params:
            if option.name and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
                raise click.UsageError(f"{option.opts[0]} belongs behind the command `{context.invoked_subcommand}`.")
        return

    async def action() -> None:
        async with opened(url, redis_url, prefix) as ask:
            answer = await ask("iii-state::triggers", b"{}")
        if as_json:
            show(answer, as_json)
            return
        print_table(TRIGGER_HEAD, [trigger_cells(row) for row in by_name(answer)], "there are no triggers")

    run(action)


def _which(command: C) -> C:
    """FUNCTION, `--id` and `--namespace`, and where to look."""
    command = source_options(command)
    command = click.option("--namespace", help="Only those of this namespace.")(command)
    command = click.option("--id", "beginning", help="Only the subscription whose id begins like this.")(command)
    return click.argument("function_id", metavar="FUNCTION")(command)


_yes = click.option("--yes", is_flag=True, help="Do not ask.")


@triggers.command(short_help="Start no handler of FUNCTION any more, at any engine.")
@_which
def pause(**which: Any) -> None:
    """Start no handler of FUNCTION any more, at any engine of the store, until it is resumed.

    Handlers that run may finish. Events go on being queued, within the bounds of the queue: what happens when it is full stays as
    it is. It stays paused when engines are started again.
    """

    def words(count: Counter[str]) -> str:
        out = count["out"]
        running = f"; {counted(out, 'event')} {'is' if out == 1 else 'are'} out, and may be finished" if out else ""
        return f"{counted(count['paused'], 'subscription')} paused{running}"

    _carry_out("pause", words, **which)


@triggers.command(short_help="Let a paused FUNCTION go on.")
@_which
def resume(**which: Any) -> None:
    """Let what was paused of FUNCTION go on, with the events that have waited."""
    _carry_out("resume", lambda count: f"{counted(count['resumed'], 'subscription')} resumed", **which)


@triggers.command(short_help="Drop the events that wait for FUNCTION, for good.")
@_which
@_yes
def purge(yes: bool, **which: Any) -> None:
    """Drop the events that wait for FUNCTION, for good; those that are out, and dead letters, stay."""

    def confirm(rows: list[Row]) -> None:
        for row in rows:
            click.echo(f"{_described(row)}: {counted(row['waiting'], 'event')} will be dropped")
        click.confirm(f"Drop {counted(sum(row['waiting'] for row in rows), 'event')}, for good?", abort=True)

    _carry_out("purge", lambda count: f"{counted(count['dropped'], 'event')} dropped", None if yes else confirm, **which)


@triggers.command(short_help="End a subscription of FUNCTION that nobody serves.")
@_which
@_yes
def remove(yes: bool, **which: Any) -> None:
    """End the subscriptions of FUNCTION that no engine serves, before their retention is over, with all that waits for them.

    One that is served is refused: unregister its trigger, or stop its worker. Dead letters stay (`iii-state dead`).
    """

    def confirm(rows: list[Row]) -> None:
        if stale := [row for row in rows if not row["hosts"]]:  # else it is refused
            for row in stale:
                click.echo(f"{_described(row)}: it ends, and {counted(row['waiting'] + row['pending'], 'event')} with it")
            click.confirm(f"Remove {counted(len(stale), 'subscription')}, for good?", abort=True)

    def words(count: Counter[str]) -> str:
        return f"{counted(count['removed'], 'subscription')} removed, with {counted(count['dropped'], 'event')}"

    _carry_out("remove", words, None if yes else confirm, **which)


def _carry_out(
    word: str,
    words: Callable[[Counter[str]], str],
    confirm: Callable[[list[Row]], None] | None = None,
    *,
    function_id: str,
    beginning: str | None,
    namespace: str | None,
    url: str,
    redis_url: str | None,
    prefix: str,
    as_json: bool,
) -> None:
    """Call `iii-state::trigger_<word>` for each subscription that is meant, and print what became of them in `words`."""

    async def action() -> None:
        async with opened(url, redis_url, prefix) as ask:
            rows = [
                row
                for row in by_name(await ask("iii-state::triggers", b"{}"))
                if row["function_id"] == function_id and namespace in (None, row["namespace"])
            ]
            if rows and "id" not in rows[0]:
                raise unsupported("this engine", TRIGGERS_PAUSE)
            rows = [row for row in rows if row["id"].startswith(beginning or "")]
            ids = list(dict.fromkeys(row["id"] for row in rows))
            if not rows:
                which = "" if beginning is None else f" whose id begins with {beginning}"
                raise FunctionError(Code.NOT_FOUND, f"{function_id} has no subscription{which}: iii-state triggers lists them all")
            if beginning is not None and len(ids) > 1:
                raise click.UsageError(f"The ids of {len(ids)} subscriptions begin with {beginning}: give more of it.")
            if confirm is not None and is_terminal():
                confirm(rows)
            if word == "remove" and any(not row["hosts"] for row in rows):
                ids = list(dict.fromkeys(row["id"] for row in rows if not row["hosts"]))
            count: Counter[str] = Counter()
            for subscription_id in ids:
                count.update(values.decode(await ask(f"iii-state::trigger_{word}", request(id=subscription_id)) or b"{}"))
        if as_json:
            show(values.encode(count), as_json)
        else:
            click.echo(words(count))

    run(action)


def _described(row: Row) -> str:
    """A subscription as people know it: its function, and the places that it is about."""
    function, scope, key = trigger_cells(row)[:3]
    return f"{name(function)} (scope {name(scope)}, key {name(key)}, id {row['id'][:ID_SHOWN]})"
