"""A worker of an iii engine: calls functions, serves functions, provides trigger types, has triggers, over one WebSocket."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import random
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, Self

import aiohttp
import msgspec
from msgspec import Raw

from iii_state import values
from iii_state.client.serving import Served
from iii_state.errors import Code, ConnectionLost, FunctionError, HandshakeRefused, NotCarriedOut, WorkerRejected, words
from iii_state.host import DEFAULT_NAMESPACE, Caller
from iii_state.tasks.closing import Stopping, in_turn
from iii_state.values import Json
from iii_state.wire import handshake, malformed, messages
from iii_state.wire.calls import Answering
from iii_state.wire.messages import ABSENT
from iii_state.wire.pending import Outcome, PendingCalls
from iii_state.wire.quiet_log import QuietLog
from iii_state.wire.websocket import NORMAL, WebSocket

log = logging.getLogger(__name__)
quiet = QuietLog(log)

SDK_VERSION = "0.25.0"
"""Of the protocol: what a worker of this SDK can do, this one can."""

CONNECT_SECONDS = 10.0
CALL_SECONDS = 30.0
CLOSE_SECONDS = 2.0
MIN_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.1, 5.0


class Client:
    """A worker that stays one, whatever happens to its connection; use with `async with`. Data passes as JSON text.

    `url` is `ws://HOST:PORT` (or `wss://`), `name` what the worker is called in the engine's lists. With `reconnects`, entering
    does not wait for the engine, and whenever the connection is lost another one is made, with backoff and jitter, on which
    everything is registered again; without it, entering raises `ConnectionLost` when nobody answers, and what is lost is lost.

    With `exclusive` it serves its functions alone, or not at all, even where an engine lets workers take turns.

    Calls wait for their turn where `max_in_flight` are on their way, and, with `reconnects`, for a connection; all of it within
    `call_seconds`.

    `greet`, if given, is awaited on every new connection, before any call that waits is sent; its own calls are made with
    `ahead`. If it raises, the connection is given up. `lost` is called when a connection is gone, `rejected` with each
    `RegistrationRejected` for a function.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = f"iii-state-cli:{os.getpid()}",
        namespace: str | None = None,
        description: str | None = None,
        reconnects: bool = False,
        call_seconds: float = CALL_SECONDS,
        max_in_flight: int = 5000,
        exclusive: bool = False,
        greet: Callable[[], Awaitable[None]] | None = None,
        lost: Callable[[], None] | None = None,
        rejected: Callable[[messages.RegistrationRejected], None] | None = None,
    ) -> None:
        self.url = url
        self.name = name
        self.worker_id = ""
        """What the engine calls this worker, on the connection there is; empty before it has said so."""
        self.max_frame_depth = messages.STOCK_FRAME_DEPTH
        """How deep a frame may nest that the engine can read."""
        self.hears_fates = False
        """Whether the engine says what became of a call that failed (`messages.FATES`); a stock one does not."""
        self.call_seconds = call_seconds
        self.has_tried = asyncio.Event()
        """Set once the first attempt to connect has come to something, or to nothing."""
        self._about = _description(name, namespace, description, exclusive=exclusive)
        self._reconnects = reconnects
        self._greet = greet
        self._lost = lost
        self._rejected = rejected
        self._max_in_flight = max_in_flight
        self.served = Served(Caller("", namespace or DEFAULT_NAMESPACE), self._tell)
        """What this worker serves."""
        self._triggers: dict[str, bytes] = {}
        self._refused: dict[str, asyncio.Future[None]] = {}
        self._departing: dict[str, tuple[bytes, bytes]] = {}
        """What says once more that a trigger was let go, as long as it is not certain that the engine has heard it."""
        self._confirms = False
        self._token: str | None = None
        self._previous: messages.Reattach | None = None
        """What tells the engine that the connection before this one is dead."""
        self._socket: WebSocket | None = None
        self._answering: Answering | None = None
        self._is_greeted = self._was_greeted = False
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._why_lost = ConnectionLost(f"there is no connection to {url} yet")
        self._over: asyncio.Future[None] | None = None
        self._stopping = Stopping(self._stop)
        self._tasks: list[asyncio.Task[None]] = []
        self._take: dict[type[Any], Callable[[Any], None]] = {
            messages.InvocationResult: self._take_result,
            messages.InvokeFunction: self._take_call,
            messages.RegisterTrigger: self.served.take_trigger,
            messages.UnregisterTrigger: self.served.drop_trigger,
            messages.TriggerRegistrationResult: self._take_registration_result,
            messages.RegistrationRejected: self._take_rejection,
            messages.WorkerRegistered: self._take_welcome,
            messages.Failure: self._take_failure,
            messages.Ping: lambda _: self._tell(messages.encode(messages.Pong())),
        }
        self._fatal: Exception | None = None
        """Why the engine will not have this worker."""
        self._ids = (str(uuid.uuid4())[:24], count(1))

    # --- life

    async def __aenter__(self) -> Self:
        if self._over is not None:
            raise RuntimeError("a client is entered once: make another one")
        loop = asyncio.get_running_loop()
        self._pending = PendingCalls(loop, self.call_seconds)
        self._over = loop.create_future()
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))
        connected: asyncio.Future[None] = loop.create_future()
        self._tasks = [
            asyncio.create_task(self._keep(connected), name=f"iii client of {self.url}"),
            asyncio.create_task(self._tick_for_ever(), name=f"iii client of {self.url}: timeouts"),
        ]
        if not self._reconnects:
            try:
                await connected
            except BaseException:
                await self.__aexit__()
                raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stopping()

    async def _stop(self) -> None:
        await in_turn(self._stop_tasks, self._session.close)

    async def _stop_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        assert self._over is not None
        self._why_lost = ConnectionLost(f"this client of {self.url} has been closed")
        self._waiting.clear()
        self._pending.fail(lambda: ConnectionLost(str(self._why_lost)))
        if not self._over.done():
            self._over.set_exception(self._why_lost)
        if not self._over.cancelled():
            self._over.exception()  # has been said to whoever asked

    @property
    def is_connected(self) -> bool:
        """Whether calls reach the engine now."""
        return self._is_greeted

    @property
    def trouble(self) -> str | None:
        """Why calls do not reach the engine now, in words."""
        return None if self._is_greeted else str(self._why_lost)

    async def closed(self) -> None:
        """Wait until the connection has ended for good, and raise `ConnectionLost` or `WorkerRejected`."""
        assert self._over is not None
        await asyncio.shield(self._over)

    @property
    def is_behind(self) -> bool:
        """Whether the engine has still to read much of what it was sent."""
        return self._socket is not None and self._socket.is_behind

    def when_read(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` once, when the engine is not behind any more, or the connection is gone."""
        if self._socket is None:
            go_on()
        else:
            self._socket.when_read(go_on)

    def takes_events(self, go_on: Callable[[], None]) -> bool:
        """Whether the engine can be sent an event now. If not, `go_on` is called once, in its turn."""
        if self._socket is None or self._socket.takes_more:
            return True
        self._socket.when_idle(go_on)
        return False

    def disconnect(self) -> None:
        """Close the connection; with `reconnects`, another one is made."""
        if self._socket is not None:
            self._socket.close(NORMAL)

    async def _keep(self, connected: asyncio.Future[None]) -> None:
        """Connect, and again whenever that is over."""
        assert self._over is not None
        failures = 0
        while True:
            error: Exception
            try:
                socket, response = await self._connect()
            except ConnectionLost as failure:
                error = failure
                if failures == 0 or str(failure) != str(self._why_lost):
                    log.log(logging.WARNING if self._reconnects else logging.DEBUG, "%s", failure)
            else:
                try:
                    error = await self._live(socket, connected)
                finally:
                    await self._close(socket)
                    response.close()
                if self._was_greeted:
                    failures = 0
            self.has_tried.set()
            self._why_lost = error if isinstance(error, ConnectionLost) else ConnectionLost(str(error))
            if not self._reconnects or isinstance(error, WorkerRejected):
                self._fail_waiting(error)
                for future in (connected, self._over):
                    if not future.done():
                        future.set_exception(error)
                return
            await asyncio.sleep(min(MAX_BACKOFF_SECONDS, MIN_BACKOFF_SECONDS * 2 ** min(failures, 10)) * random.uniform(0.5, 1))
            failures += 1

    async def _tick_for_ever(self) -> None:
        while True:
            await asyncio.sleep(1)
            self._pending.sweep(self.trouble)
            while self._waiting and self._waiting[0][0] not in self._pending:
                self._waiting.popleft()
            if self._is_greeted:
                self._send_waiting()
            if self._socket is not None:
                self._socket.tick()

    async def _connect(self) -> tuple[WebSocket, aiohttp.ClientResponse]:
        token = os.environ.get("III_TOKEN")
        self._fatal = None
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await handshake.connect(self._session, self.url, headers, lambda socket: self)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, HandshakeRefused) as error:
            raise ConnectionLost(
                f"no iii engine answers at {self.url}: {_cause(error)}. Is `iii-state serve` running there?"
            ) from None

    async def _live(self, socket: WebSocket, connected: asyncio.Future[None]) -> Exception:
        """The life of a connection: introduce, greet, send what waits; returns why it is over."""
        lost = ConnectionLost(f"the connection to {self.url} was lost: the engine closed it")
        if not socket.is_open:
            return self._fatal or lost
        self._was_greeted = False
        self._socket = socket
        self._answering = Answering(socket, _too_large, _unheard)
        running = asyncio.create_task(socket.run())
        greeting = asyncio.create_task(self._open(socket, connected))
        try:
            await asyncio.wait((running, greeting), return_when=asyncio.FIRST_COMPLETED)
            if not running.done() and (failure := greeting.exception()) is not None:
                return (
                    failure if isinstance(failure, WorkerRejected) else ConnectionLost(f"{self.url} could not be used: {failure}")
                )
            await running
        finally:
            for task in (running, greeting):
                task.cancel()
            await asyncio.gather(running, greeting, return_exceptions=True)
        return self._fatal or lost

    async def _open(self, socket: WebSocket, connected: asyncio.Future[None]) -> None:
        assert self._answering is not None
        if self._previous is not None:
            socket.send(messages.encode(self._previous))
        self.max_frame_depth = self._answering.max_frame_depth = messages.STOCK_FRAME_DEPTH
        self.hears_fates = False
        self.call("engine::workers::register", self._about, ahead=True).add_done_callback(self._introduced)
        for frames in self._departing.values():  # an engine that lost the connection takes their workers for being away only
            for frame in frames:
                socket.send(frame)
        self._confirm_departures()
        for registration in (*self.served.registrations(), *self._triggers.values()):
            socket.send(registration)
        if self._greet is not None:
            await self._greet()
        self._is_greeted = self._was_greeted = True
        self.has_tried.set()
        self._send_waiting()
        if not connected.done():
            connected.set_result(None)

    def _introduced(self, answer: asyncio.Future[bytes | None]) -> None:
        """This project's engine answers how deep a frame may nest; a stock one does not."""
        if answer.cancelled() or answer.exception() is not None or self._answering is None:
            return
        try:
            told = msgspec.json.decode(answer.result() or b"{}", type=_Welcome)
        except msgspec.MsgspecError:
            return
        self.max_frame_depth = self._answering.max_frame_depth = min(told.max_depth, messages.MAX_FRAME_DEPTH)
        self.hears_fates = self._answering.tells_fates = told.tells_fates

    async def _close(self, socket: WebSocket) -> None:
        socket.close(NORMAL)
        if not socket.gone.done():
            await asyncio.wait((socket.gone,), timeout=CLOSE_SECONDS)
            socket.abort()

    # --- calling

    def call(
        self,
        function_id: str,
        data: Json,
        *,
        namespace: str | None = None,
        metadata: Json | None = None,
        ahead: bool = False,
    ) -> asyncio.Future[bytes | None]:
        """Call a function; the Future gives its result. Cancelling it gives the call up.

        It fails with `FunctionError`: the engine's, with its code, or `TIMEOUT` after `call_seconds`; or with `ConnectionLost`.
        `ahead` passes by what waits, for calls of `greet`.
        """
        if self._over is None:
            raise RuntimeError(f"there is no connection to {self.url} yet: use the client inside `async with`")
        prefix, numbers = self._ids
        invocation_id = f"{prefix}{next(numbers):012x}"
        future = self._pending.add(invocation_id)
        elsewhere = namespace is not None and namespace != DEFAULT_NAMESPACE
        frame = messages.invoke_frame(
            invocation_id,
            values.encode_string(function_id),
            data,
            metadata=metadata,
            trace=b',"namespace":%b' % values.encode_string(namespace) if elsewhere and namespace is not None else b"",
        )
        if len(frame) > messages.MAX_FRAME_BYTES:
            self._pending.take(invocation_id)
            future.set_exception(
                NotCarriedOut(Code.PAYLOAD_TOO_LARGE, f"the call of {function_id} is a frame of {len(frame)} bytes")
            )
        elif self._socket is not None and (
            ahead or (self._is_greeted and not self._waiting and len(self._pending) <= self._max_in_flight)
        ):
            self._socket.send(frame)
        elif self._is_greeted or (self._reconnects and self._over is not None and not self._over.done()):
            self._waiting.append((invocation_id, frame))
        else:
            self._pending.take(invocation_id)
            future.set_exception(ConnectionLost(str(self._why_lost)))
        return future

    def send(self, outcome: Outcome, function_text: bytes, data: Json) -> bool:
        """Send a call on the connection there is, greeted or not, and let `outcome` have the answer; False if there is none.

        The function's id is JSON text. Errors are those of `call`; whoever sends so bounds by himself what is on its way.
        """
        if self._socket is None:
            return False
        prefix, numbers = self._ids
        invocation_id = f"{prefix}{next(numbers):012x}"
        frame = messages.invoke_frame(invocation_id, function_text, data)
        if len(frame) > messages.MAX_FRAME_BYTES:
            outcome.set_exception(_too_large(f"the call of {function_text.decode()[1:-1]}", len(frame)))
        elif self.max_frame_depth < messages.MAX_FRAME_DEPTH and values.nesting_exceeds(frame, self.max_frame_depth):
            deep = f"the call of {function_text.decode()[1:-1]} nests deeper than the engine at {self.url} can read"
            outcome.set_exception(FunctionError(Code.SERIALIZATION_ERROR, f"{deep} ({self.max_frame_depth} levels for a frame)"))
        else:
            self._pending.add_outcome(invocation_id, outcome)
            self._socket.send(frame)
        return True

    def _send_waiting(self) -> None:
        socket, waiting = self._socket, self._waiting
        while waiting and socket is not None and len(self._pending) - len(waiting) < self._max_in_flight:
            invocation_id, frame = waiting.popleft()
            if invocation_id in self._pending:
                socket.send(frame)

    def _fail_waiting(self, error: Exception) -> None:
        while self._waiting:
            future = self._pending.take(self._waiting.popleft()[0])
            if future is not None:
                future.set_exception(ConnectionLost(str(error)))

    # --- triggers

    async def register_trigger(self, trigger_type: str, function_id: str, config: Any, *, metadata: Json | None = None) -> str:
        """Register a trigger, and wait until the engine has it; returns its id. Raises `FunctionError` if it is refused."""
        trigger_id = str(uuid.uuid4())
        self.keep_trigger(trigger_id, trigger_type, function_id, config, metadata=metadata)
        try:
            await self.trigger_taken(trigger_id)
        except BaseException:
            self._triggers.pop(trigger_id, None)
            raise
        return trigger_id

    def keep_trigger(
        self, trigger_id: str, trigger_type: str, function_id: str, config: Any, *, metadata: Json | None = None
    ) -> None:
        """Register a trigger on the connection there is and on every later one; one of the same id is replaced."""
        message = messages.RegisterTrigger(
            trigger_id, trigger_type, function_id, Raw(values.encode(config)), ABSENT if metadata is None else Raw(metadata)
        )
        self._triggers[trigger_id] = messages.encode(message)
        self._tell(self._triggers[trigger_id])

    async def trigger_taken(self, trigger_id: str) -> None:
        """Wait until the engine has a trigger that was registered just before this. Raises `FunctionError` if it is refused."""
        refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._refused[trigger_id] = refused
        departing = list(self._departing)
        try:
            # Frames of one connection are handled in order and success is silent, so an answer to anything later is the sign.
            await self.call("engine::triggers::list", b"{}")
            self._have_departed(departing)
            if refused.done():
                refused.result()
        finally:
            if self._refused.get(trigger_id) is refused:
                del self._refused[trigger_id]

    def unregister_trigger(self, trigger_id: str, trigger_type: str) -> None:
        """Let a trigger go. With `reconnects`, the engine hears of it, though there be no connection now."""
        registration = self._triggers.pop(trigger_id, None)
        if registration is None:
            return
        unregistration = messages.encode(messages.UnregisterTrigger(trigger_id, trigger_type))
        self._tell(unregistration)
        if self._reconnects:
            self._departing[trigger_id] = (registration, unregistration)
            if not self._confirms:
                self._confirms = True
                asyncio.get_running_loop().call_soon(self._confirm_departures)

    def _confirm_departures(self) -> None:
        """See, by the answer to a call behind them, that the engine has heard of the triggers that were let go."""
        self._confirms = False
        if self._socket is None or not self._departing:
            return
        departing = list(self._departing)

        def confirmed(answer: asyncio.Future[bytes | None]) -> None:
            if not answer.cancelled() and answer.exception() is None:
                self._have_departed(departing)

        self.call("engine::triggers::list", b"{}", ahead=True).add_done_callback(confirmed)

    def _have_departed(self, trigger_ids: list[str]) -> None:
        for trigger_id in trigger_ids:
            self._departing.pop(trigger_id, None)

    def _tell(self, frame: bytes) -> None:
        if self._socket is not None:
            self._socket.send(frame)

    # --- frames

    def receive(self, message: bytes | bytearray, binary: bool = False) -> None:
        """Take a frame of the engine's. Nothing that it holds raises."""
        if not message:
            return
        try:
            decoded = messages.decode(message)
        except (ValueError, RecursionError) as error:
            self._refuse(message, error)
            return
        try:
            take = self._take.get(type(decoded))
            if take is not None:
                take(decoded)
        except Exception as error:
            log.exception("a frame of %s could not be handled", self.url)
            self._refuse(message, error)

    def _refuse(self, frame: bytes | bytearray, error: Exception) -> None:
        refused = malformed.read(frame)
        why = malformed.reason(error, frame)
        reason = f"the frame could not be read: {why}"
        if refused.is_result and refused.invocation_id is not None:
            future = self._pending.take(refused.invocation_id)
            if future is not None:
                future.set_exception(FunctionError(Code.INVOCATION_ERROR, reason))
        elif refused.invocation_text is not None and self._answering is not None:
            self._answering.refuse(
                refused.invocation_text, refused.function_text, FunctionError(Code.DESERIALIZATION_ERROR, reason)
            )
        quiet.warning("%s sent a frame that cannot be used: %s", self.url, why)

    def _take_result(self, message: messages.InvocationResult) -> None:
        error = None
        if message.error:
            error = messages.read_error(message.error, tells_fate=self.hears_fates)  # one that cannot be read leaves the call open
        future = self._pending.take(message.invocation_id)
        if future is not None:
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(bytes(message.result) if message.result else None)
        if self._waiting:
            self._send_waiting()

    def _take_call(self, message: messages.InvokeFunction) -> None:
        assert self._answering is not None
        self.served.take_call(message, self._answering)

    def _take_registration_result(self, message: messages.TriggerRegistrationResult) -> None:
        error = messages.read_error(message.error)
        if error is None:
            return
        refused = self._refused.get(message.id)
        if refused is not None and not refused.done():
            refused.set_exception(error)
        else:
            log.warning("%s refuses the trigger %s: %s", self.url, message.id, error)

    def _take_rejection(self, message: messages.RegistrationRejected) -> None:
        if message.code == Code.FUNCTION_NAMESPACE_CONFLICT:
            log.info("%s: %s belongs to worker %s", self.url, message.function_id, message.owner_worker_id)
            if self._rejected is not None:
                self._rejected(message)
            return
        name = message.worker_name or message.function_id or ""
        self._fatal = WorkerRejected(f"the engine at {self.url} rejects this worker: {message.code} {name}".rstrip(), message.code)
        if self._socket is not None:
            self._socket.close(NORMAL)

    def _take_welcome(self, message: messages.WorkerRegistered) -> None:
        self.worker_id = message.worker_id
        self._token = message.reattach_token

    def _take_failure(self, message: messages.Failure) -> None:
        self._fatal = WorkerRejected(f"the engine at {self.url} refuses the connection: {messages.read_error(message.error)}")

    def disconnected(self) -> None:
        """The connection is gone: what is on its way fails, what is bound here is away."""
        self._socket = None
        self._is_greeted = False
        if self.worker_id:
            self._previous = messages.Reattach(self.worker_id, self._token)
            self.worker_id = ""
        why = f"the connection to {self.url} was lost with the call on its way"
        waiting = {invocation_id for invocation_id, _ in self._waiting}
        self._pending.fail(lambda: ConnectionLost(why, sent=True), spared=waiting)
        if self._answering is not None:
            self._answering.disconnected()
        self.served.disconnected()
        if self._lost is not None:
            self._lost()


class _Welcome(msgspec.Struct):
    max_depth: int = messages.STOCK_FRAME_DEPTH
    tells_fates: bool = False


def _description(name: str, namespace: str | None, description: str | None, *, exclusive: bool) -> bytes:
    about = {
        "runtime": "python",
        "version": SDK_VERSION,
        "name": name,
        "os": f"{platform.system()} {platform.release()} ({platform.machine()})",
        "pid": os.getpid(),
        "features": [messages.OURS, messages.EXCLUSIVE] if exclusive else [messages.OURS],
        **({} if namespace is None else {"namespace": namespace}),
        **({} if description is None else {"description": description}),
    }
    return values.encode(about)


def _too_large(what: str, size: int) -> FunctionError:
    return NotCarriedOut(Code.PAYLOAD_TOO_LARGE, f"{what} is a frame of {size} bytes; {messages.MAX_FRAME_BYTES} can be sent")


def _unheard(function_text: str, fault: FunctionError) -> None:
    quiet.warning("a call of %s that nobody waits for failed: %s", function_text, fault)


def _cause(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_SECONDS:g} s"
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or str(error.os_error)
    return words(error)
