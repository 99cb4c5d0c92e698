"""A run in figures."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

from tests.torture.check import GRACE_NS, Verdict
from tests.torture.dead_letters import dead_marks
from tests.torture.history import History
from tests.torture.writes import FADING


def figures_of(history: History, verdict: Verdict) -> dict[str, Any]:
    """Everything that was counted, as JSON can hold it."""
    outcomes = Counter(write.outcome for write in history.writes)
    gap, fault = longest_gap(history)
    lost = sum(problem.startswith(("lost", "broken chain")) for problem in verdict.problems)
    return {
        "writes": {"all": len(history.writes), **dict(sorted(outcomes.items()))},
        "writes_by_kind": dict(sorted(Counter(write.kind for write in history.writes).items())),
        "faults": dict(sorted(Counter(fault.kind for fault in history.faults).items())),
        "deliveries": len(history.deliveries),
        "deliveries_by_trigger": dict(sorted(Counter(delivery.subscription for delivery in history.deliveries).items())),
        "failed_on_purpose": sum(delivery.ok is False for delivery in history.deliveries),
        "cut_short": sum(delivery.ok is None for delivery in history.deliveries),
        "repeated": verdict.repeats,
        "repeated_runs": verdict.repeated_runs,
        "out_of_order_told_by_fence": verdict.old_by_fence,
        "lost": lost,
        "lost_with_damaged_keys_and_counted": verdict.lost_and_counted,
        "lost_with_damaged_counts": verdict.lost_with_the_counts,
        "dead_letters_of_poisonous_events": len(dead_marks(history)),
        "expired": expired(history),
        "longest_gap_after_a_fault": {"seconds": round(gap / 1e9, 2), "fault": fault},
        "problems": verdict.problems,
    }


def expired(history: History) -> int:
    """How many values went at their deadlines, as the trigger of their scope saw it."""
    return len({d.event_id for d in history.deliveries if d.subscription == FADING and d.new is None})


def longest_gap(history: History) -> tuple[int, str]:
    """The longest time without any delivery, and after which fault that was."""
    begins = sorted(delivery.begun for delivery in history.deliveries)
    longest, blamed = 0, ""
    for before, after in pairwise(begins):
        if after - before > longest:
            causes = [fault for fault in history.faults if fault.begun <= after and fault.ended + GRACE_NS >= before]
            if causes:
                longest, blamed = after - before, max(causes, key=lambda fault: (fault.kind != "noticed", fault.begun)).kind
    return longest, blamed


def in_words(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures, a line each: what, and how many."""

    def counted(counts: dict[str, int]) -> str:
        return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"

    gap = figures["longest_gap_after_a_fault"]
    return [
        ("writes", counted(figures["writes"])),
        ("", counted(figures["writes_by_kind"])),
        ("faults", counted(figures["faults"])),
        ("deliveries", f"{figures['deliveries']:,}"),
        ("", counted(figures["deliveries_by_trigger"])),
        ("failed on purpose, and tried again", f"{figures['failed_on_purpose']:,}"),
        ("cut short by a worker's end", f"{figures['cut_short']:,}"),
        ("repeated, in flight at a fault", f"{figures['repeated']:,}"),
        ("runs of a key that were repeated", f"{figures['repeated_runs']:,}"),
        ("out of order, told by fence", f"{figures['out_of_order_told_by_fence']:,}"),
        ("expired at their deadlines", f"{figures['expired']:,}"),
        ("dead letters of events that kill", f"{figures['dead_letters_of_poisonous_events']:,}"),
        ("lost with damaged keys, and counted", f"{figures['lost_with_damaged_keys_and_counted']:,}"),
        ("the same, with damaged counts", f"{figures['lost_with_damaged_counts']:,}"),
        ("lost", f"{figures['lost']:,}"),
        ("longest gap after a fault", f"{gap['seconds']} s ({gap['fault'] or 'none'})"),
    ]
