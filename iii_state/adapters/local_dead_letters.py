"""The dead letters of a store in this process, oldest first."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable

from iii_state.events import DeadLetter, Delivery, Failure, Subscription

logger = logging.getLogger(__name__)


class DeadLetters:
    """At most `most` dead letters, of all subscriptions; the oldest goes for one more."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[str, DeadLetter] = {}

    def load(self, dead_letters: Iterable[DeadLetter]) -> None:
        """Take on what was kept, oldest first."""
        self._held.update((dead_letter.id, dead_letter) for dead_letter in dead_letters)

    def all(self) -> list[DeadLetter]:
        """All of them."""
        return list(self._held.values())

    def get(self, dead_letter_id: str) -> DeadLetter | None:
        """One of them, None if it is not there."""
        return self._held.get(dead_letter_id)

    def counts(self) -> Counter[str]:
        """How many there are, by subscription."""
        return Counter(dead_letter.subscription_id for dead_letter in self._held.values())

    def add(self, subscription: Subscription, delivery: Delivery, failure: Failure) -> tuple[DeadLetter, DeadLetter | None]:
        """Make a dead letter of a delivery, and keep it. Answers it, and the oldest, if that had to go."""
        dead_letter = self._held[delivery.event_id] = DeadLetter(
            id=delivery.event_id,
            subscription_id=delivery.subscription_id,
            function_id=subscription.function_id,
            event=delivery.event,
            attempts=delivery.attempt,
            error=str(failure),
            buried_at_ms=time.time_ns() // 1_000_000,
        )
        if len(self._held) <= self._most:
            return dead_letter, None
        oldest = next(iter(self._held.values()))
        logger.warning("there are too many dead letters: that of event %s of %s is dropped", oldest.id, oldest.function_id)
        del self._held[oldest.id]
        return dead_letter, oldest

    def remove(self, dead_letter_id: str) -> bool:
        """Keep one no more; False if it is not there."""
        return self._held.pop(dead_letter_id, None) is not None
