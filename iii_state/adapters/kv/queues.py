"""The queues of a kv store, one per subscription, and what is recorded of them."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import msgspec

from iii_state import lineages, values
from iii_state.adapters.kv.journal.changes import Changes, dead_letter_of, dead_letter_row, delivery_row
from iii_state.adapters.kv.journal.commits import Commits, Keep, keep_nothing
from iii_state.adapters.kv.journal.file import Contents
from iii_state.adapters.kv.routes import KvRoutes
from iii_state.adapters.local_dead_letters import DeadLetters
from iii_state.adapters.local_queue import Queue, number_of
from iii_state.adapters.wakeup import WakeUp
from iii_state.adapters.wall_clock import now_ms
from iii_state.errors import StoreError
from iii_state.events import FOREVER, Change, DeadLetter, Delivery, Failure, QueueLimits, Subscription, begun_anew
from iii_state.tasks.awake import AwakeTimer
from iii_state.tasks.effects import Afterwards
from iii_state.tasks.results import Result

logger = logging.getLogger(__name__)

_subscription = msgspec.json.Decoder(Subscription)

_queueing = Afterwards("handing an event to its queue")


class KvQueues:
    """See `base.Queues`. `commits` are those of the store's journal, None where it lives in memory.

    What is recorded of a queue is in the transaction of the next write or an earlier one, so nothing has to wait for it.
    """

    def __init__(
        self,
        limits: QueueLimits,
        wake_up: WakeUp,
        commits: Commits | None,
        dead_letters: DeadLetters,
        clock: Callable[[], int],
    ) -> None:
        self._limits = limits
        self._wake_up = wake_up
        self._commits = commits
        self._keep: Keep = keep_nothing if commits is None else commits.keep
        self._dead_letters = dead_letters
        dead_letters.on_drop = self._dead_letters_dropped
        self._clock = clock
        self.routes = KvRoutes()
        self._queues: dict[str, Queue] = {}
        self._removals: dict[str, AwakeTimer] = {}
        self._number = 0
        """Of the last delivery."""
        self._is_halted = False
        self._fence = 0
        """Grows with every process that opens the file; that of a delivery is this and its queue's together."""
        self._paused_subscriptions: dict[str, tuple[Subscription, int]] = {}
        self._with_lineage: set[int] = set()
        """The numbers of deliveries of which the file has a lineage."""

    def __iter__(self) -> Iterator[Queue]:
        return iter(self._queues.values())

    # -- opening and closing

    def load(self, contents: Contents) -> None:
        """Take on what a file held."""
        self._number = contents.epoch << 32
        self._fence = (contents.epoch - 1) << 20
        for name, definition, since_ms in contents.paused:
            self._paused_subscriptions[name] = (_subscription.decode(definition), since_ms)
        for _, definition, _orphaned, dropped in contents.subscriptions:
            queue = self._add(_subscription.decode(definition))
            queue.dropped = dropped
            self._orphan(queue)
        now = self._clock()
        crashes, kept_lineages = dict(contents.crashes), dict(contents.lineages)
        for number, subscription_id, write_id, event_type, scope, key, old, new, attempt, due in contents.deliveries:
            event = Change(write_id, scope.decode(), key.decode(), event_type, old, new)
            if number in kept_lineages:
                event.lineage = lineages.decode(kept_lineages[number])
                self._with_lineage.add(number)
            delivery = Delivery(subscription_id, event, attempt, self._fence, number, crashes=crashes.get(number, 0))
            waiting = self._queues.get(subscription_id)
            if waiting is None:  # its retention had ended
                self._finish([number])
            else:
                waiting.push(delivery, due - now)
        self._dead_letters.load(map(dead_letter_of, contents.dead_letters))

    def halt(self) -> None:
        """Deliver nothing for now."""
        self._is_halted = True

    def go_on(self) -> None:
        """Deliver again."""
        self._is_halted = False
        for queue in self._queues.values():
            queue.wake()

    def close(self) -> None:
        """Stop all timers, and wake the dispatcher no more."""
        self._dead_letters.close()
        for timer in self._removals.values():
            timer.cancel()
        self._removals.clear()
        for queue in self._queues.values():
            queue.hosted = False
            queue.close()

    # -- subscriptions

    def enable_events(self, enabled: bool) -> None:
        self.routes.enabled = enabled

    def are_wanted(self, scope: str, key: str) -> bool:
        return bool(self.routes.matching(scope, key))

    def subscribe(self, subscription: Subscription) -> None:
        queue = self._queues.get(subscription.id)
        if queue is None:
            queue = self._add(subscription)
        timer = self._removals.pop(queue.id, None)
        if timer is not None:
            timer.cancel()
        if queue.subscription is not subscription:
            queue.take_settings(subscription)
            self.routes.add(queue)
        queue.orphaned_at_ms = None
        queue.hosted = True
        queue.wake()
        self._record(queue)

    def offer(self, subscription_id: str, served: bool) -> None:
        pass  # nothing comes that is not taken

    def unsubscribe(self, subscription_id: str) -> None:
        queue = self._queues.get(subscription_id)
        if queue is not None:
            self._remove(queue)

    def abandon(self, subscription_id: str) -> None:
        queue = self._queues.get(subscription_id)
        if queue is not None:
            queue.hosted = False
            self._record(queue)
            self._orphan(queue)

    def _add(self, subscription: Subscription) -> Queue:
        queue = Queue(subscription, self._limits, self._wake_up)
        queue.on_coalesced = self._coalesced
        self._queues[queue.id] = queue
        self.routes.add(queue)
        return queue

    def _orphan(self, queue: Queue) -> None:
        queue.orphaned_at_ms = now_ms()
        retention = queue.subscription.retention_ms
        if retention == FOREVER:
            return

        def end() -> None:
            self._removals.pop(queue.id, None)
            function = queue.subscription.function_id
            log = logger.warning if len(queue) else logger.info
            log(
                "nobody has asked for the events of %s for %s ms: its queue is removed, with %d events",
                function,
                retention,
                len(queue),
            )
            self._remove(queue)

        assert isinstance(retention, int)
        if retention <= 0:
            end()
        else:
            self._removals[queue.id] = AwakeTimer(retention / 1000, end)

    def _remove(self, queue: Queue) -> None:
        timer = self._removals.pop(queue.id, None)
        if timer is not None:
            timer.cancel()
        self.routes.remove(queue)
        del self._queues[queue.id]
        queue.hosted = False
        queue.close()
        if self._commits is not None:
            on_their_way = self._commits.deliveries_to(queue)
            self._with_lineage.update(number_of(delivery) for delivery in on_their_way if delivery.event.lineage is not None)
            held = [number_of(delivery) for delivery in (*queue, *on_their_way)]
            self._keep(lambda changes: changes.subscriptions.update({queue.id: None}))
            self._finish(held)

    def _record(self, queue: Queue) -> None:
        if self._commits is not None:
            row = (queue.id, values.encode(queue.subscription), queue.orphaned_at_ms, queue.dropped)
            self._keep(lambda changes: changes.subscriptions.update({queue.id: row}))

    def _finish(self, numbers: list[int], settled: Callable[[], None] | None = None) -> None:
        self._keep(lambda changes: changes.finished.extend(numbers), settled)
        if self._with_lineage and (gone := self._with_lineage.intersection(numbers)):
            self._with_lineage -= gone
            self._keep(lambda changes: changes.gone_lineages.extend(gone))

    # -- what writes put into them

    def push(self, queue: Queue, event: Change) -> None:
        """Hand the event of a write that was made to a queue."""
        try:
            self._make_room(queue, event)
            queue.push(self._new_delivery(queue, event))
        except Exception as error:
            _queueing.failed(error)

    def reserve(self, wanted: Sequence[tuple[Queue, Change]]) -> list[tuple[Queue, Delivery]]:
        """Keep room for the event of a write that is on its way into the journal; `committed` hands it over."""
        for queue, event in wanted:
            queue.reserve(event)
        return self.deliveries(wanted)

    def deliveries(self, wanted: Sequence[tuple[Queue, Change]]) -> list[tuple[Queue, Delivery]]:
        """What `reserve` answers, where room is kept already."""
        return [(queue, self._new_delivery(queue, event)) for queue, event in wanted]

    def committed(self, written: Changes) -> None:
        """The events of what was written can be delivered from now on."""
        for write in written.writes:
            for queue, delivery in write.deliveries:
                queue.unreserve(delivery.event)
                if self._queues.get(queue.id) is queue:
                    if delivery.event.lineage is not None:
                        self._with_lineage.add(number_of(delivery))
                    try:
                        self._make_room(queue, delivery.event)
                        queue.push(delivery)
                    except Exception as error:
                        _queueing.failed(error)

    def _coalesced(self, replaced: Delivery, delivery: Delivery) -> None:
        """One delivery tells of another that waited, too. Both rows stand in the file until this is written, and are told together
        again by whoever reads them."""
        number, row = number_of(delivery), delivery_row(delivery)
        self._keep(lambda changes: changes.coalesced.update({number: row}))
        self._finish([number_of(replaced)])

    def _new_delivery(self, queue: Queue, event: Change) -> Delivery:
        self._number = number = self._number + 1
        return Delivery(queue.id, event, 1, self._fence, number)

    def _make_room(self, queue: Queue, event: Change) -> None:
        """Drop what has to go for `event`; only a queue that drops its oldest ever has to."""
        dropped: list[int] = []
        while queue.overflow(event) is not None and (victim := queue.drop_oldest()) is not None:
            dropped.append(number_of(victim))
        if dropped:
            if queue.dropped == len(dropped) or queue.dropped % 1000 < len(dropped):
                function = queue.subscription.function_id
                logger.warning("the queue of %s is full; %d of its oldest events dropped so far", function, queue.dropped)
            self._finish(dropped)

    def note_loop(self, subscription_id: str) -> None:
        queue = self._queues.get(subscription_id)
        if queue is not None:
            queue.note_loop()

    # -- deliveries

    def take(self, subscription_id: str, count: int) -> list[Delivery]:
        queue = self._queues.get(subscription_id)
        return [] if queue is None else self._take(queue, count)

    def _take(self, queue: Queue, count: int) -> list[Delivery]:
        taken = queue.take(count) if count and queue.hosted and self._delivers(queue.id) else []
        for delivery in taken:
            delivery.fence = self._fence + queue.fence
            delivery.dropped = queue.dropped
        return taken

    def _delivers(self, subscription_id: str) -> bool:
        return not self._is_halted and subscription_id not in self._paused_subscriptions

    def holds(self, delivery: Delivery) -> bool:
        return delivery.subscription_id not in self._paused_subscriptions

    def ack(self, deliveries: Sequence[Delivery], want: int = 0, *, ahead: bool = False) -> Result[list[Delivery]]:
        queue = self._queues.get(deliveries[0].subscription_id) if deliveries else None
        if queue is None:
            return []
        done = [delivery for delivery in deliveries if queue.is_pending(delivery)]
        if self._commits is None:
            for delivery in done:
                queue.finish(delivery)
            return self._take(queue, want)
        waiter: asyncio.Future[list[Delivery]] = asyncio.get_running_loop().create_future()

        def settled() -> None:
            for delivery in done:
                if queue.is_pending(delivery):
                    queue.finish(delivery)
            if not waiter.done():
                waiter.set_result(self._take(queue, want))

        self._finish([number_of(delivery) for delivery in done], settled)
        return waiter

    def retry(self, delivery: Delivery, delay_ms: int, failure: Failure, *, crashed: bool = False) -> None:
        queue = self._queues.get(delivery.subscription_id)
        if queue is None or not queue.is_pending(delivery):
            return
        queue.retry(delivery, delay_ms, crashed=crashed)
        planned = (delivery.attempt, self._clock() + delay_ms)
        self._keep(lambda changes: changes.attempts.update({number_of(delivery): planned}))
        if crashed:
            crashes = delivery.crashes
            self._keep(lambda changes: changes.crashes.update({number_of(delivery): crashes}))

    def dead_letter(self, delivery: Delivery, failure: Failure) -> None:
        queue = self._queues.get(delivery.subscription_id)
        if queue is None or not queue.is_pending(delivery):
            return
        dead_letter = self._dead_letters.add(queue.subscription, delivery, failure)

        def record(changes: Changes) -> None:
            changes.dead_letters.append(dead_letter_row(dead_letter))

        def settled() -> None:
            if queue.is_pending(delivery):
                queue.finish(delivery)

        self._keep(record)
        self._finish([number_of(delivery)], settled)

    def release(self, deliveries: Sequence[Delivery], *, begun: bool = False) -> None:
        for delivery in reversed(deliveries):
            queue = self._queues.get(delivery.subscription_id)
            if queue is not None and queue.is_pending(delivery):
                queue.fence += begun
                queue.release(delivery)

    def deliver_again(self, dead_letter: DeadLetter) -> None:
        """Take the event of a dead letter back into its queue. Raises `StoreError` where there is none, or no room."""
        queue = self._queues.get(dead_letter.subscription_id)
        if queue is None:
            raise StoreError(f"nobody is subscribed any more: {dead_letter.function_id} has no queue for this event")
        refuse_overflow(queue, dead_letter.event)
        self._dead_letters.remove(dead_letter.id)
        queue.reserve(dead_letter.event)
        queue.fence += 1  # who was called with it before is not taken for being called with it now
        delivery = self._new_delivery(queue, begun_anew(dead_letter.event))

        def settled() -> None:
            queue.unreserve(dead_letter.event)
            if self._queues.get(queue.id) is queue:
                self._make_room(queue, delivery.event)
                queue.push(delivery)

        def record(changes: Changes) -> None:
            changes.retried.append(delivery_row(delivery))
            changes.gone_dead_letters.append(dead_letter.id)

        self._keep(record, settled)

    def _dead_letters_dropped(self, dead_letters: Sequence[DeadLetter]) -> None:
        for subscription_id, count in Counter(dead_letter.subscription_id for dead_letter in dead_letters).items():
            queue = self._queues.get(subscription_id)
            if queue is not None:
                queue.dropped += count
                self._record(queue)
        self._keep(lambda changes: changes.gone_dead_letters.extend(dead_letter.id for dead_letter in dead_letters))

    # -- what operators do

    def paused(self) -> dict[str, tuple[Subscription, int]]:
        """The subscriptions that are paused, by their ids, and since when, in milliseconds since 1970."""
        return self._paused_subscriptions

    async def pause(self, subscription: Subscription) -> int:
        """Hand out nothing more of it, until it is resumed; answers how many of its events are out."""
        name, since_ms = subscription.id, now_ms()
        _, since_ms = self._paused_subscriptions.setdefault(name, (subscription, since_ms))
        row = (name, values.encode(subscription), since_ms)
        queue = self._queues.get(name)
        if queue is not None and queue.hosted:
            self._wake_up(name)  # what was taken and has not begun is given back
        await self._kept(lambda changes: changes.paused.update({name: row}))
        return 0 if queue is None else queue.pending

    async def resume(self, subscription: Subscription) -> bool:
        """Hand out again; False where it was not paused."""
        name = subscription.id
        if self._paused_subscriptions.pop(name, None) is None:
            return False
        queue = self._queues.get(name)
        if queue is not None:
            queue.wake()
        await self._kept(lambda changes: changes.paused.update({name: None}))
        return True

    async def purge(self, subscription: Subscription) -> int:
        """Drop what waits; answers how many events that were."""
        queue = self._queues.get(subscription.id)
        gone = [] if queue is None else queue.purge()
        if queue is not None and gone:
            self._record(queue)
            self._finish([number_of(delivery) for delivery in gone])
            await self._kept(lambda changes: None)
        return len(gone)

    async def remove(self, subscription: Subscription) -> int:
        """End it; answers how many events it held. Raises `StoreError` where it is hosted."""
        queue = self._queues.get(subscription.id)
        if queue is not None and queue.hosted:
            function_id = subscription.function_id
            raise StoreError(f"{function_id} is served here: unregister its trigger, or stop its worker, and then remove it")
        events = 0
        if queue is not None:
            events = len(queue)
            self._remove(queue)
        if not await self.resume(subscription):
            await self._kept(lambda changes: None)
        return events

    async def _kept(self, record: Callable[[Changes], object]) -> None:
        """Record, and wait until that lasts."""
        lasts: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._keep(record, lambda: None if lasts.done() else lasts.set_result(None))
        await lasts

    def drop_dead_letter(self, dead_letter_id: str) -> bool:
        """Drop a dead letter; False if it is not there."""
        if not self._dead_letters.remove(dead_letter_id):
            return False
        self._keep(lambda changes: changes.gone_dead_letters.append(dead_letter_id))
        return True


def particular(queues: Sequence[Queue], event: Change) -> list[tuple[Queue, Change]]:
    """Which of the queues that want the events of its scope and key want this one, and what of it."""
    return [
        (queue, event.with_payload(queue.subscription.payload))
        for queue in queues
        if queue.subscription.filter is None or queue.subscription.filter.wants(event.event_type, event.old, event.new)
    ]


def refuse_overflow(queue: Queue, event: Change) -> None:
    """Raise `StoreError` where a queue is full that does not drop its oldest event for a new one."""
    bound = queue.overflow(event)
    if bound is not None and queue.limits.on_full == "reject":
        function = queue.subscription.function_id
        raise StoreError(f"the queue of {function} is full ({bound}); its handler does not keep up, or nobody serves it")
