"""Room for an event in queues that are full: their oldest events are dropped, or they end, where their engine is gone."""

from __future__ import annotations

import logging

from iii_state.adapters.redis.connection.call import RedisCall, Reply
from iii_state.adapters.redis.mutations.fanout import Fanout
from iii_state.adapters.redis.mutations.full_queues import Victim
from iii_state.adapters.redis.mutations.route import Route
from iii_state.adapters.redis.scripts.packing import pack
from iii_state.adapters.redis.scripts.subscriptions import AT_ONCE, end_subscription

logger = logging.getLogger(__name__)


class Room:
    """What one mutation has found out while it makes room. `place` is its own scope, key and lane, where dropping begins."""

    def __init__(self, fanout: Fanout, place: Victim) -> None:
        self.unbounded: set[bytes] = set()
        """Queues in which nothing is left to drop."""
        self._fanout = fanout
        self._place = place
        self._tried: set[bytes] = set()
        """Queues that had to end, if their engine is gone."""

    def may_end(self, queue: bytes) -> bool:
        """Whether a full queue is that of one engine alone, which nobody else ever serves (of a trigger with the delivery
        `broadcast`), and has not been tried yet."""
        is_new = b"-" in queue and queue not in self._tried
        self._tried.add(queue)
        return is_new

    def drop_oldest(self, queue: bytes, route: Route, size: int, events: int = 1) -> RedisCall[None]:
        """The call that drops what is oldest, until so many events of so many bytes have room or other victims are needed. It is
        the same for all mutations that were refused together."""
        call = self._fanout.full_queues.call_of(queue, route.function_id, route.limits(self._fanout.limits))
        call.make_room(events, size, self._place, self.unbounded, coalesces=route.coalesce)
        return call


class EndOrphan(RedisCall[None]):
    """Ends the full queue of an engine that is gone: no write is to be refused for it."""

    __slots__ = ("_fanout", "_function_id", "_queue")

    def __init__(self, fanout: Fanout, queue: bytes, function_id: str) -> None:
        super().__init__()
        self._fanout = fanout
        self._queue = queue
        self._function_id = function_id

    def command(self, session: bytes, epoch: int) -> bytes:
        call = end_subscription(self._fanout.keys, self._queue, early=AT_ONCE)
        return pack((b"EVALSHA", self._fanout.scripts.of("subscriptions/end").sha1, *call))

    def result(self, reply: Reply) -> None:
        if reply == b"ENDED":
            logger.warning("the queue of %s, of an engine that is gone, is full: it is removed", self._function_id)
