"""The verdict on a run, a pure function of its history: what was lost, made twice, out of order or repeated without a reason.

A *repeat* is a delivery of an event that had been delivered before, other than the next attempt after one that failed. It is
allowed for what was in flight at a fault: from the beginning of the first delivery to that of the repeat lies (a part of) a fault.
A delivery is *old* when one of a later event of its key began before it. An engine that was stopped between its last look at the
clock and the write to the socket can send such a one; its fence is lower than that of what was handled meanwhile.
A *run* is what an engine handles of one key ahead of its acknowledgements. When it dies that is repeated: from some event on,
up to so many of them, in their order, with a fence that is higher than all before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from tests.torture.chains import Chains, Step, broken_links, chains_of, mark, name, wrong_values, wrong_writes
from tests.torture.dead_letters import DeadMarks, dead_marks, wrong_dead_letters
from tests.torture.deadlines import wrong_expiries
from tests.torture.history import Delivery, Fault, History, Place
from tests.torture.subscriptions import Spec

GRACE_NS = 5_000_000_000
"""What a fault has caused may be seen for so long after it: a time to live of a heartbeat, and a reconnect."""

MOST_AHEAD = 16
"""The events of a run, at most (iii_state/adapters/redis/runs.py)."""

COUNTS = "1"
"""The target of damage to what lost events are counted by (see `meddling.PATTERNS`)."""


@dataclass
class Verdict:
    """What is wrong, in words, and what was counted."""

    problems: list[str] = field(default_factory=list)
    repeats: int = 0
    repeated_runs: int = 0
    old_by_fence: int = 0
    lost_and_counted: int = 0
    """Of a queue that was damaged: events that no handler was given, and that the engines had counted as lost."""
    lost_with_the_counts: int = 0
    """The same, where what they are counted by was damaged, too."""


def check(history: History, specs: Sequence[Spec]) -> Verdict:
    """Look at everything."""
    verdict = Verdict()
    by_spec: dict[str, list[Delivery]] = defaultdict(list)
    for delivery in history.deliveries:
        by_spec[delivery.subscription].append(delivery)
    chains: Chains = {}
    for spec in specs:
        if spec.is_base:
            chains |= chains_of(by_spec[spec.name])
    verdict.problems += broken_links(chains, history.initial, history.final)
    verdict.problems += wrong_writes(chains, history.writes)
    verdict.problems += wrong_values(history.writes, history.initial, history.final)
    verdict.problems += wrong_expiries(chains, history)
    verdict.problems += wrong_dead_letters(chains, history, specs)
    verdict.problems += [f"left behind: {what}" for what in history.left]
    windows = Windows(history.faults)
    dead = dead_marks(history)
    for spec in specs:
        if spec.is_broadcast:
            for engine in sorted({delivery.engine for delivery in by_spec[spec.name]}):
                deliveries = [delivery for delivery in by_spec[spec.name] if delivery.engine == engine]
                ends = sorted(when for number, when in history.ended_engines if number == engine)
                _check_subscription(spec, deliveries, chains, windows, verdict, dead, _Gaps(history, ends))
        else:
            missing = _check_subscription(spec, by_spec[spec.name], chains, windows, verdict, dead, None)
            _compare_losses(spec, missing, history, verdict)
    return verdict


class Windows:
    """When there were faults."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        ordered = sorted((fault.begun, fault.ended + GRACE_NS) for fault in faults)
        self._begins = [begin for begin, _ in ordered]
        self._latest_ends = list(accumulate((end for _, end in ordered), max))

    def touch(self, begin: int, end: int) -> bool:
        """Whether there was one between these times."""
        count = bisect_left(self._begins, end + 1)
        return count > 0 and self._latest_ends[count - 1] >= begin

    def over(self, begin: int) -> int:
        """When what began then should be over: a moment later, or when the faults are that it fell into."""
        count = bisect_left(self._begins, begin + GRACE_NS + 1)
        return max(begin + GRACE_NS, self._latest_ends[count - 1] if count > 0 else 0)


class _Gaps:
    """A broadcast's queue goes with its engine's process: what the next one is not sent is no loss."""

    def __init__(self, history: History, ends: list[int]) -> None:
        self._ends = ends
        self._made = {write.id: write.begun for write in history.writes}

    def allow(self, before: Step | None, after: int) -> bool:
        """Whether a process ended between the write of the last event that was handled and the begin of the next delivery."""
        if before is None:
            return True
        return self.has_ended(self._made.get(mark(before.new or before.old), 0), after)

    def has_ended(self, begin: int, end: int) -> bool:
        """Whether a process ended between these times."""
        at = bisect_left(self._ends, begin)
        return at < len(self._ends) and self._ends[at] <= end


def _check_subscription(
    spec: Spec,
    deliveries: list[Delivery],
    chains: Chains,
    windows: Windows,
    verdict: Verdict,
    dead: DeadMarks,
    gaps: _Gaps | None,
) -> int:
    """`deliveries` are those of one queue. How many events of it no handler completed."""
    missing = 0
    by_place: dict[Place, list[Delivery]] = defaultdict(list)
    for delivery in deliveries:
        by_place[delivery.place].append(delivery)
    for place, steps in chains.items():
        wanted = [step for step in steps if spec.matches(*place, step.old, step.new)]
        if wanted:
            missing += _check_lane(spec, place, wanted, by_place.pop(place, []), windows, verdict, dead, gaps)
    for place, strangers in by_place.items():
        verdict.problems.append(f"not wanted: {spec.name} was given {len(strangers)} events of {name(place)}")
    return missing


