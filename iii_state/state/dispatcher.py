"""The dispatcher: takes deliveries from queues, calls handlers, and acknowledges, retries or buries.

One per engine, the same over every adapter. A delivery is acknowledged only after its handler has returned (at least once). What
an adapter or an engine answers at once is dealt with at once, the rest in callbacks: a delivery costs no task of its own.

*Crashes.* All that a worker runs goes with it when it goes. Which of its events made it go cannot be told, so each of them waits as
after a failure, and is then handed out alone: the worker gets nothing else until that one event is done. What takes its worker
along even so, `max_attempts` times, is buried.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter, deque
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from iii_state import values
from iii_state.adapters.base import Adapter
from iii_state.errors import Code, FunctionError, NotCarriedOut, StoreError, WorkerLost, words
from iii_state.events import Delivery, DispatchLimits, Failure, Subscription
from iii_state.host import Host, Runner
from iii_state.tasks.awake import LATE_SECONDS
from iii_state.tasks.results import Answer

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_RUNNING_BYTES = 32 * 1024 * 1024
"""The handlers of one function have events of so many bytes at once, or a single larger one."""

ASK_AGAIN_BYTES = 32 * 1024
"""Whether a worker still takes events is asked again after so many bytes."""

EVENT_BYTES = 500
"""What an event takes to send beside its values."""

MAX_TAKEN_BYTES = 256 * 1024
"""So many bytes, as far as can be guessed, are taken at once ahead of the handlers of one subscription."""

FIRST_TAKEN = 1
"""How many are taken of events whose size is not known yet: a few huge ones are more than Redis can answer in time."""

GIVE_BACK_SECONDS = 1.0
"""What has been taken for a worker that takes nothing for so long is given back: another engine may have one that does."""

ADAPTER_RETRY_SECONDS = 0.5
"""How long to wait before asking an adapter again that could not take an acknowledgement."""


LOOK_AGAIN_SECONDS = 0.25
"""How long an event that is to be alone may miss that a worker has come which has nothing to do."""

QUIET_SECONDS = 5.0
"""So often it is said that acknowledgements cannot be written."""

SETTLE_SECONDS = 3.0
"""So long, at most, an end waits for acknowledgements to be written: without them the events are delivered again."""

Function = tuple[str, str]
"""Namespace and id."""


@dataclass(slots=True, eq=False)
class _Attempt:
    """A handler (or its condition) that is running."""

    delivery: Delivery
    deadline: float
    condition_runner: Runner | None = None
    runner: Runner | None = None
    waiting_for: asyncio.Future[bytes | None] | None = None


@dataclass(slots=True, eq=False)
class _Gate:
    """How many handlers of one function run, over all its subscriptions, and the size of their events."""

    running: int = 0
    bytes: int = 0
    blocked: deque[_Consumer] = field(default_factory=deque)
    suspects: deque[tuple[_Consumer, Delivery]] = field(default_factory=deque)
    """What crashed a worker, or was there when it crashed, and waits to be handed out alone."""
    claim: tuple[Runner, ...] = ()
    """The workers that get nothing else until the first suspect is done."""
    alone: _Attempt | None = None
    """The suspect that runs."""

    @property
    def reserved(self) -> int:
        """Places that are kept for the next suspect."""
        return 1 if self.suspects and self.alone is None else 0

    def is_full(self, limit: int) -> bool:
        """Whether no further handler may start, where `limit` may run."""
        running = self.running + self.reserved
        return running >= limit or (self.bytes > MAX_RUNNING_BYTES and self.running > 0)


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
    suspects: int = 0
    """How many of the gate's are of this subscription."""
    more: bool = True
    taking: bool = False
    hosted: bool = True
    timer: asyncio.TimerHandle | None = None
    event_bytes: int = 0
    """The size of the last event that was started, by which that of others is guessed; 0 before there was one."""
    waits: bool = False
    """Whether it waits until its worker takes more."""
    giving_back: asyncio.TimerHandle | None = None
    go_on: Callable[[], None] = lambda: None


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
        self._load: dict[Runner, int] = {}
        """How many attempts each worker runs that may go away because of them."""
        self._claims: dict[Runner, _Gate] = {}
        self._suspicious: dict[_Gate, None] = {}
        """Those with suspects."""
        self._kept_waiting: dict[_Consumer, None] = {}
        """Those whose workers are all claimed."""
        self._look_again: asyncio.TimerHandle | None = None
        self._crashed: dict[Runner | None, list[tuple[_Consumer, Delivery]]] = {}
        """What is still to be told of in the log."""
        self._scheduled = False
        self._stopping = False
        self._paused = False
        self._unsettled = 0
        self._why_unsettled = ""
        self._quiet_until = 0.0
        """Up to here, by the loop's clock, nothing is said of what cannot be written."""
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
            self._adapter.queues.offer(subscription.id, self._is_served(known))
            self.ring(subscription.id)
            return
        function = (subscription.namespace, subscription.function_id)
        condition = None
        if subscription.condition_function_id is not None:
            condition = (subscription.namespace, subscription.condition_function_id)
        gate = self._gates.setdefault(function, _Gate())
        consumer = _Consumer(subscription, function, condition, gate, _metadata_head(subscription.metadata))
        consumer.go_on = partial(self._worker_takes_more, consumer)
        self._consumers[subscription.id] = consumer
        for name in {function, condition} - {None}:
            assert name is not None
            self._by_function.setdefault(name, {})[subscription.id] = consumer
        self._adapter.queues.offer(subscription.id, self._is_served(consumer))
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
            self._adapter.queues.offer(consumer.subscription.id, False)
            self._give_back(consumer)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_seconds):
                    await self._until(lambda: not any(consumer.running or consumer.done for consumer in self._consumers.values()))
            for consumer in consumers:
                for attempt in list(consumer.running):
                    self._stop_attempt(consumer, attempt)
                    self._settle(partial(self._adapter.queues.release, [attempt.delivery], begun=True))
            try:
                async with asyncio.timeout(min(SETTLE_SECONDS, grace_seconds)):
                    await self._until(lambda: not self._unsettled)
            except TimeoutError:
                logger.error("%d acknowledgements could not be written before stopping: %s", self._unsettled, self._why_unsettled)
        finally:
            for timer in (*(consumer.timer for consumer in consumers), self._look_again):
                if timer is not None:
                    timer.cancel()

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._quiet.clear()
            await self._quiet.wait()

    # -- taking

    def _function_changed(self, namespace: str, function_id: str) -> None:
        for consumer in list(self._by_function.get((namespace, function_id), {}).values()):
            served = self._is_served(consumer)
            self._adapter.queues.offer(consumer.subscription.id, served)
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
        held = list(consumer.buffer)
        consumer.buffer.clear()
        if consumer.suspects:
            gate = consumer.gate
            held += [delivery for suspect, delivery in gate.suspects if suspect is consumer]
            gate.suspects = deque(suspect for suspect in gate.suspects if suspect[0] is not consumer)
            consumer.suspects = 0
            self._after_suspect(gate)
        if held:
            self._settle(partial(self._adapter.queues.release, held))

    def _schedule(self, consumer: _Consumer) -> None:
        self._dirty[consumer] = None
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        dirty, self._dirty = self._dirty, {}
        for consumer in dirty:
            try:
                if consumer.done:
                    self._acknowledge(consumer)
                self._pump(consumer)
            except Exception:  # what goes wrong with one subscription is not to hold back the others
                logger.exception("the events of %s could not be handed out", consumer.function[1])
                self._ring_later(consumer)
            if consumer.gate.blocked and not consumer.gate.is_full(self._limits.concurrency):
                self._unblock(consumer.gate)  # it was woken for a place that it did not need
        for gate in list(self._suspicious):  # behind all others: workers get their fill before one is claimed again
            self._try_alone(gate)
        if self._suspicious and self._look_again is None and not self._stopping:
            self._look_again = self._loop.call_later(LOOK_AGAIN_SECONDS, self._workers_may_have_changed)
        if self._stopping:
            self._quiet.set()

    def _workers_may_have_changed(self) -> None:
        """Suspects wait for workers to have nothing to do: one that has come meanwhile may be the first that has not."""
        self._look_again = None
        if self._suspicious and not self._scheduled:
            self._run()

    def _pump(self, consumer: _Consumer) -> None:
        if self._stopping or self._paused or not consumer.hosted:
            return
        own = consumer.subscription.concurrency
        gate = consumer.gate
        limit = max(self._limits.concurrency, own or 0)
        unasked = 0
        while own is None or len(consumer.running) + (gate.reserved and gate.suspects[0][0] is consumer) < own:
            if gate.is_full(limit):
                if consumer not in gate.blocked:
                    gate.blocked.append(consumer)
                return
            if not consumer.buffer:
                if consumer.taking or not consumer.more or not self._is_served(consumer) or consumer.suspects >= limit:
                    return
                if self._waits(consumer):
                    return
                wanted = _within_bytes(consumer, min(own or limit, limit - gate.running) + self._limits.prefetch)
                consumer.more = False  # a bell that rings before the answer is read is not about what it holds
                try:
                    taken = self._adapter.queues.take(consumer.subscription.id, wanted)
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
            if not self._adapter.queues.holds(consumer.buffer[0]):
                consumer.more = True
                self._give_back(consumer)
                return
            if consumer.buffer[0].crashes and self._crashable(consumer):
                gate.suspects.append((consumer, consumer.buffer.popleft()))
                consumer.suspects += 1
                self._suspicious[gate] = None
                continue
            if self._claims and self._is_claimed(consumer):
                self._kept_waiting[consumer] = None
                return
            if unasked <= 0:
                if self._waits(consumer):
                    return
                unasked = ASK_AGAIN_BYTES
            delivery = consumer.buffer.popleft()
            unasked -= delivery.event.size + EVENT_BYTES
            self._start(consumer, delivery)

    def _waits(self, consumer: _Consumer) -> bool:
        """Whether the worker that is to be called has still to read what it was sent; then it is gone on with later."""
        if consumer.waits:
            return True
        namespace, function_id = consumer.condition or consumer.function
        if self._host.takes_events(function_id, namespace, consumer.go_on):
            return False
        consumer.waits = True
        if consumer.buffer:
            consumer.giving_back = self._loop.call_later(GIVE_BACK_SECONDS, self._give_back_unread, consumer)
        return True

    def _worker_takes_more(self, consumer: _Consumer) -> None:
        consumer.waits = False
        if consumer.giving_back is not None:
            consumer.giving_back.cancel()
            consumer.giving_back = None
        self._schedule(consumer)

    def _give_back_unread(self, consumer: _Consumer) -> None:
        consumer.giving_back = None
        consumer.more = True
        self._give_back(consumer)

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
        self._ring_later(consumer)

    def _ring_later(self, consumer: _Consumer) -> None:
        self._loop.call_later(ADAPTER_RETRY_SECONDS, self.ring, consumer.subscription.id)

    # -- one delivery alone

    def _functions(self, consumer: _Consumer) -> tuple[Function, ...]:
        return (consumer.function,) if consumer.condition is None else (consumer.condition, consumer.function)

    def _crashable(self, consumer: _Consumer) -> bool:
        """Whether there are workers that may go away because of its events."""
        return any(self._host.runners(name, namespace) for namespace, name in self._functions(consumer))

    def _is_claimed(self, consumer: _Consumer) -> bool:
        """Whether all workers of its handler, or its condition, are to get nothing else at the moment."""
        for namespace, name in self._functions(consumer):
            runners = self._host.runners(name, namespace)
            if runners and all(runner in self._claims for runner in runners):
                return True
        return False

    def _try_alone(self, gate: _Gate) -> None:
        """Start the first suspect if its workers have nothing else to do; otherwise see to it that they get nothing more."""
        while gate.suspects and gate.alone is None and not self._stopping and not self._paused:
            consumer, delivery = gate.suspects[0]
            if not self._adapter.queues.holds(delivery):
                self._give_back(consumer)
                continue
            chosen = self._claim(gate, consumer)
            own = consumer.subscription.concurrency
            if (
                chosen is None
                or any(self._load.get(runner) for runner in gate.claim)
                or (own is not None and len(consumer.running) >= own)
                or gate.running >= max(self._limits.concurrency, own or 0)
            ):
                return
            gate.suspects.popleft()
            consumer.suspects -= 1
            gate.alone = attempt = self._attempt(consumer, delivery)
            attempt.condition_runner, attempt.runner = chosen
            self._begin(consumer, attempt)

    def _claim(self, gate: _Gate, consumer: _Consumer) -> tuple[Runner | None, Runner | None] | None:
        """Claim the workers on which its next suspect is to run, of condition and handler; None if others have claimed them.

        One that has nothing to do is preferred, then one that is claimed already, then one that has least to do.
        """
        chosen: dict[Function, Runner] = {}
        for namespace, name in self._functions(consumer):
            runners = self._host.runners(name, namespace)
            free = [runner for runner in runners if self._claims.get(runner, gate) is gate]
            if free:
                own = (*chosen.values(), *gate.claim)
                chosen[namespace, name] = min(free, key=lambda runner: self._preference(runner, own))
            elif runners:
                self._let_go(gate)
                return None
        claim = tuple(dict.fromkeys(chosen.values()))
        if claim != gate.claim:
            self._let_go(gate)
            gate.claim = claim
            self._claims.update(dict.fromkeys(claim, gate))
        return None if consumer.condition is None else chosen.get(consumer.condition), chosen.get(consumer.function)

    def _preference(self, runner: Runner, own: Container[Runner]) -> tuple[bool, bool, int]:
        load = self._load.get(runner, 0)
        return load > 0, runner not in own, load

    def _let_go(self, gate: _Gate) -> None:
        """Claim no worker any more: those that were kept waiting go on."""
        if not gate.claim:
            return
        for runner in gate.claim:
            del self._claims[runner]
        gate.claim = ()
        waiting, self._kept_waiting = self._kept_waiting, {}
        for consumer in waiting:
            self._schedule(consumer)

    def _after_suspect(self, gate: _Gate) -> None:
        """A suspect is done, or has been given back."""
        if gate.alone is None:
            self._let_go(gate)
        if not gate.suspects:
            self._suspicious.pop(gate, None)

    # -- one delivery

    def _start(self, consumer: _Consumer, delivery: Delivery) -> None:
        attempt = self._attempt(consumer, delivery)
        pick = self._host.pick
        namespace, function_id = consumer.function
        if consumer.condition is not None:
            attempt.condition_runner = pick(consumer.condition[1], namespace, self._claims)
        attempt.runner = pick(function_id, namespace, self._claims)
        self._begin(consumer, attempt)

    def _attempt(self, consumer: _Consumer, delivery: Delivery) -> _Attempt:
        delivery.begun = True
        return _Attempt(delivery, self._loop.time() + consumer.subscription.retry.timeout_ms / 1000)

    def _begin(self, consumer: _Consumer, attempt: _Attempt) -> None:
        delivery = attempt.delivery
        load = self._load
        if (runner := attempt.runner) is not None and runner.may_crash:
            load[runner] = load.get(runner, 0) + 1
        if (runner := attempt.condition_runner) is not None and runner.may_crash:
            load[runner] = load.get(runner, 0) + 1
        consumer.running[attempt] = None
        gate = consumer.gate
        gate.running += 1
        consumer.event_bytes = size = delivery.event.size
        gate.bytes += size
        if consumer.timer is None:
            self._arm(consumer)
        payload = delivery.event.payload()
        if consumer.condition is None:
            self._call(consumer, attempt, payload)
            return
        namespace, condition = consumer.condition
        answered = partial(self._condition_answered, consumer, attempt, payload)
        self._invoke(consumer, attempt, condition, namespace, payload, None, attempt.condition_runner, answered)

    def _condition_answered(self, consumer: _Consumer, attempt: _Attempt, payload: bytes, result: bytes | None) -> None:
        if result is not None and result.strip() == b"false":
            self._done(consumer, attempt)
        else:
            self._call_in_turn(consumer, attempt, payload)

    def _call_in_turn(self, consumer: _Consumer, attempt: _Attempt, payload: bytes) -> None:
        """Call the handler, when its worker takes more, unless it is too late then."""
        namespace, function_id = consumer.function
        go_on = partial(self._call_in_turn, consumer, attempt, payload)
        if attempt in consumer.running and self._host.takes_events(function_id, namespace, go_on):
            self._call(consumer, attempt, payload)

    def _call(self, consumer: _Consumer, attempt: _Attempt, payload: bytes) -> None:
        delivery = attempt.delivery
        if consumer.metadata_head is None:
            metadata = consumer.subscription.metadata
        else:
            metadata = b'%b"iii_state":{"event_id":"%b","attempt":%d,"fence":%d%b}}' % (
                consumer.metadata_head,
                delivery.event_id.encode(),
                delivery.attempt,
                delivery.fence,
                b',"crashes":%d' % delivery.crashes if delivery.crashes else b"",
            )
        namespace, function_id = consumer.function
        answered = partial(self._done, consumer, attempt)
        self._invoke(consumer, attempt, function_id, namespace, payload, metadata, attempt.runner, answered)

    def _invoke(
        self,
        consumer: _Consumer,
        attempt: _Attempt,
        function_id: str,
        namespace: str,
        payload: bytes,
        metadata: bytes | None,
        runner: Runner | None,
        answered: Callable[[bytes | None], None],
    ) -> None:
        try:
            answer = self._host.invoke(function_id, payload, namespace=namespace, metadata=metadata, runner=runner)
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
                self._failed(consumer, attempt, FunctionError(Code.INVOCATION_STOPPED, "the call was cancelled"))
            elif (error := future.exception()) is not None:
                self._failed(consumer, attempt, error)
            else:
                answered(future.result())

        answer.add_done_callback(settled)

    def _end(self, consumer: _Consumer, attempt: _Attempt) -> None:
        del consumer.running[attempt]
        gate = consumer.gate
        if self._load:
            self._unload(attempt.runner)
            self._unload(attempt.condition_runner)
        if gate.alone is attempt:
            gate.alone = None
            self._after_suspect(gate)
        gate.running -= 1
        gate.bytes -= attempt.delivery.event.size
        if not gate.running and consumer.function not in self._by_function:
            self._gates.pop(consumer.function, None)
        self._unblock(gate)
        self._schedule(consumer)

    def _unload(self, runner: Runner | None) -> None:
        if runner is not None and (load := self._load.get(runner)) is not None:
            if load > 1:
                self._load[runner] = load - 1
            else:
                del self._load[runner]

    def _unblock(self, gate: _Gate) -> None:
        while gate.blocked:
            blocked = gate.blocked.popleft()
            if blocked.hosted:
                self._schedule(blocked)
                break

    def _done(self, consumer: _Consumer, attempt: _Attempt, result: bytes | None = None) -> None:
        self._end(consumer, attempt)
        consumer.done.append(attempt.delivery)

    def _acknowledge(self, consumer: _Consumer) -> None:
        done, consumer.done = consumer.done, []
        idle = consumer.hosted and not self._stopping and not self._paused and not consumer.buffer
        want = 0
        if idle and not consumer.suspects and not consumer.waits and self._is_served(consumer):
            want = _within_bytes(consumer, self._limits.prefetch)
        self._settle(partial(self._adapter.queues.ack, done, want), partial(self._receive_more, consumer, want))

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
            failure = Failure(Code.INVOCATION_FAILED, words(error))
        unserved = failure.code == Code.FUNCTION_NOT_FOUND and not self._is_served(consumer)
        too_large = failure.code == Code.PAYLOAD_TOO_LARGE
        if isinstance(error, WorkerLost):
            self._crash(consumer, attempt)
        elif unserved or (isinstance(error, NotCarriedOut) and not too_large):
            begun = isinstance(error, NotCarriedOut) and error.begun
            self._settle(partial(self._adapter.queues.release, [delivery], begun=begun))
        elif final or isinstance(error, NotCarriedOut) or delivery.attempt >= consumer.subscription.retry.max_attempts:
            self._bury(consumer, delivery, failure)
        else:
            delay_ms = self._pause_ms(consumer, delivery.attempt)
            self._settle(partial(self._adapter.queues.retry, delivery, delay_ms, failure))

    def _bury(self, consumer: _Consumer, delivery: Delivery, failure: Failure) -> None:
        event = delivery.event
        logger.error(
            "%s: the event %s of %r %r is a dead letter after %d attempts: %s",
            *(consumer.function[1], delivery.event_id, event.scope, event.key, delivery.attempt, failure),
        )
        self._settle(partial(self._adapter.queues.dead_letter, delivery, failure))

    def _pause_ms(self, consumer: _Consumer, failures: int) -> int:
        policy = consumer.subscription.retry
        delay = min(policy.max_backoff_ms, policy.backoff_ms * 2 ** min(failures - 1, 30))
        return int(delay * random.uniform(0.5, 1.0))

    # -- crashes

    def _crash(self, consumer: _Consumer, attempt: _Attempt) -> None:
        """Its worker went away in mid-call. The first time others may have been the cause, later it was alone there."""
        delivery = attempt.delivery
        alone = delivery.crashes
        if alone >= consumer.subscription.retry.max_attempts:
            about = f"its worker went away in mid-call {alone + 1} times, the last {alone} with this event alone"
            self._bury(consumer, delivery, Failure(Code.WORKER_LOST, about))
            return
        if not self._crashed:
            self._loop.call_soon(self._tell_of_crashes)  # behind all that the same worker leaves
        self._crashed.setdefault(attempt.runner, []).append((consumer, delivery))
        failure = Failure(Code.WORKER_LOST, "its worker went away in mid-call")
        delay_ms = self._pause_ms(consumer, alone + 1)
        self._settle(partial(self._adapter.queues.retry, delivery, delay_ms, failure, crashed=True))

    def _tell_of_crashes(self) -> None:
        crashed, self._crashed = self._crashed, {}
        for runner, broken_off in crashed.items():
            worker = "a worker" if runner is None or not runner.name else f"worker {runner.name}"
            consumer, delivery = broken_off[0]
            if len(broken_off) == 1:
                event = delivery.event
                what = f"the event {delivery.event_id} of {event.scope!r} {event.key!r} for {consumer.function[1]}"
            else:
                functions = Counter(consumer.function[1] for consumer, _ in broken_off)
                what = f"{len(broken_off)} events ({', '.join(f'{name}: {count}' for name, count in functions.items())})"
            logger.warning("%s broke off %s in mid-call: delivered again after a pause, each alone", worker, what)

    # -- time limits

    def _arm(self, consumer: _Consumer) -> None:
        deadline = min((attempt.deadline for attempt in consumer.running), default=None)
        consumer.timer = None if deadline is None else self._loop.call_at(deadline, self._expire, consumer)

    def _expire(self, consumer: _Consumer) -> None:
        now = self._loop.time()
        late = now - min((attempt.deadline for attempt in consumer.running), default=now)
        if late > LATE_SECONDS:  # this process did not run: answers may lie in its sockets, unread
            for attempt in consumer.running:
                attempt.deadline += late
        for attempt in [attempt for attempt in consumer.running if attempt.deadline <= now]:
            timeout = consumer.subscription.retry.timeout_ms
            if attempt.waiting_for is not None and self._host.is_on_its_way(attempt.waiting_for):
                attempt.deadline = now + timeout / 1000  # its time begins when its worker has the event
                continue
            if attempt.waiting_for is not None:
                attempt.waiting_for.cancel()
            self._failed(consumer, attempt, FunctionError(Code.TIMEOUT, f"the handler has not answered within {timeout} ms"))
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
        self._why_unsettled = str(error)
        if not self._stopping and self._loop.time() >= self._quiet_until:
            self._quiet_until = self._loop.time() + QUIET_SECONDS
            logger.error("%s; asking again every %s s", error, ADAPTER_RETRY_SECONDS)
        self._unsettled += 1

        def again() -> None:
            self._unsettled -= 1
            self._settle(ask, answered)

        self._loop.call_later(ADAPTER_RETRY_SECONDS, again)


def _within_bytes(consumer: _Consumer, count: int) -> int:
    """How many deliveries to take, of up to `count`."""
    size = consumer.event_bytes
    return max(1, min(count, MAX_TAKEN_BYTES // size)) if size else min(count, FIRST_TAKEN)


def _metadata_head(metadata: bytes | None) -> bytes | None:
    if metadata is None:
        return b"{"
    if not metadata.lstrip().startswith(b"{"):
        return None
    members = {name: text for name, text in values.members(metadata).items() if name != "iii_state"}
    return values.compact_members(members)[:-1] + (b"," if members else b"")
