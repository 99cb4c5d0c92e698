"""Answers that wait until replicas have the write, so that a failover to one of these keeps it.

WAIT blocks the connection that it is sent on, so it has one of its own. It covers what this connection has written; a small write
that is made when an answer has come is later than the answered one. What is answered while a WAIT lasts shares the next.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Generic, TypeVar, cast

from hiredis import ReplyError

from iii_state.adapters.redis.connection.carrier import Carrier, Reply
from iii_state.adapters.redis.connection.connection import RedisConnection
from iii_state.adapters.redis.connection.explain import explain, trouble_of
from iii_state.adapters.redis.scripts.mutations import Postponed
from iii_state.errors import NotConfirmed, StoreError
from iii_state.tasks.background import Background
from iii_state.tasks.reconnect import Backoff, Reconnecting

logger = logging.getLogger(__name__)

T = TypeVar("T")

WAIT_MS = 500
"""One WAIT lasts so long at most; the next begins where calls have time left."""

BACKOFF_SECONDS = 0.2
_INFO = (b"INFO", b"replication")


class _Unconfirmed(Generic[T]):
    """A write that was made under a replication history, and whose answer is due before a deadline."""

    __slots__ = ("answer", "history", "result", "timer")

    def __init__(self, answer: asyncio.Future[T], result: T, history: str, timer: asyncio.TimerHandle) -> None:
        self.answer = answer
        self.result = result
        self.history = history
        self.timer = timer


class Replicas:
    """Has answers wait for `count` replicas, at most until `call_timeout_ms` after the call was made.

    A promoted or demoted server begins another replication history, which has an id. So that a WAIT tells something about a
    write, it has to be that of the history under which the write was made. `written` is a key that may be written.
    """

    def __init__(self, connection: RedisConnection, written: bytes, count: int, call_timeout_ms: int) -> None:
        self._address = connection.address
        self._open_as = connection.primary.open
        self._written = written
        self._send = connection.send
        self._count = count
        self._timeout = call_timeout_ms / 1000
        self._history = ""
        """That of the server on which the calls are made."""
        self._confirmed = 0
        """How many replicas had confirmed at the last look."""
        self._unconfirmed: list[_Unconfirmed[object]] = []
        self._wake = asyncio.Event()
        self._reconnecting = Reconnecting(self._keep_one, Backoff(BACKOFF_SECONDS, BACKOFF_SECONDS), failed=self._failed)
        connection.primary.moved.connect(self._reconnecting.hurry)
        self._background = Background()

    def start(self) -> None:
        """Begin."""
        self._background.start(self._reconnecting.run(), "iii-state replicas")

    async def stop(self) -> None:
        """End; what has not been confirmed fails."""
        await self._background.stop()
        self._fail(self._unconfirmed, "this engine has been stopped")
        self._unconfirmed = []

    async def look_at(self, socket: Carrier) -> None:
        """Look at a server on which calls will be made. Raises `StoreError` where the user may not."""
        info, waited = await socket.ask(_INFO, (b"WAIT", b"0", b"1"))
        for reply in (info, waited):
            if isinstance(reply, ReplyError):
                needed = "wait_replicas needs +info and +wait: " if trouble_of(str(reply)) == "NOPERM" else ""
                raise StoreError(needed + explain(self._address, str(reply)))
        self._history = _field(info, "master_replid")
        there = int(_field(info, "connected_slaves") or 0)
        if there < self._count:
            logger.warning("Redis at %s has %d replicas, and wait_replicas asks for %d", self._address, there, self._count)

    def confirmed(self, answer: asyncio.Future[T]) -> asyncio.Future[T]:
        """The answer, when enough replicas have its write. Fails with `StoreError` in words when that takes too long."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()
        deadline = loop.time() + self._timeout

        def answered(done: asyncio.Future[T]) -> None:
            error = None if done.cancelled() else done.exception()
            if outcome.done():
                return
            if done.cancelled():
                outcome.cancel()
            elif error is not None:
                outcome.set_exception(error)
            elif isinstance(done.result(), Postponed):  # nothing was changed
                outcome.set_result(done.result())
            else:
                timer = loop.call_at(deadline, self._expire, outcome)
                unconfirmed = _Unconfirmed(outcome, done.result(), self._history, timer)
                self._unconfirmed.append(cast("_Unconfirmed[object]", unconfirmed))
                self._wake.set()

        answer.add_done_callback(answered)
        return outcome

    def _expire(self, answer: asyncio.Future[T]) -> None:
        if not answer.done():
            answer.set_exception(self._error(f"of {self._count} replicas {self._confirmed} have confirmed it so far"))

    def _fail(self, writes: list[_Unconfirmed[object]], why: str) -> None:
        for write in writes:
            write.timer.cancel()
            if not write.answer.done():
                write.answer.set_exception(self._error(why))

    def _error(self, why: str) -> NotConfirmed:
        return NotConfirmed(
            f"the change was made on Redis at {self._address}, but is not confirmed by the replicas that wait_replicas asks for, "
            f"and may be lost in a failover: {why}"
        )

    # -- waiting

    async def _keep_one(self) -> None:
        async with asyncio.timeout(self._timeout):
            socket = await self._open_as("iii-state:replicas")
        socket.lost = self._wake.set
        try:
            while await self._round(socket):
                self._reconnecting.worked()
        finally:
            socket.abort()

    def _failed(self, error: Exception, is_news: bool) -> None:
        if not isinstance(error, StoreError | TimeoutError):
            logger.error("whether replicas have what is written cannot be seen", exc_info=error)
        elif is_news:
            logger.warning("whether replicas have what is written cannot be seen: %s", error or "no answer")

    async def _round(self, socket: Carrier) -> bool:
        """One WAIT, once there is something to wait for; False where the connection has ended before."""
        while not self._unconfirmed:
            if socket.closed.done():
                return False
            self._wake.clear()
            await self._wake.wait()
        writes, self._unconfirmed = self._unconfirmed, []
        try:
            confirmed, history = await self._wait(socket)
        except BaseException:
            self._unconfirmed = writes + self._unconfirmed
            raise
        self._confirmed = confirmed
        replaced = [write for write in writes if write.history != history]
        if replaced:
            self._fail(replaced, "the server is no longer the primary that it was, or another one answers in its place")
        for write in writes:
            if write.answer.done():
                write.timer.cancel()
            elif confirmed >= self._count:
                write.timer.cancel()
                write.answer.set_result(write.result)
            else:
                self._unconfirmed.append(write)
        if history != self._history:
            self._history = _field(await self._send(*_INFO), "master_replid")
        return True

    async def _wait(self, socket: Carrier) -> tuple[int, str]:
        """How many replicas have everything that was written before, and the replication history."""
        async with asyncio.timeout(self._timeout + WAIT_MS / 1000):
            replies = await socket.ask((b"SET", self._written, b"1"), (b"WAIT", b"%d" % self._count, b"%d" % WAIT_MS), _INFO)
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise StoreError(explain(self._address, str(reply)))
        return cast(int, replies[1]), _field(replies[2], "master_replid")


def _field(info: Reply, name: str) -> str:
    found = re.search(rf"^{name}:(.*?)\r?$", cast(bytes, info).decode(), re.MULTILINE)
    return found[1] if found else ""
