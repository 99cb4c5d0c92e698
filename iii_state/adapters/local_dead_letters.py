"""The dead letters of a store in this process, oldest first."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile

from iii_state.events import DeadLetter, Delivery, Failure, QueueLimits, Subscription
from iii_state.wire.quiet_log import QuietLog

logger = logging.getLogger(__name__)
_quiet = QuietLog(logger)

MAX_WAIT_MS = 60_000
"""The clock may be set while the timer runs, so it is looked at so often."""


class DeadLetters:
    """At most `max_queue_length` dead letters, of all subscriptions, each for `dead_letter_retention_ms` by `clock`, which gives
    milliseconds since 1970. `on_drop` is told which ones have been dropped for their number or age."""

    def __init__(self, limits: QueueLimits, clock: Callable[[], int]) -> None:
        self._most = limits.max_queue_length
        self._retention = limits.dead_letter_retention_ms
        self._clock = clock
        self._held: dict[str, DeadLetter] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.on_drop: Callable[[Sequence[DeadLetter]], None] = lambda dropped: None

    def load(self, dead_letters: Iterable[DeadLetter]) -> None:
        """Take on what was kept, oldest first."""
        self._held.update((dead_letter.id, dead_letter) for dead_letter in dead_letters)
        self._drop_old()

    def close(self) -> None:
        """Drop nothing more for its age."""
        if self._timer is not None:
            self._timer.cancel()

    def all(self) -> list[DeadLetter]:
        """All of them."""
        return list(self._held.values())

    def get(self, dead_letter_id: str) -> DeadLetter | None:
        """One of them, None if it is not there."""
        return self._held.get(dead_letter_id)

    def counts(self) -> Counter[str]:
        """How many there are, by subscription."""
        return Counter(dead_letter.subscription_id for dead_letter in self._held.values())

    def add(self, subscription: Subscription, delivery: Delivery, failure: Failure) -> DeadLetter:
        """Make a dead letter of a delivery, and keep it."""
        dead_letter = self._held[delivery.event_id] = DeadLetter(
            id=delivery.event_id,
            subscription_id=delivery.subscription_id,
            function_id=subscription.function_id,
            event=delivery.event,
            attempts=delivery.attempt,
            error=str(failure),
            buried_at_ms=self._clock(),
        )
        if len(self._held) > self._most:
            oldest = next(iter(self._held.values()))
            about = "there are too many dead letters: that of event %s of %s is dropped"
            ids = {"function_id": oldest.function_id, "event_id": oldest.id}
            _quiet.warning(about, oldest.id, oldest.function_id, ids=ids)
            self._drop([oldest])
        self._drop_old()
        return dead_letter

    def remove(self, dead_letter_id: str) -> bool:
        """Keep one no more; False if it is not there."""
        return self._held.pop(dead_letter_id, None) is not None

    def _drop(self, dead_letters: Sequence[DeadLetter]) -> None:
        for dead_letter in dead_letters:
            del self._held[dead_letter.id]
        self.on_drop(dead_letters)

    def _drop_old(self) -> None:
        if not isinstance(self._retention, int):
            return
        latest = self._clock() - self._retention
        old = list(takewhile(lambda dead_letter: dead_letter.buried_at_ms <= latest, self._held.values()))
        if old:
            for function_id, count in Counter(dead_letter.function_id for dead_letter in old).items():
                dropped_for_age(function_id, count, self._retention)
            self._drop(old)
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if isinstance(self._retention, int) and self._held:
            left = next(iter(self._held.values())).buried_at_ms + self._retention - self._clock()
            self._timer = asyncio.get_running_loop().call_later(max(0, min(left, MAX_WAIT_MS)) / 1000, self._drop_old)


def dropped_for_age(function_id: str, count: int, retention_ms: int) -> None:
    """Log what has gone."""
    about = "%d dead letters of %s are dropped: they are older than %d ms"
    logger.warning(about, count, function_id, retention_ms, extra={"function_id": function_id})
