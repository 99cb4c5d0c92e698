"""Queues in the file of a kv store that no engine has open."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack

from iii_state.adapters.kv.journal.stopped import StoppedFile
from iii_state.adapters.kv.journal.stopped_queues import HeldQueue
from iii_state.errors import TransferError
from iii_state.events import DeadLetter, Delivery
from iii_state.transfer.queues.rows import BuriedEvent, QueuedEvent, QueueHead, QueueItem


class KvQueueSource:
    """See `rows.QueueSource`."""

    skipped = 0

    def __init__(self, file: StoppedFile) -> None:
        self._file = file
        self.left_out = 0

    async def items(self) -> AsyncIterator[QueueItem]:
        with self._file.reading_queues() as queues:
            fence = queues.fence()
            for queue in queues.all():
                if queue.subscription is not None and queue.subscription.delivery == "broadcast":
                    self.left_out += 1
                    continue
                yield QueueHead(*queue, fence)
                for delivery, due_ms in queues.deliveries(queue.id):
                    yield QueuedEvent(delivery.event, delivery.attempt, delivery.crashes, due_ms)
                for dead in queues.dead_letters(queue.id):
                    yield BuriedEvent(dead.event, dead.function_id, dead.attempts, dead.error, dead.buried_at_ms)


class KvQueueTarget:
    """See `rows.QueueTarget`: all is written at once, in the end."""

    def __init__(self, file: StoppedFile) -> None:
        self._file = file
        self._queue = ""
        self._transaction = ExitStack()
        self.name = str(file.path)

    async def resumed(self, import_id: str) -> str | None:
        return None

    async def held(self, queue: str) -> int:
        with self._file.reading_queues() as queues:
            return queues.count(queue)

    async def start(self, import_id: str) -> None:
        self._transaction.enter_context(self._file.transaction())
        self._queues = self._transaction.enter_context(self._file.reading_queues())

    async def begin(self, head: QueueHead) -> None:
        self._queue = head.id
        self._queues.make(HeldQueue(*head[:4]))

    async def put(self, item: QueuedEvent | BuriedEvent) -> None:
        delivery = Delivery(self._queue, item.event)
        if isinstance(item, QueuedEvent):
            delivery.attempt, delivery.crashes = item.attempt, item.crashes
            self._queues.add(delivery, item.due_ms)
        else:
            self._queues.bury(DeadLetter(delivery.event_id, self._queue, item.function_id, item.event, *item[2:]))

    async def end(self) -> None:
        pass

    async def finish(self) -> None:
        self._transaction.close()

    def give_up(self) -> None:
        """Unless it was finished, nothing is written."""
        error = TransferError("it was not finished")
        self._transaction.__exit__(TransferError, error, None)


class NewKvQueueTarget:
    """A store that would be made, and holds nothing: for looking alone."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def resumed(self, import_id: str) -> str | None:
        return None

    async def held(self, queue: str) -> int:
        return 0

    async def start(self, import_id: str) -> None:
        raise NotImplementedError

    async def begin(self, head: QueueHead) -> None:
        raise NotImplementedError

    async def put(self, item: QueuedEvent | BuriedEvent) -> None:
        raise NotImplementedError

    async def end(self) -> None:
        raise NotImplementedError

    async def finish(self) -> None:
        raise NotImplementedError
