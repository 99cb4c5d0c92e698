"""A worker of an iii engine: calls functions, serves functions, provides trigger types, has triggers, over one WebSocket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

import aiohttp
import msgspec

from iii_state.client.about import About
from iii_state.client.address import EngineAddress
from iii_state.client.calls import ClientCalls, too_large
from iii_state.client.connection import ClientConnection
from iii_state.client.receiver import Receiver
from iii_state.client.serving import Serving
from iii_state.client.triggers import Triggers
from iii_state.client.unreachable import refused, unreachable
from iii_state.errors import ConfigError, ConnectionLost, FunctionError, HandshakeRefused, WorkerRejected
from iii_state.host import Caller
from iii_state.tasks.background import Background
from iii_state.tasks.closing import Stopping, in_turn
from iii_state.tasks.reconnect import Backoff, Reconnecting
from iii_state.wire import handshake, messages
from iii_state.wire.calls import IncomingCalls
from iii_state.wire.frames import NORMAL
from iii_state.wire.quiet_log import QuietLog
from iii_state.wire.websocket import WebSocket

log = logging.getLogger(__name__)
quiet = QuietLog(log)

CONNECT_SECONDS = 10.0
CALL_SECONDS = 30.0
CLOSE_SECONDS = 2.0
TICK_SECONDS = 1.0

MIN_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.1, 5.0


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a client calls as its connections come and go.

    `greet` is awaited on every new connection, before any call that waits is sent; its own calls are made with `ahead`. If it
    raises, the connection is given up. `lost` is called when a connection is gone, `rejected` with each `RegistrationRejected` for
    a function.
    """

    greet: Callable[[], Awaitable[None]] | None = None
    lost: Callable[[], None] | None = None
    rejected: Callable[[messages.RegistrationRejected], None] | None = None


