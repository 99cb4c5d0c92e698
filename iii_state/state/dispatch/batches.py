"""Gathers the events that a handler is called with together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec

from iii_state import values
from iii_state.events import Change, Delivery, Payload
from iii_state.state.dispatch.consumers import Consumer
from iii_state.state.dispatch.schedule import Context
from iii_state.state.dispatch.settling import Settling

MAX_BATCH_BYTES = 1024 * 1024
"""A batch of so many bytes waits for no further event."""


class _Answer(msgspec.Struct):
    failed: list[str]


_answer = msgspec.json.Decoder(_Answer)


class Batches:
    """What waits, at each consumer, for others to be handed out together with it."""

    def __init__(self, context: Context, settling: Settling) -> None:
        self._loop = context.loop
        self._queues = context.adapter.queues
        self._schedule = context.schedule
        self._settling = settling

    def add(self, consumer: Consumer, delivery: Delivery) -> None:
        """One more event is to be handed out: its condition has said yes, or it has none."""
        batch = consumer.subscription.batch
        if batch is None or self._schedule.is_stopping or not consumer.hosted:
            self._settling.settle(partial(self._queues.release, [delivery]))
            return
        consumer.gathered.append(delivery)
        if consumer.gathering is None and batch.wait_ms:
            consumer.gathering = self._loop.call_later(batch.wait_ms / 1000, self._waited, consumer)
        self._schedule.add(consumer)

    def _waited(self, consumer: Consumer) -> None:
        consumer.has_waited = True
        self._schedule.add(consumer)

    def is_due(self, consumer: Consumer) -> bool:
        """Whether what has been gathered waits for nothing more."""
        batch = consumer.subscription.batch
        if not consumer.gathered:
            return False
        if batch is None or consumer.has_waited or len(consumer.gathered) >= batch.max:
            return True
        if not batch.wait_ms and not consumer.buffer:
            return True
        return sum(delivery.event.size for delivery in consumer.gathered) >= MAX_BATCH_BYTES

    def next_batch(self, consumer: Consumer) -> list[Delivery]:
        """What is handed out together now; nothing where another engine may have all of it by now."""
        batch = consumer.subscription.batch
        most = 1 if batch is None else batch.max
        gathered, consumer.gathered = consumer.gathered[:most], consumer.gathered[most:]
        self.stop_waiting(consumer)
        if consumer.gathered and batch is not None and batch.wait_ms:
            consumer.gathering = self._loop.call_later(batch.wait_ms / 1000, self._waited, consumer)
        held = [delivery for delivery in gathered if self._queues.holds(delivery)]
        if len(held) < len(gathered):
            lost = [delivery for delivery in gathered if delivery not in held]
            self._settling.settle(partial(self._queues.release, lost))
            consumer.more = True
        return held

    @staticmethod
    def stop_waiting(consumer: Consumer) -> None:
        """Nothing waits any more."""
        consumer.has_waited = False
        if consumer.gathering is not None:
            consumer.gathering.cancel()
            consumer.gathering = None


def event_payload(event: Change, payload: Payload) -> bytes:
    """An event as a handler is called with it."""
    return event.payload() if payload == "full" else event.payload_without(True, payload == "keys")


def batch_payload(deliveries: Sequence[Delivery], payload: Payload, tells_dropped: bool = False) -> bytes:
    """What a handler is called with for several events. Where that is asked for, how many events had been dropped before each."""
    rows = [
        b'{"event":%b,"event_id":%b,"attempt":%d,"fence":%d%b}'
        % (
            event_payload(each.event, payload),
            values.encode_string(each.event_id),
            each.attempt,
            each.fence,
            b',"dropped":%d' % each.dropped if tells_dropped and each.dropped else b"",
        )
        for each in deliveries
    ]
    return b'{"type":"state:batch","events":[%b]}' % b",".join(rows)


def failed_ids(result: bytes | None) -> frozenset[str]:
    """The ids of the events that the handler of a batch says have failed; none for any answer that does not say so."""
    try:
        return frozenset(_answer.decode(result or b"null").failed)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return frozenset()
