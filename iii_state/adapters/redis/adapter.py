"""The Redis adapter: values in hashes that a stock iii engine reads and writes too, every mutation one script."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar, cast

from hiredis import ReplyError

from iii_state.adapters.base import Updated
from iii_state.adapters.redis import queues
from iii_state.adapters.redis.address import Address
from iii_state.adapters.redis.connection import SESSION_MS, Again, Connection
from iii_state.adapters.redis.deadlines import Deadlines
from iii_state.adapters.redis.deliveries import Deliveries
from iii_state.adapters.redis.fanout import Fanout, Write
from iii_state.adapters.redis.fleet import Fleet, Identity
from iii_state.adapters.redis.foreign import is_ours, stored_form
from iii_state.adapters.redis.foreign_writes import CLASSES, ForeignWrites
from iii_state.adapters.redis.inspection import Inspection, refuse_newer
from iii_state.adapters.redis.keys import Keys, caller_session
from iii_state.adapters.redis.keyspace import Keyspace
from iii_state.adapters.redis.mutations import (
    KEEP_DEADLINE,
    NO_DEADLINE,
    Foreign,
    Held,
    Reply,
    opened,
    plan_arguments,
    previous,
    update_arguments,
    updated,
)
from iii_state.adapters.redis.replicas import Replicas
from iii_state.adapters.redis.scopes import Scopes
from iii_state.adapters.redis.scripts import Script, script
from iii_state.adapters.redis.subscriptions import HOLD_SECONDS, Subscriptions
from iii_state.adapters.redis.upkeep import Upkeep
from iii_state.adapters.redis.wire import Wire, explain
from iii_state.config import RedisSettings
from iii_state.errors import InvalidValue, StoreError
from iii_state.events import DeadLetter, Delivery, Failure, QueueLimits, QueueStats, Subscription
from iii_state.host import Answer, then
from iii_state.ops import Plan
from iii_state.sessions import SESSION_SECONDS, Request

logger = logging.getLogger(__name__)

T = TypeVar("T")

INSTANT_VALUES = 2000
INSTANT_BYTES = 1_000_000
"""Up to here the values of a scope are read at one instant."""

INSTANT_KEYS = 10_000
"""Up to here its keys are, without the values: about a millisecond of Redis's time."""

PAGE_VALUES = 200
PAGE_BYTES = 500_000
"""Beyond it they are read in pages of about this size, each well within a millisecond of Redis's time per 100 KB."""

HEALTH_SECONDS = 2


