"""Values with deadlines: each goes once, at its deadline or later, and none that was overwritten before."""

from __future__ import annotations

from collections.abc import Sequence

from tests.torture.chains import Chains, mark, name
from tests.torture.history import Fault, History, Jump, Write
from tests.torture.plan import TTL_SECONDS
from tests.torture.writes import FADING

NS_PER_MS = 1_000_000

CORRECTED_NS = int((TTL_SECONDS / 3 + 0.25) * 1e9)
"""An engine knows the time to within this: a heartbeat tells it, and what it was told slowly the next one puts right. What a
heartbeat itself takes on a loaded machine comes on top (seen: 0.1 s). Steps of Redis's clock that are smaller than TTL_SECONDS + 1
engines take for time; here all are larger."""

AROUND_NS = int((TTL_SECONDS + 1) * 1e9)
"""A clock that was set is corrected within as much."""


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
        dated: Write | None = None
        """What has given the value that is there its deadline; None where it has none."""
        for step in steps:
            write = writes.get(mark(step.new))
            if step.new is not None:
                if write is None or write.ttl_ms or write.kind == "set":  # an update without one keeps what there was
                    dated = write if write is not None and write.ttl_ms else None
                if step.cause is not None:
                    problems.append(f"wrong cause: {name(place)}: {mark(step.new)!r} was written, not {step.cause}")
                continue
            if step.cause not in (None, "expired"):
                problems.append(f"wrong cause: {name(place)}: {mark(step.old)!r} has expired, and is said to be {step.cause}")
            if dated is None:
                problems.append(f"no deadline: {name(place)}: {mark(step.old)!r} has gone, and had no deadline")
            else:
                missing = dated.begun + dated.ttl_ms * NS_PER_MS - step.begun
                nearer = _came_nearer(history.jumps, dated, step.begun) or _corrected(history.faults, dated, step.begun)
                if missing > nearer:
                    problems.append(f"too early: {name(place)}: {mark(step.old)!r} has gone {missing / NS_PER_MS:.0f} ms early")
            dated = None
    return problems


def _corrected(faults: Sequence[Fault], write: Write, when: int) -> int:
    """By how many nanoseconds a deadline may be off because the clock of a Redis was set just then."""
    begun = write.begun - AROUND_NS
    return CORRECTED_NS if any(f.kind.startswith("set clock") and f.begun <= when and f.ended >= begun for f in faults) else 0


def _came_nearer(jumps: Sequence[Jump], write: Write, when: int) -> int:
    """By how many nanoseconds a deadline may have come nearer because the clock was set after its write, and before `when`."""
    end = write.ended if write.ended is not None else when
    before = [jump.ahead for jump in jumps if jump.when <= write.begun][-1:] or [0.0]
    meanwhile = [jump.ahead for jump in jumps if write.begun < jump.when <= end]
    after = [jump.ahead for jump in jumps if write.begun < jump.when <= when]
    return max(0, int((max([*after, *before]) - min([*before, *meanwhile])) * 1e9))
