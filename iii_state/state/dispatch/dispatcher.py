"""The dispatcher: hosts subscriptions, and keeps their handlers busy with what their queues hold.

One per engine, the same over every adapter. A delivery is acknowledged only after its handler has returned (at least once). What
an adapter or an engine answers at once is dealt with at once, the rest in callbacks: a delivery costs no task of its own. Read on,
in the order of an event: `intake`, `isolation`, `attempts`, `outcomes`, `settling`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from weakref import WeakValueDictionary

from iii_state.adapters.base import Adapter
from iii_state.events import Delivery, DispatchLimits, Subscription
from iii_state.host import Host
from iii_state.state.dispatch.attempts import Attempts
from iii_state.state.dispatch.batches import Batches
from iii_state.state.dispatch.consumers import Capacity, Consumer, FunctionName
from iii_state.state.dispatch.intake import Intake
from iii_state.state.dispatch.isolation import LOOK_AGAIN_SECONDS, Isolation
from iii_state.state.dispatch.loops import Loops
from iii_state.state.dispatch.outcomes import Outcomes
from iii_state.state.dispatch.schedule import Context, Schedule
from iii_state.state.dispatch.settling import Settling
from iii_state.state.dispatch.tallies import Tallies
from iii_state.state.tracing import Tracing
from iii_state.tasks.background import stop_tasks

logger = logging.getLogger(__name__)

ASK_AGAIN_BYTES = 32 * 1024
"""Whether a worker still takes events is asked again after so many bytes."""

EVENT_BYTES = 500
"""What an event takes to send beside its values."""

SETTLE_SECONDS = 3.0
"""So long, at most, an end waits for acknowledgements to be written: without them the events are delivered again."""


class Dispatcher:
    """Runs the handlers of the subscriptions hosted here. All methods belong to the event loop."""

    def __init__(self, host: Host, adapter: Adapter, limits: DispatchLimits, tracing: Tracing | None = None) -> None:
        self._host = host
        self._adapter = adapter
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._schedule = Schedule(self._loop, self._run)
        context = Context(host, adapter, limits, self._schedule, self._loop, tracing)
        self._settling = Settling(self._schedule)
        self._outcomes = Outcomes(context, self._settling)
        self._isolation = Isolation(context)
        self._intake = Intake(context, self._isolation, self._settling)
        self.loops = Loops(context)
        """What is seen of handlers that lead to themselves."""
        self.tallies = Tallies()
        """How deliveries have ended."""
        self._batches = Batches(context, self._settling)
        self._attempts = Attempts(context, self._isolation, self._outcomes, self.loops, self._batches)
        self._consumers: dict[str, Consumer] = {}
        self._capacities: WeakValueDictionary[FunctionName, Capacity] = WeakValueDictionary()
        self._by_function: dict[FunctionName, dict[str, Consumer]] = {}
        self._look_again: asyncio.TimerHandle | None = None
        self._acknowledging: Consumer | None = None
        """The one whose events are being acknowledged; behind that it is run."""
        host.watch_functions(self._function_changed)

    # --- what the module says

    def add(self, subscription: Subscription) -> None:
        """Host a subscription, or take on its new settings."""
        consumer = self._consumers.get(subscription.id)
        if consumer is not None:
            consumer.take_settings(subscription)
        else:
            consumer = Consumer.of(subscription, self._capacity)
            consumer.go_on = partial(self._intake.worker_takes_more, consumer)
            self._consumers[subscription.id] = consumer
            for name in consumer.functions:
                self._by_function.setdefault(name, {})[subscription.id] = consumer
        self._adapter.queues.offer(subscription.id, consumer.is_served(self._host))
        self._schedule.wake(consumer)

    def _capacity(self, function: FunctionName) -> Capacity:
        known = self._capacities.get(function)
        return self._capacities.setdefault(function, Capacity(tally=self.tallies.of(function[1]))) if known is None else known

    def remove(self, subscription_id: str) -> None:
        """Take nothing more for this subscription, and give back what has not begun. Handlers that run are let finish."""
        consumer = self._consumers.pop(subscription_id, None)
        if consumer is None:
            return
        consumer.hosted = False
        for name in consumer.functions:
            if (consumers := self._by_function.get(name)) is not None:
                consumers.pop(subscription_id, None)
                if not consumers:
                    del self._by_function[name]
        self._intake.give_back(consumer)

    def wake(self, subscription_id: str) -> None:
        """Look at this queue: something may be ready. The adapter calls this."""
        consumer = self._consumers.get(subscription_id)
        if consumer is not None:
            consumer.more = True
            self._schedule.add(consumer)

    def pause(self, paused: bool) -> None:
        """Start no handler until told otherwise (`triggers_enabled: false`)."""
        self._schedule.is_paused = paused
        if not paused:
            for consumer in self._consumers.values():
                self._schedule.wake(consumer)

    async def stop(self, grace_seconds: float) -> None:
        """Start nothing more, wait for the handlers that run (bounded), and give back everything that is not done."""
        schedule, settling = self._schedule, self._settling
        schedule.is_stopping = True
        consumers = list(self._consumers.values())
        for consumer in consumers:
            self._adapter.queues.offer(consumer.subscription.id, False)
            self._intake.give_back(consumer)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_seconds):
                    await schedule.until(lambda: not any(each.running or each.done for each in self._consumers.values()))
            for consumer in consumers:
                for attempt in list(consumer.running):
                    self._attempts.stop(attempt)
                    self._outcomes.release(attempt)
            if settling.unsettled:
                await self._settle(min(SETTLE_SECONDS, grace_seconds))
        finally:
            for timer in (*(consumer.timer for consumer in consumers), self._look_again):
                if timer is not None:
                    timer.cancel()

    async def _settle(self, seconds: float) -> None:
        """Wait until everything is written, at most so long; else say why, or, where nothing has failed yet, how the store is."""
        settling = self._settling
        health = asyncio.create_task(self._adapter.health())
        try:
            async with asyncio.timeout(seconds):
                await self._schedule.until(lambda: not settling.unsettled)
        except TimeoutError:
            why = settling.trouble or await health or "the store has not answered them yet"
            logger.error("%d acknowledgements could not be written before stopping: %s", settling.unsettled, why)
        finally:
            await stop_tasks([health])

    def _function_changed(self, namespace: str, function_id: str) -> None:
        for consumer in list(self._by_function.get((namespace, function_id), {}).values()):
            served = consumer.is_served(self._host)
            self._adapter.queues.offer(consumer.subscription.id, served)
            if served:
                self._schedule.wake(consumer)
            else:
                self._intake.give_back(consumer)

    # --- one turn

    def _run(self) -> None:
        for consumer in self._schedule.take():
            try:
                if consumer.done:
                    self._acknowledge(consumer)
                self._pump(consumer)
            except Exception:  # what goes wrong with one subscription is not to hold back the others
                logger.exception("the events of %s could not be handed out", consumer.function[1])
                self._schedule.wake_later(consumer)
            capacity = consumer.capacity
            if capacity.blocked and not capacity.is_full(self._limits.concurrency):
                self._attempts.unblock(capacity)  # it was woken for a place that it did not need
        if suspicious := self._isolation.waiting():  # behind all others: workers get their fill before one is claimed again
            for capacity in suspicious:
                self._start_suspects(capacity)
            if self._look_again is None and self._isolation.waiting() and not self._schedule.is_stopping:
                self._look_again = self._loop.call_later(LOOK_AGAIN_SECONDS, self._workers_may_have_changed)
        self._schedule.progressed()

    def _workers_may_have_changed(self) -> None:
        """Suspects wait for workers to have nothing to do: one that has come meanwhile may be the first that has not."""
        self._look_again = None
        if self._isolation.waiting() and not self._schedule.is_planned:
            self._run()

    def _acknowledge(self, consumer: Consumer) -> None:
        want = 0
        if (
            consumer.hosted
            and self._schedule.starts_handlers
            and not consumer.buffer
            and not consumer.suspects
            and not consumer.waits
            and consumer.is_served(self._host)
        ):
            want = consumer.within_bytes(self._limits.prefetch)
        self._acknowledging = consumer
        self._outcomes.acknowledge(consumer, want, partial(self._received_more, consumer, want))
        self._acknowledging = None

    def _received_more(self, consumer: Consumer, wanted: int, deliveries: list[Delivery]) -> None:
        if self._acknowledging is consumer and wanted:  # at once: what has become ready meanwhile is among them
            consumer.buffer.extend(deliveries)
            consumer.more = len(deliveries) >= wanted
            self._schedule.remove(consumer)
        elif deliveries:
            self._intake.receive(consumer, wanted, deliveries)
        else:
            self._schedule.progressed()

    def _pump(self, consumer: Consumer) -> None:
        """Start as many handlers as may run, and take as many deliveries as that needs."""
        if not self._schedule.starts_handlers or not consumer.hosted:
            return
        if consumer.buffer and not self._adapter.queues.holds(consumer.buffer[0]):  # also where nothing may start just now
            consumer.more = True
            self._intake.give_back(consumer)
            return
        own = consumer.subscription.concurrency
        capacity = consumer.capacity
        suspects = capacity.suspects
        limit = max(self._limits.concurrency, own or 0)
        unasked = 0
        while own is None or len(consumer.running) + (suspects.reserved and suspects.waiting[0][0] is consumer) < own:
            if capacity.is_full(limit):
                if consumer not in capacity.blocked:
                    capacity.blocked.append(consumer)
                return
            if consumer.gathered and self._batches.is_due(consumer):
                if not self._adapter.queues.holds(consumer.gathered[0]):
                    consumer.more = True
                    self._intake.give_back(consumer)
                    return
                if self._isolation.is_claimed(consumer):
                    return
                if batch := self._batches.next_batch(consumer):
                    self._attempts.start_batch(consumer, batch)
                continue
            if not consumer.buffer:
                if consumer.taking or not consumer.more or not consumer.is_served(self._host) or consumer.suspects >= limit:
                    return
                if self._intake.waits(consumer):
                    return
                count = min(own or limit, limit - capacity.running) + self._limits.prefetch
                if consumer.subscription.batch is not None:
                    count = max(count, consumer.subscription.batch.max)
                if not self._intake.take(consumer, count):
                    return
                continue
            delivery = consumer.buffer[0]
            if not self._adapter.queues.holds(delivery):
                consumer.more = True
                self._intake.give_back(consumer)
                return
            if delivery.crashes and self._isolation.is_crashable(consumer):
                self._isolation.suspect(consumer)
                continue
            if self._isolation.is_claimed(consumer):
                return
            if unasked <= 0:
                if self._intake.waits(consumer):
                    return
                unasked = ASK_AGAIN_BYTES
            consumer.buffer.popleft()
            unasked -= delivery.event.size + EVENT_BYTES
            if consumer.is_narrowed and not consumer.subscription.still_wants(delivery.event):
                self._outcomes.finish(consumer, delivery)
                self._schedule.add(consumer)
                continue
            if delivery.event.lineage is not None and (refused := self.loops.refuses(consumer, delivery.event)) is not None:
                self._outcomes.refuse(consumer, delivery, refused)
                continue
            if consumer.subscription.batch is not None and consumer.condition is None:
                self._batches.add(consumer, delivery)
            else:
                self._attempts.start(consumer, delivery)

    def _start_suspects(self, capacity: Capacity) -> None:
        """Start the first suspect of a function if its workers have nothing else to do."""
        suspects = capacity.suspects
        while suspects.waiting and suspects.alone is None and self._schedule.starts_handlers:
            consumer, delivery = suspects.waiting[0]
            if not self._adapter.queues.holds(delivery):
                self._intake.give_back(consumer)
            elif (chosen := self._isolation.choose(consumer)) is not None:
                self._attempts.start_alone(consumer, delivery, *chosen)
            else:
                return
