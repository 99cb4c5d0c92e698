"""What changes with the next transaction of a kv store: mutations, and records of queues, dead letters and sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from iii_state import lineages
from iii_state.adapters.kv.journal.transaction import Outcome, Row, Slot, Transaction
from iii_state.adapters.local_queue import Queue, number_of
from iii_state.events import Cause, Change, DeadLetter, Delivery

Place = tuple[str, str]
"""Scope and key."""


@dataclass(slots=True)
class Write:
    """One mutation: what waits for it, with which result, and the event that becomes deliverable with it."""

    waiter: asyncio.Future[Any]
    result: Any
    deliveries: list[tuple[Queue, Delivery]]


class LoggedChange(NamedTuple):
    """A change of a scope that has a change log."""

    scope: str
    revision: int
    at_ms: int
    key: str
    old: bytes | None
    new: bytes | None
    cause: Cause | None


@dataclass(slots=True)
class Changes:
    """What is gathered or being written: mutations, which fail with their transaction, and records, which are tried again."""

    overlay: dict[Place, bytes | None] = field(default_factory=dict)
    """The values that are written; None for one that goes."""
    deadlines: dict[Place, int | None] = field(default_factory=dict)
    """Of what the overlay holds, where it has one, or takes one away."""
    outcomes: dict[Slot, Outcome] = field(default_factory=dict)
    logged: list[LoggedChange] = field(default_factory=list)
    last_revisions: dict[str, int] = field(default_factory=dict)
    """Of each scope that has changes among the `logged`."""
    revisions: dict[Place, int | None] = field(default_factory=dict)
    """Of the values in the overlay whose scope has a change log; None for one that goes."""
    trimmed: dict[str, int] = field(default_factory=dict)
    """Scope → the revision up to which the log forgets its changes."""
    writes: list[Write] = field(default_factory=list)
    subscriptions: dict[str, Row | None] = field(default_factory=dict)
    paused: dict[str, Row | None] = field(default_factory=dict)
    """By the ids of subscriptions; None for one that is resumed."""
    attempts: dict[int, tuple[int, int]] = field(default_factory=dict)
    crashes: dict[int, int] = field(default_factory=dict)
    dead_letters: list[Row] = field(default_factory=list)
    retried: list[Row] = field(default_factory=list)
    """Deliveries of events that were dead letters."""
    coalesced: dict[int, Row] = field(default_factory=dict)
    """Deliveries, by their numbers, that have been told together with one that waited before them."""
    finished: list[int] = field(default_factory=list)
    """Numbers of deliveries that are done with."""
    gone_dead_letters: list[str] = field(default_factory=list)
    gone_lineages: list[int] = field(default_factory=list)
    """Of deliveries that are done with."""
    ended_sessions: list[str] = field(default_factory=list)
    settled: list[Callable[[], None]] = field(default_factory=list)
    """Called when the records have been committed."""

    def take_records(self, other: Changes) -> None:
        """Put the records of `other`, which were to come first, in front of these."""
        self.subscriptions = {**other.subscriptions, **self.subscriptions}
        self.paused = {**other.paused, **self.paused}
        self.attempts = {**other.attempts, **self.attempts}
        self.crashes = {**other.crashes, **self.crashes}
        self.coalesced = {**other.coalesced, **self.coalesced}
        for name in ("dead_letters", "retried", "finished", "gone_dead_letters", "gone_lineages", "ended_sessions", "settled"):
            setattr(self, name, getattr(other, name) + getattr(self, name))

    def drop_mutations(self) -> None:
        """Keep the records alone."""
        self.overlay.clear()
        self.deadlines.clear()
        self.outcomes.clear()
        self.logged.clear()
        self.last_revisions.clear()
        self.revisions.clear()
        self.trimmed.clear()
        self.writes.clear()

    def transaction(self, clock: Callable[[], int]) -> Transaction:
        """What the journal writes."""
        made = [delivery for write in self.writes for _, delivery in write.deliveries]
        return Transaction(
            values={(scope.encode(), key.encode()): value for (scope, key), value in self.overlay.items()},
            deadlines={(scope.encode(), key.encode()): at for (scope, key), at in self.deadlines.items()},
            logged=[_logged_row(change) for change in self.logged],
            last_revisions={scope.encode(): revision for scope, revision in self.last_revisions.items()},
            revisions={(scope.encode(), key.encode()): revision for (scope, key), revision in self.revisions.items()},
            trimmed={scope.encode(): upto for scope, upto in self.trimmed.items()},
            outcomes=self.outcomes,
            ended_sessions=self.ended_sessions,
            subscriptions=self.subscriptions,
            paused=self.paused,
            deliveries=[delivery_row(delivery) for delivery in made] + self.retried,
            lineages=[(number_of(each), lineages.encode(each.event.lineage)) for each in made if each.event.lineage is not None],
            gone_lineages=self.gone_lineages,
            attempts=self.attempts,
            clock=clock() if self.attempts or self.deadlines else None,
            crashes=self.crashes,
            coalesced=list(self.coalesced.values()),
            dead_letters=self.dead_letters,
            finished=self.finished,
            gone_dead_letters=self.gone_dead_letters,
        )

    def is_empty(self) -> bool:
        """Whether there is nothing to write, and nothing waits."""
        return not any(getattr(self, name) for name in self.__slots__)


def _logged_row(change: LoggedChange) -> Row:
    return (change.scope.encode(), *change[1:3], change.key.encode(), *change[4:])


def delivery_row(delivery: Delivery) -> Row:
    """A delivery as the file has it."""
    event = delivery.event
    place = (event.scope.encode(), event.key.encode())
    number = number_of(delivery)
    return (number, delivery.subscription_id, event.write_id, event.event_type, *place, event.old, event.new, delivery.attempt, 0)


def dead_letter_row(dead_letter: DeadLetter) -> Row:
    """A dead letter as the file has it."""
    event = dead_letter.event
    place = (event.scope.encode(), event.key.encode())
    head = (dead_letter.id, dead_letter.subscription_id, dead_letter.function_id, event.write_id, event.event_type)
    return (*head, *place, event.old, event.new, dead_letter.attempts, dead_letter.error, dead_letter.buried_at_ms)


def dead_letter_of(row: Row) -> DeadLetter:
    """A dead letter that the file has."""
    dead_letter_id, subscription_id, function_id, write_id, event_type, scope, key, old, new, attempts, error, at = row
    event = Change(write_id, scope.decode(), key.decode(), event_type, old, new)
    return DeadLetter(dead_letter_id, subscription_id, function_id, event, attempts, error, at)
