"""One subscription's queue in this process: its lanes, what is ready, what is out, what waits for its next attempt."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator

from iii_state.adapters.oldest_waiting import OldestWaiting
from iii_state.adapters.wall_clock import now_ms
from iii_state.events import LOOPING_SECONDS, Change, Delivery, QueueLimits, Subscription

Lane = tuple[str, str]


class Queue:
    """Deliveries of one subscription, at most one per (scope, key) out at a time, in the order of their writes.

    A delivery's `token` is its number: unique, and growing in the order of the writes. `wake` is called with the subscription's id
    whenever something has become ready in a queue that is hosted.
    """

    def __init__(self, subscription: Subscription, limits: QueueLimits, wake: Callable[[str], None]) -> None:
        self.id = subscription.id
        self.has_prefix = subscription.scope_prefix is not None or subscription.key_prefix is not None
        self._adapter_limits = limits
        self.take_settings(subscription)
        self.hosted = False
        self.orphaned_at_ms: int | None = None
        self.dropped = 0
        self.fence = 0
        """How often what may still be running was given back, or a dead letter retried; for an adapter that counts that."""
        self.looped_at = -math.inf
        """When a loop through it was noted last, by the loop's clock."""
        self._reserved = 0
        self._reserved_bytes = 0
        self.on_coalesced: Callable[[Delivery, Delivery], None] = lambda replaced, delivery: None
        """Told of a delivery that has gone, and of the one that tells of both."""
        self._wake = wake
        self._bytes = 0
        self._deliveries: dict[int, Delivery] = {}
        self._lanes: dict[Lane, deque[Delivery]] = {}
        self._ready: deque[Delivery] = deque()
        self._pending: dict[int, Delivery] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._oldest: OldestWaiting | None = None
        """None as long as nothing had to be dropped."""

    def take_settings(self, subscription: Subscription) -> None:
        """The subscription has been registered, again perhaps, and with other settings."""
        self.subscription = subscription
        self.limits = subscription.limits(self._adapter_limits)
        self.coalesces = subscription.coalesce
        self.is_particular = subscription.filter is not None or subscription.payload != "full"
        """Whether it wants only some of the events of its scope and key, or only a part of each."""

    def __len__(self) -> int:
        return len(self._deliveries)

    def __iter__(self) -> Iterator[Delivery]:
        return iter(self._deliveries.values())

    @property
    def pending(self) -> int:
        """How many deliveries are out."""
        return len(self._pending)

    @property
    def ready(self) -> int:
        """How many deliveries could be taken now."""
        return len(self._ready)

    @property
    def retrying(self) -> int:
        """How many deliveries wait for their next attempt."""
        return len(self._timers)

    def note_loop(self) -> None:
        """Its handler has been seen to lead to itself."""
        self.looped_at = asyncio.get_running_loop().time()

    @property
    def is_looping(self) -> bool:
        """Whether that was noted lately."""
        return asyncio.get_running_loop().time() - self.looped_at < LOOPING_SECONDS

    def overflow(self, event: Change) -> str | None:
        """Why one more event does not fit, None if it does."""
        if len(self._deliveries) + self._reserved >= self.limits.max_queue_length:
            bound = f"max_queue_length {self.limits.max_queue_length}"
        elif self._bytes + self._reserved_bytes + event.size > self.limits.max_queue_bytes:
            bound = f"max_queue_bytes {self.limits.max_queue_bytes}"
        else:
            return None
        return self._overflow_together(event) if self.coalesces and self._to_coalesce(event) is not None else bound

    def _overflow_together(self, event: Change) -> str | None:
        """The same where it takes the place of one that waits."""
        waiting = self._to_coalesce(event)
        more = len(event.new or b"") - (0 if waiting is None else len(waiting.event.new or b""))
        if more > 0 and self._bytes + self._reserved_bytes + more > self.limits.max_queue_bytes:
            return f"max_queue_bytes {self.limits.max_queue_bytes}"
        return None

    def reserve(self, event: Change) -> None:
        """Keep room for the event of a write that is not committed yet."""
        self._reserved += 1
        self._reserved_bytes += event.size

    def unreserve(self, event: Change) -> None:
        """The write has been committed, or has failed."""
        self._reserved -= 1
        self._reserved_bytes -= event.size

    def _to_coalesce(self, event: Change) -> Delivery | None:
        """The delivery that waits behind the first of the event's lane, if there is one; that first one may be out."""
        lane = self._lanes.get((event.scope, event.key))
        return lane[-1] if lane is not None and len(lane) > 1 else None

    def push(self, delivery: Delivery, due_in_ms: int = 0) -> None:
        """Add a delivery behind all others of its lane, or, where its trigger coalesces, told together with what waits there in the
        place of that."""
        number = number_of(delivery)
        event = delivery.event
        delivery.queued_at_ms = now_ms()
        self._deliveries[number] = delivery
        if self._oldest is not None:
            self._oldest.add(number, len(self._deliveries))
        self._bytes += event.size
        lane = (event.scope, event.key)
        waiting = self._lanes.get(lane)
        if waiting is not None:
            if self.coalesces and len(waiting) > 1:
                replaced = waiting[-1]
                delivery.event = event.behind(replaced.event)
                self._bytes += delivery.event.size - event.size
                self._forget(number_of(replaced))
                self.on_coalesced(replaced, delivery)
            waiting.append(delivery)
            return
        self._lanes[lane] = deque((delivery,))
        if due_in_ms > 0:
            self._plan(number, delivery, due_in_ms)
        else:
            self._make_ready(delivery)

    def take(self, count: int) -> list[Delivery]:
        """Up to `count` ready deliveries, which are pending from now on."""
        taken: list[Delivery] = []
        while self._ready and len(taken) < count:
            delivery = self._ready.popleft()
            number = number_of(delivery)
            if number in self._deliveries:
                self._pending[number] = delivery
                delivery.begun = False
                taken.append(delivery)
        return taken

    def is_pending(self, delivery: Delivery) -> bool:
        """Whether the delivery is out; false once it was acknowledged, dropped, or its queue started afresh."""
        return self._pending.get(number_of(delivery)) is delivery

    def finish(self, delivery: Delivery) -> None:
        """The delivery is done with; its lane goes on."""
        number = number_of(delivery)
        del self._pending[number]
        self._forget(number)

    def retry(self, delivery: Delivery, delay_ms: int, *, crashed: bool = False) -> None:
        """The next attempt of a pending delivery, or the same after a crash, when `delay_ms` have passed; its lane waits."""
        number = number_of(delivery)
        self._take_back(number)
        if crashed:
            delivery.crashes += 1
        else:
            delivery.attempt += 1
        self._plan(number, delivery, delay_ms)

    def release(self, delivery: Delivery) -> None:
        """Give a pending delivery back to the front of what is ready."""
        self._take_back(number_of(delivery))
        self._ready.appendleft(delivery)
        if self.hosted:
            self._wake(self.id)

    def drop(self, delivery: Delivery) -> None:
        """Forget a delivery, wherever it is; the one behind it in its lane is ready then."""
        number = number_of(delivery)
        self._pending.pop(number, None)
        self._forget(number)

    def purge(self) -> list[Delivery]:
        """Drop all deliveries that are not out: they are answered."""
        gone = [delivery for number, delivery in self._deliveries.items() if number not in self._pending]
        self.close()
        self._deliveries = {number: delivery for number, delivery in self._deliveries.items() if number in self._pending}
        self._lanes = {(each.event.scope, each.event.key): deque((each,)) for each in self._deliveries.values()}
        self._ready.clear()
        self._bytes = sum(delivery.event.size for delivery in self._deliveries.values())
        self.dropped += len(gone)
        return gone

    def drop_oldest(self) -> Delivery | None:
        """Drop the oldest delivery that is not out, if there is one."""
        if self._oldest is None:
            self._oldest = OldestWaiting(list(self._deliveries), self._waits)
        number = self._oldest.next()
        if number is None:
            return None
        delivery = self._deliveries[number]
        self._forget(number)
        self.dropped += 1
        if len(self._ready) > 2 * len(self._deliveries) + 64:  # `take` skips those that were dropped, but may never be called
            self._ready = deque(ready for ready in self._ready if number_of(ready) in self._deliveries)
        return delivery

    def close(self) -> None:
        """Stop the timers of planned attempts."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def wake(self) -> None:
        """Tell the dispatcher if anything is ready."""
        if self._ready and self.hosted:
            self._wake(self.id)

    def _waits(self, number: int) -> bool:
        return number in self._deliveries and number not in self._pending

    def _take_back(self, number: int) -> None:
        del self._pending[number]
        if self._oldest is not None:
            self._oldest.give_back(number, len(self._deliveries))

    def _forget(self, number: int) -> None:
        delivery = self._deliveries.pop(number)
        self._bytes -= delivery.event.size
        timer = self._timers.pop(number, None)
        if timer is not None:
            timer.cancel()
        lane = (delivery.event.scope, delivery.event.key)
        waiting = self._lanes[lane]
        if waiting[0] is not delivery:
            waiting.remove(delivery)
            return
        waiting.popleft()
        if waiting:
            self._make_ready(waiting[0])
        else:
            del self._lanes[lane]

    def _plan(self, number: int, delivery: Delivery, delay_ms: int) -> None:
        def due() -> None:
            del self._timers[number]
            self._make_ready(delivery)

        self._timers[number] = asyncio.get_running_loop().call_later(delay_ms / 1000, due)

    def _make_ready(self, delivery: Delivery) -> None:
        self._ready.append(delivery)
        if self.hosted:
            self._wake(self.id)


def number_of(delivery: Delivery) -> int:
    """The number of a delivery in its queue."""
    number = delivery.token
    assert isinstance(number, int)
    return number
