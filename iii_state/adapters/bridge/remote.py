"""The engine at the other end of a bridge: many calls on one connection, each answered, or failed in words within its time.

A call whose connection broke is made again where that is safe: a read always, a mutation where the remote recognises it; any other
mutation fails, and the message says that its fate is not known.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from iii_state import values
from iii_state.adapters.bridge.session import SESSION_OPEN, Session, SessionGone, session_error
from iii_state.client.client import Client
from iii_state.config import BridgeSettings
from iii_state.errors import Code, ConnectionLost, FunctionError, OutcomeUnknown, StoreError
from iii_state.tasks.effects import Afterwards
from iii_state.wire.messages import STOPPED

logger = logging.getLogger(__name__)

GREETING_AGAIN_SECONDS = 0.5
"""How long to wait before a remote that could not say where it leads is asked again."""


_going_on = Afterwards("going on with calls that waited for this one")

ROUTE = b'"iii-state::route"'


class Call:
    """A call until it is answered: what is sent, and for whom the answer is. It takes its answer as a Future does."""

    __slots__ = (
        "data",
        "deadline",
        "function",
        "future",
        "is_mutation",
        "needs",
        "read",
        "remote",
        "sent",
        "seq",
        "session",
        "slot",
        "ticket",
        "uncertain",
    )

    def __init__(
        self,
        remote: Remote,
        function: bytes,
        data: bytes,
        read: Callable[[bytes | None], Any],
        *,
        is_mutation: bool,
        ticket: bytes | None,
        needs: str,
        deadline: float,
        future: asyncio.Future[Any],
    ) -> None:
        self.remote = remote
        self.function = function
        self.data = data
        """The request's object without its closing brace."""
        self.read = read
        self.is_mutation = is_mutation
        self.ticket = ticket
        self.needs = needs
        """What only an engine of this project has, and why it is not sent to another; empty for nothing."""
        """What the remote is to recognise the call by, where whoever called here has given it."""
        self.deadline = deadline
        self.future = future
        self.slot = -1
        """Its place among the calls in flight; -1 while it waits for one."""
        self.session: Session | None = None
        """The session of this bridge's in which it has a number."""
        self.seq = 0
        self.sent = False
        """Whether the remote may have received it."""
        self.uncertain = False
        """Whether a connection broke with it on its way."""

    def done(self) -> bool:
        return False

    def set_result(self, result: bytes | None, /) -> None:
        try:
            self.remote.end(self)
        except Exception as error:
            _going_on.failed(error)
        if self.future.done():
            return
        try:
            self.future.set_result(self.read(result))
        except Exception as error:
            self.future.set_exception(error)

    def set_exception(self, exception: Exception, /) -> None:
        self.remote.failed(self, exception)

    def fail(self, error: Exception) -> None:
        """It is over."""
        self.remote.end(self)
        if not self.future.done():
            self.future.set_exception(error)


