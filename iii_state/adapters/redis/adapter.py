"""The Redis adapter: values in hashes that a stock iii engine reads and writes too, every mutation one script."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from hiredis import ReplyError

from iii_state.adapters.base import Updated
from iii_state.adapters.redis.admin import Inspection, refuse_newer
from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.connection import Connection
from iii_state.adapters.redis.connection.explain import explain
from iii_state.adapters.redis.connection.replicas import Replicas
from iii_state.adapters.redis.connection.socket import Wire
from iii_state.adapters.redis.fleet.heartbeat import Fleet
from iii_state.adapters.redis.fleet.repair import Repair
from iii_state.adapters.redis.fleet.subscriptions import Subscriptions
from iii_state.adapters.redis.identity import Identity
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.keyspace.deadlines import Deadlines
from iii_state.adapters.redis.keyspace.foreign_writes import CLASSES, ForeignWrites
from iii_state.adapters.redis.keyspace.notifications import Keyspace
from iii_state.adapters.redis.keyspace.reading import Reading
from iii_state.adapters.redis.keyspace.scopes import Scopes
from iii_state.adapters.redis.mutations.fanout import Fanout
from iii_state.adapters.redis.queues import Deliveries
from iii_state.adapters.redis.scripts import queues
from iii_state.adapters.redis.scripts.loader import script
from iii_state.adapters.redis.writing import Writing
from iii_state.config import RedisSettings
from iii_state.errors import StoreError
from iii_state.events import Delivery, Failure, QueueLimits, Subscription
from iii_state.sessions import Request
from iii_state.tasks.closing import Stopping, in_turn
from iii_state.tasks.effects import Afterwards
from iii_state.tasks.maintenance import Upkeep
from iii_state.tasks.results import Answer
from iii_state.values.ops import Plan

logger = logging.getLogger(__name__)

T = TypeVar("T")

HEALTH_SECONDS = 2
STUMBLED_SECONDS = 0.2
"""Calls that stumble together are made good together."""

_ringing = Afterwards("telling the dispatcher of an event")


class RedisAdapter:
    """Values and queues on a Redis that any number of engines share."""

    def __init__(self, settings: RedisSettings, *, limits: QueueLimits | None = None) -> None:
        self.parts = _Parts(settings, limits=limits)
        self.values = self.sessions = self.queues = self.succession = self.parts
        self.admin = self.parts._inspection
        self.start, self.stop, self.health = self.parts.start, self.parts.stop, self.parts.health
        self.route = self.parts.route

    @property
    def store(self) -> str | None:
        return self.parts.store


class _Parts:
    """Values and queues on a Redis that any number of engines share."""

    _subscriptions: Subscriptions
    _deadlines: Deadlines
    _repair: Repair

    def __init__(self, settings: RedisSettings, *, limits: QueueLimits | None = None) -> None:
        self._prefix = settings.prefix
        self._keys = Keys(settings.prefix.encode())
        self._limits = limits or QueueLimits()
        self._connection = Connection(
            Address.parse(settings.redis_url),
            self._keys.session,
            call_timeout_ms=settings.call_timeout_ms,
            max_in_flight=settings.max_in_flight,
        )
        self._send, self._run = self._connection.send, self._connection.run
        self.store: str | None = None
        self._has_started = False
        self._stopping = Stopping(self._stop)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._call_timeout = settings.call_timeout_ms / 1000
        self._fanout = Fanout(self._keys, self._limits, self._connection.address.db, lambda queue: self._subscriptions.ring(queue))
        self._replicas: Replicas | None = None
        if settings.wait_replicas:
            self._replicas = Replicas(
                self._connection.address, self._keys.waited, self._send, settings.wait_replicas, settings.call_timeout_ms
            )
        self._reading = Reading(self._keys, self._connection, self._fanout.routes, self._own)
        self._writing = Writing(
            *(self._keys, self._connection, self._fanout, self._replicas),
            *(lambda ttl_ms: self._deadlines.set_here(ttl_ms), self._own),
        )
        self._bell: Callable[[str], None] = _unheard
        self._engine = Identity()
        self._recovers = False
        """Whether a connection has broken since the pending deliveries were compared with Redis's."""
        self._upkeep = Upkeep(
            (self._host_again, self._start_due_attempts, self._end_orphans, self._recover),
            lambda: list(self._subscriptions.hosted),
            self._ring,
        )
        self._watches = settings.foreign_writes
        self._keyspace = Keyspace(
            *(self._connection.address, self._keys, self._send),
            silence_seconds=self._call_timeout,
            classes=CLASSES if self._watches else "Kx",
        )
        self._bells = self._keyspace.bells
        self._deadlines = Deadlines(self._fanout, self._run, self._send, self._writing.write, self._bells)
        self._subscriptions = Subscriptions(
            self._keys,
            self._run,
            self._send,
            self._engine,
            self._bells,
            self._ring,
            self._upkeep.plan,
            self._fanout.routes,
            lambda write: write.startswith(self._connection.session),
        )
        self._deliveries = Deliveries(
            *(self._keys, self._run, self._send, self._engine, self._subscriptions, self._fanout.routes, self._limits),
            *(self._upkeep.plan, self._stumbled),
        )
        self._inspection = Inspection(self._keys, self._run, self._send, self._limits)
        self._fleet = Fleet(
            *(self._keys, self._engine, self._run, self._send, self._keyspace, settings.heartbeat_ttl_ms, self._watches),
            *(self._begin_afresh, self._ring_all),
        )
        self._repair = Repair(
            *(self._fanout, self._run, self._send, self._engine, self._subscriptions),
            *(lambda: self.store, self._fleet.is_first, lambda: self._connection.session),
        )
        self._connection.stumbled = self._stumbled
        self._foreign_writes = ForeignWrites(self._fanout, self._keyspace, self._engine, self._run, self._send, self._writing.write)
        self._scopes = Scopes(self._keys, self._send, self._fanout.routes, self._watch)
        self._was_emptied = False
        self._fanout.emptied = self._emptied

    # -- opening and closing

    async def start(self, bell: Callable[[str], None]) -> None:
        if self._has_started:
            raise StoreError("this redis adapter has been started before, and cannot be used again: make another one")
        await self._connection.start(self._check_server)
        try:
            await self._check_format()
            await self._send(b"SET", self._keys.store, secrets.token_hex(8).encode(), b"NX")
            self.store = (await self._send(b"GET", self._keys.store)).decode("utf-8", "replace")
            await self._fleet.join()
            await self._fanout.read(self._send)
        except BaseException:
            await self._connection.stop()
            raise
        self._has_started = True
        self._bell = bell
        self._connection.prepare = self._look_at_server
        self._connection.restored = self._reconnected
        if self._replicas is not None:
            self._replicas.start()
        self._bells.start()
        self._deadlines.start()
        self._fleet.start()
        self._upkeep.start()
        self._scopes.start()
        self._repair.start()
        if self._watches:
            self._foreign_writes.start()

    async def _check_server(self, wire: Wire) -> None:
        """What is looked at on the first connection."""
        await self._check_permissions(wire)
        if self._replicas is not None:
            await self._replicas.look_at(wire)

    async def _look_at_server(self, wire: Wire) -> None:
        """What is looked at on all others: it may be another server."""
        if self._replicas is not None:
            await self._replicas.look_at(wire)
        await self._read_routes(wire)

    async def _check_permissions(self, wire: Wire) -> None:
        trial = self._connection.session
        permissions = script("fleet/check_permissions")
        names = (self._keys.values(b"iii-state trial " + trial), self._keys.session(b"trial:" + trial))
        replies = await wire.ask(
            (b"SCRIPT", b"LOAD", permissions.source), (b"EVALSHA", permissions.sha1, b"2", *names), (b"SCAN", b"0", b"COUNT", b"1")
        )
        for reply in replies:
            if isinstance(reply, ReplyError):
                hint = f" (it needs the keys {self._keys.values(b'*').decode()} and {self._prefix}:*)"
                raise StoreError(explain(wire.address, str(reply)) + (hint if "keys" in str(reply) else ""))
        refused = cast("list[bytes]", replies[1])
        if refused:
            listed = ", ".join(sorted({word.decode("utf-8", "replace") for word in refused}))
            raise StoreError(f"the user of redis_url may not use all that iii-state needs on Redis at {wire.address}: {listed}")

    async def _check_format(self) -> None:
        held = await self._send(b"GET", self._keys.format)
        if held is not None:
            refuse_newer(self._connection.address, held)

    async def _read_routes(self, wire: Wire) -> None:
        """After a failover there may be others of the same version."""
        version, table = await wire.ask((b"GET", self._keys.routes_version), (b"HGETALL", self._keys.routes))
        for refusal in (version, table):
            if isinstance(refusal, ReplyError):
                raise StoreError(explain(wire.address, str(refusal)))
        if self._fanout.load(int(cast("bytes | None", version) or 0), cast("list[bytes]", table)):
            self._emptied()

    async def stop(self) -> None:
        await self._stopping()

    async def _stop(self) -> None:
        await in_turn(
            self._foreign_writes.stop,
            self._repair.stop,
            self._scopes.stop,
            self._upkeep.stop,
            self._deadlines.stop,
            self._fleet.stop,
            self._leave,
            self._stop_replicas,
            self._bells.stop,
            self._stop_tasks,
            self._connection.stop,
        )

    async def _leave(self) -> None:
        """Give back what is pending here, unless Redis does not answer."""
        if not self._has_started:
            return
        try:
            async with asyncio.timeout(self._call_timeout):
                await in_turn(self._subscriptions.stop, self._fleet.leave)
        except (StoreError, TimeoutError) as error:
            self._connection.forget_session()
            words = str(error) or f"no answer within {self._call_timeout:g} s"
            logger.warning("what is pending here could not be given back, and will be taken over: %s", words)

    async def _stop_replicas(self) -> None:
        if self._replicas is not None:
            await self._replicas.stop()

    async def _stop_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def health(self) -> str | None:
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                await self._send(b"PING")
        except TimeoutError:
            return f"Redis at {self._connection.address} has not answered for {HEALTH_SECONDS} s"
        except StoreError as error:
            return str(error)
        return None

    # -- values

    def get(self, scope: str, key: str) -> Answer[bytes | None]:
        return self._reading.get(scope, key)

    def texts(self, scope: str) -> Answer[list[bytes]]:
        return self._reading.texts(scope)

    def entries(self, scope: str) -> Answer[list[tuple[str, bytes]]]:
        return self._reading.entries(scope)

    def keys(self, scope: str) -> Answer[list[str]]:
        return self._reading.keys(scope)

    def set(
        self, scope: str, key: str, value: bytes, *, ttl_ms: int | None = None, request: Request | None = None
    ) -> Answer[bytes | None]:
        return self._writing.set(scope, key, value, ttl_ms=ttl_ms, request=request)

    def delete(self, scope: str, key: str, *, request: Request | None = None) -> Answer[bytes | None]:
        return self._writing.delete(scope, key, request=request)

    def update(
        self, scope: str, key: str, plan: Plan, limit: int, *, ttl_ms: int | None = None, request: Request | None = None
    ) -> Answer[Updated]:
        return self._writing.update(scope, key, plan, limit, ttl_ms=ttl_ms, request=request)

    def open(self, session: str, previous_epoch: int, epoch: int) -> Answer[None]:
        return self._writing.open_session(session, previous_epoch, epoch)

    def scopes(self) -> Answer[list[str]]:
        return self._own(self._scopes.all())

    def route(self, visited: list[str]) -> list[str]:
        return visited

    def enable_events(self, enabled: bool) -> None:
        self._fanout.enabled = enabled

    def _own(self, work: Any) -> asyncio.Future[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- the fleet

    async def _host_again(self) -> int:
        await self._subscriptions.host_again()
        return -1

    async def _start_due_attempts(self) -> int:
        return await self._deliveries.start_due_attempts()

    async def _end_orphans(self) -> int:
        return await self._subscriptions.end_orphans(lambda queue: self._send(b"HGET", self._keys.subscription(queue), b"settings"))

    def _reconnected(self) -> None:
        self._fleet.spare_everybody()
        self._subscriptions.doubt()
        self._recovers = True
        self._upkeep.plan(0)
        self._deadlines.look()

    def _stumbled(self) -> None:
        """Redis holds something else than was left there. What a call had taken before it failed is given back."""
        self._recovers = True
        self._upkeep.plan(STUMBLED_SECONDS)
        self._repair.stumbled()

    async def _recover(self) -> int:
        if self._recovers:
            self._recovers = False
            try:
                await self._deliveries.recover()
            except BaseException:
                self._recovers = True
                raise
        return -1

    async def _begin_afresh(self) -> None:
        if await self._fanout.read(self._send) or self._was_emptied:
            self._was_emptied = False
            logger.error(
                "the database has been emptied (FLUSHDB?) or replaced, and with it went all values, triggers, dead letters, and "
                "events that had not been delivered: what they were is not known; this engine begins afresh"
            )
        else:
            logger.warning("this engine has been taken for dead (was it stopped?); it begins afresh")
        self._deliveries.forget_all()
        self._upkeep.plan(0)

    def _ring(self, subscription_id: str) -> None:
        try:
            self._bell(subscription_id)
        except Exception as error:
            _ringing.failed(error)

    def _ring_all(self) -> None:
        for subscription_id in list(self._subscriptions.hosted):
            self._ring(subscription_id)

    def enter(self, worker: str, ttl_ms: int) -> Answer[list[str]]:
        call = queues.line_up(self._keys, worker.encode(), ttl_ms)
        return self._run("fleet/join_succession", call, lambda before: [other.decode() for other in before])

    def leave(self, worker: str) -> Answer[None]:
        return self._run("fleet/join_succession", queues.line_up(self._keys, worker.encode(), 0), lambda _: None)

    def _emptied(self) -> None:
        self._was_emptied = True
        self._engine.lost(self._engine.id)

    # -- foreign writes

    def _watch(self, scopes: Sequence[bytes]) -> bool:
        if self._watches:
            self._foreign_writes.changed(scopes)
        return self._watches

    # -- queues

    def subscribe(self, subscription: Subscription) -> Answer[None]:
        return self._subscriptions.subscribe(subscription)

    def offer(self, subscription_id: str, served: bool) -> None:
        pass  # nothing comes that is not taken

    def unsubscribe(self, subscription_id: str) -> Answer[None]:
        return self._subscriptions.unsubscribe(subscription_id)

    def abandon(self, subscription_id: str) -> Answer[None]:
        return self._subscriptions.abandon(subscription_id)

    def take(self, subscription_id: str, count: int) -> Answer[list[Delivery]]:
        return self._deliveries.take(subscription_id, count)

    def holds(self, delivery: Delivery) -> bool:
        return self._deliveries.holds(delivery)

    def ack(self, deliveries: Sequence[Delivery], want: int = 0) -> Answer[list[Delivery]]:
        return self._deliveries.ack(deliveries, want)

    def retry(self, delivery: Delivery, delay_ms: int, failure: Failure, *, crashed: bool = False) -> Answer[None]:
        return self._deliveries.retry(delivery, delay_ms, failure, crashed=crashed)

    def dead_letter(self, delivery: Delivery, failure: Failure) -> Answer[None]:
        return self._deliveries.bury(delivery, failure)

    def release(self, deliveries: Sequence[Delivery], *, begun: bool = False) -> Answer[None]:
        return self._deliveries.release(deliveries, begun=begun)


def _unheard(subscription_id: str) -> None:
    """Nobody listens before the adapter has been started."""
