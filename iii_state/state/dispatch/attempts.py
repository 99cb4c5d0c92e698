"""Runs attempts: calls the condition and the handler of an event, and ends what takes too long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

from iii_state import lineages
from iii_state.errors import Code, FunctionError, NotCarriedOut
from iii_state.events import Change, Delivery
from iii_state.host import Runner
from iii_state.state.dispatch.batches import Batches, batch_payload, event_payload, failed_ids
from iii_state.state.dispatch.consumers import Attempt, Capacity, Consumer
from iii_state.state.dispatch.isolation import Isolation
from iii_state.state.dispatch.loops import Loops
from iii_state.state.dispatch.outcomes import Outcomes
from iii_state.state.dispatch.schedule import Context
from iii_state.state.dispatch.tallies import TIMED
from iii_state.tasks.awake import LATE_SECONDS


class Attempts:
    """Starts attempts, and tells `outcomes` how each of them ends."""

    def __init__(self, context: Context, isolation: Isolation, outcomes: Outcomes, loops: Loops, batches: Batches) -> None:
        self._host = context.host
        self._loop = context.loop
        self._schedule = context.schedule
        self._isolation = isolation
        self._outcomes = outcomes
        self._loops = loops
        self._batches = batches
        self._tracing = context.tracing

    def start(self, consumer: Consumer, delivery: Delivery) -> None:
        """Hand a delivery to the workers whose turn it is."""
        attempt = self._attempt(consumer, delivery)
        pick = self._host.pick
        claims = self._isolation.claims
        namespace, function_id = consumer.function
        if consumer.condition is not None:
            attempt.condition_runner = pick(consumer.condition[1], namespace, claims)
        attempt.runner = pick(function_id, namespace, claims)
        self._begin(attempt)

    def start_batch(self, consumer: Consumer, deliveries: list[Delivery]) -> None:
        """Hand out several deliveries together, whose conditions have said yes."""
        for delivery in deliveries:
            delivery.begun = True
        attempt = self._attempt(consumer, deliveries[0])
        attempt.batch = deliveries
        namespace, function_id = consumer.function
        attempt.runner = self._host.pick(function_id, namespace, self._isolation.claims)
        self._begin(attempt)

    def start_alone(self, consumer: Consumer, delivery: Delivery, condition_runner: Runner | None, runner: Runner | None) -> None:
        """Hand the next suspect to the workers that have been chosen for it."""
        attempt = self._attempt(consumer, delivery)
        self._isolation.begin_alone(attempt)
        attempt.condition_runner, attempt.runner = condition_runner, runner
        self._begin(attempt)

    def _attempt(self, consumer: Consumer, delivery: Delivery) -> Attempt:
        delivery.begun = True
        return Attempt(consumer, delivery, self._loop.time() + consumer.subscription.retry.timeout_ms / 1000)

    def _begin(self, attempt: Attempt) -> None:
        consumer, event = attempt.consumer, attempt.delivery.event
        self._isolation.begin(attempt)
        consumer.running[attempt] = None
        capacity = consumer.capacity
        capacity.running += 1
        capacity.tally.started = number = capacity.tally.started + 1
        if not number & TIMED:
            attempt.began = time.perf_counter()
        consumer.event_bytes = attempt.size = event.size
        if attempt.batch:
            attempt.size = sum(delivery.event.size for delivery in attempt.batch)
            event = max((delivery.event for delivery in attempt.batch), key=_hops)
        capacity.bytes += attempt.size
        if consumer.timer is None:
            self._arm(consumer)
        attempt.payload = event_payload(event, consumer.subscription.payload)
        if self._tracing is None:
            attempt.trace, attempt.remembered = lineages.delivery_members(event.lineage)
        else:
            attempt.span = span = self._tracing.begin(consumer.function[1], attempt.deliveries, event)
            attempt.trace, attempt.remembered = span.trace, span.remembered
        if attempt.remembered is not None:
            lineages.begin(*attempt.remembered)
        self._loops.begin(attempt)
        if consumer.condition is None or attempt.batch:
            self._call(attempt)
            return
        namespace, condition = consumer.condition
        self._invoke(attempt, condition, namespace, None, attempt.condition_runner, self._condition_answered)

    def _condition_answered(self, attempt: Attempt, result: bytes | None) -> None:
        if result is not None and result.strip() == b"false":
            attempt.consumer.capacity.tally.skipped += 1
            self._done(attempt)
        else:
            self._call_in_turn(attempt)

    def _call_in_turn(self, attempt: Attempt) -> None:
        """Call the handler, when its worker takes more, unless it is too late then."""
        consumer = attempt.consumer
        if consumer.subscription.batch is not None and not self._isolation.is_alone(attempt):
            if attempt in consumer.running:
                self._end(attempt)
                self._batches.add(consumer, attempt.delivery)
            return
        namespace, function_id = consumer.function
        go_on = partial(self._call_in_turn, attempt)
        if attempt in attempt.consumer.running and self._host.takes_events(function_id, namespace, go_on):
            self._call(attempt)

    def _call(self, attempt: Attempt) -> None:
        consumer, delivery = attempt.consumer, attempt.delivery
        if consumer.subscription.batch is not None:
            attempt.batch = attempt.batch or [delivery]
            attempt.payload = batch_payload(attempt.batch, consumer.subscription.payload)
            metadata = consumer.subscription.metadata
        elif consumer.metadata_head is None:
            metadata = consumer.subscription.metadata
        else:
            tells_dropped = delivery.dropped and consumer.subscription.on_full == "drop_oldest"
            metadata = b'%b"iii_state":{"event_id":"%b","attempt":%d,"fence":%d%b%b}}' % (
                consumer.metadata_head,
                delivery.event_id.encode(),
                delivery.attempt,
                delivery.fence,
                b',"crashes":%d' % delivery.crashes if delivery.crashes else b"",
                b',"dropped":%d' % delivery.dropped if tells_dropped else b"",
            )
        namespace, function_id = consumer.function
        self._invoke(attempt, function_id, namespace, metadata, attempt.runner, self._done)

    def _invoke(
        self,
        attempt: Attempt,
        function_id: str,
        namespace: str,
        metadata: bytes | None,
        runner: Runner | None,
        answered: Callable[[Attempt, bytes | None], None],
    ) -> None:
        invoke = self._host.invoke if attempt.span is None else attempt.span.within(self._host.invoke)
        try:
            answer = invoke(
                function_id, attempt.payload, namespace=namespace, metadata=metadata, runner=runner, trace=attempt.trace
            )
        except Exception as error:
            self._failed(attempt, error)
            return
        if not isinstance(answer, asyncio.Future):
            answered(attempt, answer)
            return
        attempt.waiting_for = answer
        answer.add_done_callback(partial(self._answered, attempt, answered))

    def _answered(
        self, attempt: Attempt, answered: Callable[[Attempt, bytes | None], None], answer: asyncio.Future[bytes | None]
    ) -> None:
        if attempt not in attempt.consumer.running:  # timed out or stopped meanwhile
            answer.cancelled() or answer.exception()
        elif answer.cancelled():
            self._failed(attempt, FunctionError(Code.INVOCATION_STOPPED, "the call was cancelled"))
        elif (error := answer.exception()) is not None:
            self._failed(attempt, error)
        else:
            answered(attempt, answer.result())

    # --- the end of an attempt

    def _done(self, attempt: Attempt, result: bytes | None = None) -> None:
        failed = failed_ids(result) if attempt.batch else ()
        self._end(attempt, FunctionError(Code.INVOCATION_FAILED, f"{len(failed)} of its events have failed") if failed else None)
        if attempt.batch:
            for each in attempt.each():
                if each.delivery.event_id in failed:
                    self._outcomes.failed(each, FunctionError(Code.INVOCATION_FAILED, "its handler says that it has failed"))
                else:
                    self._outcomes.done(each)
        else:
            self._outcomes.done(attempt)

    def _failed(self, attempt: Attempt, error: BaseException) -> None:
        self._end(attempt, error)
        if len(attempt.batch) > 1 and isinstance(error, NotCarriedOut) and error.code == Code.PAYLOAD_TOO_LARGE:
            for delivery in attempt.batch:  # they may be so only together
                self.start_batch(attempt.consumer, [delivery])
            return
        for each in attempt.each():
            self._outcomes.failed(each, error)

    def stop(self, attempt: Attempt) -> None:
        """Wait for an attempt no longer; it has no outcome."""
        self._end(attempt)
        if attempt.waiting_for is not None:
            attempt.waiting_for.cancel()

    def _end(self, attempt: Attempt, error: BaseException | None = None) -> None:
        consumer = attempt.consumer
        del consumer.running[attempt]
        if attempt.span is not None:
            attempt.span.end(error)
        capacity = consumer.capacity
        self._isolation.end(attempt)
        self._loops.end(attempt)
        if attempt.remembered is not None:
            lineages.end(*attempt.remembered)
        capacity.tally.ended += 1
        if attempt.began:
            capacity.tally.durations.add(time.perf_counter() - attempt.began)
        capacity.running -= 1
        capacity.bytes -= attempt.size
        if capacity.blocked:
            self.unblock(capacity)
        self._schedule.add(consumer)

    def unblock(self, capacity: Capacity) -> None:
        """There is a place: the first of those that wait for one goes on."""
        while capacity.blocked:
            blocked = capacity.blocked.popleft()
            if blocked.hosted:
                self._schedule.add(blocked)
                break

    # --- time limits

    def _arm(self, consumer: Consumer) -> None:
        deadline = min((attempt.deadline for attempt in consumer.running), default=None)
        consumer.timer = None if deadline is None else self._loop.call_at(deadline, self._expire, consumer)

    def _expire(self, consumer: Consumer) -> None:
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
            self._failed(attempt, FunctionError(Code.TIMEOUT, f"the handler has not answered within {timeout} ms"))
        self._arm(consumer)


def _hops(event: Change) -> int:
    return -1 if event.lineage is None else event.lineage.hops