def _compare_losses(spec: Spec, missing: int, history: History, verdict: Verdict) -> None:
    """What a damaged queue has lost has to have been counted, unless what it is counted by was damaged, too."""
    counted = history.lost.get(spec.name, 0)
    if spec.is_damaged:
        if any(fault.kind.endswith(" keys") and fault.target == COUNTS for fault in history.faults):
            verdict.lost_with_the_counts += missing
            return
        verdict.lost_and_counted += missing
        if missing > counted:
            verdict.problems.append(f"lost event: {spec.name}: {missing} were lost, and only {counted} are counted as lost")
    elif counted:
        verdict.problems.append(f"wrongly counted: {spec.name}: {counted} events are counted as lost")


def _check_lane(
    spec: Spec,
    place: Place,
    steps: list[Step],
    deliveries: list[Delivery],
    windows: Windows,
    verdict: Verdict,
    dead: DeadMarks,
    gaps: _Gaps | None,
) -> int:
    """The deliveries of one queue and key against the steps that it should have seen. How many no handler completed."""
    missing = 0
    where = f"{spec.name}: {name(place)}"
    if spec.is_old:  # without an id an event is known by what it changed
        numbers = {f"{mark(step.old)}>{mark(step.new)}": number for number, step in enumerate(steps)}
    else:
        numbers = {step.write_id: number for number, step in enumerate(steps)}
    by_number: dict[int, list[Delivery]] = defaultdict(list)
    for delivery in sorted(deliveries, key=lambda delivery: delivery.begun):
        found = numbers.get(f"{mark(delivery.old)}>{mark(delivery.new)}" if spec.is_old else delivery.write_id or "")
        if found is None:
            verdict.problems.append(f"not wanted: {where}: {delivery.event_type} {delivery.old} {delivery.new}")
            continue
        step = steps[found]
        if (delivery.event_type, delivery.old, delivery.new) != (step.event_type, step.old, step.new):
            verdict.problems.append(f"wrong event: {where}: {delivery} is not {step}")
        by_number[found].append(delivery)

    ended = 0
    last: Step | None = None
    newest, newest_fence = -1, -1
    for number, step in enumerate(steps):
        given = by_number.get(number, [])
        is_dead = (spec.function_id, place, mark(step.old), mark(step.new)) in dead
        if any(delivery.ok for delivery in given) or is_dead:
            pass
        elif gaps is not None and (not given or gaps.has_ended(given[-1].begun, windows.over(given[-1].begun))):
            pass  # what a broadcast has for an engine ends with it, whether a handler had begun or not
        elif spec.is_damaged:
            missing += 1
        else:
            verdict.problems.append(f"lost event: {where}: no handler completed {mark(step.old)!r} to {mark(step.new)!r}")
        if not given:
            continue
        first = given[0]
        if gaps is not None and (number == 0 or not by_number.get(number - 1)) and not gaps.allow(last, first.begun):
            verdict.problems.append(f"lost event: {where}: what came before {mark(step.new)!r} was not broadcast")
        if first.begun < ended:
            verdict.problems.append(f"out of order: {where}: {mark(step.new)!r} began before the event before it was over")
        ended = max(ended, min((delivery.ended or 0 for delivery in given if delivery.ok), default=0))
        last = step
        _count_repeats(where, given, windows, verdict)
    if gaps is not None and deliveries and not by_number.get(len(steps) - 1):
        verdict.problems.append(f"lost event: {where}: the last was not broadcast")

    in_time = sorted(((d.begun, number, d) for number, given in by_number.items() for d in given), key=lambda item: item[0])
    for _, number, delivery in in_time:
        if number >= newest:
            newest, newest_fence = number, max(newest_fence, delivery.fence or 0)
            continue
        if delivery is not by_number[number][0] and (delivery.fence or 0) > newest_fence:
            _count_run(where, by_number, number, newest, delivery, windows, verdict)
            newest, newest_fence = number, delivery.fence or 0
            continue
        known = delivery.fence is not None and delivery.fence < newest_fence
        if (known or spec.is_old or spec.is_damaged) and windows.touch(by_number[number][0].begun, delivery.begun):
            verdict.old_by_fence += 1
        else:
            verdict.problems.append(
                f"out of order: {where}: {mark(delivery.new)!r} (fence {delivery.fence}) after a later one (fence {newest_fence})"
            )
    return missing


def _count_run(
    where: str,
    by_number: dict[int, list[Delivery]],
    first: int,
    newest: int,
    delivery: Delivery,
    windows: Windows,
    verdict: Verdict,
) -> None:
    """A run is repeated from this event on. Of each of its events it is looked at as well when it was repeated."""
    verdict.repeated_runs += 1
    count = sum(number in by_number for number in range(first, newest + 1))
    if count > MOST_AHEAD:
        verdict.problems.append(f"repeated too much: {where}: {mark(delivery.new)!r} and {count - 1} events behind it")
    if not windows.touch(by_number[first][0].begun, delivery.begun):
        verdict.problems.append(f"repeated for no reason: {where}: a run from {mark(delivery.new)!r} on at {delivery.begun}")


def _count_repeats(where: str, given: list[Delivery], windows: Windows, verdict: Verdict) -> None:
    for before, delivery in pairwise(given):
        if before.ok is False and (delivery.attempt or 0) == (before.attempt or 0) + 1:
            continue
        verdict.repeats += 1
        if not windows.touch(before.begun, delivery.begun):
            verdict.problems.append(
                f"repeated for no reason: {where}: {mark(delivery.old)!r} to {mark(delivery.new)!r} at {delivery.begun}"
            )
