"""Values with deadlines: each goes once, at its deadline or later, and none that was overwritten before."""

from __future__ import annotations

from collections.abc import Sequence

from tests.torture.chains import Chains, mark, name
from tests.torture.history import History, Jump, Write
from tests.torture.writes import FADING

NS_PER_MS = 1_000_000


def wrong_expiries(chains: Chains, history: History) -> list[str]:
    """Expiries of values that had no deadline, or before it. That a value goes twice, or does not go, breaks its chain."""
    writes = {write.id: write for write in history.writes}
    problems = []
    for place, steps in chains.items():
        if place[0] != FADING:
            problems += [
                f"wrong cause: {name(place)}: {mark(step.old)!r} to {mark(step.new)!r} is said to have expired"
                for step in steps
                if step.cause == "expired"
            ]
            continue
        earliest: int | None = None
        """When the value that is there could go, at the earliest; None for never."""
        for step in steps:
            write = writes.get(mark(step.new))
            if step.new is not None:
                earliest = None if write is None else _earliest(write, earliest)
                if step.cause is not None:
                    problems.append(f"wrong cause: {name(place)}: {mark(step.new)!r} was written, not {step.cause}")
                continue
            if step.cause not in (None, "expired"):
                problems.append(f"wrong cause: {name(place)}: {mark(step.old)!r} has expired, and is said to be {step.cause}")
            if earliest is None:
                problems.append(f"no deadline: {name(place)}: {mark(step.old)!r} has gone, and had no deadline")
            elif step.begun < earliest and not _was_set_ahead(history.jumps, earliest, step.begun):
                early = (earliest - step.begun) / NS_PER_MS
                problems.append(f"too early: {name(place)}: {mark(step.old)!r} has gone {early:.0f} ms before its deadline")
            earliest = None
    return problems


def _earliest(write: Write, before: int | None) -> int | None:
    """The earliest deadline that a write leaves: an update without one keeps what there was."""
    if write.ttl_ms:
        return write.begun + write.ttl_ms * NS_PER_MS
    return None if write.kind == "set" else before


def _was_set_ahead(jumps: Sequence[Jump], deadline: int, when: int) -> bool:
    """Whether the clock had been set ahead by then, by more than what was missing, at any time before."""
    return any(jump.when <= when and jump.ahead > 0 for jump in jumps)
