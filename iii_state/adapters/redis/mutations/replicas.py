"""Answers that wait until replicas have the write, so that a failover to one of these keeps it."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TypeVar

from hiredis import ReplyError

from iii_state.adapters.redis.connection.address import Place
from iii_state.adapters.redis.connection.carrier import Carrier
from iii_state.adapters.redis.connection.connection import RedisConnection
from iii_state.adapters.redis.connection.explain import explain, trouble_of
from iii_state.adapters.redis.mutations.confirming import INFO, Confirming, Unconfirmed, field_of
from iii_state.adapters.redis.scripts.mutations import Postponed
from iii_state.errors import StoreError
from iii_state.tasks.background import Background

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Replicas:
    """Has answers wait for `count` replicas, at most until `call_timeout_ms` after the call was made. `written` is a key that may
    be written.

    With `servers` it is one of the partitions of a cluster: those at one server share what waits there.
    """

    def __init__(
        self,
        connection: RedisConnection,
        written: bytes,
        count: int,
        call_timeout_ms: int,
        servers: dict[Place, Confirming] | None = None,
    ) -> None:
        self.written = written
        self.history = ""
        self._connection = connection
        self._bounds = (count, call_timeout_ms)
        self._servers = servers
        self._server = Confirming(connection.address, connection.primary.open, *self._bounds)
        self._has_started = False
        self._is_looking = False
        self._background = Background()
        connection.primary.moved.connect(lambda: self._server.hurry())

    def start(self) -> None:
        """Begin."""
        self._has_started = True
        self._server.join(self)

    async def stop(self) -> None:
        """End; what has not been confirmed fails."""
        self._has_started = False
        await self._server.leave(self, "this engine has been stopped")
        await self._background.stop()

    async def look_at(self, socket: Carrier) -> None:
        """Look at a server on which calls will be made. Raises `StoreError` where the user may not."""
        info, waited = await socket.ask(INFO, (b"WAIT", b"0", b"1"))
        for reply in (info, waited):
            if isinstance(reply, ReplyError):
                needed = "wait_replicas needs +info and +wait: " if trouble_of(str(reply)) == "NOPERM" else ""
                raise StoreError(needed + explain(socket.address, str(reply)))
        self.history = field_of(info, "master_replid")
        there, count = int(field_of(info, "connected_slaves") or 0), self._bounds[0]
        is_new = self._servers is None or self._move_to(socket.address.place, self._servers)
        if there < count and is_new:
            logger.warning("Redis at %s has %d replicas, and wait_replicas asks for %d", socket.address, there, count)

    def _move_to(self, place: Place, servers: dict[Place, Confirming]) -> bool:
        """Wait at the server of that place from now on. True where that was not known before."""
        is_new = place not in servers
        if is_new:
            address = self._connection.address.at(*place)
            servers[place] = Confirming(address, partial(self._connection.primary.open_alone, place), *self._bounds)
        if (server := servers[place]) is not self._server:
            former, self._server = self._server, server
            if self._has_started:
                server.join(self)
                self._background.start(former.leave(self, "the slot is served by another node now"), "iii-state leave replicas")
        return is_new

    def look_again(self) -> None:
        """See under which replication history calls are made."""
        if not self._is_looking:
            self._is_looking = True
            self._background.start(self._look_again(), "iii-state look at the replication history")

    async def _look_again(self) -> None:
        try:
            self.history = field_of(await self._connection.send(*INFO), "master_replid")
        except StoreError as error:
            logger.info("the replication history of Redis at %s cannot be seen: %s", self._connection.address, error)
        finally:
            self._is_looking = False

    def confirmed(self, answer: asyncio.Future[T]) -> asyncio.Future[T]:
        """The answer, when enough replicas have its write. Fails with `StoreError` in words when that takes too long."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()
        count, call_timeout_ms = self._bounds
        deadline = loop.time() + call_timeout_ms / 1000

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
                server = self._server
                timer = loop.call_at(deadline, _expire, outcome, server, count)
                server.add(Unconfirmed(outcome, done.result(), self.history, timer))

        answer.add_done_callback(answered)
        return outcome


def _expire(answer: asyncio.Future[T], server: Confirming, count: int) -> None:
    if not answer.done():
        answer.set_exception(server.error(f"of {count} replicas {server.confirmed} have confirmed it so far"))
