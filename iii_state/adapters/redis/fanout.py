"""From a mutation to the queues that want its event: the call is made again until it knows the current routes and finds room."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from iii_state.adapters.redis import queues
from iii_state.adapters.redis.connection import Again, Ahead
from iii_state.adapters.redis.keys import Keys, caller_session, lane
from iii_state.adapters.redis.mutations import QueueFull, Reply, Route, Stale, Ticket, mutation
from iii_state.adapters.redis.packing import Packing, packed
from iii_state.adapters.redis.routes import Routes
from iii_state.adapters.redis.scripts import Script, script
from iii_state.errors import StoreError
from iii_state.events import QueueLimits
from iii_state.sessions import Request

logger = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE = 3
"""A call that was stale so often in a row has the routes hold still for the next time."""

HOLD_MS = 250
UNBOUNDED = 2**53


class Fanout:
    """What all mutations of an engine share: the routes, the bounds of queues, and whether there are events at all."""

    def __init__(self, keys: Keys, limits: QueueLimits, ring: Callable[[bytes], None] = lambda queue: None) -> None:
        self.keys = keys
        self.limits = limits
        self.ring = ring
        """Called with a queue whenever a write is sent that may add an event to it."""
        self.routes = Routes()
        self.packing = Packing(keys)
        self.callers_packing = Packing(keys)
        """Of calls with tickets of callers; a `Packing` is fast for one session at a time."""
        self.enabled = True
        self._dropped: dict[bytes, int] = {}
        self._reload: Ahead = ((b"HGETALL", keys.routes), self._load)
        """Always the same, so that calls that were stale together read the table once (`Connection`)."""
        self._stale_at = 0

    def reload(self, version: int) -> Ahead:
        """The command that reads the whole table of the routes, of this version or later."""
        self._stale_at = version
        return self._reload

    def _load(self, table: Sequence[bytes]) -> None:
        self.routes.load(self._stale_at, table)

    def dropped(self, queue: bytes, function_id: str, count: int) -> None:
        """Events of a queue have been dropped by this engine."""
        total = self._dropped[queue] = self._dropped.get(queue, 0) + count
        if total == count or total % 1000 < count:
            logger.warning("the queue of %s is full; %d of its oldest events dropped here so far", function_id, total)


class Write(Generic[T]):
    """One mutation, over all the times that it is sent. `arguments` gives the command's own, `result` reads its reply.

    With a `request` it bears its caller's ticket instead of the engine's (`Ticket`).
    """

    def __init__(
        self,
        fanout: Fanout,
        command: Script,
        scope: str,
        key: str,
        arguments: Callable[[], Sequence[bytes]],
        result: Callable[[Reply], T],
        request: Request | None = None,
    ) -> None:
        self._fanout = fanout
        self._command = command
        self._place = (scope, key)
        self._scope, self._key = scope.encode(), key.encode()
        self._packed_place = packed((self._scope, self._key))
        self._arguments = arguments
        self._own = arguments()
        self._packed_own = packed(self._own)
        self._result = result
        self._request = request
        self._wanted: list[tuple[bytes, str]] = []
        self._stale = 0
        self._victims: dict[bytes, tuple[bytes, bytes, bytes]] = {}
        """Of a full queue: scope, key and lane of what is to be dropped next."""
        self._unbounded: set[bytes] = set()
        """Queues in which nothing is left to drop."""

    @property
    def size(self) -> int:
        """Bytes of the command's own arguments."""
        return len(self._packed_own)

    def command(self, session: bytes, epoch: int, slot: int, sequence: int) -> list[bytes] | bytes:
        """What is sent."""
        fanout = self._fanout
        packing, request = fanout.packing, self._request
        if request is not None:
            packing = fanout.callers_packing
            session, epoch, slot, sequence = caller_session(request.session), request.epoch, request.slot, request.seq
        version = fanout.routes.version
        wanted = self._wanted = fanout.routes.matching(*self._place) if fanout.enabled else []
        if not wanted:
            values_key, number = fanout.keys.values(self._scope), b"%d" % version
            return packing.mutation(
                *(self._command, values_key, session, epoch, slot, sequence, number),
                *(self._packed_place, self._packed_own, len(self._own)),
            )
        for queue, _ in wanted:
            fanout.ring(queue)
        limits = fanout.limits
        routes = [
            Route(queue, UNBOUNDED, UNBOUNDED)
            if queue in self._unbounded
            else Route(queue, limits.max_queue_length, limits.max_queue_bytes)
            for queue, _ in wanted
        ]
        ticket = Ticket(session, epoch, slot, sequence)
        call = mutation(fanout.keys, ticket, version, self._scope, self._key, routes, self._own)
        return [b"EVALSHA", self._command.sha1, *call]

    def answered(self, reply: Reply) -> T:
        """Reads the reply. Raises `Again` where the routes have changed or room is being made, `StoreError` for a full queue."""
        try:
            return self._result(reply)
        except Again:
            self._own = self._arguments()
            self._packed_own = packed(self._own)
            raise
        except Stale as stale:
            raise self._catch_up(stale) from None
        except QueueFull as full:
            raise self._make_room(full) from None

    def _catch_up(self, stale: Stale) -> Again:
        fanout = self._fanout
        first: list[Ahead] = []
        self._stale += 1
        if self._stale >= PATIENCE:
            first.append(((b"SET", fanout.keys.hold, b"1", b"PX", b"%d" % HOLD_MS), lambda reply: None))
        if not fanout.routes.catch_up(stale):
            first.append(fanout.reload(stale.version))
        return Again(*first)

    def _make_room(self, full: QueueFull) -> Exception:
        fanout = self._fanout
        queue, function_id = self._wanted[full.queue]
        if fanout.limits.on_full == "reject":
            bound = f"{full.bound} {getattr(fanout.limits, full.bound)}"
            return StoreError(f"the queue of {function_id} is full ({bound}); its handler does not keep up, or nobody serves it")

        def dropped(reply: list[Any]) -> None:
            match reply:
                case [b"NEED", bytes(scope), bytes(key), _]:
                    self._victims[queue] = (scope, key, lane(scope, key))
                case [b"LANE", bytes(name), _]:
                    self._victims[queue] = (b"", b"", name)
                case [b"NONE", _]:
                    self._unbounded.add(queue)
                case _:
                    pass
            if reply[-1]:
                fanout.dropped(queue, function_id, reply[-1])

        victim = self._victims.pop(queue, None) or (self._scope, self._key, lane(self._scope, self._key))
        call = queues.drop_oldest(fanout.keys, queue, *victim, fanout.limits, full.size)
        return Again(((b"EVALSHA", script("drop_oldest").sha1, *call), dropped))
