"""The queues in the file of a kv store that no engine has open: read, or filled, with little memory however much they hold."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from iii_state import lineages, values
from iii_state.adapters.kv.journal.changes import dead_letter_of
from iii_state.adapters.wall_clock import now_ms
from iii_state.events import Change, DeadLetter, Delivery, Subscription

FETCHED = 256

_subscription = msgspec.json.Decoder(Subscription)

_DELIVERIES = """
SELECT write_id, event_type, scope, key, old, new, attempt, due_at_ms, crashes, lineage
FROM delivery LEFT JOIN crash USING (number) LEFT JOIN lineage USING (number)
WHERE subscription = ? ORDER BY due_at_ms = 0, number
"""
"""Those whose next attempt is planned come first: each is the first of its lane."""


class HeldQueue(NamedTuple):
    """A queue of the file; without a subscription it has ended, and left dead letters."""

    id: str
    subscription: Subscription | None
    dropped: int = 0
    paused_at_ms: int | None = None


class StoppedQueues:
    """The queues of the file behind a connection. Raises `sqlite3.Error`.

    `ahead` is how many milliseconds the moments in the file are ahead of the wall clock.
    """

    def __init__(self, connection: sqlite3.Connection, ahead: int) -> None:
        self._execute = connection.execute
        self._ahead = ahead
        self._number = 0

    def all(self) -> list[HeldQueue]:
        """All of them, by their ids."""
        execute = self._execute
        paused = dict(execute("SELECT id, since_ms FROM paused").fetchall())
        found = {
            name: HeldQueue(name, _subscription.decode(definition), dropped, paused.get(name))
            for name, definition, dropped in execute("SELECT id, definition, dropped FROM subscription")
        }
        for (name,) in execute("SELECT DISTINCT subscription FROM dead_letter").fetchall():
            found.setdefault(name, HeldQueue(name, None))
        return [found[name] for name in sorted(found)]

    def fence(self) -> int:
        """At least that of any delivery so far."""
        return int(self._execute("SELECT value FROM meta WHERE name='epoch'").fetchone()[0]) << 20

    def deliveries(self, queue: str) -> Iterator[tuple[Delivery, int | None]]:
        """What waits, and when it is due, in milliseconds since 1970, where that is planned."""
        cursor = self._execute(_DELIVERIES, (queue,))
        while rows := cursor.fetchmany(FETCHED):
            for write_id, event_type, scope, key, old, new, attempt, due, crashes, lineage in rows:
                event = Change(write_id, scope.decode(), key.decode(), event_type, old, new)
                if lineage is not None:
                    event.lineage = lineages.decode(lineage)
                yield Delivery(queue, event, attempt, crashes=crashes or 0), due - self._ahead if due else None

    def dead_letters(self, queue: str) -> Iterator[DeadLetter]:
        """Its dead letters, oldest first."""
        cursor = self._execute("SELECT * FROM dead_letter WHERE subscription = ? ORDER BY rowid", (queue,))
        while rows := cursor.fetchmany(FETCHED):
            yield from map(dead_letter_of, rows)

    def count(self, queue: str) -> int:
        """How many events and dead letters it holds."""
        counted = "SELECT count(*) FROM {} WHERE subscription = ?"
        return sum(int(self._execute(counted.format(table), (queue,)).fetchone()[0]) for table in ("delivery", "dead_letter"))

    def make(self, queue: HeldQueue) -> None:
        """Empty it, and make it where there is none; one that is there keeps its settings."""
        name, execute = queue.id, self._execute
        for table in ("crash", "lineage"):
            execute(f"DELETE FROM {table} WHERE number IN (SELECT number FROM delivery WHERE subscription = ?)", (name,))
        for table in ("delivery", "dead_letter"):
            execute(f"DELETE FROM {table} WHERE subscription = ?", (name,))
        if queue.subscription is None:
            return
        definition = values.encode(queue.subscription)
        execute("INSERT OR IGNORE INTO subscription VALUES (?,?,?,?)", (name, definition, now_ms(), queue.dropped))
        if queue.paused_at_ms is not None:
            execute("INSERT OR IGNORE INTO paused VALUES (?,?,?)", (name, definition, queue.paused_at_ms))

    def add(self, delivery: Delivery, due_ms: int | None) -> None:
        """Put an event behind all others."""
        if not self._number:
            epoch, last = self._execute(
                "SELECT value, (SELECT coalesce(max(number), 0) FROM delivery) FROM meta WHERE name='epoch'"
            ).fetchone()
            self._number = max(epoch << 32, last)  # below those of the process that opens it next
        self._number += 1
        event, due = delivery.event, 0 if due_ms is None else max(1, due_ms + self._ahead)
        place = (event.write_id, event.event_type, event.scope.encode(), event.key.encode(), event.old, event.new)
        row = (self._number, delivery.subscription_id, *place, delivery.attempt, due)
        self._execute("INSERT INTO delivery VALUES (?,?,?,?,?,?,?,?,?,?)", row)
        if delivery.crashes:
            self._execute("INSERT OR REPLACE INTO crash VALUES (?,?)", (self._number, delivery.crashes))
        if event.lineage is not None:
            self._execute("INSERT OR REPLACE INTO lineage VALUES (?,?)", (self._number, lineages.encode(event.lineage)))

    def bury(self, dead_letter: DeadLetter) -> None:
        """Put a dead letter behind all others; its id is made another where there is one of this id."""
        event, name, number = dead_letter.event, dead_letter.id, 1
        while self._execute("SELECT 1 FROM dead_letter WHERE id = ?", (name,)).fetchone() is not None:
            number += 1
            name = f"{dead_letter.id}:{number}"
        head = (name, dead_letter.subscription_id, dead_letter.function_id, event.write_id, event.event_type)
        row = (*head, event.scope.encode(), event.key.encode(), event.old, event.new)
        tail = (dead_letter.attempts, dead_letter.error, dead_letter.buried_at_ms)
        self._execute("INSERT INTO dead_letter VALUES (?,?,?,?,?,?,?,?,?,?,?,?)", (*row, *tail))
