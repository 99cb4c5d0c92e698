"""From a mutation to the queues that want its event: the call is made again until it knows the current routes and finds room."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar

from iii_state.adapters.redis.connection.call import Again, Ahead
from iii_state.adapters.redis.keys import Keys, caller_session, lane
from iii_state.adapters.redis.mutations.routes import BEGAN, Routes, deadlines_setting
from iii_state.adapters.redis.scripts import queues
from iii_state.adapters.redis.scripts.loader import Script, script
from iii_state.adapters.redis.scripts.mutations import (
    KEEP_DEADLINE,
    NO_DEADLINE,
    QueueFull,
    Reply,
    Route,
    Stale,
    Ticket,
    Unseen,
    declare,
    declared,
    mutation,
    noticed,
)
from iii_state.adapters.redis.scripts.packing import Packing, packed
from iii_state.errors import StoreError
from iii_state.events import QueueLimits
from iii_state.sessions import Request
from iii_state.tasks.effects import Afterwards

logger = logging.getLogger(__name__)

T = TypeVar("T")

_ringing = Afterwards("ringing for an event")

PATIENCE = 3
"""A call that was stale so often in a row has the routes hold still for the next time."""

HOLD_MS = 250

DECLARED_AT_ONCE = 500

UNBOUNDED = 2**53


class Fanout:
    """What all mutations of an engine share: the routes, the bounds of queues, and whether there are events at all."""

    def __init__(
        self, keys: Keys, limits: QueueLimits, database: int = 0, ring: Callable[[bytes], None] = lambda queue: None
    ) -> None:
        self.keys = keys
        self.marks = keys.marks(database)
        self.limits = limits
        self.ring = ring
        """Called with a queue whenever a write is sent that may add an event to it."""
        self.routes = Routes()
        self.packing = Packing(keys)
        self.callers_packing = Packing(keys)
        """Of calls with tickets of callers; a `Packing` is fast for one session at a time."""
        self.undeclared: dict[str, None] = {}
        """Scopes that are to have deadlines, and that no call has made known yet."""
        self.enabled = True
        self.emptied: Callable[[], None] = lambda: None
        """Called when it turns out that this is another database than before."""
        self._dropped: dict[bytes, int] = {}
        self._reload: Ahead = ((b"HGETALL", keys.routes), self._load)
        """Always the same, so that calls that were stale together read the table once (`Connection`)."""
        self._stale_at = 0

    def reload(self, version: int) -> Ahead:
        """The command that reads the whole table of the routes, of this version or later."""
        self._stale_at = version
        return self._reload

    def _load(self, table: Sequence[bytes]) -> None:
        if self.load(self._stale_at, table):
            self.emptied()

    def load(self, version: int, table: Sequence[bytes]) -> bool:
        """Take on the whole table. True where it is that of another database: the one before has been emptied, or replaced.

        Where somebody has removed nothing but the table, what was known stays, until it is written down again (`Repair`).
        """
        before = self.routes.settings.get(BEGAN)
        if version and before is not None and BEGAN not in table[::2]:
            table = [*self.routes.table(), *table]
        self.routes.load(version, table)
        return before is not None and self.routes.settings.get(BEGAN) != before

    async def read(self, send: Callable[..., Awaitable[Any]]) -> bool:
        """Read the whole table, and take it on."""
        version = await send(b"GET", self.keys.routes_version)
        return self.load(int(version or 0), await send(b"HGETALL", self.keys.routes))

    async def follow(self, send: Callable[..., Awaitable[Any]]) -> None:
        """Take on what has changed, without waiting for a mutation to be told: reads depend on some of it."""
        entries = await send(b"XRANGE", self.keys.routes_log, b"(%d" % self.routes.version, b"+", b"COUNT", b"1000")
        changes = [(int(entry_id.split(b"-")[0]), fields) for entry_id, fields in entries]
        if changes and not self.routes.catch_up(Stale(changes[-1][0], changes)) and await self.read(send):
            self.emptied()

    def dropped(self, queue: bytes, function_id: str, count: int) -> None:
        """Events of a queue have been dropped by this engine."""
        total = self._dropped[queue] = self._dropped.get(queue, 0) + count
        if total == count or total % 1000 < count:
            logger.warning("the queue of %s is full; %d of its oldest events dropped here so far", function_id, total)


class Write(Generic[T]):
    """One mutation, over all the times that it is sent. `arguments` gives the command's own, `result` reads its reply.

    With a `request` it bears its caller's ticket instead of the engine's (`Ticket`). `is_foreign` tells that it was another
    program's, and is only to be noticed.
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
        *,
        ttl: bytes = NO_DEADLINE,
        is_foreign: bool = False,
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
        self._ttl = ttl
        self._declaring = self._is_told = False
        if ttl is not NO_DEADLINE and ttl is not KEEP_DEADLINE:
            self._await_deadlines()
        self._is_foreign = is_foreign
        self._unseen = ""
        """Why what another program has done to the value could not be noticed."""
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
        known = fanout.routes
        version, shadows = known.version, known.shadows
        ttl = self._ttl if self._place[0] in known.with_deadlines else None
        if ttl is None and self._ttl is not NO_DEADLINE and self._ttl is not KEEP_DEADLINE:
            self._declaring = True
            return [b"EVALSHA", script("fleet/change_settings").sha1, *self._declare(version)]
        packing, request = fanout.packing, self._request
        if request is not None:
            packing = fanout.callers_packing
            session, epoch, slot, sequence = caller_session(request.session), request.epoch, request.slot, request.seq
        is_silent = not fanout.enabled or (self._is_foreign and known.is_filling)
        wanted = self._wanted = [] if is_silent else known.matching(*self._place)
        if not wanted and shadows is None and ttl is None:
            values_key, number = fanout.keys.values(self._scope), b"%d" % version
            return packing.mutation(
                *(self._command, values_key, session, epoch, slot, sequence, number),
                *(self._packed_place, self._packed_own, len(self._own)),
            )
        for queue, _ in wanted:
            try:  # a call that is sent again may have been applied already
                fanout.ring(queue)
            except Exception as error:
                _ringing.failed(error)
        limits = fanout.limits
        routes = [
            Route(queue, UNBOUNDED, UNBOUNDED)
            if queue in self._unbounded
            else Route(queue, limits.max_queue_length, limits.max_queue_bytes)
            for queue, _ in wanted
        ]
        ticket = Ticket(session, epoch, slot, sequence)
        watched = None if shadows is None else (fanout.keys.shadow(shadows, self._scope), fanout.marks)
        place = (self._scope, self._key, routes, self._own)
        call = mutation(fanout.keys, ticket, version, *place, watched, ttl, is_foreign=self._is_foreign)
        return [b"EVALSHA", self._command.sha1, *call]

    def answered(self, reply: Reply) -> T:
        """Reads the reply. Raises `Again` where the routes have changed or room is being made, `StoreError` for a full queue,
        `Held` where the first deadline of a scope has to wait."""
        if self._declaring:
            self._declaring = False
            changed = declared(reply)
            if self._is_told:
                raise self._catch_up(changed)
            self._await_deadlines()
            raise Again
        try:
            return self._result(reply)
        except Again:
            self._own = self._arguments()
            self._packed_own = packed(self._own)
            raise
        except Stale as stale:
            self._stale += 1
            raise self._catch_up(stale) from None
        except QueueFull as full:
            raise self._make_room(full) from None
        except Unseen:
            raise self._notice() from None

    def _await_deadlines(self) -> None:
        if self._place[0] not in self._fanout.routes.with_deadlines:
            self._fanout.undeclared[self._place[0]] = None

    def _declare(self, version: int) -> list[bytes]:
        """Makes known that the scope has deadlines. Of calls that are sent together the first speaks for all, and is told of the
        changes; the others only make sure of theirs: each scope's change in each call's reply would be a square."""
        undeclared = self._fanout.undeclared
        scopes = list(islice(undeclared, DECLARED_AT_ONCE))
        for scope in scopes:
            del undeclared[scope]
        self._is_told = bool(scopes)
        settings = [(deadlines_setting(scope.encode()), b"1") for scope in dict.fromkeys((*scopes, self._place[0]))]
        return declare(self._fanout.keys, version, *settings, told=self._is_told)

    def _catch_up(self, stale: Stale) -> Again:
        fanout = self._fanout
        first: list[Ahead] = []
        if self._stale >= PATIENCE:
            first.append(((b"SET", fanout.keys.hold, b"1", b"PX", b"%d" % HOLD_MS), lambda reply: None))
        if not fanout.routes.catch_up(stale):
            first.append(fanout.reload(stale.version))
        return Again(*first)

    def _notice(self) -> Exception:
        if self._unseen:
            return StoreError(f"what another program has done to the value could not be noticed: {self._unseen}")
        noticing = notice(self._fanout, *self._place)

        def answered(reply: Reply) -> None:
            try:
                noticing.answered(reply)
            except StoreError as error:
                self._unseen = str(error)
                raise

        return Again((noticing.command, answered))

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
        return Again(((b"EVALSHA", script("queues/drop_oldest").sha1, *call), dropped))


def notice(fanout: Fanout, scope: str, key: str) -> Write[None]:
    """What another program has done to a value, to be noticed."""
    return Write(fanout, script("foreign/capture"), scope, key, tuple, noticed, is_foreign=True)
