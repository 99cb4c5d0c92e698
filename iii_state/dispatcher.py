"""The dispatcher: takes deliveries from queues, calls handlers, and acknowledges, retries or buries.

One per engine, the same over every adapter. A delivery is acknowledged only after its handler has returned (at least once). What
an adapter or an engine answers at once is dealt with at once, the rest in callbacks: a delivery costs no task of its own.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from iii_state import values
from iii_state.adapters.base import Adapter
from iii_state.errors import FunctionError, NotCarriedOut, StoreError
from iii_state.events import Delivery, DispatchLimits, Failure, Subscription
from iii_state.host import Answer, Host

logger = logging.getLogger(__name__)

T = TypeVar("T")

ADAPTER_RETRY_SECONDS = 0.5
"""How long to wait before asking an adapter again that could not take an acknowledgement."""

Function = tuple[str, str]
"""Namespace and id."""


@dataclass(slots=True, eq=False)
class _Attempt:
    """A handler (or its condition) that is running."""

    delivery: Delivery
    deadline: float
    waiting_for: asyncio.Future[bytes | None] | None = None


@dataclass(slots=True, eq=False)
class _Gate:
    """How many handlers of one function run, over all its subscriptions."""

    running: int = 0
    blocked: deque[_Consumer] = field(default_factory=deque)


@dataclass(slots=True, eq=False)
class _Consumer:
    """One hosted subscription."""

    subscription: Subscription
    function: Function
    condition: Function | None
    gate: _Gate
    metadata_head: bytes | None
    """The trigger's metadata as the beginning of an object to which `iii_state` is added; None where it is sent untouched."""
    buffer: deque[Delivery] = field(default_factory=deque)
    running: dict[_Attempt, None] = field(default_factory=dict)
    done: list[Delivery] = field(default_factory=list)
    more: bool = True
    taking: bool = False
    hosted: bool = True
    timer: asyncio.TimerHandle | None = None


