"""Handlers that kill their worker: the event that does it becomes a dead letter, with that reason, and no other event does."""

from __future__ import annotations

from collections.abc import Sequence

from tests.torture.chains import Chains, mark, name
from tests.torture.history import History, Place
from tests.torture.subscriptions import Spec

WORKER_LOST = "worker_lost"

DeadMarks = set[tuple[str, Place, str, str]]
"""Function, place, and which writes made the values before and after."""


def dead_marks(history: History) -> DeadMarks:
    """The dead letters of a history."""
    return {(letter.function_id, (letter.scope, letter.key), mark(letter.old), mark(letter.new)) for letter in history.dead}


def wrong_dead_letters(chains: Chains, history: History, specs: Sequence[Spec]) -> list[str]:
    """Dead letters that should not be, or for another reason, and poisonous events that were completed."""
    by_function = {spec.function_id: spec for spec in specs}
    problems = []
    for letter in history.dead:
        spec, place = by_function.get(letter.function_id), (letter.scope, letter.key)
        if spec is None or not spec.kills(letter.new):
            problems.append(f"dead letter: {letter.function_id}: {name(place)}: {mark(letter.new)!r}: {letter.error}")
        elif WORKER_LOST not in letter.error:
            problems.append(f"wrong reason: {letter.function_id}: {name(place)}: {mark(letter.new)!r} is dead of {letter.error}")
    dead = dead_marks(history)
    completed = {(d.subscription, d.place, mark(d.old), mark(d.new)) for d in history.deliveries if d.ok}
    for spec in specs:
        for place, steps in chains.items():
            for step in steps:
                if not spec.matches(*place, step.old, step.new) or not spec.kills(step.new):
                    continue
                marks = (place, mark(step.old), mark(step.new))
                if (spec.function_id, *marks) not in dead or (spec.name, *marks) in completed:
                    problems.append(
                        f"not dead: {spec.name}: {name(place)}: {mark(step.new)!r} kills its worker, and is no dead letter"
                    )
    return problems
