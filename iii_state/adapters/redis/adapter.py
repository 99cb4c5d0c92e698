"""The Redis adapter: values in hashes that a stock iii engine reads and writes too, every mutation one script."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, cast

from hiredis import ReplyError

from iii_state.adapters.redis.admin import RedisAdmin
from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.carrier import Carrier
from iii_state.adapters.redis.connection.checks import check_permissions, refuse_newer
from iii_state.adapters.redis.connection.connection import RedisConnection
from iii_state.adapters.redis.connection.durability import Durability
from iii_state.adapters.redis.connection.explain import explain
from iii_state.adapters.redis.connection.pubsub import PubSub
from iii_state.adapters.redis.figures import RedisFigures
from iii_state.adapters.redis.fleet.aside import Aside
from iii_state.adapters.redis.fleet.checking import Checking
from iii_state.adapters.redis.fleet.heartbeat import Heartbeat
from iii_state.adapters.redis.fleet.log_retention import LogRetention
from iii_state.adapters.redis.fleet.mending import Mending
from iii_state.adapters.redis.fleet.retention import Retention
from iii_state.adapters.redis.fleet.shared_keys import SharedKeys
from iii_state.adapters.redis.fleet.subscriptions import Subscriptions
from iii_state.adapters.redis.fleet.takeover import Takeover
from iii_state.adapters.redis.fleet.teller import Teller
from iii_state.adapters.redis.history import RedisHistory
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.keyspace.deadlines import RedisDeadlines
from iii_state.adapters.redis.keyspace.foreign_writes import CLASSES, ForeignWrites
from iii_state.adapters.redis.keyspace.notifications import Notifications
from iii_state.adapters.redis.keyspace.scopes import Scopes
from iii_state.adapters.redis.mutations.replicas import Replicas
from iii_state.adapters.redis.queues import RedisQueues
from iii_state.adapters.redis.sessions import RedisSessions
from iii_state.adapters.redis.shared import Shared
from iii_state.adapters.redis.succession import RedisSuccession
from iii_state.adapters.redis.values import RedisValues
from iii_state.config import RedisSettings
from iii_state.errors import StoreError
from iii_state.events import QueueLimits
from iii_state.figures import Figure
from iii_state.history import NO_LOGS, LogRules
from iii_state.tasks.closing import Stopping, in_turn

logger = logging.getLogger(__name__)

HEALTH_SECONDS = 2

AWAY_SECONDS = 1
"""For so long a stop waits for a Redis that is away. What could not be given back is taken over, as if the engine had died."""


class RedisAdapter:
    """Values and queues on a Redis that any number of engines share. With `history` None it goes by what these have agreed on.

    `shared` is given of one partition of a cluster (`cluster/`): each is to its engines what a single Redis is.
    """

    name = "redis"

    def __init__(
        self,
        settings: RedisSettings,
        *,
        limits: QueueLimits | None = None,
        history: LogRules | None = NO_LOGS,
        shared: Shared | None = None,
    ) -> None:
        self._settings = settings
        self._has_started = False
        self._stopping = Stopping(self._stop)
        self._call_timeout = settings.call_timeout_ms / 1000
        self._shared = shared = shared or shared_of(settings, limits or QueueLimits())
        self._durability = Durability(shared.connection.address)
        self._replicas: Replicas | None = None
        if settings.wait_replicas:
            waited = (shared.keys.waited, settings.wait_replicas, settings.call_timeout_ms)
            self._replicas = Replicas(
                shared.connection, *waited, None if shared.pace.looks is None else shared.pace.looks.confirming
            )

        self._notifications = Notifications(shared, classes=CLASSES if settings.foreign_writes else "Kx")
        self._foreign_writes = ForeignWrites(shared, self._notifications) if settings.foreign_writes else None
        self.scopes = Scopes(shared, self._foreign_writes)
        self._deadlines = RedisDeadlines(shared)

        self._heartbeat = Heartbeat(shared, settings.heartbeat_ttl_ms, settings.foreign_writes, history)
        self.takeover = Takeover(shared, self._notifications, settings.heartbeat_ttl_ms)
        self._retention = Retention(shared)
        self.log_retention = LogRetention(shared, self.takeover)
        aside = Aside(shared)
        self._subscriptions = Subscriptions(shared, self._retention, aside)
        self._mending = Mending(shared, aside)
        shared_keys = SharedKeys(shared, self.takeover, aside)
        self._figures = RedisFigures(shared, self.takeover, self._mending)
        self._teller = Teller(shared)
        self.checking = Checking(shared, self._subscriptions, self.takeover, shared_keys, self._mending, aside)

        self.sessions = RedisSessions(shared)
        self.values = RedisValues(shared, self.sessions, self.scopes, self._replicas)
        self.history = RedisHistory(shared, history or NO_LOGS)
        self.queues = RedisQueues(shared, self._subscriptions)
        self.admin = RedisAdmin(shared.keys, shared.connection, shared.fanout.limits)
        self.succession = RedisSuccession(shared)
        self._heartbeat.is_sure_again.connect(shared.wake_ups.wake_all)
        self.began_afresh = self._heartbeat.began_afresh
        self.began_afresh.connect(self.queues.forget_all, lambda: shared.maintenance.plan(0))

    @property
    def store(self) -> str | None:
        """The id of what is stored there: another one when the database has been emptied."""
        return self._shared.store.id

    def figures(self) -> Iterable[Figure]:
        """What has been counted here."""
        return self._figures

    async def tells_of_queues(self) -> bool:
        """Of all engines that are asked, one tells."""
        return await self._teller.is_here()

    def has(self, feature: str) -> bool:
        """What stores itself has all that this version has."""
        return True

    def route(self, visited: list[str]) -> list[str]:
        """What stores itself adds no bridge."""
        return visited

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return str(self._shared.connection.place)

    def send(self, *words: bytes) -> asyncio.Future[Any]:
        """Send one command to the server on which it lies."""
        return self._shared.connection.send(*words)

    # -- opening

    async def start(self, wake: Callable[[str], None]) -> None:
        """Connect, become one of the engines, and begin with everything that goes on by itself."""
        if self._has_started:
            raise StoreError("this redis adapter has been started before, and cannot be used again: make another one")
        shared = self._shared
        connection = shared.connection
        await connection.start(self._check_server)
        try:
            held = await connection.send(b"GET", shared.keys.format)
            if held is not None:
                refuse_newer(connection.address, held)
            await shared.store.read()
            await self._heartbeat.join()
            await shared.fanout.read()
            await shared.store.read()  # again, with what the routes begin with from now on
        except BaseException:
            await connection.stop()
            raise
        self._has_started = True
        connection.prepare = self._look_at_server
        shared.wake_ups.start(wake)
        if self._replicas is not None:
            self._replicas.start()
        shared.pubsub.start()
        self._deadlines.start()
        self._heartbeat.start()
        self.takeover.start()
        retention = self._retention
        duties = (self._subscriptions.host_again, self.queues.start_due_attempts, retention.end_orphans, self.queues.recover)
        logs = self.log_retention.sweep
        shared.maintenance.start(*duties, retention.drop_old_dead_letters, logs, swept=self.queues.sweep)
        if shared.pace.is_alone:
            self.scopes.start()
        self.checking.start()
        if self._foreign_writes is not None:
            self._foreign_writes.start()

    async def _check_server(self, socket: Carrier) -> None:
        """What is looked at on the first connection."""
        shared = self._shared
        if shared.pace.looks is None or shared.pace.looks.are_due(socket.address.place):
            await check_permissions(
                socket, shared.keys, self._settings.prefix, shared.connection.session.name, shared.connection.scripts
            )
            await self._look_at_durability(socket)
        if self._replicas is not None:
            await self._replicas.look_at(socket)

    async def _look_at_durability(self, socket: Carrier) -> None:
        looks, durability = self._shared.pace.looks, self._durability
        if looks is not None:
            durability = looks.durability.setdefault(socket.address.place, Durability(socket.address))
        await durability.look_at(socket)

    async def _look_at_server(self, socket: Carrier) -> None:
        """What is looked at on all others: it may be another server, with other routes of the same version."""
        looks = self._shared.pace.looks
        if looks is None or looks.are_due(socket.address.place):
            await self._look_at_durability(socket)
        if self._replicas is not None:
            await self._replicas.look_at(socket)
        keys, fanout = self._shared.keys, self._shared.fanout
        asked = ((b"GET", keys.routes_version), (b"EXISTS", keys.engines), (b"HGETALL", keys.routes))
        version, has_engines, table = await socket.ask(*asked)
        for refusal in (version, has_engines, table):
            if isinstance(refusal, ReplyError):
                raise StoreError(explain(socket.address, str(refusal)))
        known = int(cast("bytes | None", version) or 0)
        if fanout.load(known, cast("list[bytes]", table), has_engines=bool(has_engines)):
            fanout.emptied()

    # -- closing

    async def stop(self) -> None:
        """Give back what is pending, and close."""
        await self._stopping()

    async def _stop(self) -> None:
        shared = self._shared
        await in_turn(
            *((self._foreign_writes.stop,) if self._foreign_writes is not None else ()),
            self.checking.stop,
            self.scopes.stop,
            shared.maintenance.stop,
            self._deadlines.stop,
            self._heartbeat.stop,
            self.takeover.stop,
            self._leave,
            *((self._replicas.stop,) if self._replicas is not None else ()),
            shared.pubsub.stop,
            shared.background.stop,
            shared.connection.stop,
        )

    async def _leave(self) -> None:
        """Give back what is pending here, unless Redis does not answer."""
        if not self._has_started:
            return
        connection = self._shared.connection
        seconds = self._call_timeout if connection.is_up else min(self._call_timeout, AWAY_SECONDS)
        deadline = asyncio.get_running_loop().time() + seconds
        words = ""
        for step in (self._subscriptions.stop, self.takeover.leave):
            try:
                async with asyncio.timeout_at(deadline):
                    await step()
            except (StoreError, TimeoutError) as error:
                words = words or str(error) or connection.trouble or f"no answer within {seconds:g} s"
        if words:
            connection.forget_session()
            logger.warning("what is pending here could not be given back, and will be taken over: %s", words)

    def absence(self) -> str | None:
        """An engine that was taken for dead carries out calls, but starts no handlers until it has joined the others again."""
        engine = self._shared.engine
        if not engine.is_member.is_set():
            return "this engine was taken for dead, and is joining the others again"
        return None if engine.is_alive() else "the last heartbeat of this engine is too old: others may take it for dead"

    async def health(self) -> str | None:
        """None when Redis answers, else why not."""
        connection = self._shared.connection
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                await connection.send(b"PING")
        except TimeoutError:
            return f"Redis at {connection.address} has not answered for {HEALTH_SECONDS} s"
        except StoreError as error:
            return str(error)
        return None


def shared_of(settings: RedisSettings, limits: QueueLimits) -> Shared:
    """What the parts of an adapter share, nothing of it opened yet."""
    keys = Keys(settings.prefix.encode())
    address = Address.parse(settings.redis_url, settings.tls)
    connection = RedisConnection(
        address, keys.session, call_timeout_ms=settings.call_timeout_ms, max_in_flight=settings.max_in_flight
    )
    pubsub = PubSub(connection.primary.open, silence_seconds=settings.call_timeout_ms / 1000)
    connection.primary.moved.connect(pubsub.hurry)
    return Shared.over(keys, connection, pubsub, limits)
