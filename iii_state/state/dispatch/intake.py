"""Takes deliveries from queues ahead of their handlers, and gives back what cannot be handed out."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from iii_state.errors import StoreError
from iii_state.events import Delivery
from iii_state.state.dispatch.batches import Batches
from iii_state.state.dispatch.consumers import Consumer
from iii_state.state.dispatch.isolation import Isolation
from iii_state.state.dispatch.schedule import Context
from iii_state.state.dispatch.settling import Settling
from iii_state.wire.quiet_log import QuietLog

_quiet = QuietLog(logging.getLogger(__name__))

GIVE_BACK_SECONDS = 1.0
"""What has been taken for a worker that takes nothing for so long is given back: another engine may have one that does."""


class Intake:
    """Fills the consumers' buffers from their queues."""

    def __init__(self, context: Context, isolation: Isolation, settling: Settling) -> None:
        self._context = context
        self._host = context.host
        self._schedule = context.schedule
        self._isolation = isolation
        self._settling = settling

    def take(self, consumer: Consumer, count: int) -> bool:
        """Take up to so many deliveries. Whether they are there now; if not, the consumer is scheduled when they are."""
        wanted = consumer.within_bytes(count)
        consumer.more = False  # a wake-up that comes before the reply is read is not about what that holds
        try:
            taken = self._context.adapter.queues.take(consumer.subscription.id, wanted)
        except StoreError as error:
            self._take_failed(consumer, error)
            return False
        if isinstance(taken, asyncio.Future):
            consumer.taking = True
            taken.add_done_callback(partial(self._taken, consumer, wanted))
            return False
        consumer.more |= len(taken) >= wanted
        consumer.buffer.extend(taken)
        return True

    def _taken(self, consumer: Consumer, wanted: int, reply: asyncio.Future[list[Delivery]]) -> None:
        consumer.taking = False
        if reply.cancelled():
            return
        error = reply.exception()
        if error is not None:
            self._take_failed(consumer, error)
            return
        self.receive(consumer, wanted, reply.result())

    def _take_failed(self, consumer: Consumer, error: BaseException) -> None:
        function_id = consumer.function[1]
        _quiet.warning("cannot take events for %s: %s; trying again", function_id, error, ids={"function_id": function_id})
        self._schedule.wake_later(consumer)

    def receive(self, consumer: Consumer, wanted: int, deliveries: list[Delivery]) -> None:
        """Put deliveries into the buffer. Fewer than were wanted are all there were: a wake-up tells of the next."""
        consumer.more |= len(deliveries) >= wanted
        consumer.buffer.extend(deliveries)
        if self._schedule.is_stopping or not consumer.hosted or not consumer.is_served(self._host):
            self.give_back(consumer)
        else:
            self._schedule.add(consumer)

    def give_back(self, consumer: Consumer) -> None:
        """Release all that was taken and has not begun."""
        held = [*consumer.gathered, *consumer.buffer]
        consumer.gathered.clear()
        Batches.stop_waiting(consumer)
        consumer.buffer.clear()
        held += self._isolation.withdraw(consumer)
        if held:
            self._settling.settle(partial(self._context.adapter.queues.release, held))

    # --- workers that read slowly

    def waits(self, consumer: Consumer) -> bool:
        """Whether the worker that is to be called has still to read what it was sent; the consumer is scheduled when it has."""
        if consumer.waits:
            return True
        namespace, function_id = consumer.condition or consumer.function
        if self._host.takes_events(function_id, namespace, consumer.go_on):
            return False
        consumer.waits = True
        if consumer.buffer:
            consumer.giving_back = self._context.loop.call_later(GIVE_BACK_SECONDS, self._give_back_unread, consumer)
        return True

    def worker_takes_more(self, consumer: Consumer) -> None:
        """The worker has read what it was sent, or is gone."""
        consumer.waits = False
        if consumer.giving_back is not None:
            consumer.giving_back.cancel()
            consumer.giving_back = None
        self._schedule.add(consumer)

    def _give_back_unread(self, consumer: Consumer) -> None:
        consumer.giving_back = None
        consumer.more = True
        self.give_back(consumer)
