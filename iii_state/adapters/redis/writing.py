"""Changing values in Redis: each mutation one script, made again until it is applied, and answered when it may be."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from iii_state.adapters.base import Updated
from iii_state.adapters.redis.connection.call import Again
from iii_state.adapters.redis.connection.connection import SESSION_MS, Connection
from iii_state.adapters.redis.connection.replicas import Replicas
from iii_state.adapters.redis.fleet.subscriptions import HOLD_SECONDS
from iii_state.adapters.redis.keys import Keys, caller_session
from iii_state.adapters.redis.mutations.fanout import Fanout, Write
from iii_state.adapters.redis.mutations.foreign_text import checked, is_ours
from iii_state.adapters.redis.scripts.loader import Script, script
from iii_state.adapters.redis.scripts.mutations import (
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
from iii_state.errors import StoreError
from iii_state.sessions import SESSION_SECONDS, Request
from iii_state.tasks.effects import Afterwards
from iii_state.tasks.results import Answer
from iii_state.values.ops import Plan

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_ANSWERED_BYTES = 40 * 1024 * 1024
"""Another program may have written more than an answer holds: the change would be made, and its answer could not be sent."""

_watching = Afterwards("planning the end of a value with a deadline")


class Writing:
    """Mutations, and the sessions of callers that may make theirs again.

    `deadline_set` is told the milliseconds of each deadline that has been set here; with `replicas`, an answer waits for them;
    `own` runs what takes several calls, as long as the adapter does.
    """

    def __init__(
        self,
        keys: Keys,
        connection: Connection,
        fanout: Fanout,
        replicas: Replicas | None,
        deadline_set: Callable[[int], None],
        own: Callable[[Coroutine[Any, Any, Any]], asyncio.Future[Any]],
    ) -> None:
        self._keys = keys
        self._connection = connection
        self._fanout = fanout
        self._replicas = replicas
        self._deadline_set = deadline_set
        self._own = own
        self._set, self._delete, self._update = script("values/set"), script("values/delete"), script("values/update")
        self._kept_sessions: dict[str, float] = {}
        """Session of a caller → when it was last kept from expiring by this engine."""

    def set(
        self, scope: str, key: str, value: bytes, *, ttl_ms: int | None = None, request: Request | None = None
    ) -> Answer[bytes | None]:
        """Store a value; answers what was there before."""

        def result(reply: Reply) -> bytes | None:
            return _old(scope, key, reply)

        if ttl_ms is None:
            return self._mutate(self._set, scope, key, lambda: (value,), result, request)
        return self._mutate_with_deadline(self._set, scope, key, lambda: (value,), result, request, ttl_ms)

    def delete(self, scope: str, key: str, *, request: Request | None = None) -> Answer[bytes | None]:
        """Remove a value; answers what was there."""
        return self._mutate(self._delete, scope, key, tuple, lambda reply: _old(scope, key, reply), request)

    def update(
        self, scope: str, key: str, plan: Plan, limit: int, *, ttl_ms: int | None = None, request: Request | None = None
    ) -> Answer[Updated]:
        """Apply a plan to a value."""
        ops = plan_arguments(plan)
        foreign: bytes | None = None
        stored = b""

        def result(reply: Reply) -> Updated:
            nonlocal foreign, stored
            try:
                return updated(reply, plan, limit)
            except Foreign as found:
                foreign = found.text
                stored = checked(scope, key, foreign)
                raise Again from None

        def arguments() -> list[bytes]:
            return update_arguments(ops, limit, foreign, stored)

        if ttl_ms is None:
            return self._mutate(self._update, scope, key, arguments, result, request, KEEP_DEADLINE)
        return self._mutate_with_deadline(self._update, scope, key, arguments, result, request, ttl_ms)

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
            try:
                self._deadline_set(ttl_ms)
            except Exception as error:
                _watching.failed(error)
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

    def write(self, write: Write[T], scope: str) -> asyncio.Future[T]:
        """Make a mutation of this engine's own, for which nobody waits."""
        return self._connection.call(write.command, write.answered, size=write.size, mutates=True, ticketed=True, scope=scope)

    def open_session(self, session: str, previous_epoch: int, epoch: int) -> Answer[None]:
        """Open the session of a caller, or raise its epoch."""
        key = self._keys.session(caller_session(session))
        call = (b"1", key, b"%d" % previous_epoch, b"%d" % epoch, SESSION_MS)

        def result(reply: Reply) -> None:
            opened(reply)

        return self._connection.run("sessions/open", call, result)

    def _keep_session(self, session: str) -> None:
        """Keep the session of a caller from expiring while it is used, without a command more in each call."""
        now = asyncio.get_running_loop().time()
        interval = SESSION_SECONDS / 5
        if now - self._kept_sessions.get(session, -interval) < interval:
            return
        self._kept_sessions = {name: at for name, at in self._kept_sessions.items() if now - at < interval}
        self._kept_sessions[session] = now
        self._connection.send(b"PEXPIRE", self._keys.session(caller_session(session)), SESSION_MS).add_done_callback(_log_not_kept)


def _old(scope: str, key: str, reply: Reply) -> bytes | None:
    """What a set or delete replaced; nothing where that is no JSON, so that a broken value can be repaired."""
    old = previous(reply)
    if old is None or is_ours(old):
        return old
    if len(old) > MAX_ANSWERED_BYTES:
        logger.warning("the value of %d bytes at scope %r, key %r has been replaced, and counts as null", len(old), scope, key)
        return None
    try:
        return checked(scope, key, old)
    except StoreError as error:
        logger.warning("%s; it has been replaced, and counts as null", error)
        return None


def _log_not_kept(answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled() and (error := answer.exception()) is not None:
        logger.warning("the session of a caller could not be kept: %s", error)
