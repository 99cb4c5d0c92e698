"""`iii-state history`: the changes of a scope that has a change log."""

from __future__ import annotations

from datetime import datetime

import click

from iii_state import values
from iii_state.cli.calls import engine_at, engine_options, request, run
from iii_state.cli.changes import change_line
from iii_state.cli.log_source import LogSource
from iii_state.cli.terminal import is_terminal, show
from iii_state.client.client import Client
from iii_state.client.following import Followed
from iii_state.history import MOST_CHANGES


@click.command(short_help="Print the changes of SCOPE, which has a change log.")
@click.argument("scope")
@click.option("--key", help="The changes of this key alone.")
@click.option("--after", metavar="POSITION", help="What came behind this position, as an earlier call has told.")
@click.option("--limit", type=click.IntRange(min=1), help="So many at most; without it all there are.")
@engine_options
def history(scope: str, key: str | None, after: str | None, limit: int | None, url: str, as_json: bool) -> None:
    """Print the changes of SCOPE, which has a change log, oldest first: {"revision", "at_ms", "event"}, one a line.

    The position behind the last one goes to standard error: --after goes on from there.
    """

    async def action() -> None:
        left, position = limit, after
        async with Client(engine_at(url)) as client:
            source = LogSource(client, scope, key)
            while left is None or left > 0:
                page = await source.page(position, MOST_CHANGES if left is None else min(left, MOST_CHANGES))
                for change in page.changes:
                    _show(change, as_json)
                if page.next_after == position:
                    break
                left = None if left is None else left - len(page.changes)
                position = page.next_after
        click.secho(f"after: {position}", dim=True, err=True)

    run(action)


def _show(change: Followed, as_json: bool) -> None:
    if as_json or not is_terminal():
        show(request(revision=change.revision, at_ms=change.at_ms, event=bytes(change.event)), as_json)
    else:
        number = click.style(f"{change.revision:>6}", dim=True)
        click.echo(f"{number} {change_line(values.decode(change.event), datetime.fromtimestamp((change.at_ms or 0) / 1000))}")
