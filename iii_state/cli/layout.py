"""Tables on a terminal: columns that line up where they fit, and else a block for each row; nothing of a name is cut."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence

import click

WORDS = frozenset(("DELIVERY", "ENGINE", "ERROR", "EVENT", "FUNCTION", "HOSTS", "ID", "KEY", "SCOPE", "STATE"))
"""Columns that stand to the left. All others are numbers and times, which stand to the right, so that they can be compared."""

LEAST_ROOM = 12
"""A first column with less room than this makes no table."""

_GAP = "  "


def columns() -> int:
    """How wide the terminal is."""
    return shutil.get_terminal_size().columns


def width_of(text: str) -> int:
    """How many columns of a terminal a text takes: Chinese and Japanese letters take two."""
    from rich.cells import cell_len

    return cell_len(text)


def laid_out(head: Sequence[str], rows: Sequence[Sequence[str]], columns: int) -> Iterator[str]:
    """The lines of a table.

    A name in the first column that is longer than there is room for has a line of its own, and what belongs to it stands in its
    columns below. Where the others leave no room at all, each row is a block.
    """
    widths = [max(width_of(row[column]) for row in (head, *rows)) for column in range(len(head))]
    others = sum(width + len(_GAP) for width in widths[1:])
    if columns - others < min(widths[0], max(LEAST_ROOM, width_of(head[0]))):
        yield from _blocks(head, rows, columns)
        return
    widths[0] = min(widths[0], columns - others)
    yield click.style(_line(head, head, widths), dim=True)
    for row in rows:
        if width_of(row[0]) > widths[0]:
            yield row[0]
            row = ("", *row[1:])
        yield _line(head, row, widths)


def wrapped(text: str, columns: int, indent: str = "") -> str:
    """A sentence for people in lines that fit; words are never cut."""
    return textwrap.fill(
        text, max(columns, 20), initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _line(head: Sequence[str], row: Sequence[str], widths: Sequence[int]) -> str:
    cells = []
    for column, cell, width in zip(head, row, widths, strict=True):
        padding = " " * (width - width_of(cell))
        cells.append(cell + padding if column in WORDS else padding + cell)
    return _GAP.join(cells).rstrip()


def _blocks(head: Sequence[str], rows: Sequence[Sequence[str]], columns: int) -> Iterator[str]:
    """Each row as its first cell, and below it the others, each behind its name; what has nothing to say is left out."""
    for row in rows:
        yield click.style(row[0], bold=True)
        line = ""
        for column, cell in zip(head[1:], row[1:], strict=True):
            if cell == "-":
                continue
            pair = f"{column.lower()} {cell}"
            if line and width_of(f"{_GAP}{line}{_GAP}{pair}") > columns:
                yield from _indented(line, columns)
                line = ""
            line = f"{line}{_GAP}{pair}" if line else pair
        if line:
            yield from _indented(line, columns)


def _indented(line: str, columns: int) -> Iterator[str]:
    if width_of(_GAP + line) <= columns:
        yield _GAP + line
    else:
        yield from wrapped(line, columns, _GAP).splitlines()
