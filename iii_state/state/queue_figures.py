"""What the queues of subscriptions hold, as figures by function."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from iii_state.adapters.base import Adapter
from iii_state.adapters.wall_clock import now_ms
from iii_state.errors import StateError
from iii_state.events import QueueStats
from iii_state.figures import OTHERS, Figure, bounded, counter, function_label, gauge
from iii_state.tasks.results import result_of

ASK_SECONDS = 5.0
"""For so long what the queues hold is not asked again: asking costs the store a few commands for each queue."""

LIMIT_SECONDS = 4.0
"""A store that does not answer within so long is left out: Prometheus waits ten seconds by default."""

SUBSCRIPTIONS = gauge("subscriptions", "Subscriptions: triggers that have a queue.", "function_id")
UNSERVED = gauge(
    "subscriptions_unserved", "Subscriptions that no engine hosts now; their queues wait for their retention.", "function_id"
)
WAITING = gauge("events_waiting", "Events that no engine has taken yet, those that wait for a retry among them.", "function_id")
READY = gauge("events_ready", "Events that an engine could take now: the first of each key.", "function_id")
OUTSTANDING = gauge("events_outstanding", "Events that an engine has taken and not acknowledged.", "function_id")
RETRYING = gauge("events_retrying", "Events that wait for their next attempt.", "function_id")
DEAD = gauge("dead_letters", "Events whose handler kept failing.", "function_id")
DROPPED = counter(
    "events_dropped", "Events that went because there were too many (drop_oldest), and dead letters for their age.", "function_id"
)
LOOPING = gauge("subscriptions_looping", "Subscriptions whose handler has lately been seen to lead to itself.", "function_id")
OLDEST = gauge("oldest_event_age_seconds", "Since when the oldest event waits or is handled; 0 where there is none.", "function_id")

_SUMS = (SUBSCRIPTIONS, UNSERVED, WAITING, READY, OUTSTANDING, RETRYING, DEAD, DROPPED, LOOPING)


class QueueFigures:
    """Asks for what the queues hold, no more often than every `ASK_SECONDS`, where this engine is the one to tell it."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._asked_at = 0.0
        self._known: list[Figure] = []
        self._lock = asyncio.Lock()
        self.tells = False
        """Whether this engine was the one to tell what belongs to the store, when it was asked last."""

    async def figures(self) -> list[Figure]:
        """By function; none where another engine tells them, or the store does not answer."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if not self._asked_at or now - self._asked_at >= ASK_SECONDS:
                try:
                    async with asyncio.timeout(LIMIT_SECONDS):
                        queues: list[QueueStats] = []
                        self.tells = await result_of(self._adapter.tells_of_queues())
                        if self.tells:
                            queues = await result_of(self._adapter.admin.stats())
                    self._known = queue_figures(queues, now_ms())
                except (StateError, TimeoutError):
                    self.tells = False
                    return []  # that the store does not answer is a figure of its own
                self._asked_at = now
            return self._known


def queue_figures(queues: Sequence[QueueStats], now: int) -> list[Figure]:
    """Sums over the subscriptions of each function, and the oldest of their events. `now` is in milliseconds since 1970.

    The functions with most to look at come first: beyond `figures.MOST_FUNCTIONS` they are summed up as others.
    """
    queues = sorted(queues, key=lambda stats: (-(stats.waiting + stats.pending + stats.dead), stats.subscription.function_id))
    rows = [(function_label(stats.subscription.function_id), _numbers(stats)) for stats in queues]
    sums = bounded(rows)
    found = [Figure(family, sums[label][at], (label,)) for at, family in enumerate(_SUMS) for label in sums]
    oldest = dict.fromkeys(sums, 0.0)
    for stats in queues:
        if stats.oldest_at_ms is not None:
            label = function_label(stats.subscription.function_id)
            label = label if label in sums else OTHERS
            oldest[label] = max(oldest[label], (now - stats.oldest_at_ms) / 1000)
    return [*found, *(Figure(OLDEST, age, (label,)) for label, age in oldest.items())]


def _numbers(stats: QueueStats) -> tuple[float, ...]:
    return (
        *(1, 0 if stats.hosts else 1, stats.waiting, stats.ready, stats.pending, stats.retrying, stats.dead),
        *(stats.dropped, 1 if stats.is_looping else 0),
    )
