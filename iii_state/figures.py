"""What is counted, and what it is called: families of figures, and the figures that each part gives when it is asked.

Hot paths raise plain integers of their own; whoever keeps them makes `Figure`s of them when somebody looks. Names, labels and
units are those of Prometheus: a counter ends with `_total`, a unit stands last.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from iii_state.access import LISTENERS

PREFIX = "iii_state_"

OTHERS = "(others)"
"""The label of everything that has no line of its own, since there are too many."""

MOST_FUNCTIONS = 1000
"""So many functions have lines of their own."""

BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""The upper bounds of a histogram's buckets, in seconds; one more bucket has what is above."""


class Histogram:
    """How often something took how long, in seconds."""

    __slots__ = ("buckets", "sum")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """It took so long once more."""
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds


class Family(NamedTuple):
    """Figures of one name, which differ in their labels. `about` says in a sentence what is counted, or measured."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    about: str
    labels: tuple[str, ...] = ()


class Figure(NamedTuple):
    """One figure: of a family, with a value for each of its labels."""

    family: Family
    value: float | Histogram
    labels: tuple[str, ...] = ()


def counter(name: str, about: str, *labels: str) -> Family:
    """A family of what only grows, for as long as a process runs."""
    return Family(f"{PREFIX}{name}_total", "counter", about, labels)


def gauge(name: str, about: str, *labels: str) -> Family:
    """A family of what goes up and down."""
    return Family(PREFIX + name, "gauge", about, labels)


def histogram(name: str, about: str, *labels: str) -> Family:
    """A family of durations."""
    return Family(PREFIX + name, "histogram", about, labels)


def function_label(function_id: str) -> str:
    """What a function is called in a label. Those that a watch or a bridge makes for itself, under ever new names, are one."""
    for beginning in LISTENERS:
        if function_id.startswith(beginning):
            return beginning.removesuffix("::")
    return function_id


def bounded(rows: Iterable[tuple[str, Sequence[float]]], most: int = MOST_FUNCTIONS) -> dict[str, list[float]]:
    """Sums by label, of `rows` of a label and several numbers; those of labels beyond the first `most` count as `OTHERS`."""
    sums: dict[str, list[float]] = {}
    for label, numbers in rows:
        if label not in sums and len(sums) >= most:
            label = OTHERS
        known = sums.get(label)
        sums[label] = list(numbers) if known is None else [a + b for a, b in zip(known, numbers, strict=True)]
    return sums
