"""Changes on their way into the file: gathered while the transaction before is being written, and what follows from a commit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol, TypeVar

from iii_state.adapters.kv.journal.changes import Changes, Place, Write
from iii_state.adapters.kv.journal.journal import Journal
from iii_state.adapters.kv.journal.transaction import Outcome, Slot
from iii_state.adapters.local_queue import Queue
from iii_state.errors import StoreError
from iii_state.events import Delivery
from iii_state.tasks.effects import Afterwards

logger = logging.getLogger(__name__)

T = TypeVar("T")

_showing = Afterwards("showing what a transaction has written")
_settling = Afterwards("what waited for a transaction")

RECORDS_RETRY_SECONDS = 0.2
STOP_SECONDS = 10
FULL_STOP_SECONDS = 1
"""For so long a stop waits where the last transaction could not be written: it has been tried again and again already."""


class Keep(Protocol):
    """Records what has happened to queues and sessions."""

    def __call__(self, record: Callable[[Changes], object], settled: Callable[[], None] | None = None) -> None:
        """Let `record` write it into the next changes, and call `settled` when they last."""
        ...


def keep_nothing(record: Callable[[Changes], object], settled: Callable[[], None] | None = None) -> None:
    """The `Keep` of a store in memory: nothing is written, and everything is settled at once."""
    if settled is not None:
        settled()


class Commits:
    """The changes of a store on their way into its journal.

    What is to be shown of changes that last, before those who wait for them are answered, is said with `on_commit`. `clock` is what
    the moments in the changes are by.
    """

    def __init__(self, journal: Journal, clock: Callable[[], int]) -> None:
        self._journal = journal
        self._clock = clock
        self._shown: list[Callable[[Changes], None]] = []
        self.filling = Changes()
        """What is written next."""
        self._writing: Changes | None = None
        self._scheduled = False
        self.failing: StoreError | None = None
        """Why the last transaction could not be written; None once one could."""
        self._idle = asyncio.Event()
        self._idle.set()

    def on_commit(self, show: Callable[[Changes], None]) -> None:
        """Call `show` with all changes that last from now on, behind those that were said before."""
        self._shown.append(show)

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

    def revision_of_scope(self, scope: str) -> int | None:
        """The latest revision of a scope's change log on its way; None if none is."""
        revision = self.filling.last_revisions.get(scope)
        return revision if revision is not None or self._writing is None else self._writing.last_revisions.get(scope)

    def revision_of(self, place: Place, committed: int | None) -> int | None:
        """The revision of the value that mutations see, which is the one that is `committed` where no other is on its way."""
        for changes in (self.filling, self._writing):
            if changes is not None and place in changes.revisions:
                return changes.revisions[place]
        return committed

    def deliveries_to(self, queue: Queue) -> list[Delivery]:
        """What is on its way into a queue."""
        pending = [self.filling] if self._writing is None else [self._writing, self.filling]
        writes = [write for changes in pending for write in changes.writes]
        return [delivery for write in writes for target, delivery in write.deliveries if target is queue]

    def write(self, place: Place, value: bytes | None, result: T, deliveries: list[tuple[Queue, Delivery]]) -> asyncio.Future[T]:
        """Write a mutation with the next transaction; the Future is `result` once it lasts, or a `StoreError` if it does not."""
        self.filling.overlay[place] = value
        return self.wait(result, deliveries)

    def record(self, slot: Slot, outcome: Outcome) -> None:
        """Record the outcome of a mutation with the next transaction, for which the mutation waits."""
        self.filling.outcomes[slot] = outcome

    def wait(self, result: T, deliveries: list[tuple[Queue, Delivery]] | None = None) -> asyncio.Future[T]:
        """The Future is `result` once the next transaction and all before it last, or a `StoreError` if they do not."""
        waiter: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.filling.writes.append(Write(waiter, result, deliveries or []))
        self._schedule()
        return waiter

    def keep(self, record: Callable[[Changes], object], settled: Callable[[], None] | None = None) -> None:
        """Write records with the next transaction, and call `settled` when it lasts; they are written again until they do."""
        record(self.filling)
        if settled is not None:
            self.filling.settled.append(settled)
        self._schedule()

    async def drain(self) -> None:
        """Wait until all is written; after `STOP_SECONDS` (or `FULL_STOP_SECONDS`) say that it could not be."""
        self._flush()
        try:
            async with asyncio.timeout(STOP_SECONDS if self.failing is None else FULL_STOP_SECONDS):
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
            transaction = self._writing.transaction(self._clock)
        except Exception as failure:  # what cannot be written must not keep everything behind it from being written
            logger.exception("a transaction cannot be written to %s", self._journal.path)
            self._written(StoreError(f"{self._journal.path}: {failure}"))
            return
        self._journal.write(transaction, self._written)

    def _written(self, error: StoreError | None) -> None:
        written, self._writing = self._writing, None
        assert written is not None
        if error is not None and self.failing is None:
            logger.error("%s", error)
        self.failing = error
        if error is not None:
            self._failed(written, error)
            return
        for show in self._shown:
            try:
                show(written)
            except Exception as failure:
                _showing.failed(failure)
        for write in written.writes:
            if not write.waiter.done():
                write.waiter.set_result(write.result)
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
        """Nothing of this transaction lasts, so nothing built on it may: all those mutations fail; records are tried again."""
        for changes in (written, self.filling):
            for write in changes.writes:
                for queue, delivery in write.deliveries:
                    queue.unreserve(delivery.event)
                if not write.waiter.done():
                    write.waiter.set_exception(StoreError(str(error)))
            changes.drop_mutations()
        self.filling.take_records(written)
        if self.filling.is_empty():
            self._idle.set()
        else:
            self._scheduled = True
            asyncio.get_running_loop().call_later(RECORDS_RETRY_SECONDS, self._flush)
