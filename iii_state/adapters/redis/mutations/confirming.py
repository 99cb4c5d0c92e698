"""Waits until the replicas of a server have what was written there: one connection, on which one WAIT at a time is sent for all.

WAIT blocks the connection that it is sent on, so it has one of its own. It covers what this connection has written; a small write
that is made when an answer has come is later than the answered one. What is answered while a WAIT lasts shares the next.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar, cast

from hiredis import ReplyError

from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.carrier import Carrier, Reply
from iii_state.adapters.redis.connection.explain import explain
from iii_state.errors import NotConfirmed, StoreError
from iii_state.tasks.background import Background
from iii_state.tasks.reconnect import Backoff, Reconnecting

logger = logging.getLogger(__name__)

T = TypeVar("T")

WAIT_MS = 500
"""One WAIT lasts so long at most; the next begins where calls have time left."""

BACKOFF_SECONDS = 0.2
INFO = (b"INFO", b"replication")


class Writer(Protocol):
    """A part of the state on a server, whose writes are to be confirmed."""

    written: bytes
    """A key that may be written."""
    history: str
    """The replication history of the server on which its calls are made."""

    def look_again(self) -> None:
        """The history has changed: see whether that of the calls has, too."""


class Unconfirmed(Generic[T]):
    """A write that was made under a replication history, and whose answer is due before a deadline."""

    __slots__ = ("answer", "history", "result", "timer")

    def __init__(self, answer: asyncio.Future[T], result: T, history: str, timer: asyncio.TimerHandle) -> None:
        self.answer = answer
        self.result = result
        self.history = history
        self.timer = timer


class Confirming:
    """Has answers wait for `count` replicas of a server.

    A promoted or demoted server begins another replication history, which has an id. So that a WAIT tells something about a
    write, it has to be that of the history under which the write was made.
    """

    def __init__(self, address: Address, open_as: Callable[[str], Awaitable[Carrier]], count: int, call_timeout_ms: int) -> None:
        self.address = address
        self.confirmed = 0
        """How many replicas had confirmed at the last look."""
        self._open_as = open_as
        self._count = count
        self._timeout = call_timeout_ms / 1000
        self._writers: dict[Writer, None] = {}
        self._unconfirmed: list[Unconfirmed[object]] = []
        self._wake = asyncio.Event()
        self._reconnecting = Reconnecting(self._keep_one, Backoff(BACKOFF_SECONDS, BACKOFF_SECONDS), failed=self._failed)
        self._background = Background()

    def join(self, writer: Writer) -> None:
        """A writer's calls are made there from now on."""
        if not self._writers:
            self._background.start(self._reconnecting.run(), "iii-state replicas")
        self._writers[writer] = None

    async def leave(self, writer: Writer, why: str) -> None:
        """They are no more. Where it was the last one, what has not been confirmed fails."""
        self._writers.pop(writer, None)
        if not self._writers:
            await self._background.stop()
        if not self._writers:
            unconfirmed, self._unconfirmed = self._unconfirmed, []
            self._fail(unconfirmed, why)

    def hurry(self) -> None:
        """Connect at once, where this waits to connect again."""
        self._reconnecting.hurry()

    def add(self, write: Unconfirmed[T]) -> None:
        """Answer a write when replicas have it."""
        self._unconfirmed.append(cast("Unconfirmed[object]", write))
        self._wake.set()

    def error(self, why: str) -> NotConfirmed:
        """What a write fails with that replicas may not have."""
        return NotConfirmed(
            f"the change was made on Redis at {self.address}, but is not confirmed by the replicas that wait_replicas asks for, "
            f"and may be lost in a failover: {why}"
        )

    def _fail(self, writes: list[Unconfirmed[object]], why: str) -> None:
        for write in writes:
            write.timer.cancel()
            if not write.answer.done():
                write.answer.set_exception(self.error(why))

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
        self.confirmed = confirmed
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
        for writer in tuple(self._writers):
            if writer.history != history:
                writer.look_again()
        return True

    async def _wait(self, socket: Carrier) -> tuple[int, str]:
        """How many replicas have everything that was written before, and the replication history."""
        written = next(iter(self._writers)).written
        async with asyncio.timeout(self._timeout + WAIT_MS / 1000):
            replies = await socket.ask((b"SET", written, b"1"), (b"WAIT", b"%d" % self._count, b"%d" % WAIT_MS), INFO)
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise StoreError(explain(self.address, str(reply)))
        return cast(int, replies[1]), field_of(replies[2], "master_replid")


def field_of(info: Reply, name: str) -> str:
    """What INFO says of something; empty where it says nothing."""
    found = re.search(rf"^{name}:(.*?)\r?$", cast(bytes, info).decode(), re.MULTILINE)
    return found[1] if found else ""
