"""The live screen of `iii-state top`: drawn anew at every look, ended with a key; over any terminal, also a slow one."""

from __future__ import annotations

import asyncio
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from iii_state.cli.layout import WORDS, width_of
from iii_state.cli.sampling import Sample, sample
from iii_state.cli.sections import Section, sections, summary
from iii_state.cli.sources import Ask
from iii_state.cli.terminal import name
from iii_state.client.address import shown
from iii_state.errors import FunctionError, StoreError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

ENDING_KEYS = frozenset("qQ\x03\x04\x1b")
"""`q`, Ctrl-C, Ctrl-D, Escape."""

LEAST_NAME = 12
"""So much of a function's name is shown at least, where the numbers beside it leave no room."""


async def watch_screen(ask: Ask, place: str, interval: float) -> None:
    """Show what happens until a key ends it."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    title = f"{shown(place)}  every {interval:g} s, q ends"
    ended = asyncio.Event()
    taken: list[Sample] = []
    with _keys(ended), Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        while not ended.is_set():
            trouble = ""
            try:
                taken = [*taken[-1:], await sample(ask)]
            except (FunctionError, StoreError) as error:
                trouble = str(error)
            if taken:
                live.update(_screen(console, taken, title, trouble), refresh=True)
            with suppress(TimeoutError):  # the first rates come soon
                async with asyncio.timeout(interval if len(taken) > 1 or trouble else min(interval, 0.5)):
                    await ended.wait()


def _screen(console: Console, samples: list[Sample], title: str, trouble: str) -> RenderableType:
    """What fits: the summary, then of each table as many rows as there is room for, the triggers first."""
    from rich.console import Group

    seconds = samples[-1].at - samples[0].at if len(samples) > 1 else None
    taken = samples[-1].since(samples[0]) if len(samples) > 1 else samples[-1]
    lines: list[RenderableType] = [_line(f"iii-state top  {title}", "bold"), _line(summary(taken, seconds, console.width))]
    if trouble:
        lines.append(_line(name(trouble), "red"))
    shown_sections = sections(taken, seconds)
    left = console.height - len(lines) - 2 * len(shown_sections) - 1
    for section, rows in zip(shown_sections, room_for([len(each.rows) for each in shown_sections], left), strict=True):
        lines.append(_table(section, rows, console.width))
    return Group(*lines)


def _line(text: str, style: str = "") -> RenderableType:
    from rich.text import Text

    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def room_for(wanted: list[int], left: int) -> list[int]:
    """How many rows each table gets: all the same, and what one does not need is for the others."""
    given = [0] * len(wanted)
    left = max(left, len(wanted))
    while left > 0 and any(have < want for have, want in zip(given, wanted, strict=True)):
        for number, want in enumerate(wanted):
            if given[number] < want and left > 0:
                given[number] += 1
                left -= 1
    return given


def _table(section: Section, rows: int, width: int) -> RenderableType:
    """A table in which names are cut, and numbers are not."""
    from rich.table import Table
    from rich.text import Text

    shown_rows = [[name(cell) for cell in row] for row in section.rows[:rows]]
    widths = [max(map(width_of, column)) for column in zip(section.head, *shown_rows, strict=True)]
    for_names = max(LEAST_NAME, width - sum(each + 1 for each in widths[1:]) - 1)
    more = len(section.rows) - rows
    title = section.title + (f" ({more:,} more)" if more > 0 else "")
    table = Table(box=None, padding=(0, 1, 0, 0), title=title, title_justify="left", title_style="bold cyan", header_style="dim")
    for number, head in enumerate(section.head):
        widest = min(widths[number], for_names) if number == 0 else widths[number]
        table.add_column(head, justify="left" if head in WORDS else "right", no_wrap=True, overflow="ellipsis", max_width=widest)
    for row in shown_rows:
        table.add_row(*(Text(cell, style=_style(cell), overflow="ellipsis") for cell in row))
    return table


def _style(cell: str) -> str:
    if cell.startswith(("nobody", "looping")):
        return "red"
    return "yellow" if cell.startswith("paused") else ""


@contextmanager
def _keys(ended: asyncio.Event) -> Iterator[None]:
    """Keys come one by one, unseen; one of `ENDING_KEYS` ends it. Where there is no keyboard, Ctrl-C does."""
    if sys.stdin is None or not sys.stdin.isatty():
        yield
        return
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    loop = asyncio.get_running_loop()

    def pressed() -> None:
        if not (typed := sys.stdin.read(1)) or typed in ENDING_KEYS:
            ended.set()

    changed = termios.tcgetattr(keyboard)
    changed[3] &= ~(termios.ECHO | termios.ICANON | termios.ISIG)
    termios.tcsetattr(keyboard, termios.TCSADRAIN, changed)
    loop.add_reader(keyboard, pressed)
    try:
        yield
    finally:
        loop.remove_reader(keyboard)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
