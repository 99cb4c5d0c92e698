"""Room for an event in queues that are full: their oldest events are dropped, or they end, where their engine is gone."""

from __future__ import annotations

import logging

import msgspec

from iii_state.adapters.redis.connection.call import RedisCall, Reply
from iii_state.adapters.redis.keys import lane
from iii_state.adapters.redis.mutations.fanout import Fanout
from iii_state.adapters.redis.mutations.route import Route
from iii_state.adapters.redis.scripts.packing import pack
from iii_state.adapters.redis.scripts.queues import drop_oldest
from iii_state.adapters.redis.scripts.subscriptions import end_subscription

logger = logging.getLogger(__name__)

Victim = tuple[bytes, bytes, bytes]
"""Scope, key and lane of what is dropped next."""


class Room:
    """What one mutation has found out while it makes room. `place` is its own scope, key and lane, where dropping begins."""

    def __init__(self, fanout: Fanout, place: Victim) -> None:
        self.unbounded: set[bytes] = set()
        """Queues in which nothing is left to drop."""
        self.scripts = fanout.scripts
        self._fanout = fanout
        self._place = place
        self._victims: dict[bytes, Victim] = {}
        self._tried: set[bytes] = set()
        """Queues that had to end, if their engine is gone."""

    def may_end(self, queue: bytes) -> bool:
        """Whether a full queue is that of one engine alone, which nobody else ever serves (of a trigger with the delivery
        `broadcast`), and has not been tried yet."""
        is_new = b"-" in queue and queue not in self._tried
        self._tried.add(queue)
        return is_new

    def drop_oldest(self, queue: bytes, route: Route, size: int, events: int = 1) -> RedisCall[None]:
        """The call that drops what is oldest, until so many events of so many bytes have room or another victim is needed."""
        return DropOldest(self, queue, route, size, events)

    def arguments(self, queue: bytes, route: Route, size: int, events: int) -> list[bytes]:
        """Those of the script."""
        victim = self._victims.pop(queue, None) or self._place
        limits = route.limits(self._fanout.limits)
        if events > 1:
            limits = msgspec.structs.replace(limits, max_queue_length=max(1, limits.max_queue_length - events + 1))
        return drop_oldest(self._fanout.keys, queue, *victim, limits, size)

    def dropped(self, queue: bytes, function_id: str, reply: Reply) -> None:
        """Take on what the script has done."""
        match reply:
            case [b"NEED", bytes(scope), bytes(key), _]:
                self._victims[queue] = (scope, key, lane(scope, key))
            case [b"LANE", bytes(name), _]:
                self._victims[queue] = (b"", b"", name)
            case [b"NONE", _]:
                self.unbounded.add(queue)
            case _:
                pass
        if reply[-1]:
            self._fanout.dropped(queue, function_id, reply[-1])


class DropOldest(RedisCall[None]):
    """Drops the oldest events of a full queue."""

    __slots__ = ("_function_id", "_packet", "_queue", "_room")

    def __init__(self, room: Room, queue: bytes, route: Route, size: int, events: int) -> None:
        super().__init__()
        self._room = room
        self._queue = queue
        self._function_id = route.function_id
        self._packet = pack((b"EVALSHA", room.scripts.of("queues/drop_oldest").sha1, *room.arguments(queue, route, size, events)))

    def command(self, session: bytes, epoch: int) -> bytes:
        return self._packet

    def result(self, reply: Reply) -> None:
        self._room.dropped(self._queue, self._function_id, reply)


class EndOrphan(RedisCall[None]):
    """Ends the full queue of an engine that is gone: no write is to be refused for it."""

    __slots__ = ("_fanout", "_function_id", "_queue")

    def __init__(self, fanout: Fanout, queue: bytes, function_id: str) -> None:
        super().__init__()
        self._fanout = fanout
        self._queue = queue
        self._function_id = function_id

    def command(self, session: bytes, epoch: int) -> bytes:
        call = end_subscription(self._fanout.keys, self._queue, is_full=True)
        return pack((b"EVALSHA", self._fanout.scripts.of("subscriptions/end").sha1, *call))

    def result(self, reply: Reply) -> None:
        if reply == b"ENDED":
            logger.warning("the queue of %s, of an engine that is gone, is full: it is removed", self._function_id)
