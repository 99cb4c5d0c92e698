"""What is counted of each function that handles events: how its deliveries ended, and how long one in sixteen took."""

from __future__ import annotations

from collections.abc import Iterator

from iii_state.figures import MOST_FUNCTIONS, OTHERS, Figure, Histogram, counter, function_label, gauge, histogram

TIMED = 15
"""An attempt is timed where its number has none of these bits: one in sixteen."""

DELIVERIES = counter(
    "deliveries",
    "Deliveries of events that this engine has ended, by outcome: handled, skipped (its condition said no), retried, crashed (its "
    "worker went away), returned (not carried out here), dead.",
    *("function_id", "outcome"),
)
RUNNING = gauge("handlers_running", "Handlers that run at this engine, or their conditions.", "function_id")
DURATION = histogram(
    "handler_duration_seconds", "How long handlers take, their conditions included, of one delivery in sixteen.", "function_id"
)


class Tally:
    """The deliveries of one function."""

    __slots__ = ("crashed", "dead", "done", "durations", "ended", "retried", "returned", "skipped", "started")

    def __init__(self) -> None:
        self.started = self.ended = 0
        """Attempts."""
        self.done = 0
        """Those that have succeeded, the skipped ones among them."""
        self.skipped = self.retried = self.crashed = self.returned = self.dead = 0
        self.durations = Histogram()

    def figures(self, function_id: str) -> Iterator[Figure]:
        """What has been counted."""
        counted = {
            "handled": self.done - self.skipped,
            "skipped": self.skipped,
            "retried": self.retried,
            "crashed": self.crashed,
            "returned": self.returned,
            "dead": self.dead,
        }
        for outcome, count in counted.items():
            yield Figure(DELIVERIES, count, (function_id, outcome))
        yield Figure(RUNNING, self.started - self.ended, (function_id,))
        yield Figure(DURATION, self.durations, (function_id,))


class Tallies:
    """Those of all functions, for as long as the engine runs. Beyond `MOST_FUNCTIONS` they share one."""

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}

    def of(self, function_id: str) -> Tally:
        """The tally of a function."""
        label = function_label(function_id)
        if label not in self._tallies and len(self._tallies) >= MOST_FUNCTIONS:
            label = OTHERS
        return self._tallies.setdefault(label, Tally())

    def figures(self) -> Iterator[Figure]:
        """What has been counted."""
        for label, tally in self._tallies.items():
            yield from tally.figures(label)