class Remote:
    """Calls of one remote engine; `start` first. `id` names this bridge among those that a call passes.

    `connected` is called on every new connection, once it is known what the remote is and before anything else is sent.
    """

    def __init__(self, settings: BridgeSettings, connected: Callable[[], None], lost: Callable[[], None]) -> None:
        self.id = secrets.token_hex(8)
        self.url = settings.bridge_url
        self.is_ours = False
        """Whether the remote is of this project: it delivers events until they are acknowledged."""
        self.store: str | None = None
        """What the remote calls its store, where calls made again are recognised."""
        self.client = Client(
            self.url,
            name=f"iii-state-bridge-{self.id}",  # stock engines want unique names
            description="State of another engine, over a bridge",
            reconnects=True,
            call_seconds=settings.call_timeout_ms / 1000,
            greet=self._greet,
            lost=self._lost,
        )
        self._connected = connected
        self._disconnected = lost
        self._timeout = settings.call_timeout_ms / 1000
        self._slots = list(range(settings.max_in_flight - 1, -1, -1))
        self._session: Session | None = None
        self._why_gone = ""
        self._seq = 0
        self._is_ready = False
        self._known = asyncio.Event()
        """Set as soon as it is known what the remote is."""
        self._trouble: str | None = None
        """What stands in the way on a connection that there is."""
        self._ring: str | None = None
        self._calls: dict[Call, None] = {}
        """All that are open, in the order in which they were made, which is that of their deadlines, too."""
        self._again: list[Call] = []
        """Calls of connections that broke, to be made again."""
        self._waiting: deque[Call] = deque()
        self._waits_for_reading = False
        self._timer: asyncio.TimerHandle | None = None
        self._renewal: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to connect. Returns when there is a connection, or the first attempt has failed, which is logged.

        Raises `StoreError` where the remote leads back here.
        """
        self._loop = asyncio.get_running_loop()
        self._outlook: asyncio.Future[None] = self._loop.create_future()
        await self.client.__aenter__()
        tried = asyncio.create_task(self.client.has_tried.wait())
        await asyncio.wait((tried, self._outlook), timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED)
        tried.cancel()
        ring = self._ring
        if ring is not None:
            await self.stop()
            raise StoreError(ring)
        if (trouble := self.trouble) is not None:
            logger.warning("%s; calls wait for it, for %g s each", trouble, self._timeout)

    async def stop(self) -> None:
        """Close the connection; what is still open fails."""
        self._is_ready = False
        if self._timer is not None:
            self._timer.cancel()
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait((self._renewal,))
        await self.client.__aexit__()
        for call in list(self._calls):
            call.fail(_lost(call, f"the bridge to {self.url} is being closed; "))

    @property
    def trouble(self) -> str | None:
        """Why calls do not reach the store now, in words."""
        if self._is_ready:
            return None
        return self._ring or self._trouble or self.client.trouble or f"the connection to {self.url} is being opened"

    # -- calls

    def call(
        self,
        function: bytes,
        data: bytes,
        read: Callable[[bytes | None], Any],
        *,
        is_mutation: bool = False,
        ticket: bytes | None = None,
        needs: str = "",
    ) -> asyncio.Future[Any]:
        """Call a function (JSON text of its id); `data` is its request without the closing brace.

        The Future gives what `read` makes of the result. It fails with the remote's `FunctionError`, or with `StoreError`: no
        answer in time, a mutation whose fate is not known, or a remote that has not what the call `needs` (in words).
        """
        if self._ring is not None:
            raise StoreError(self._ring)
        loop = self._loop
        call = Call(
            self,
            function,
            data,
            read,
            is_mutation=is_mutation,
            ticket=ticket,
            needs=needs,
            deadline=loop.time() + self._timeout,
            future=loop.create_future(),
        )
        self._calls[call] = None
        if self._timer is None:
            self._timer = loop.call_at(call.deadline, self._expire)
        if self._is_ready and self._slots and not self._waiting and not self.client.is_behind:
            call.slot = self._slots.pop()
            self._send(call)
        else:
            self._waiting.append(call)
            self._send_waiting()
        return call.future

    def _send(self, call: Call) -> None:
        if call.needs and not self.is_ours:
            call.fail(_lost(call, f"the engine at {self.url} has no {call.needs}; "))
            return
        if call.ticket is not None:
            data = b'%b,"_iii_state_request":%b}' % (call.data, call.ticket)
        elif call.is_mutation and (session := self._session) is not None:
            if call.session is not session:
                self._seq += 1
                call.session, call.seq = session, self._seq
            data = session.sign(call.data, call.slot, call.seq)
        else:
            data = call.data + b"}"
        if self.client.send(call, call.function, data):
            call.sent = True
        else:
            self._again.append(call)

    def end(self, call: Call) -> None:
        """A call is over: its place is free."""
        if self._calls.pop(call, self) is self:
            return
        if call.slot >= 0:
            self._slots.append(call.slot)
        if self._waiting:
            self._send_waiting()

    def _send_waiting(self) -> None:
        """Send what waits for a place among those in flight, and for the remote to read."""
        while self._waiting and self._slots and self._is_ready:
            if self.client.is_behind:
                if not self._waits_for_reading:
                    self._waits_for_reading = True
                    self.client.when_read(self._has_read)
                return
            call = self._waiting.popleft()
            if call in self._calls:
                call.slot = self._slots.pop()
                self._send(call)

    def _has_read(self) -> None:
        self._waits_for_reading = False
        self._send_waiting()

    def failed(self, call: Call, error: Exception) -> None:
        """A call was answered with an error, or its connection broke."""
        if call not in self._calls:
            return
        if isinstance(error, ConnectionLost):
            if call.is_mutation and call.ticket is None and call.session is None:
                call.fail(_lost(call, f"{error}: "))
            else:
                call.uncertain = call.sent
                self._again.append(call)
        elif (
            isinstance(error, FunctionError) and call.session is not None and error.code in (Code.SESSION_LOST, Code.REQUEST_FENCED)
        ):
            self._session_lost(call)
        elif isinstance(error, FunctionError) and error.code in STOPPED:
            call.fail(_lost(call, f"{self.url}: {error}; "))
        elif isinstance(error, FunctionError) and error.code == Code.TIMEOUT:
            call.fail(_lost(call, f"{self.url}: {error.message}; "))
        elif isinstance(error, FunctionError) and error.code == Code.FUNCTION_NOT_FOUND:
            call.fail(FunctionError(Code.FUNCTION_NOT_FOUND, f"{self.url}: {error.message}"))
        elif isinstance(error, FunctionError) and call.ticket is not None:
            call.fail(session_error(error))
        else:
            call.fail(error)

    def _fail_uncertain(self, call: Call, why: str) -> None:
        call.fail(_lost(call, f"the connection to {self.url} broke, and {why}: "))

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._calls and (call := next(iter(self._calls))).deadline <= now:
            why = self.trouble or f"the engine at {self.url} does not answer"
            call.fail(_lost(call, f"{why}; given up after {self._timeout * 1000:.0f} ms: "))
        if self._calls:
            self._timer = self._loop.call_at(next(iter(self._calls)).deadline, self._expire)

    # -- connections

    async def _greet(self) -> None:
        """On a new connection: learn what the remote is, and that it does not lead back here; then make calls again."""
        last_said = ""
        while True:
            try:
                await self._look_ahead()
                await self._open_session()
                break
            except FunctionError as error:
                self._ring = f"a bridge must not lead back to itself: {error.message}" if error.code == Code.BRIDGE_RING else None
                self._trouble = f"the engine at {self.url} cannot be used: {error}"
                if (said := self._ring or self._trouble) != last_said:
                    logger.error("%s", said)
                last_said = said
            if not self._outlook.done():
                self._outlook.set_result(None)
            await asyncio.sleep(GREETING_AGAIN_SECONDS)
        self._ring = self._trouble = None
        self._known.set()
        self._connected()
        self._go_on()
        if not self._outlook.done():
            self._outlook.set_result(None)

    def _go_on(self) -> None:
        """Make again what was under way, and then what waits."""
        self._is_ready = True
        again, self._again = self._again, []
        for call in again:
            if call not in self._calls:
                continue
            lost = self._session is None or (call.ticket is None and call.session is not self._session)
            if call.uncertain and call.is_mutation and lost:
                self._fail_uncertain(call, self._why_gone)
            else:
                self._send(call)
        self._send_waiting()

    async def knows(self) -> bool:
        """Whether the remote is of this project; waits for the first connection, as calls do. Raises `StoreError`."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._known.wait()
        except TimeoutError:
            raise StoreError(f"{self.trouble}; given up after {self._timeout * 1000:.0f} ms: nothing was read") from None
        return self.is_ours

    async def _look_ahead(self) -> None:
        try:
            await self.ask(ROUTE, b'{"visited":["%b"]}' % self.id.encode())
            self.is_ours = True
        except FunctionError as error:
            if error.code != Code.FUNCTION_NOT_FOUND:
                raise
            self.is_ours = False

    async def _open_session(self) -> None:
        """Go on with the session, or begin another one; none where the remote has none."""
        if not self.is_ours:
            self._session, self._why_gone = None, "it does not recognise calls that are made again"
            return
        for session in (self._session, Session()):
            if session is not None:
                try:
                    self.store = await session.open(self.ask)
                    self._session = session
                    return
                except SessionGone as gone:
                    self._session, self.store, self._why_gone = None, None, str(gone)

    def _session_lost(self, call: Call) -> None:
        """The session is gone while the connection is there, for example because it was not used for long: take another one."""
        if call.uncertain:
            self._fail_uncertain(call, "it has lost its record of this call")
            return
        lost, call.session, call.sent = call.session, None, False
        if lost is not self._session and self._is_ready:
            self._send(call)
            return
        self._again.append(call)
        self._session, self._is_ready = None, False
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        while not self._is_ready:
            try:
                await self._open_session()
            except ConnectionLost:  # the next connection begins with a session
                return
            except FunctionError as error:
                logger.error("no session could be opened at %s: %s", self.url, error)
                await asyncio.sleep(GREETING_AGAIN_SECONDS)
            else:
                self._go_on()

    def _lost(self) -> None:
        self._is_ready = False
        self._ring = self._trouble = None
        self._disconnected()

    def ask(self, function: bytes, data: bytes) -> Awaitable[bytes | None]:
        """Call a function on the connection there is, greeted or not, once. Raises `FunctionError` or `ConnectionLost`."""
        outcome: asyncio.Future[bytes | None] = self._loop.create_future()
        if not self.client.send(outcome, function, data):
            raise ConnectionLost(self.client.trouble or f"there is no connection to {self.url}")
        return outcome

    async def open_session(self, session: str, previous_epoch: int, epoch: int) -> None:
        """Open a session there for somebody who calls here. Raises `FunctionError`."""
        if self.trouble is not None:
            raise FunctionError(Code.BRIDGE_CUT_OFF, self.trouble)
        if self._session is None:
            raise FunctionError(Code.NOT_RETRY_SAFE, f"the engine at {self.url} does not recognise calls that are made again")
        try:
            await self.ask(SESSION_OPEN, values.encode({"session": session, "epoch": epoch, "previous_epoch": previous_epoch}))
        except ConnectionLost as error:
            raise FunctionError(Code.BRIDGE_CUT_OFF, str(error)) from None
        except FunctionError as error:
            raise session_error(error) from None

    async def route(self, visited: list[str]) -> list[str]:
        """The bridges that a call passes from here on, those passed already first. Raises `FunctionError` where that is a ring."""
        if self.id in visited:
            raise FunctionError(
                Code.BRIDGE_RING, f"the bridge to {self.url} is reached through itself, over {len(visited)} bridges"
            )
        visited = [*visited, self.id]
        try:
            answer = await self.ask(ROUTE, values.encode({"visited": visited}))
        except ConnectionLost as error:
            raise FunctionError(Code.BRIDGE_CUT_OFF, str(error)) from None
        except FunctionError as error:
            if error.code == Code.FUNCTION_NOT_FOUND:
                return visited
            raise
        found = values.decode(answer or b"{}")
        return list(found.get("visited", visited)) if isinstance(found, dict) else visited


def _lost(call: Call, why: str) -> StoreError:
    """The error of a call that gets no answer; `why` begins a sentence that says what became of it."""
    if not call.is_mutation:
        return StoreError(f"{why}nothing was read")
    if call.sent:
        return OutcomeUnknown(f"{why}whether the change was made is not known")
    return StoreError(f"{why}nothing was changed")
