"""Changes gathered into groups, one being filled while the one before it is being written; and what follows from a commit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from iii_state.adapters.kv.journal import Group, Journal, Outcome, Row, Slot
from iii_state.adapters.local_queue import Queue
from iii_state.errors import StoreError
from iii_state.events import Delivery
from iii_state.tasks.effects import Afterwards

logger = logging.getLogger(__name__)

T = TypeVar("T")
Place = tuple[str, str]
"""Scope and key."""

_showing = Afterwards("showing what a group has written")
_settling = Afterwards("what waited for a group")

UPKEEP_RETRY_SECONDS = 0.2
STOP_SECONDS = 10


@dataclass(slots=True)
class Write:
    """One mutation of a group: what it waits with, and the event that becomes deliverable with it."""

    waiter: asyncio.Future[Any]
    answer: Any
    deliveries: list[tuple[Queue, Delivery]]


@dataclass(slots=True)
class Changes:
    """A group being filled or written: mutations, which fail with it, and upkeep, which does not (it is tried again)."""

    overlay: dict[tuple[str, str], bytes | None] = field(default_factory=dict)
    deadlines: dict[tuple[str, str], int | None] = field(default_factory=dict)
    """Of what the overlay holds, where it has one, or takes one away."""
    outcomes: dict[Slot, Outcome] = field(default_factory=dict)
    writes: list[Write] = field(default_factory=list)
    subscriptions: dict[str, Row | None] = field(default_factory=dict)
    attempts: dict[int, tuple[int, int]] = field(default_factory=dict)
    crashes: dict[int, int] = field(default_factory=dict)
    dead_letters: list[Row] = field(default_factory=list)
    revived: list[Row] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    discarded: list[str] = field(default_factory=list)
    ended_sessions: list[str] = field(default_factory=list)
    settled: list[Callable[[], None]] = field(default_factory=list)
    """Called when the upkeep of this group has been committed."""

    def take_upkeep(self, other: Changes) -> None:
        """Put the upkeep of `other`, which was to come first, in front of one's own."""
        self.subscriptions = {**other.subscriptions, **self.subscriptions}
        self.attempts = {**other.attempts, **self.attempts}
        self.crashes = {**other.crashes, **self.crashes}
        for name in ("dead_letters", "revived", "finished", "discarded", "ended_sessions", "settled"):
            setattr(self, name, getattr(other, name) + getattr(self, name))

    def group(self, clock: Callable[[], int]) -> Group:
        """What the journal writes."""
        return Group(
            values={(scope.encode(), key.encode()): value for (scope, key), value in self.overlay.items()},
            deadlines={(scope.encode(), key.encode()): at for (scope, key), at in self.deadlines.items()},
            outcomes=self.outcomes,
            ended_sessions=self.ended_sessions,
            subscriptions=self.subscriptions,
            deliveries=[delivery_row(delivery) for write in self.writes for _, delivery in write.deliveries] + self.revived,
            attempts=self.attempts,
            clock=clock() if self.attempts or self.deadlines else None,
            crashes=self.crashes,
            dead_letters=self.dead_letters,
            finished=self.finished,
            discarded=self.discarded,
        )

    def is_empty(self) -> bool:
        """Whether there is nothing to write, and nobody to tell."""
        return not any(getattr(self, name) for name in self.__slots__)