class Dispatcher:
    """Runs the handlers of the subscriptions hosted here. All methods belong to the event loop."""

    def __init__(self, host: Host, adapter: Adapter, limits: DispatchLimits) -> None:
        self._host = host
        self._adapter = adapter
        self._limits = limits
        self._consumers: dict[str, _Consumer] = {}
        self._gates: dict[Function, _Gate] = {}
        self._by_function: dict[Function, dict[str, _Consumer]] = {}
        self._dirty: dict[_Consumer, None] = {}
        self._scheduled = False
        self._stopping = False
        self._paused = False
        self._unsettled = 0
        self._quiet = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        host.watch_functions(self._function_changed)

    # -- what the module says

    def add(self, subscription: Subscription) -> None:
        """Host a subscription, or take on its new settings."""
        known = self._consumers.get(subscription.id)
        if known is not None:
            known.subscription = subscription
            known.metadata_head = _metadata_head(subscription.metadata)
            self._adapter.offer(subscription.id, self._is_served(known))
            self.ring(subscription.id)
            return
        function = (subscription.namespace, subscription.function_id)
        condition = None
        if subscription.condition_function_id is not None:
            condition = (subscription.namespace, subscription.condition_function_id)
        gate = self._gates.setdefault(function, _Gate())
        consumer = _Consumer(subscription, function, condition, gate, _metadata_head(subscription.metadata))
        self._consumers[subscription.id] = consumer
        for name in {function, condition} - {None}:
            assert name is not None
            self._by_function.setdefault(name, {})[subscription.id] = consumer
        self._adapter.offer(subscription.id, self._is_served(consumer))
        self.ring(subscription.id)

    def remove(self, subscription_id: str) -> None:
        """Take nothing more for this subscription, and give back what has not begun. Handlers that run are let finish."""
        consumer = self._consumers.pop(subscription_id, None)
        if consumer is None:
            return
        consumer.hosted = False
        for name in (consumer.function, consumer.condition):
            if name is not None and (consumers := self._by_function.get(name)) is not None:
                consumers.pop(subscription_id, None)
                if not consumers:
                    del self._by_function[name]
        if consumer.function not in self._by_function and not consumer.gate.running:
            self._gates.pop(consumer.function, None)
        self._give_back(consumer)

    def ring(self, subscription_id: str) -> None:
        """Something may be ready; the adapter's bell."""
        consumer = self._consumers.get(subscription_id)
        if consumer is not None:
            consumer.more = True
            self._schedule(consumer)

    def pause(self, paused: bool) -> None:
        """Start no handler until told otherwise (`triggers_enabled: false`)."""
        self._paused = paused
        if not paused:
            for subscription_id in self._consumers:
                self.ring(subscription_id)

    async def stop(self, grace_seconds: float) -> None:
        """Start nothing more, wait for the handlers that run (bounded), and give back everything that is not done."""
        self._stopping = True
        consumers = list(self._consumers.values())
        for consumer in consumers:
            self._adapter.offer(consumer.subscription.id, False)
            self._give_back(consumer)
        try:
            async with asyncio.timeout(grace_seconds):
                await self._until_quiet()
        except TimeoutError:
            for consumer in consumers:
                for attempt in list(consumer.running):
                    self._stop_attempt(consumer, attempt)
                    self._settle(partial(self._adapter.release, [attempt.delivery]))
            try:
                async with asyncio.timeout(grace_seconds):
                    await self._until_quiet()
            except TimeoutError:
                logger.error("%d acknowledgements could not be written before stopping", self._unsettled)
        for consumer in consumers:
            if consumer.timer is not None:
                consumer.timer.cancel()

    async def _until_quiet(self) -> None:
        while self._unsettled or any(consumer.running or consumer.done for consumer in self._consumers.values()):
            self._quiet.clear()
            await self._quiet.wait()

    # -- taking

    def _function_changed(self, namespace: str, function_id: str) -> None:
        for consumer in list(self._by_function.get((namespace, function_id), {}).values()):
            served = self._is_served(consumer)
            self._adapter.offer(consumer.subscription.id, served)
            if served:
                consumer.more = True
                self._schedule(consumer)
            else:
                self._give_back(consumer)

    def _is_served(self, consumer: _Consumer) -> bool:
        """Whether handler and condition are both registered: a worker that left burns no attempts."""
        has = self._host.has_function
        namespace, function_id = consumer.function
        return has(function_id, namespace) and (consumer.condition is None or has(consumer.condition[1], namespace))

    def _give_back(self, consumer: _Consumer) -> None:
        if consumer.buffer:
            held = list(consumer.buffer)
            consumer.buffer.clear()
            self._settle(partial(self._adapter.release, held))

    def _schedule(self, consumer: _Consumer) -> None:
        self._dirty[consumer] = None
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        dirty, self._dirty = self._dirty, {}
        for consumer in dirty:
            if consumer.done:
                self._acknowledge(consumer)
            self._pump(consumer)
            if consumer.gate.blocked and consumer.gate.running < self._limits.concurrency:
                self._unblock(consumer.gate)  # it was woken for a place that it did not need
        if self._stopping:
            self._quiet.set()

    def _pump(self, consumer: _Consumer) -> None:
        if self._stopping or self._paused or not consumer.hosted:
            return
        own = consumer.subscription.concurrency
        gate = consumer.gate
        limit = max(self._limits.concurrency, own or 0)
        while own is None or len(consumer.running) < own:
            if gate.running >= limit:
                if consumer not in gate.blocked:
                    gate.blocked.append(consumer)
                return
            if not consumer.buffer:
                if consumer.taking or not consumer.more or not self._is_served(consumer):
                    return
                wanted = min(own or limit, limit - gate.running) + self._limits.prefetch
                consumer.more = False  # a bell that rings before the answer is read is not about what it holds
                try:
                    taken = self._adapter.take(consumer.subscription.id, wanted)
                except StoreError as error:
                    self._take_failed(consumer, error)
                    return
                if isinstance(taken, asyncio.Future):
                    consumer.taking = True
                    taken.add_done_callback(partial(self._taken, consumer, wanted))
                    return
                consumer.more |= len(taken) >= wanted
                consumer.buffer.extend(taken)
                continue
            if not self._adapter.holds(consumer.buffer[0]):
                consumer.more = True
                self._give_back(consumer)
                return
            self._start(consumer, consumer.buffer.popleft())

    def _taken(self, consumer: _Consumer, wanted: int, answer: asyncio.Future[list[Delivery]]) -> None:
        consumer.taking = False
        if answer.cancelled():
            return
        error = answer.exception()
        if error is not None:
            self._take_failed(consumer, error)
            return
        self._receive(consumer, wanted, answer.result())

    def _receive(self, consumer: _Consumer, wanted: int, deliveries: list[Delivery]) -> None:
        """Fewer than were wanted is all there was: a bell tells of the next."""
        consumer.more |= len(deliveries) >= wanted
        consumer.buffer.extend(deliveries)
        if self._stopping or not consumer.hosted or not self._is_served(consumer):
            self._give_back(consumer)
        else:
            self._schedule(consumer)

    def _take_failed(self, consumer: _Consumer, error: BaseException) -> None:
        logger.error("cannot take events for %s: %s", consumer.function[1], error)
        self._loop.call_later(ADAPTER_RETRY_SECONDS, self.ring, consumer.subscription.id)

    # -- one delivery

    def _start(self, consumer: _Consumer, delivery: Delivery) -> None:
        attempt = _Attempt(delivery, self._loop.time() + consumer.subscription.retry.timeout_ms / 1000)
        consumer.running[attempt] = None
        consumer.gate.running += 1
        if consumer.timer is None:
            self._arm(consumer)
        payload = delivery.event.payload()
        if consumer.condition is None:
            self._call(consumer, attempt, payload)
            return
        namespace, condition = consumer.condition
        self._invoke(
            consumer, attempt, condition, namespace, payload, None, partial(self._condition_answered, consumer, attempt, payload)
        )

    def _condition_answered(self, consumer: _Consumer, attempt: _Attempt, payload: bytes, result: bytes | None) -> None:
        if result is not None and result.strip() == b"false":
            self._done(consumer, attempt)
        else:
            self._call(consumer, attempt, payload)

    def _call(self, consumer: _Consumer, attempt: _Attempt, payload: bytes) -> None:
        delivery = attempt.delivery
        if consumer.metadata_head is None:
            metadata = consumer.subscription.metadata
        else:
            metadata = b'%b"iii_state":{"event_id":"%b","attempt":%d,"fence":%d}}' % (
                consumer.metadata_head,
                delivery.event_id.encode(),
                delivery.attempt,
                delivery.fence,
            )
        namespace, function_id = consumer.function
        self._invoke(consumer, attempt, function_id, namespace, payload, metadata, lambda result: self._done(consumer, attempt))

    def _invoke(
        self,
        consumer: _Consumer,
        attempt: _Attempt,
        function_id: str,
        namespace: str,
        payload: bytes,
        metadata: bytes | None,
        answered: Callable[[bytes | None], None],
    ) -> None:
        try:
            answer = self._host.invoke(function_id, payload, namespace=namespace, metadata=metadata)
        except Exception as error:
            self._failed(consumer, attempt, error)
            return
        if not isinstance(answer, asyncio.Future):
            answered(answer)
            return
        attempt.waiting_for = answer

        def settled(future: asyncio.Future[bytes | None]) -> None:
            if attempt not in consumer.running:  # timed out or stopped meanwhile
                future.cancelled() or future.exception()
            elif future.cancelled():
                self._failed(consumer, attempt, FunctionError("invocation_stopped", "the call was cancelled"))
            elif (error := future.exception()) is not None:
                self._failed(consumer, attempt, error)
            else:
                answered(future.result())

        answer.add_done_callback(settled)

    def _end(self, consumer: _Consumer, attempt: _Attempt) -> None:
        del consumer.running[attempt]
        gate = consumer.gate
        gate.running -= 1
        if not gate.running and consumer.function not in self._by_function:
            self._gates.pop(consumer.function, None)
        self._unblock(gate)
        self._schedule(consumer)

    def _unblock(self, gate: _Gate) -> None:
        while gate.blocked:
            blocked = gate.blocked.popleft()
            if blocked.hosted:
                self._schedule(blocked)
                break

    def _done(self, consumer: _Consumer, attempt: _Attempt) -> None:
        self._end(consumer, attempt)
        consumer.done.append(attempt.delivery)

    def _acknowledge(self, consumer: _Consumer) -> None:
        done, consumer.done = consumer.done, []
        idle = consumer.hosted and not self._stopping and not self._paused and not consumer.buffer
        want = self._limits.prefetch if idle and self._is_served(consumer) else 0
        self._settle(partial(self._adapter.ack, done, want), partial(self._receive_more, consumer, want))

    def _receive_more(self, consumer: _Consumer, wanted: int, deliveries: list[Delivery]) -> None:
        if deliveries:
            self._receive(consumer, wanted, deliveries)
        elif self._stopping:
            self._quiet.set()

    def _failed(self, consumer: _Consumer, attempt: _Attempt, error: BaseException) -> None:
        delivery = attempt.delivery
        self._end(consumer, attempt)
        final = False
        if isinstance(error, FunctionError):
            failure, final = Failure(error.code, error.message), error.final
        else:
            failure = Failure("invocation_failed", str(error) or type(error).__name__)
        policy = consumer.subscription.retry
        refused = failure.code if isinstance(error, NotCarriedOut) else ""
        unserved = failure.code == "function_not_found" and not self._is_served(consumer)
        if unserved or refused in ("invocation_stopped", "channel_send_failed"):
            self._settle(partial(self._adapter.release, [delivery]))  # its worker left: nothing was the event's fault
        elif refused == "payload_too_large" or final or delivery.attempt >= policy.max_attempts:
            event = delivery.event
            logger.error(
                "%s: the event %s of %r %r is a dead letter after %d attempts: %s",
                *(consumer.function[1], delivery.event_id, event.scope, event.key, delivery.attempt, failure),
            )
            self._settle(partial(self._adapter.bury, delivery, failure))
        else:
            delay = min(policy.max_backoff_ms, policy.backoff_ms * 2 ** min(delivery.attempt - 1, 30))
            jittered = int(delay * random.uniform(0.5, 1.0))
            self._settle(partial(self._adapter.retry, delivery, jittered, failure))

    # -- time limits

    def _arm(self, consumer: _Consumer) -> None:
        deadline = min((attempt.deadline for attempt in consumer.running), default=None)
        consumer.timer = None if deadline is None else self._loop.call_at(deadline, self._expire, consumer)

    def _expire(self, consumer: _Consumer) -> None:
        now = self._loop.time()
        for attempt in [attempt for attempt in consumer.running if attempt.deadline <= now]:
            timeout = consumer.subscription.retry.timeout_ms
            if attempt.waiting_for is not None:
                attempt.waiting_for.cancel()
            self._failed(consumer, attempt, FunctionError("TIMEOUT", f"the handler has not answered within {timeout} ms"))
        self._arm(consumer)

    def _stop_attempt(self, consumer: _Consumer, attempt: _Attempt) -> None:
        self._end(consumer, attempt)
        if attempt.waiting_for is not None:
            attempt.waiting_for.cancel()

    # -- answers of the adapter

    def _settle(self, ask: Callable[[], Answer[T]], answered: Callable[[T], None] | None = None) -> None:
        """Ask the adapter to take note of something, again and again until it has."""
        try:
            answer = ask()
        except StoreError as error:
            self._settle_later(ask, answered, error)
            return
        if not isinstance(answer, asyncio.Future):
            if answered is not None:
                answered(answer)
            return
        self._unsettled += 1

        def settled(future: asyncio.Future[T]) -> None:
            self._unsettled -= 1
            if not future.cancelled() and (error := future.exception()) is not None:
                self._settle_later(ask, answered, error)
            elif not future.cancelled() and answered is not None:
                answered(future.result())
            if self._stopping:
                self._quiet.set()

        answer.add_done_callback(settled)

    def _settle_later(self, ask: Callable[[], Answer[T]], answered: Callable[[T], None] | None, error: BaseException) -> None:
        logger.error("%s; asking again in %s s", error, ADAPTER_RETRY_SECONDS)
        self._unsettled += 1

        def again() -> None:
            self._unsettled -= 1
            self._settle(ask, answered)

        self._loop.call_later(ADAPTER_RETRY_SECONDS, again)


def _metadata_head(metadata: bytes | None) -> bytes | None:
    if metadata is None:
        return b"{"
    if not metadata.lstrip().startswith(b"{"):
        return None
    members = {name: text for name, text in values.members(metadata).items() if name != "iii_state"}
    return values.compact_members(members)[:-1] + (b"," if members else b"")
