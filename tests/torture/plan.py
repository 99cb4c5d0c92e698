"""The faults of a run, and when: a seed determines them.

Bursts of faults take turns with calms. In a calm the system is itself again, and what happens then has no excuse.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

ENGINES = 3
NEW_WORKERS = (0, 1, 2)
"""The engine of each worker of the new SDK."""

OLD_WORKERS = (0, 1)
"""The engine of each worker of the old SDK."""

TTL_SECONDS = 3.0
CALL_TIMEOUT_SECONDS = 5.0
FIRST_CALM_SECONDS = 3.0
BURST_SECONDS = 13.0
CALM_SECONDS = 9.0

DURATIONS = {
    "kill engine": (0.1, 2.0),
    "kill engine for long": (TTL_SECONDS + 1, TTL_SECONDS + 3),
    "stop engine": (0.2, 2.0),
    "stop engine for long": (TTL_SECONDS + 0.5, TTL_SECONDS + 3),
    "restart engine": (0.0, 0.5),
    "restart all engines": (0.5, 1.5),
    "kill the one that takes over": (TTL_SECONDS - 0.2, TTL_SECONDS + 0.6),
    "kill worker": (0.0, 1.0),
    "kill redis": (0.0, 1.0),
    "restart redis": (0.0, 1.0),
    "kill redis for long": (CALL_TIMEOUT_SECONDS + 0.5, CALL_TIMEOUT_SECONDS + 2),
    "stop redis": (0.5, TTL_SECONDS + 1),
    "cut connections": (0.0, 0.3),
    "lose replies and cut": (0.1, 0.5),
    "cut and let stragglers through": (0.2, 0.8),
    "delay connections": (0.5, 2.5),
    "flush scripts": (0.0, 0.0),
}
"""The faults there are, and how many seconds each lasts."""

ON_CONNECTIONS = ("cut connections", "lose replies and cut", "cut and let stragglers through", "delay connections")
"""These also meet the engine in the process of the writers."""


@dataclass(frozen=True)
class PlannedFault:
    """A fault: so many seconds after the start, to this engine (connection, worker), for so many seconds."""

    at: float
    kind: str
    target: int
    seconds: float


def faults(seed: int, seconds: float) -> list[PlannedFault]:
    """The faults of a run of so many seconds. Each kind comes up before any comes again."""
    chance = random.Random(seed)
    kinds = _shuffled_again_and_again(chance)
    planned = []
    begin = FIRST_CALM_SECONDS
    while begin + BURST_SECONDS / 2 <= seconds:
        at = begin
        end = min(begin + BURST_SECONDS, seconds)
        while (at := at + chance.uniform(0.3, 2.0)) < end:
            kind = next(kinds)
            targets = ENGINES
            if kind == "kill worker":
                targets = len(NEW_WORKERS) + len(OLD_WORKERS)
            elif kind in ON_CONNECTIONS:
                targets = ENGINES + 1
            planned.append(PlannedFault(round(at, 3), kind, chance.randrange(targets), round(chance.uniform(*DURATIONS[kind]), 3)))
        begin = end + CALM_SECONDS
    return planned


def _shuffled_again_and_again(chance: random.Random) -> Iterator[str]:
    while True:
        kinds = list(DURATIONS)
        chance.shuffle(kinds)
        yield from kinds
