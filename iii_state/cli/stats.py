"""`iii-state stats` and `iii-state top`: what an engine has done, and does, on one screen."""

from __future__ import annotations

import asyncio

import click

from iii_state import values
from iii_state.cli.calls import run
from iii_state.cli.live import watch_screen
from iii_state.cli.sampling import Sample, sample
from iii_state.cli.sections import Section, sections, summary
from iii_state.cli.sources import Ask, opened, source_options
from iii_state.cli.tables import print_table
from iii_state.cli.terminal import is_terminal, print_line, show


@click.command(short_help="Print what has been counted: calls, triggers, engines.")
@source_options
def stats(url: str, redis_url: str | None, prefix: str, as_json: bool) -> None:
    """Print what an engine has counted since it was started: calls, how long they took, deliveries, what waits; and the engines.

    Calls and handlers are those of the engine that is asked; what waits is that of the whole store. With --redis-url only the
    latter is known. In a pipe each table begins with a line of its name.
    """

    async def action() -> None:
        async with opened(url, redis_url, prefix) as ask:
            taken = await sample(ask)
        if as_json:
            show(_json(taken), as_json)
        else:
            print_sections(taken, None)

    run(action)


@click.command(short_help="Show rates, backlog and engines, live; q ends.")
@click.option("--interval", type=click.FloatRange(min=0.2), default=2.0, show_default=True, help="Seconds between two looks.")
@click.option("--once", is_flag=True, help="Look for one interval, print the rates, and end; as in a pipe.")
@source_options
def top(interval: float, once: bool, url: str, redis_url: str | None, prefix: str, as_json: bool) -> None:
    """Show what happens now: calls and deliveries a second, what waits, the engines. It fits a terminal of 80 by 24; `q` ends it.

    Rates are of the engine that is asked, what waits is of the whole store. The busiest come first, as many as fit.
    """

    async def action() -> None:
        async with opened(url, redis_url, prefix) as ask:
            if is_terminal() and not once and not as_json:
                await watch_screen(ask, url if redis_url is None else redis_url, interval)
                return
            taken, seconds = await rates(ask, interval)
            if as_json:
                show(_json(taken), as_json)
            else:
                print_sections(taken, seconds)

    run(action)


async def rates(ask: Ask, interval: float) -> tuple[Sample, float]:
    """What happens within one interval, and how long that was."""
    before = await sample(ask)
    await asyncio.sleep(interval)
    now = await sample(ask)
    return now.since(before), now.at - before.at


def print_sections(taken: Sample, seconds: float | None) -> None:
    """Print the tables one after the other."""
    click.secho(summary(taken, seconds), bold=is_terminal())
    for section in sections(taken, seconds):
        _print(section)


def _print(section: Section) -> None:
    if is_terminal():
        click.echo()
    print_line(section.title)
    print_table(section.head, section.rows, "none")


def _json(taken: Sample) -> bytes:
    return values.encode({"triggers": taken.rows, "engines": taken.engines, "figures": taken.figures})