class Client:
    """A worker that stays one, whatever happens to its connection; use with `async with`. Data passes as JSON text.

    `address` is `ws://HOST:PORT` (or `wss://`), or that with what it takes to get in. With `reconnects`, entering does not wait for
    the engine, and whenever the connection is lost another one is made, with backoff and jitter, on which everything is registered
    again; without it, entering raises `ConnectionLost` when no engine answers, and a connection that is lost is not made again.

    Calls wait for their turn where `max_in_flight` are on their way, and, with `reconnects`, for a connection; all of it within
    `call_seconds`. Entering raises `ConfigError` where the token or the certificates of the address cannot be used.
    """

    def __init__(
        self,
        address: EngineAddress | str,
        about: About | None = None,
        *,
        reconnects: bool = False,
        call_seconds: float = CALL_SECONDS,
        max_in_flight: int = 5000,
        hooks: Hooks | None = None,
    ) -> None:
        self._address = EngineAddress(address) if isinstance(address, str) else address
        self.url = str(self._address)
        """Where the engine is, for people: without what is secret in it."""
        self.about = about or About()
        self.connection = ClientConnection(self.url, reconnects=reconnects)
        """The connection there is."""
        self.has_tried = asyncio.Event()
        """Set once the first attempt to connect has come to something, or to nothing."""
        self._calls = ClientCalls(self.connection, seconds=call_seconds, max_in_flight=max_in_flight)
        self.call, self.send = self._calls.call, self._calls.send
        self.serving = Serving(Caller("", self.about.home), self.connection.tell)
        """What this worker serves."""
        self.triggers = Triggers(self.connection, self._calls)
        """What this worker has registered."""
        self._hooks = hooks or Hooks()
        self._receiver = Receiver(
            self.connection, self._calls, self.serving, self.triggers, self._hooks.rejected, self._disconnected
        )
        self._previous: messages.Reattach | None = None
        """What tells the engine that the connection before this one is dead."""
        self._was_greeted = False
        self._connected: asyncio.Future[None] | None = None
        self._over: asyncio.Future[None] | None = None
        self._reconnecting = Reconnecting(
            self._attempt, Backoff(MIN_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS), failed=self._attempt_failed
        )
        self._tasks = Background()
        self._stopping = Stopping(self._stop)

    # --- life

    async def __aenter__(self) -> Self:
        if self._over is not None:
            raise RuntimeError("a client is entered once: make another one")
        self._address.headers(), self._address.tls()  # what cannot be used is found now
        loop = asyncio.get_running_loop()
        self._calls.begin()
        self._over = loop.create_future()
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))
        connected = self._connected = loop.create_future()
        self._tasks.start(self._keep(), f"iii client of {self.url}")
        self._tasks.start(self._tick_for_ever(), f"iii client of {self.url}: timeouts")
        if not self.connection.reconnects:
            try:
                await connected
            except BaseException:
                await self.__aexit__()
                raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._over is not None:  # it has been entered: one that could not be has nothing to close
            await self._stopping()

    async def _stop(self) -> None:
        await in_turn(self._end, self._session.close)

    async def _end(self) -> None:
        await self._tasks.stop()
        self.connection.why_lost = ConnectionLost(f"this client of {self.url} has been closed")
        self.connection.is_over = True
        self._calls.fail_all(str(self.connection.why_lost))
        assert self._over is not None
        if not self._over.done():
            self._over.set_exception(self.connection.why_lost)
        if not self._over.cancelled():
            self._over.exception()  # `closed` has raised it, if anything waits there

    async def closed(self) -> None:
        """Wait until the connection has ended for good, and raise `ConnectionLost` or `WorkerRejected`."""
        assert self._over is not None
        await asyncio.shield(self._over)

    async def _tick_for_ever(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._calls.sweep()
            if self.connection.socket is not None:
                self.connection.socket.tick()

    # --- connections

    async def _keep(self) -> None:
        """Connect, and again whenever that is over."""
        try:
            await self._reconnecting.run()
        except Exception as error:
            self.connection.is_over = True
            self._calls.fail_waiting(error)
            for future in (self._connected, self._over):
                if future is not None and not future.done():
                    future.set_exception(error)

    def _attempt_failed(self, error: Exception, is_news: bool) -> None:
        if not isinstance(error, ConnectionLost | WorkerRejected):
            log.error("the connection to %s could not be used", self.url, exc_info=error)
        self.has_tried.set()
        self.connection.why_lost = error if isinstance(error, ConnectionLost) else ConnectionLost(str(error))
        if not self.connection.reconnects or isinstance(error, WorkerRejected):
            raise error

    async def _attempt(self) -> None:
        try:
            socket, response = await self._connect()
        except ConnectionLost as error:
            if self._reconnecting.is_news(error):
                log.log(logging.WARNING if self.connection.reconnects else logging.DEBUG, "%s", error)
            raise
        try:
            why_over = await self._live(socket)
        finally:
            await self._close(socket)
            response.close()
        if self._was_greeted:
            self._reconnecting.worked()
        raise why_over

    async def _connect(self) -> tuple[WebSocket, aiohttp.ClientResponse]:
        self._receiver.refusal = None
        address = self._address
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await handshake.connect(
                    self._session, address.url, address.headers(), lambda socket: self._receiver, tls=address.tls()
                )
        except HandshakeRefused as error:
            raise ConnectionLost(refused(self.url, error, address.token_from())) from None
        except ConfigError as error:
            raise ConnectionLost(f"no connection to {self.url} can be made: {error}") from None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise ConnectionLost(unreachable(self.url, error, CONNECT_SECONDS)) from None

    async def _live(self, socket: WebSocket) -> Exception:
        """The life of a connection: introduce, greet, send what waits; returns why it is over."""
        lost = ConnectionLost(f"the connection to {self.url} was lost: the engine closed it")
        if not socket.is_open:
            return self._receiver.refusal or lost
        self._was_greeted = False
        self.connection.socket = socket
        self.connection.answering = IncomingCalls(socket, too_large, _unheard)
        tasks = Background()
        running, greeting = tasks.call(socket.run()), tasks.call(self._open(socket))
        try:
            await asyncio.wait((running, greeting), return_when=asyncio.FIRST_COMPLETED)
            failure = greeting.exception() if greeting.done() else None
            if failure is not None and not running.done():
                return (
                    failure if isinstance(failure, WorkerRejected) else ConnectionLost(f"{self.url} could not be used: {failure}")
                )
            await running
        finally:
            await tasks.stop()
            if greeting.done() and not greeting.cancelled():
                greeting.exception()  # of a call that was on its way: why the connection is over says it
        return self._receiver.refusal or lost

    async def _open(self, socket: WebSocket) -> None:
        connection = self.connection
        assert connection.answering is not None
        if self._previous is not None:
            socket.send(messages.encode(self._previous))
        connection.max_frame_depth = connection.answering.max_frame_depth = messages.STOCK_FRAME_DEPTH
        connection.hears_fates = False
        self.call("engine::workers::register", self.about.text(), ahead=True).add_done_callback(self._introduced)
        for frame in self.triggers.departures():
            socket.send(frame)
        self.triggers.confirm_departures()
        for registration in (*self.serving.registrations(), *self.triggers.registrations()):
            socket.send(registration)
        if self._hooks.greet is not None:
            await self._hooks.greet()
        connection.is_greeted = self._was_greeted = True
        self.has_tried.set()
        self._calls.send_waiting()
        if self._connected is not None and not self._connected.done():
            self._connected.set_result(None)

    def _introduced(self, answer: asyncio.Future[bytes | None]) -> None:
        """This project's engine answers how deep a frame may nest; a stock one does not."""
        connection = self.connection
        if answer.cancelled() or answer.exception() is not None or connection.answering is None:
            return
        try:
            told = msgspec.json.decode(answer.result() or b"{}", type=_Welcome)
        except msgspec.MsgspecError:
            return
        connection.max_frame_depth = connection.answering.max_frame_depth = min(told.max_depth, messages.MAX_FRAME_DEPTH)
        connection.hears_fates = connection.answering.tells_fates = told.tells_fates

    async def _close(self, socket: WebSocket) -> None:
        socket.close(NORMAL)
        if not socket.gone.done():
            await asyncio.wait((socket.gone,), timeout=CLOSE_SECONDS)
            socket.abort()

    def _disconnected(self) -> None:
        """The connection is gone: what is on its way fails, what is bound here is away."""
        connection = self.connection
        connection.socket = None
        connection.is_greeted = False
        if connection.worker_id:
            self._previous = messages.Reattach(connection.worker_id, self._receiver.token)
            connection.worker_id = ""
        self._calls.lost()
        if connection.answering is not None:
            connection.answering.disconnected()
        self.serving.disconnected()
        if self._hooks.lost is not None:
            self._hooks.lost()


class _Welcome(msgspec.Struct):
    max_depth: int = messages.STOCK_FRAME_DEPTH
    tells_fates: bool = False


def _unheard(function_text: str, fault: FunctionError) -> None:
    quiet.warning("a call of %s that nobody waits for failed: %s", function_text, fault)
