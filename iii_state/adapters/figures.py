"""Figures that adapters have in common: each gives those that mean something to it."""

from __future__ import annotations

from iii_state.figures import counter, gauge

STORE_UP = gauge("store_up", "1 where the store can be used now, else 0.", "adapter")
RECOGNISED = counter(
    "retries_recognised", "Mutations that were made again, and answered as they had been the first time.", "adapter"
)
DEADLINES_DUE = counter("deadlines_due", "Values that this engine has removed at their deadlines.", "adapter")
DEADLINES_LATE = counter("deadlines_late", "Those of them that went more than a second after their deadline.", "adapter")
EVENTS_LOST = counter("events_lost", "Events that another program has removed from the store before they were handled.", "adapter")

LATE_MS = 1000
"""A value that goes so much after its deadline is late."""
