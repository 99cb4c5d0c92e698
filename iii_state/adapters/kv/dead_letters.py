"""The dead letters of a kv store, oldest first."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable

from iii_state.adapters.kv.journal.changes import Changes, dead_letter_row
from iii_state.adapters.kv.journal.commits import Keep
from iii_state.adapters.kv.journal.transaction import Row
from iii_state.events import DeadLetter, Event

logger = logging.getLogger(__name__)


class DeadLetters:
    """At most `most` dead letters, of all subscriptions; the oldest goes for one more."""

    def __init__(self, keep: Keep, most: int) -> None:
        self._keep = keep
        self._most = most
        self._held: dict[str, DeadLetter] = {}

    def load(self, rows: Iterable[Row]) -> None:
        """Take on what a file held."""
        for row in rows:
            name, subscription_id, function_id, write_id, event_type, scope, key, old, new, attempts, error, at = row
            event = Event(write_id, scope.decode(), key.decode(), event_type, old, new)
            self._held[name] = DeadLetter(name, subscription_id, function_id, event, attempts, error, at)

    def all(self) -> list[DeadLetter]:
        """All of them."""
        return list(self._held.values())

    def get(self, dead_letter_id: str) -> DeadLetter | None:
        """One of them, None if it is not there."""
        return self._held.get(dead_letter_id)

    def counts(self) -> Counter[str]:
        """How many there are, by subscription."""
        return Counter(dead_letter.subscription_id for dead_letter in self._held.values())

    def add(self, dead_letter: DeadLetter, number: int, settled: Callable[[], None]) -> None:
        """Keep one, in place of the delivery with this number; `settled` is called when that lasts."""
        self._held[dead_letter.id] = dead_letter
        if len(self._held) > self._most:
            oldest = next(iter(self._held.values()))
            logger.warning("there are too many dead letters: that of event %s of %s is dropped", oldest.id, oldest.function_id)
            self.drop(oldest.id)

        def record(changes: Changes) -> None:
            changes.dead_letters.append(dead_letter_row(dead_letter))
            changes.finished.append(number)

        self._keep(record, settled)

    def drop(self, dead_letter_id: str) -> bool:
        """Drop one; False if it is not there."""
        if not self.take(dead_letter_id):
            return False
        self._keep(lambda changes: changes.gone_dead_letters.append(dead_letter_id))
        return True

    def take(self, dead_letter_id: str) -> bool:
        """Take one out whose going is recorded with what becomes of it; False if it is not there."""
        return self._held.pop(dead_letter_id, None) is not None