class RedisAdapter:
    """Values and queues on a Redis that any number of engines share."""

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
        self._set_script, self._delete_script, self._update_script = script("set"), script("delete"), script("update")
        self._kept_sessions: dict[str, float] = {}
        """Session of a caller → when it was last kept from expiring by this engine."""
        self.store: str | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._call_timeout = settings.call_timeout_ms / 1000
        self._fanout = Fanout(self._keys, self._limits, self._connection.address.db, lambda queue: self._subscriptions.ring(queue))
        self._bell: Callable[[str], None] = _unheard
        self._engine = Identity()
        self._recovers = False
        """Whether a connection has broken since the pending deliveries were compared with Redis's."""
        self._upkeep = Upkeep(
            (self._host_again, self._start_due_attempts, self._end_orphans, self._recover),
            lambda: list(self._subscriptions.hosted),
            lambda name: self._bell(name),
        )
        self._watches = settings.foreign_writes
        self._keyspace = Keyspace(
            *(self._connection.address, self._keys, self._send),
            silence_seconds=self._call_timeout,
            classes=CLASSES if self._watches else "Kx",
        )
        self._bells = self._keyspace.bells
        self._deadlines = Deadlines(self._fanout, self._run, self._send, self._write, self._bells)
        self._subscriptions = Subscriptions(
            self._keys,
            self._run,
            self._send,
            self._engine,
            self._bells,
            lambda name: self._bell(name),
            self._upkeep.plan,
            self._fanout.routes,
            lambda write: write.startswith(self._connection.session),
        )
        self._deliveries = Deliveries(
            *(self._keys, self._run, self._send, self._engine, self._subscriptions, self._fanout.routes, self._limits),
            self._upkeep.plan,
        )
        self._inspection = Inspection(self._keys, self._run, self._send, self._limits)
        self._fleet = Fleet(
            *(self._keys, self._engine, self._run, self._send, self._keyspace, settings.heartbeat_ttl_ms, self._watches),
            *(self._begin_afresh, self._ring_all),
        )
        self._foreign_writes = ForeignWrites(self._fanout, self._keyspace, self._engine, self._run, self._send, self._write)
        self._replicas: Replicas | None = None
        if settings.wait_replicas:
            self._replicas = Replicas(
                self._connection.address, self._keys.waited, self._send, settings.wait_replicas, settings.call_timeout_ms
            )
        self._scopes = Scopes(self._keys, self._send, self._fanout.routes, self._watch)
        self._was_emptied = False
        self._fanout.emptied = self._emptied

    # -- opening and closing

    async def start(self, bell: Callable[[str], None]) -> None:
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
        permissions = script("permissions")
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
        await self._foreign_writes.stop()
        await self._scopes.stop()
        await self._upkeep.stop()
        await self._deadlines.stop()
        await self._fleet.stop()
        try:
            async with asyncio.timeout(self._call_timeout):
                await self._subscriptions.stop()
                await self._fleet.leave()
        except (StoreError, TimeoutError) as error:
            logger.info("what is pending here could not be given back, and will be taken over: %s", error or "no answer")
        if self._replicas is not None:
            await self._replicas.stop()
        await self._bells.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._connection.stop()

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
        name = self._keys.values(scope.encode())
        if scope in self._fanout.routes.with_deadlines:
            words: tuple[bytes, ...] = (
                b"EVALSHA",
                script("get").sha1,
                b"2",
                name,
                self._keys.deadlines_of(scope.encode()),
                key.encode(),
            )
        else:
            words = (b"HGET", name, key.encode())

        def result(reply: bytes | None) -> bytes | None:
            if reply is None or is_ours(reply):
                return reply
            return self._checked(scope, key, reply)

        return self._connection.call(lambda *ticket: words, result, scope=scope)

    def set(
        self, scope: str, key: str, value: bytes, *, ttl_ms: int | None = None, request: Request | None = None
    ) -> Answer[bytes | None]:
        def result(reply: Reply) -> bytes | None:
            return self._old(scope, key, reply)

        if ttl_ms is None:
            return self._mutate(self._set_script, scope, key, lambda: (value,), result, request)
        return self._mutate_with_deadline(self._set_script, scope, key, lambda: (value,), result, request, ttl_ms)

    def delete(self, scope: str, key: str, *, request: Request | None = None) -> Answer[bytes | None]:
        return self._mutate(self._delete_script, scope, key, tuple, lambda reply: self._old(scope, key, reply), request)

    def update(
        self, scope: str, key: str, plan: Plan, limit: int, *, ttl_ms: int | None = None, request: Request | None = None
    ) -> Answer[Updated]:
        ops = plan_arguments(plan)
        foreign: bytes | None = None
        stored = b""

        def result(reply: Reply) -> Updated:
            nonlocal foreign, stored
            try:
                return updated(reply, plan, limit)
            except Foreign as found:
                foreign = found.text
                stored = self._checked(scope, key, foreign)
                raise Again from None

        def arguments() -> list[bytes]:
            return update_arguments(ops, limit, foreign, stored)

        if ttl_ms is None:
            return self._mutate(self._update_script, scope, key, arguments, result, request, KEEP_DEADLINE)
        return self._mutate_with_deadline(self._update_script, scope, key, arguments, result, request, ttl_ms)

    def _mutate(
        self,
        command: Script,
        scope: str,
        key: str,
        arguments: Callable[[], Sequence[bytes]],
        result: Callable[[Reply], T],
        request: Request | None,
        ttl: bytes = NO_DEADLINE,
    ) -> asyncio.Future[T]:
        write = Write(self._fanout, command, scope, key, arguments, result, request, ttl=ttl)
        if request is not None:
            self._keep_session(request.session)
        answer = self._connection.call(
            write.command, write.answered, size=write.size, mutates=True, ticketed=request is None, scope=scope
        )
        return answer if self._replicas is None else self._replicas.confirmed(answer)

    def _mutate_with_deadline(
        self,
        command: Script,
        scope: str,
        key: str,
        arguments: Callable[[], Sequence[bytes]],
        result: Callable[[Reply], T],
        request: Request | None,
        ttl_ms: int,
    ) -> asyncio.Future[T]:
        def done(reply: Reply) -> T:
            answer = result(reply)
            self._deadlines.set_here(ttl_ms)
            return answer

        def mutate() -> asyncio.Future[T]:
            return self._mutate(command, scope, key, arguments, done, request, b"%d" % ttl_ms)

        answer = mutate()
        return answer if scope in self._fanout.routes.with_deadlines else self._own(self._first_deadline(answer, mutate))

    async def _first_deadline(self, answer: asyncio.Future[T], mutate: Callable[[], asyncio.Future[T]]) -> T:
        """The first deadline of a scope changes the routes, which may have to hold still."""
        while True:
            try:
                return await answer
            except Held:
                await asyncio.sleep(HOLD_SECONDS)
                answer = mutate()

    def _write(self, write: Write[T], scope: str) -> asyncio.Future[T]:
        return self._connection.call(write.command, write.answered, size=write.size, mutates=True, ticketed=True, scope=scope)

    def open_session(self, session: str, previous_epoch: int, epoch: int) -> Answer[None]:
        key = self._keys.session(caller_session(session))
        call = (b"1", key, b"%d" % previous_epoch, b"%d" % epoch, SESSION_MS)

        def result(reply: Reply) -> None:
            opened(reply)

        return self._run("open", call, result)

    def _keep_session(self, session: str) -> None:
        """Keep the session of a caller from expiring while it is used, without a command more in each call."""
        now = asyncio.get_running_loop().time()
        interval = SESSION_SECONDS / 5
        if now - self._kept_sessions.get(session, -interval) < interval:
            return
        self._kept_sessions = {name: at for name, at in self._kept_sessions.items() if now - at < interval}
        self._kept_sessions[session] = now
        self._send(b"PEXPIRE", self._keys.session(caller_session(session)), SESSION_MS).add_done_callback(_log_not_kept)

    def _old(self, scope: str, key: str, reply: Reply) -> bytes | None:
        """What a set or delete replaced; nothing where that is no JSON, so that a broken value can be repaired."""
        old = previous(reply)
        if old is None or is_ours(old):
            return old
        try:
            return self._checked(scope, key, old)
        except StoreError as error:
            logger.warning("%s; it has been replaced, and counts as null", error)
            return None

    def _checked(self, scope: str, key: str, text: bytes) -> bytes:
        try:
            return stored_form(text)
        except InvalidValue as error:
            raise StoreError(f"the value at scope {scope!r}, key {key!r} is not ours, and no JSON: {error}") from None

    def texts(self, scope: str) -> Answer[list[bytes]]:
        return then(self.entries(scope), lambda entries: [text for _, text in entries])

    def entries(self, scope: str) -> Answer[list[tuple[str, bytes]]]:
        return self._own(self._entries(scope))

    async def _entries(self, scope: str) -> list[tuple[str, bytes]]:
        names = self._names_of(scope)
        bounds = (b"%d" % INSTANT_VALUES, b"%d" % INSTANT_BYTES)
        page: list[bytes] | None = await self._send(
            b"EVALSHA", script("entries").sha1, b"%d" % len(names), *names, *bounds, scope=scope
        )
        if page is not None:
            found = dict(zip(page[::2], page[1::2], strict=True))
        else:
            found = {}
            async for page in self._pages(names, scope):
                found.update(zip(page[::2], page[1::2], strict=True))
        entries = []
        for key, text in found.items():
            decoded = _decoded(scope, key)
            entries.append((decoded, text if is_ours(text) else self._checked(scope, decoded, text)))
        return entries

    def _names_of(self, scope: str) -> tuple[bytes, ...]:
        """The keys that a read of a scope has to look at: its values, and its deadlines where it has any."""
        name = self._keys.values(scope.encode())
        return (name, self._keys.deadlines_of(scope.encode())) if scope in self._fanout.routes.with_deadlines else (name,)

    async def _pages(self, names: tuple[bytes, ...], scope: str) -> AsyncIterator[list[bytes]]:
        """Keys and values in turn of a scope of any size; a key may come twice."""
        cursor, count = b"0", PAGE_VALUES
        while True:
            if len(names) == 1:
                words: tuple[bytes, ...] = (b"HSCAN", *names, cursor, b"COUNT", b"%d" % count)
            else:
                words = (b"EVALSHA", script("page").sha1, b"2", *names, cursor, b"%d" % count)
            cursor, page = await self._send(*words, scope=scope)
            yield page
            if cursor == b"0":
                break
            each = sum(map(len, page)) // (len(page) // 2 or 1) + 1
            count = max(10, min(5 * PAGE_VALUES, PAGE_BYTES // each))

    def keys(self, scope: str) -> Answer[list[str]]:
        return self._own(self._keys_of(scope))

    async def _keys_of(self, scope: str) -> list[str]:
        names = self._names_of(scope)
        if len(names) == 1 and await self._send(b"HLEN", *names, scope=scope) <= INSTANT_KEYS:
            found = await self._send(b"HKEYS", *names, scope=scope)
        else:
            found = {key: None async for page in self._pages(names, scope) for key in page[::2]}
        return [_decoded(scope, key) for key in found]

    def groups(self) -> Answer[list[str]]:
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

    def _ring_all(self) -> None:
        for subscription_id in list(self._subscriptions.hosted):
            self._bell(subscription_id)

    def line_up(self, worker: str, ttl_ms: int) -> Answer[list[str]]:
        call = queues.line_up(self._keys, worker.encode(), ttl_ms)
        return self._run("line_up", call, lambda before: [other.decode() for other in before])

    def step_out(self, worker: str) -> Answer[None]:
        return self._run("line_up", queues.line_up(self._keys, worker.encode(), 0), lambda _: None)

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

    def retry(self, delivery: Delivery, delay_ms: int, failure: Failure) -> Answer[None]:
        return self._deliveries.retry(delivery, delay_ms, failure)

    def bury(self, delivery: Delivery, failure: Failure) -> Answer[None]:
        return self._deliveries.bury(delivery, failure)

    def release(self, deliveries: Sequence[Delivery]) -> Answer[None]:
        return self._deliveries.release(deliveries)

    def queues(self) -> Answer[list[QueueStats]]:
        return self._own(self._inspection.queues())

    def dead_letters(self, function_id: str | None = None) -> Answer[list[DeadLetter]]:
        return self._own(self._inspection.dead_letters(function_id))

    def revive(self, dead_letter_id: str) -> Answer[bool]:
        return self._own(self._inspection.revive(dead_letter_id))

    def discard(self, dead_letter_id: str) -> Answer[bool]:
        return self._own(self._inspection.discard(dead_letter_id))


def _decoded(scope: str, key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise StoreError(f"scope {scope!r} has a key that is not ours, and no UTF-8: {key[:200]!r}") from None


def _log_not_kept(answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled() and (error := answer.exception()) is not None:
        logger.warning("the session of a caller could not be kept: %s", error)


def _unheard(subscription_id: str) -> None:
    """Nobody listens before the adapter has been started."""


def _as_it_is(reply: Any) -> Any:
    return reply
