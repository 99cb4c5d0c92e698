"""Fan-out on write: what the mutations of an engine share so that each event gets to all the queues that want it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import islice

from iii_state.adapters.redis.connection.call import RedisCall, Reply
from iii_state.adapters.redis.connection.connection import RedisConnection
from iii_state.adapters.redis.identity import EngineIdentity
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.mutations.counts import Counts
from iii_state.adapters.redis.mutations.full_queues import FullQueues
from iii_state.adapters.redis.mutations.route import Route
from iii_state.adapters.redis.mutations.routes import BEGAN, RedisRoutes, deadlines_setting
from iii_state.adapters.redis.mutations.wake_ups import WakeUps
from iii_state.adapters.redis.scripts.mutations import BoundedQueue, Log, Stale, declare
from iii_state.adapters.redis.scripts.packing import Packing, pack
from iii_state.adapters.wall_clock import now_ms
from iii_state.events import QueueLimits
from iii_state.tasks.effects import Afterwards
from iii_state.tasks.maintenance import Maintenance

logger = logging.getLogger(__name__)

DECLARED_AT_ONCE = 500

UNBOUNDED = 2**53

MAX_WAIT_MS = 60_000
"""A deadline that is further away is found by a later look."""

_watching = Afterwards("planning the end of a value with a deadline")


class LargeValues:
    """The scopes in which a change found a large value last: several changes of such values in one call would cost Redis more
    than they do one by one, and keep it from everything else for long."""

    BYTES = 4096
    MOST = 10_000

    def __init__(self) -> None:
        self.scopes: set[str] = set()

    def found(self, scope: str, old: bytes | None) -> None:
        """A change has found this text, or nothing."""
        if old is not None and len(old) > self.BYTES:
            if len(self.scopes) >= self.MOST:
                self.scopes.clear()
            self.scopes.add(scope)
        elif self.scopes:
            self.scopes.discard(scope)


class Fanout:
    """The routes and how they are kept current, the bounds of queues, and whether there are events at all."""

    def __init__(
        self,
        keys: Keys,
        connection: RedisConnection,
        engine: EngineIdentity,
        wake_ups: WakeUps,
        limits: QueueLimits,
        deadlines: Maintenance | None = None,
    ) -> None:
        self.keys = keys
        self.wake_ups = wake_ups
        self.limits = limits
        self.marks = keys.marks(connection.address.db)
        """The channel on which the scripts that write values say so."""
        self.scripts = connection.scripts
        self.routes = RedisRoutes()
        self.packing = Packing(keys)
        self.callers_packing = Packing(keys)
        """Of calls with the request ids of callers; a `Packing` is fast for one session at a time."""
        self.enabled = True
        self.tells_lineages = False
        """Whether all engines have said that they read what a write was made within."""
        self.counts = Counts()
        self.large = LargeValues()
        self.deadlines = deadlines or Maintenance()
        """Removes values whose deadline is over; planned here, since writes set deadlines."""
        self.was_emptied = False
        """Whether it has turned out that this is another database than before, or an emptied one."""
        self._send = connection.send
        self._damaged = connection.damaged
        self._engine = engine
        self._undeclared: dict[str, None] = {}
        """Scopes that are to have deadlines, and that no call has made known yet."""
        self._dropped: dict[bytes, int] = {}
        self.full_queues = FullQueues(keys, connection.scripts, self.dropped)
        self._reload: ReloadRoutes | None = None

    # -- keeping the routes current

    def catch_up(self, stale: Stale) -> Sequence[RedisCall[None]]:
        """Take on what has changed; the calls that have to be made first where that is not known."""
        if self.routes.catch_up(stale):
            return ()
        reload = self._reload
        # Calls that were stale together read the table once.
        if reload is None or reload.was_sent or (not stale.version and reload.version):
            reload = self._reload = ReloadRoutes(self)
        reload.version = stale.version
        return (reload,) if stale.version else (reload.looking, reload)

    def load(self, version: int, table: Sequence[bytes], *, has_engines: bool) -> bool:
        """Take on the whole table. True where it is that of another database: the one before has been emptied, or replaced.

        Where there is no table, what was known stays until it is written down again (`SharedKeys`): another program has removed
        the table. With it go its version and the engines only where the whole database has been emptied. `version` is 0 where
        there is none; `has_engines` says whether any engine stands among the engines.
        """
        before = self.routes.settings.get(BEGAN)
        is_gone = BEGAN not in table[::2]
        if before is not None and is_gone and (version or has_engines):
            table = [*self.routes.table(), *table]
        self.routes.load(version, table)
        if before is None or self.routes.settings.get(BEGAN) != before:
            return before is not None
        if is_gone or not version:
            self._damaged.emit()
        return False

    async def read(self) -> bool:
        """Read the whole table, and take it on."""
        version = await self._send(b"GET", self.keys.routes_version)
        has_engines = await self._send(b"EXISTS", self.keys.engines)
        table = await self._send(b"HGETALL", self.keys.routes)
        return self.load(int(version or 0), table, has_engines=bool(has_engines))

    async def follow(self) -> None:
        """Take on what has changed, without waiting for a mutation to be told: reads depend on some of it."""
        entries = await self._send(b"XRANGE", self.keys.routes_log, b"(%d" % self.routes.version, b"+", b"COUNT", b"1000")
        changes = [(int(entry_id.split(b"-")[0]), fields) for entry_id, fields in entries]
        if changes and not self.routes.catch_up(Stale(changes[-1][0], changes)) and await self.read():
            self.emptied()

    def emptied(self) -> None:
        """This is another database than before: the engine is not among its engines, and begins afresh."""
        self.was_emptied = True
        self._engine.lost(self._engine.id)

    # -- scopes that have deadlines

    def lifetime(self, ttl_ms: int) -> bytes:
        """How long a value is to live, and the time that this engine has, for where Redis cannot tell it."""
        now_ms = self._engine.own_now_ms()
        return b"%d" % ttl_ms if now_ms is None else b"%d %d" % (ttl_ms, now_ms)

    def deadline_set(self, ttl_ms: int) -> None:
        """A deadline has just been set by this engine."""
        if ttl_ms <= MAX_WAIT_MS:
            try:
                self.deadlines.plan(ttl_ms / 1000)
            except Exception as error:
                _watching.failed(error)

    def will_have_deadlines(self, scope: str) -> None:
        """A mutation is about to give this scope its first deadline."""
        if scope not in self.routes.with_deadlines:
            self._undeclared[scope] = None

    def declare(self, scope: str) -> tuple[list[bytes], bool]:
        """The arguments of the call that makes known that a scope has deadlines, and whether it is told what has changed.

        Of calls that are sent together the first speaks for all, and is told of the changes; the others only make sure of theirs:
        each scope's change in each call's reply would be a square.
        """
        scopes = list(islice(self._undeclared, DECLARED_AT_ONCE))
        for undeclared in scopes:
            del self._undeclared[undeclared]
        settings = [(deadlines_setting(name.encode()), b"1") for name in dict.fromkeys((*scopes, scope))]
        return declare(self.keys, self.routes.version, *settings, told=bool(scopes)), bool(scopes)

    # -- scopes that have change logs

    def log(self, scope: str) -> Log | None:
        """The change log of a scope, for a change that is made now."""
        setting = self.routes.logs
        found = None if setting is None else setting.of(scope)
        if found is None:
            return None
        own_now_ms = self._engine.own_now_ms()
        return Log(found.generation, found.rule.max_length, now_ms() if own_now_ms is None else own_now_ms)

    # -- bounds

    def target(self, queue: bytes, route: Route, *, is_bounded: bool) -> BoundedQueue:
        """A queue with its bounds, or with none where nothing is left to drop in it."""
        if is_bounded:
            limits = route.limits(self.limits) if route.own_limits else self.limits
            return BoundedQueue(queue, limits.max_queue_length, limits.max_queue_bytes)
        return BoundedQueue(queue, UNBOUNDED, UNBOUNDED)

    def dropped(self, queue: bytes, function_id: str, count: int) -> None:
        """Events of a queue have been dropped by this engine."""
        total = self._dropped[queue] = self._dropped.get(queue, 0) + count
        if total == count or total % 1000 < count:
            about = "the queue of %s is full; %d of its oldest events dropped here so far"
            logger.warning(about, function_id, total, extra={"function_id": function_id})


class ReloadRoutes(RedisCall[None]):
    """Reads the whole table of the routes, of `version` or later. Where there is no version, `looking` has to go ahead of it."""

    __slots__ = ("_fanout", "looking", "version", "was_sent")

    def __init__(self, fanout: Fanout) -> None:
        super().__init__()
        self._fanout = fanout
        self.looking = LookForEngines(fanout)
        self.version = 0
        self.was_sent = False

    def command(self, session: bytes, epoch: int) -> bytes:
        self.was_sent = True
        return pack((b"HGETALL", self._fanout.keys.routes))

    def result(self, reply: Reply) -> None:
        if self._fanout.load(self.version, reply, has_engines=self.looking.found):
            self._fanout.emptied()


class LookForEngines(RedisCall[None]):
    """Looks whether any engine stands among the engines: there is none in a database that has been emptied."""

    __slots__ = ("_fanout", "found")

    def __init__(self, fanout: Fanout) -> None:
        super().__init__()
        self._fanout = fanout
        self.found = True

    def command(self, session: bytes, epoch: int) -> bytes:
        return pack((b"EXISTS", self._fanout.keys.engines))

    def result(self, reply: Reply) -> None:
        self.found = bool(reply)
