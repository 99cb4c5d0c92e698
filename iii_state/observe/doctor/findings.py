"""What the doctor finds, and how bad it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

Severity = Literal["fault", "warning", "note"]
"""A fault has lost something, or will; a warning is to be looked at; a note is good to know."""

SEVERITIES: Sequence[Severity] = ("fault", "warning", "note")

MOST_NAMED = 5
"""So many things of one kind are named in a finding."""

Progress = Callable[[str], None]
"""Told what is looked at now."""


class Finding(NamedTuple):
    """One finding. `id` is its name, which stays; the texts are for people, and may change."""

    severity: Severity
    id: str
    what: str
    meaning: str
    remedy: str


def counted(count: int, one: str, many: str) -> str:
    """So many things and what they do: "1 queue is", "2 queues are"."""
    return f"{count:,} {one if count == 1 else many}"


def named(names: Sequence[str], count: int | None = None) -> str:
    """The first of some things, by name, and how many others there are."""
    shown = ", ".join(names[:MOST_NAMED])
    more = (len(names) if count is None else count) - min(len(names), MOST_NAMED)
    return f"{shown} and {more:,} more" if more > 0 else shown


def size(count: float) -> str:
    """So many bytes."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
