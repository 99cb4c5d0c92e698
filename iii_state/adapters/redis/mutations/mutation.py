"""One mutation on its way: the call of its script, made again until it knows the current routes and its events find room."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Generic, TypeVar, cast

from iii_state import lineages
from iii_state.adapters.redis.connection.call import AGAIN, Again, Command, RedisCall, Reply
from iii_state.adapters.redis.keys import caller_session, lane
from iii_state.adapters.redis.mutations.fanout import Fanout
from iii_state.adapters.redis.mutations.room import EndOrphan, Room
from iii_state.adapters.redis.mutations.route import Route, with_filters
from iii_state.adapters.redis.scripts.mutations import (
    NO_DEADLINE,
    ForeignText,
    Postponed,
    QueueFull,
    RequestId,
    Stale,
    Unmet,
    declared,
    is_applied,
    mutation,
    previous,
    refusal,
)
from iii_state.adapters.redis.scripts.packing import PlainChange, pack, packed
from iii_state.errors import RequestFenced, StoreError
from iii_state.events import Cause
from iii_state.sessions import Request

logger = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE = 3
"""A call that was stale so often in a row has the routes hold still for the next time."""

HOLD_MS = 250


class Mutation(RedisCall[T], Generic[T]):
    """Changes one value. Kinds of mutations name their script, and say what an applied one is answered with (`applied`).

    `own` are the script's own arguments. With a `request` it is recognised by its caller's request id instead of the engine's
    (`RequestId`). With `ttl_ms` the value gets a deadline.
    """

    __slots__ = (
        "_capture_failure",
        "_fanout",
        "_is_declaring",
        "_is_told",
        "_lineage",
        "_own",
        "_packed_own",
        "_place",
        "_room",
        "_stale",
        "_ttl",
        "_wanted",
        "can_be_held",
        "key",
        "request",
        "ttl_ms",
    )

    name: str
    """Its script."""
    ttl = NO_DEADLINE
    """What becomes of the deadline that there is, where it gets none."""
    limit = 0
    """The most bytes that a result may have, where a script computes one."""
    cause: Cause | None = None
    """What its event comes from, where that is no call: a foreign write was made before, and this one only makes its event."""

    kind = b""
    """What it is called among the changes of `values/change_many`; empty where it is none."""

    scope: str

    def __init__(
        self,
        fanout: Fanout,
        scope: str,
        key: str,
        own: Sequence[bytes] = (),
        request: Request | None = None,
        ttl_ms: int | None = None,
    ) -> None:
        self._own = own
        self._packed_own = packed(own)
        super().__init__(len(self._packed_own), mutates=True, in_session=request is None, scope=scope)
        self._lineage = None if self.cause is not None else lineages.current()
        self.key = key
        self.can_be_held = False
        """Whether its caller expects the result `Postponed.HELD`, and calls again then (`begin_again`)."""
        self._fanout = fanout
        self._place = (scope.encode(), key.encode())
        self.request = request
        self._ttl = self.ttl
        self.ttl_ms = ttl_ms
        self._is_declaring = False
        self._stale = 0
        self._wanted: list[tuple[bytes, Route]] = []
        self._room: Room | None = None
        self._capture_failure = ""
        """Why what another program has done to the value could not become an event."""
        if ttl_ms is not None:
            fanout.will_have_deadlines(scope)

    def applied(self, reply: Reply) -> T:
        """What it is answered with, of the reply of a script that has applied it."""
        raise NotImplementedError

    # -- sending

    def command(self, session: bytes, epoch: int) -> bytes:
        fanout = self._fanout
        routes = fanout.routes
        ttl = None
        if self.scope in routes.with_deadlines:
            ttl = self._ttl if self.ttl_ms is None else fanout.lifetime(self.ttl_ms)
            self._is_declaring = False  # it was, where the connection broke before that was answered
        elif self.ttl_ms is not None:
            return self._declare()
        request = self.request
        if request is None:
            packing, slot, sequence = fanout.packing, self.slot, self.sequence
        else:
            packing, slot, sequence = fanout.callers_packing, request.slot, request.seq
            session, epoch = caller_session(request.session), request.epoch
        is_silent = not fanout.enabled or (self.cause == "foreign" and routes.is_filling)
        wanted = self._wanted = [] if is_silent else routes.matching(self.scope, self.key)
        scope, key = self._place
        if not wanted and ttl is None and not routes.takes_more:
            values_key, own, words = fanout.keys.values(scope), self._packed_own, len(self._own)
            return packing.mutation(
                fanout.scripts.of(self.name), values_key, session, epoch, slot, sequence, routes.version, scope, key, own, words
            )
        arguments: Sequence[bytes] = self._own
        is_narrowed = False
        for queue, route in wanted:  # also of a call that is sent again: it may have been applied already
            fanout.wake_ups.written(queue)
            is_narrowed = is_narrowed or route.is_narrowed
        if is_narrowed:
            arguments = with_filters(arguments, wanted)
        unbounded = () if self._room is None else self._room.unbounded
        targets = [fanout.target(queue, route, is_bounded=queue not in unbounded) for queue, route in wanted]
        request_id = RequestId(session, epoch, slot, sequence)
        shadows = routes.shadows
        watched = None if shadows is None else (fanout.keys.shadow(shadows, scope), fanout.marks)
        log = None if routes.logs is None or (self.cause == "foreign" and routes.is_filling) else fanout.log(self.scope)
        lineage = b"" if self._lineage is None or not wanted or not fanout.tells_lineages else lineages.encode(self._lineage)
        known = (fanout.keys, request_id, routes.version, scope, key, targets, arguments, watched, ttl)
        call = mutation(*known, cause=self.cause, lineage=lineage, log=log)
        return pack((b"EVALSHA", fanout.scripts.of(self.name).sha1, *call))

    def can_join(self) -> bool:
        """Whether it is a plain one: without an event, a deadline, a log, or a request id of its caller's, and of small values as
        far as is known."""
        fanout = self._fanout
        routes = fanout.routes
        return (
            bool(self.kind)
            and self.in_session
            and self.scope not in fanout.large.scopes
            and self.ttl_ms is None
            and not routes.takes_more
            and self.scope not in routes.with_deadlines
            and not (fanout.enabled and routes.matching(self.scope, self.key))
        )

    def joint_command(self, calls: Sequence[RedisCall[Any]], session: bytes, epoch: int) -> bytes:
        fanout = self._fanout
        changes: list[PlainChange] = []
        for call in calls:
            assert isinstance(call, Mutation)
            call._wanted = []
            changes.append((call.kind, *call._place, call.slot, call.sequence, call._packed_own, len(call._own)))
        script = fanout.scripts.of("values/change_many")
        return fanout.packing.changes(script, session, epoch, fanout.routes.version, changes)

    def _declare(self) -> bytes:
        """The call that makes known that the scope has deadlines, in place of this one."""
        arguments, self._is_told = self._fanout.declare(self.scope)
        self._is_declaring = True
        return pack((b"EVALSHA", self._fanout.scripts.of("fleet/change_settings").sha1, *arguments))

    # -- reading the reply

    def result(self, reply: Reply) -> T | Again:
        if self._is_declaring:
            return self._declared(reply)
        if is_applied(reply):
            applied = self.applied(reply)
            if self.kind:
                self._fanout.large.found(self.scope, reply[1])
            if reply[0] != b"OK":
                self._fanout.counts.recognised += 1
            if self.ttl_ms is not None:
                self._fanout.deadline_set(self.ttl_ms)
            return applied
        refused = refusal(reply, self.limit)
        if isinstance(refused, Stale):
            self._stale += 1
            return self._catch_up(refused)
        if isinstance(refused, QueueFull):
            return self._make_room(refused)
        if isinstance(refused, ForeignText):
            return self.take_on(refused.text)
        if isinstance(refused, Unmet):
            raise self.unmet(refused)
        return self._capture()

    def _declared(self, reply: Reply) -> T | Again:
        """It is sent again as what it is. Where the routes have to hold still, that is its result, or it fails."""
        self._is_declaring = False
        changed = declared(reply)
        if isinstance(changed, Postponed):
            if not self.can_be_held or (self.was_carried and not self.in_session):
                raise StoreError(changed.value)
            return cast(T, changed)
        if self._is_told:
            return self._catch_up(changed)
        self._fanout.will_have_deadlines(self.scope)
        return AGAIN

    def begin_again(self) -> None:
        """It was `HELD`, and is to be called again, as if never called."""
        self.tries, self.was_carried = 0, False
        self._fanout.will_have_deadlines(self.scope)

    def take_on(self, text: bytes) -> Again:
        """The stored text is another writer's. Most mutations do not read it."""
        raise AssertionError("this mutation does not depend on what is stored")

    def unmet(self, refused: Unmet) -> Exception:
        """What it fails with where a condition does not hold. Most mutations have none: it has the id of another call."""
        return RequestFenced()

    def give(self, own: Sequence[bytes]) -> None:
        """Its own arguments are these from now on."""
        self._own = own
        self._packed_own = packed(own)

    def _catch_up(self, stale: Stale) -> Again:
        fanout = self._fanout
        first: list[RedisCall[Any]] = []
        if self._stale >= PATIENCE:
            first.append(Command((b"SET", fanout.keys.hold, b"1", b"PX", b"%d" % HOLD_MS)))
        first.extend(fanout.catch_up(stale))
        return Again(*first)

    def _capture(self) -> Again:
        """Make an event of what another program has done to the value, first."""
        if self._capture_failure:
            raise StoreError(f"what another program has done to the value could not be noticed: {self._capture_failure}")
        return Again(Capture(self._fanout, self.scope, self.key, before=self))

    def not_captured(self, error: StoreError) -> None:
        """What another program has done to the value cannot become an event."""
        self._capture_failure = str(error)

    def _make_room(self, full: QueueFull) -> Again:
        queue, route = self._wanted[full.queue]
        limits, function_id = route.limits(self._fanout.limits), route.function_id
        if self._room is None:
            self._room = Room(self._fanout, (*self._place, lane(*self._place)))
        if limits.on_full == "reject":
            if self._room.may_end(queue):
                return Again(EndOrphan(self._fanout, queue, function_id))
            bound = f"{full.bound} {getattr(limits, full.bound)}"
            raise StoreError(f"the queue of {function_id} is full ({bound}); its handler does not keep up, or nobody serves it")
        return Again(self._room.drop_oldest(queue, route, full.size, self._events_for(queue)))

    def _events_for(self, queue: bytes) -> int:
        """How many events it has for a queue."""
        return 1


class Expire(Mutation[bytes | None]):
    """Removes a value whose deadline is over."""

    __slots__ = ()
    name = "deadlines/expire"
    cause = "expired"

    def applied(self, reply: Reply) -> bytes | None:
        if (old := previous(reply)) is not None:
            self._fanout.counts.expired += 1
        return old


class Capture(Mutation[None]):
    """Makes an event of what another program has done to a value; `before` a mutation that waits for it."""

    __slots__ = ("_before",)
    name = "foreign/capture"
    cause = "foreign"

    def __init__(self, fanout: Fanout, scope: str, key: str, before: Mutation[Any] | None = None) -> None:
        super().__init__(fanout, scope, key)
        self._before = before

    def applied(self, reply: Reply) -> None:
        self._fanout.counts.captured += 1

    def result(self, reply: Reply) -> Again | None:
        try:
            return super().result(reply)
        except StoreError as error:
            if self._before is not None:
                self._before.not_captured(error)
            raise
