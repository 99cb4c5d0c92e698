"""The connection to Redis that all calls of an engine share, kept up: opened, watched, and replaced when it is over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, overload

import hiredis

from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.call import Arguments, Command, Reply, ScriptCall, as_it_is
from iii_state.adapters.redis.connection.carrier import Carrier, PrimaryServer
from iii_state.adapters.redis.connection.explain import explain
from iii_state.adapters.redis.connection.pipeline import Pipeline
from iii_state.adapters.redis.connection.primary import Primary
from iii_state.adapters.redis.connection.session import EngineSession
from iii_state.adapters.redis.scripts.loader import PLAIN, Scripts
from iii_state.errors import SessionLost, SessionTaken, StoreError
from iii_state.sessions import SESSION_SECONDS
from iii_state.tasks.background import Background
from iii_state.tasks.reconnect import Backoff, Reconnecting
from iii_state.tasks.repeats import Repeats
from iii_state.tasks.signal import Signal

logger = logging.getLogger(__name__)
repeats = Repeats(logger)

T = TypeVar("T")

BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 2.0

AGAIN_SECONDS = 0.1
"""Between two attempts at the first connection, while the slot is being moved."""


class RedisConnection:
    """Calls to one Redis, or to one slot of a cluster (`primary` is that slot's then). `session_key` names the hash of a session in
    Redis.

    Raises `StoreError` from `start` when there is no way in; afterwards it reconnects by itself, and calls wait for that until
    their own time is over.
    """

    def __init__(
        self,
        address: Address,
        session_key: Callable[[bytes], bytes],
        *,
        primary: PrimaryServer | None = None,
        call_timeout_ms: int = 5000,
        max_in_flight: int = 1024,
        scripts: Scripts = PLAIN,
    ) -> None:
        self.address = address
        self.primary: PrimaryServer = Primary(address) if primary is None else primary
        """Opens connections to this Redis."""
        self.scripts = scripts
        self.session = EngineSession(session_key, scripts)
        self.restored = Signal()
        """Emitted when a broken connection has been replaced."""
        self.prepare: Callable[[Carrier], Awaitable[None]] = _nothing_to_prepare
        """Awaited on every new connection but the first, before any call is sent: another server may answer by now."""
        self._timeout = call_timeout_ms / 1000
        self._pipeline = Pipeline(address, self.session, call_timeout_ms=call_timeout_ms, max_in_flight=max_in_flight)
        self._pipeline.demoted = self.primary.leave
        self._pipeline.log_lost = self.primary.log_lost
        self.damaged = self._pipeline.damaged
        """Emitted when Redis holds something else than iii-state has left there."""
        self.traffic = self._pipeline.current_traffic
        """What has gone over the connections."""
        self.call = self._pipeline.call
        """Makes a call."""
        backoff = Backoff(BACKOFF_SECONDS, MAX_BACKOFF_SECONDS, at_once=True)
        self._reconnecting = Reconnecting(self._keep_one, backoff, failed=self._failed)
        self.primary.moved.connect(self._reconnecting.hurry)
        self._background = Background()
        self._keeps_session = True
        self._place = address

    @property
    def is_up(self) -> bool:
        """Whether there is a connection just now."""
        return self._pipeline.socket is not None

    @property
    def place(self) -> Address:
        """The server that it leads to, or led to last."""
        return self._place

    @property
    def trouble(self) -> str:
        """Why there is none, or why it takes no calls at the moment; empty where all is well."""
        return self._pipeline.trouble or self._pipeline.held_for

    # -- calls

    def send(self, *words: bytes, scope: str | None = None) -> asyncio.Future[Any]:
        """Send one command, and give its reply; `scope` is named in errors."""
        return self.call(Command(words, scope))

    @overload
    def run(self, name: str, arguments: Arguments) -> asyncio.Future[Any]: ...

    @overload
    def run(self, name: str, arguments: Arguments, read: Callable[[Reply], T]) -> asyncio.Future[T]: ...

    def run(self, name: str, arguments: Arguments, read: Callable[[Reply], Any] = as_it_is) -> asyncio.Future[Any]:
        """Call the script of this name; `read` makes the result of its reply."""
        return self.call(ScriptCall(self.scripts.of(name), arguments, read))

    # -- opening and closing

    async def start(self, check: Callable[[Carrier], Awaitable[None]] | None = None) -> None:
        """Connect, let `check` look at the server before anything is written, and open the session. What is refused because a slot
        of a cluster is being moved is tried again, as calls are, within the time of a call.

        Raises `StoreError` in words.
        """
        socket = await self._open_first(check)
        self._pipeline.open()
        self._pipeline.adopt(socket)
        self.primary.start()
        self._background.start(self._reconnecting.run(), "iii-state redis connection")

    async def _open_first(self, check: Callable[[Carrier], Awaitable[None]] | None) -> Carrier:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._timeout
        while True:
            try:
                return await self._open(check)
            except StoreError:
                if not self.primary.is_moving or loop.time() >= give_up:
                    raise
            await asyncio.sleep(AGAIN_SECONDS)

    def forget_session(self) -> None:
        """Redis does not answer: let the session expire."""
        self._keeps_session = False

    async def stop(self) -> None:
        """Let what is in flight be answered (bounded by the call timeout), drop the session, and close."""
        if self._pipeline.is_closed:
            return
        if self._pipeline.socket is not None and self._keeps_session:
            try:
                await self.call(self.session.dropping())
            except StoreError as error:
                logger.info("the session could not be dropped, and will expire: %s", error)
        self._pipeline.is_closed = True
        await self._background.stop()
        await self.primary.stop()
        await self._pipeline.close()

    async def _open(self, first: Callable[[Carrier], Awaitable[None]] | None = None) -> Carrier:
        """A connection whose session is open and whose scripts are loaded."""
        try:
            async with asyncio.timeout(self._timeout):
                socket = await self.primary.open(f"iii-state:{self.session.name.decode()}")
                try:
                    if first is not None:
                        await first(socket)
                    await self._open_session(socket)
                    await self.prepare(socket)
                    self._place = socket.address
                except BaseException:
                    socket.abort()
                    raise
                return socket
        except TimeoutError:
            hint = "; does it speak TLS on this port?" if self.address.tls is not None else ""
            told = f"Redis at {self.primary.address} has not answered within {self._timeout * 1000:.0f} ms{hint}"
            raise StoreError(told) from None

    async def _open_session(self, socket: Carrier) -> None:
        session = self.session
        while True:
            loading: Sequence[tuple[bytes, ...]] = ()
            if not socket.has_scripts:
                self._pipeline.traffic.script_loads += 1
                loading = self.scripts.load_commands()
            replies = await socket.ask(*loading, session.opening())
            for refusal in replies:
                if isinstance(refusal, hiredis.ReplyError):
                    raise StoreError(explain(socket.address, str(refusal)))
            socket.has_scripts = True
            try:
                session.opened(replies[-1])
                return
            except SessionLost:
                repeats.warning("the session is gone from Redis at %s (was it flushed?); beginning a new one", socket.address)
                self._pipeline.lose_session()
            except SessionTaken:
                if not session.held:  # an attempt of ours got through unheard
                    session.renew()

    # -- keeping it up

    async def _keep_one(self) -> None:
        """Open a connection, unless there is one, and stay with it until it is over."""
        pipeline = self._pipeline
        socket = pipeline.socket
        if socket is None:
            socket = await self._open()
            logger.info("connected to Redis at %s again", socket.address)
            pipeline.traffic.reconnects += 1
            pipeline.adopt(socket)
            self.restored.emit()
        await self._refresh_until_closed(socket)
        if pipeline.has_answered:
            self._reconnecting.worked()

    async def _refresh_until_closed(self, socket: Carrier) -> None:
        """Keep the session from expiring, for as long as the connection lasts."""
        while True:
            done, _ = await asyncio.wait((socket.closed,), timeout=SESSION_SECONDS / 5)
            if done:
                return
            kept = self.call(self.session.refreshing())
            kept.add_done_callback(_log_not_kept)
            await asyncio.wait((socket.closed, kept), return_when=asyncio.FIRST_COMPLETED)

    def _failed(self, error: Exception, is_news: bool) -> None:
        if not isinstance(error, StoreError):
            logger.error("cannot connect to Redis at %s; trying again", self.address, exc_info=error)
            return
        if is_news and str(error) != self._pipeline.trouble:
            self.primary.log_failed(str(error))
        self._pipeline.trouble = str(error)


def _log_not_kept(kept: asyncio.Future[Any]) -> None:
    if not kept.cancelled() and (error := kept.exception()) is not None:
        repeats.warning("the session could not be kept: %s", error)


async def _nothing_to_prepare(socket: Carrier) -> None:
    """Nothing has to be known of the server."""
