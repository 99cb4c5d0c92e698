"""Queues that are full and drop their oldest events: one call drops for all mutations that were refused together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from iii_state.adapters.redis.connection.call import RedisCall, Reply
from iii_state.adapters.redis.keys import Keys, lane
from iii_state.adapters.redis.scripts.loader import Scripts
from iii_state.adapters.redis.scripts.packing import pack
from iii_state.adapters.redis.scripts.queues import drop_oldest
from iii_state.events import QueueLimits

NAMED_AT_ONCE = 200
"""So many lanes take part in one call."""

AHEAD = 50
"""So many events more are dropped than have to be, a twentieth of the room at most: the next writes find room at once."""

Victim = tuple[bytes, bytes, bytes]
"""Scope, key and lane of what is dropped next."""


class FullQueues:
    """What is dropped next of each. `dropped` is told of a queue, and how many events of a function that were."""

    def __init__(self, keys: Keys, scripts: Scripts, dropped: Callable[[bytes, str, int], None]) -> None:
        self.keys = keys
        self.scripts = scripts
        self.dropped = dropped
        self.victims: dict[bytes, list[Victim]] = {}
        """By queue: those that have been ready for longest, as far as is known."""
        self.waiting: dict[bytes, Victim] = {}
        """By queue: the lane whose first waiting event goes next, where nothing is ready."""
        self._calls: dict[bytes, DropOldest] = {}

    def call_of(self, queue: bytes, function_id: str, limits: QueueLimits) -> DropOldest:
        """The call that is going to drop events of a queue: a mutation that needs room there says so (`DropOldest.make_room`)."""
        call = self._calls.get(queue)
        if call is None or call.was_sent:
            call = self._calls[queue] = DropOldest(self, queue, function_id, limits)
        return call

    def over(self, call: DropOldest) -> None:
        """A call has been answered."""
        if self._calls.get(call.queue) is call:
            del self._calls[call.queue]


class DropOldest(RedisCall[None]):
    """Drops the oldest events of a full queue, as many as all that wait for it need."""

    __slots__ = (
        "_events",
        "_function_id",
        "_largest",
        "_limits",
        "_owner",
        "_places",
        "_size",
        "_unbounded",
        "queue",
        "was_sent",
    )

    def __init__(self, owner: FullQueues, queue: bytes, function_id: str, limits: QueueLimits) -> None:
        super().__init__()
        self.queue = queue
        self.was_sent = False
        self._owner = owner
        self._function_id = function_id
        self._limits = limits
        self._events = self._size = self._largest = 0
        self._places: dict[Victim, None] = {}
        self._unbounded: list[set[bytes]] = []

    def make_room(self, events: int, size: int, place: Victim, unbounded: set[bytes], *, coalesces: bool) -> None:
        """So many events more, of so many bytes, are to find room, which are of `place`: dropping begins there if nothing is ready.
        Of a queue that `coalesces`, those of one lane become one. It is added to `unbounded` where nothing is left to drop."""
        if not coalesces or place not in self._places:
            self._events += events
        self._places[place] = None
        self._size += size
        self._largest = max(self._largest, size)
        self._unbounded.append(unbounded)

    def command(self, session: bytes, epoch: int) -> bytes:
        self.was_sent = True
        owner, limits = self._owner, self._limits
        events = min(self._events, limits.max_queue_length)
        size = min(self._size, max(self._largest, limits.max_queue_bytes))
        first = owner.waiting.get(self.queue) or next(iter(self._places))
        lanes = list(dict.fromkeys((first, *owner.victims.get(self.queue, ()))))[:NAMED_AT_ONCE]
        ahead = min(AHEAD, limits.max_queue_length // 20, limits.max_queue_length - events)
        most = limits.max_queue_length - events - ahead + 1
        named = min(events + ahead, NAMED_AT_ONCE)
        call = drop_oldest(owner.keys, self.queue, lanes, (most, limits.max_queue_bytes, size), named)
        return pack((b"EVALSHA", owner.scripts.of("queues/drop_oldest").sha1, *call))

    def result(self, reply: Reply) -> None:
        owner, queue = self._owner, self.queue
        owner.over(self)
        owner.victims.pop(queue, None)
        owner.waiting.pop(queue, None)
        match reply:
            case [b"NEED" | b"OK", *names, _]:
                owner.victims[queue] = _victims(names)
            case [b"LANE", bytes(name), _]:
                owner.waiting[queue] = (b"", b"", name)
            case [b"NONE", 0]:
                for unbounded in self._unbounded:
                    unbounded.add(queue)
            case _:
                pass
        if reply[-1]:
            owner.dropped(queue, self._function_id, reply[-1])


def _victims(names: Sequence[bytes]) -> list[Victim]:
    return [(scope, key, lane(scope, key)) for scope, key in zip(names[::2], names[1::2], strict=True)]
