"""What becomes of an event after an attempt: acknowledged, tried again, given back, or a dead letter."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable
from functools import partial

from iii_state.errors import Code, FunctionError, NotCarriedOut, WorkerLost, words
from iii_state.events import Delivery, Failure
from iii_state.host import Runner
from iii_state.state.dispatch.consumers import Attempt, Consumer
from iii_state.state.dispatch.schedule import Context
from iii_state.state.dispatch.settling import Settling
from iii_state.wire.quiet_log import QuietLog

logger = logging.getLogger(__name__)
_dead_letters = QuietLog(logger, burst=100)


class Outcomes:
    """Decides what becomes of each event, and has it written."""

    def __init__(self, context: Context, settling: Settling) -> None:
        self._context = context
        self._host = context.host
        self._settling = settling
        self._crashed: dict[Runner | None, list[Attempt]] = {}
        """What is still to be told of in the log."""

    def done(self, attempt: Attempt) -> None:
        """The handler has returned, or its condition has said no: the event is acknowledged with the next ones of its consumer."""
        consumer = attempt.consumer
        consumer.capacity.tally.done += 1
        self.finish(consumer, attempt.delivery)

    def finish(self, consumer: Consumer, delivery: Delivery) -> None:
        """Nothing of an event is left to be done. What follows it in its lane may start now."""
        delivery.returned = True
        consumer.done.append(delivery)
        following, delivery.following = delivery.following, None
        if following is None:
            return
        if self._context.schedule.is_stopping or not consumer.hosted or not consumer.is_served(self._host):
            self._settling.settle(partial(self._context.adapter.queues.release, [following]))
        else:
            consumer.buffer.appendleft(following)

    def acknowledge(self, consumer: Consumer, want: int, received: Callable[[list[Delivery]], None]) -> None:
        """Acknowledge all that is done, and ask for up to `want` further deliveries in the same call."""
        done, consumer.done = consumer.done, []
        self._settling.settle(partial(self._context.adapter.queues.ack, done, want, ahead=True), received)

    def release(self, attempt: Attempt) -> None:
        """Give back an event whose handler may still be running."""
        attempt.consumer.capacity.tally.returned += len(attempt.deliveries)
        self._settling.settle(partial(self._context.adapter.queues.release, attempt.deliveries, begun=True))

    def failed(self, attempt: Attempt, error: BaseException) -> None:
        """The condition or the handler has failed, or could not be called."""
        consumer, delivery = attempt.consumer, attempt.delivery
        queues = self._context.adapter.queues
        final = False
        if isinstance(error, FunctionError):
            failure, final = Failure(error.code, error.message), error.final
        else:
            failure = Failure(Code.INVOCATION_FAILED, words(error))
        unserved = failure.code == Code.FUNCTION_NOT_FOUND and not consumer.is_served(self._host)
        too_large = failure.code == Code.PAYLOAD_TOO_LARGE
        if isinstance(error, WorkerLost):
            self._crash(attempt)
        elif unserved or (isinstance(error, NotCarriedOut) and not too_large):
            begun = isinstance(error, NotCarriedOut) and error.begun
            consumer.capacity.tally.returned += 1
            self._settling.settle(partial(queues.release, [delivery], begun=begun))
        elif final or isinstance(error, NotCarriedOut) or delivery.attempt >= consumer.subscription.retry.max_attempts:
            self.refuse(consumer, delivery, failure)
        else:
            consumer.capacity.tally.retried += 1
            self._settling.settle(partial(queues.retry, delivery, _pause_ms(consumer, delivery.attempt), failure))

    def refuse(self, consumer: Consumer, delivery: Delivery, failure: Failure) -> None:
        """It is to be called with this event no more: a dead letter."""
        event = delivery.event
        consumer.capacity.tally.dead += 1
        _dead_letters.error(
            "%s: the event %s of %r %r is a dead letter after %d attempts: %s",
            *(consumer.function[1], delivery.event_id, event.scope, event.key, delivery.attempt, failure),
            ids={
                "function_id": consumer.function[1],
                "event_id": delivery.event_id,
                "scope": event.scope,
                "key": event.key,
                "attempt": delivery.attempt,
                "code": failure.code,
            },
        )
        self._settling.settle(partial(self._context.adapter.queues.dead_letter, delivery, failure))

    # --- crashes

    def _crash(self, attempt: Attempt) -> None:
        """Its worker went away in mid-call. The first time others may have been the cause, later it was alone there."""
        consumer, delivery = attempt.consumer, attempt.delivery
        alone = delivery.crashes
        if alone >= consumer.subscription.retry.max_attempts:
            about = f"its worker went away in mid-call {alone + 1} times, the last {alone} with this event alone"
            self.refuse(consumer, delivery, Failure(Code.WORKER_LOST, about))
            return
        consumer.capacity.tally.crashed += 1
        if not self._crashed:
            self._context.loop.call_soon(self._tell_of_crashes)  # behind all that the same worker leaves
        self._crashed.setdefault(attempt.runner, []).append(attempt)
        failure = Failure(Code.WORKER_LOST, "its worker went away in mid-call")
        delay_ms = _pause_ms(consumer, alone + 1)
        self._settling.settle(partial(self._context.adapter.queues.retry, delivery, delay_ms, failure, crashed=True))

    def _tell_of_crashes(self) -> None:
        crashed, self._crashed = self._crashed, {}
        for runner, broken_off in crashed.items():
            worker = "a worker" if runner is None or not runner.name else f"worker {runner.name}"
            first = broken_off[0]
            if len(broken_off) == 1:
                event = first.delivery.event
                what = f"the event {first.delivery.event_id} of {event.scope!r} {event.key!r} for {first.consumer.function[1]}"
            else:
                functions = Counter(attempt.consumer.function[1] for attempt in broken_off)
                what = f"{len(broken_off)} events ({', '.join(f'{name}: {count}' for name, count in functions.items())})"
            logger.warning("%s broke off %s in mid-call: delivered again after a pause, each alone", worker, what)


def _pause_ms(consumer: Consumer, failures: int) -> int:
    policy = consumer.subscription.retry
    delay = min(policy.max_backoff_ms, policy.backoff_ms * 2 ** min(failures - 1, 30))
    return int(delay * random.uniform(0.5, 1.0))