class Groups:
    """The changes of a store on their way into its journal.

    `committed` is called with a group that lasts, before those who wait for it are answered; `clock` is what the moments in the
    changes are by.
    """

    def __init__(self, journal: Journal, committed: Callable[[Changes], None], clock: Callable[[], int]) -> None:
        self._journal = journal
        self._clock = clock
        self._committed = committed
        self.filling = Changes()
        """What is written next."""
        self._writing: Changes | None = None
        self._scheduled = False
        self.failing: StoreError | None = None
        """Why the last group could not be written; None once one could."""
        self._idle = asyncio.Event()
        self._idle.set()

    def changes_of(self, place: Place) -> Changes | None:
        """What mutations see in place of what is committed: the newest changes that have this place, None if no changes have."""
        if place in self.filling.overlay:
            return self.filling
        if self._writing is not None and place in self._writing.overlay:
            return self._writing
        return None

    def outcome_of(self, slot: Slot) -> Outcome | None:
        """What is on its way to be recorded of a slot, the newest; None if nothing is."""
        outcome = self.filling.outcomes.get(slot)
        return outcome if outcome is not None or self._writing is None else self._writing.outcomes.get(slot)

    def deliveries_to(self, queue: Queue) -> list[Delivery]:
        """What is on its way into a queue."""
        groups = [self.filling] if self._writing is None else [self._writing, self.filling]
        writes = [write for group in groups for write in group.writes]
        return [delivery for write in writes for target, delivery in write.deliveries if target is queue]

    def write(self, place: Place, value: bytes | None, answer: T, deliveries: list[tuple[Queue, Delivery]]) -> asyncio.Future[T]:
        """Write a mutation with the next group; the Future is `answer` once it lasts, or a `StoreError` if it does not."""
        self.filling.overlay[place] = value
        return self.wait(answer, deliveries)

    def record(self, slot: Slot, outcome: Outcome) -> None:
        """Record the outcome of a mutation with the next group; whoever asked for it waits for that."""
        self.filling.outcomes[slot] = outcome

    def wait(self, answer: T, deliveries: list[tuple[Queue, Delivery]] | None = None) -> asyncio.Future[T]:
        """The Future is `answer` once the next group and all before it last, or a `StoreError` if they do not."""
        waiter: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.filling.writes.append(Write(waiter, answer, deliveries or []))
        self._schedule()
        return waiter

    def keep(self, record: Callable[[Changes], object], settled: Callable[[], None] | None = None) -> None:
        """Write upkeep with the next group, and call `settled` when it has been committed; it is tried until it has."""
        record(self.filling)
        if settled is not None:
            self.filling.settled.append(settled)
        self._schedule()

    async def drain(self) -> None:
        """Wait until all is written; after `STOP_SECONDS` say that it could not be."""
        self._flush()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._idle.wait()
        except TimeoutError:
            logger.error("not everything could be written to %s before closing", self._journal.path)

    def _schedule(self) -> None:
        self._idle.clear()
        if self._writing is None and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        if self._writing is not None or self._idle.is_set():
            return
        self._writing, self.filling = self.filling, Changes()
        try:
            group = self._writing.group(self._clock)
        except Exception as failure:  # what cannot be written must not keep everything behind it from being written
            logger.exception("a group cannot be written to %s", self._journal.path)
            self._written(StoreError(f"{self._journal.path}: {failure}"))
            return
        self._journal.write(group, self._written)

    def _written(self, error: StoreError | None) -> None:
        written, self._writing = self._writing, None
        assert written is not None
        if error is not None and self.failing is None:
            logger.error("%s", error)
        self.failing = error
        if error is not None:
            self._failed(written, error)
            return
        try:
            self._committed(written)
        except Exception as failure:
            _showing.failed(failure)
        for write in written.writes:
            if not write.waiter.done():
                write.waiter.set_result(write.answer)
        for settle in written.settled:
            try:
                settle()
            except Exception as failure:
                _settling.failed(failure)
        if self.filling.is_empty():
            self._idle.set()
        else:
            self._flush()

    def _failed(self, written: Changes, error: StoreError) -> None:
        """Nothing of this group lasts, so nothing that was built on it may: all their mutations fail; upkeep is tried again."""
        for changes in (written, self.filling):
            for write in changes.writes:
                for queue, delivery in write.deliveries:
                    queue.unreserve(delivery.event)
                if not write.waiter.done():
                    write.waiter.set_exception(StoreError(str(error)))
            changes.overlay.clear()
            changes.deadlines.clear()
            changes.outcomes.clear()
            changes.writes.clear()
        self.filling.take_upkeep(written)
        if self.filling.is_empty():
            self._idle.set()
        else:
            self._scheduled = True
            asyncio.get_running_loop().call_later(UPKEEP_RETRY_SECONDS, self._flush)


def delivery_row(delivery: Delivery) -> Row:
    """A delivery as the journal has it."""
    event = delivery.event
    place = (event.scope.encode(), event.key.encode())
    number = row_number(delivery)
    return (number, delivery.subscription_id, event.write_id, event.event_type, *place, event.old, event.new, delivery.attempt, 0)


def row_number(delivery: Delivery) -> int:
    """The number that a delivery has in its queue and in the journal."""
    number = delivery.token
    assert isinstance(number, int)
    return number
