"""One run: clients at an arena, a fault after the other, and each history checked as soon as it is whole."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.linearizability.arena import Arena
from tests.linearizability.checker import Undecided, Violation, check
from tests.linearizability.load import Load, Record
from tests.linearizability.operations import by_place

CALM_SECONDS = 0.5
FAULT_SECONDS = 3.0
"""At most."""


@dataclass
class Outcome:
    """What a run has found, and what was done."""

    problems: list[str] = field(default_factory=list)
    figures: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    wrong: Record | None = None
    """The history in which something is wrong."""


def verdict(record: Record) -> list[str]:
    """What is wrong with one history, in words. One that could not be decided is wrong, too."""
    histories, problems = by_place(record.operations, record.listings, record.keys, record.joined)
    for place, history in histories.items():
        try:
            found = check(history)
        except Undecided as error:
            problems.append(f"undecided: {'/'.join(place)}: {error}")
        else:
            if isinstance(found, Violation):
                problems.append(str(found))
    return problems


async def run(
    arena: Arena,
    seed: int,
    seconds: float,
    tell: Callable[[Outcome], None] = lambda outcome: None,
    *,
    at_once: int = 2,
    fault_seconds: float = FAULT_SECONDS,
) -> Outcome:
    """Make histories for so long, and until there was each fault once; until something is wrong, at most.

    Up to `at_once` faults overlap; each takes up to `fault_seconds`.
    """
    outcome = Outcome()
    end = time.monotonic() + seconds
    chance = random.Random(f"faults {seed}")
    names = _names(arena, chance)

    async def hurt() -> None:
        for name in names:
            await asyncio.sleep(chance.uniform(0, CALM_SECONDS))
            await arena.faults[name](chance.uniform(0.05, fault_seconds))
            outcome.faults[name] += 1

    hurting = [asyncio.create_task(hurt(), name="linearizability: faults") for _ in range(at_once)]
    try:
        async with Load(arena.urls, seed) as load:
            while not outcome.problems and (time.monotonic() < end or outcome.faults.keys() < arena.faults.keys()):
                record = await load.record()
                outcome.problems += await asyncio.to_thread(verdict, record)
                outcome.figures += record.figures() + Counter(histories=len(record.keys))
                if outcome.problems:
                    outcome.wrong = record
                tell(outcome)
                for task in hurting:
                    if task.done():
                        task.result()
    finally:
        for task in hurting:
            task.cancel()
        await asyncio.gather(*hurting, return_exceptions=True)
    return outcome


def _names(arena: Arena, chance: random.Random) -> Iterator[str]:
    """Each fault once before any comes again."""
    while True:
        yield from chance.sample(sorted(arena.faults), len(arena.faults))
