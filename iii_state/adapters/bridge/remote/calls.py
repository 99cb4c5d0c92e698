"""The calls of a remote: many on one connection, each answered, or failed in words within its time.

A call whose connection broke is made again where that is safe: a read always, a mutation where the remote recognises it; any other
mutation fails, and the message says that its outcome is not known.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from iii_state import lineages
from iii_state.adapters.bridge.remote.link import Link
from iii_state.adapters.bridge.remote.session import RemoteSession, session_error
from iii_state.errors import Code, ConnectionLost, FunctionError, OutcomeUnknown, StoreError, unsupported
from iii_state.tasks.effects import Afterwards
from iii_state.wire.messages import STOPPED


def _trace() -> bytes:
    lineage = lineages.current()
    return b"" if lineage is None else lineages.call_members(lineage)


_going_on = Afterwards("going on with calls that waited for this one")


@dataclass(frozen=True, slots=True)
class RemoteFunction:
    """A function of the remote's: its id as JSON text, and what is made of its result."""

    id: bytes
    read: Callable[[bytes | None], Any]
    is_mutation: bool = False


class RemoteCall:
    """A call until it is over: what is sent, and for whom the result is. It takes its outcome as a Future does."""

    __slots__ = (
        "calls",
        "data",
        "deadline",
        "feature",
        "function",
        "future",
        "needs",
        "request",
        "sent",
        "seq",
        "session",
        "slot",
        "trace",
        "uncertain",
    )

    def __init__(
        self,
        calls: RemoteCalls,
        function: RemoteFunction,
        data: bytes,
        request: bytes | None,
        needs: str,
        feature: str,
        future: asyncio.Future[Any],
    ) -> None:
        self.calls = calls
        self.function = function
        self.data = data
        """The argument's object without its closing brace."""
        self.request = request
        """What the remote is to recognise the call by, where the caller of this engine has given it."""
        self.needs = needs
        """What only an engine of this project has, and why it is not sent to another; empty for nothing."""
        self.feature = feature
        """Which of the features that engines announce it needs; empty for none."""
        self.trace = _trace()
        """What it is made within."""
        self.future = future
        self.deadline = 0.0
        self.slot = -1
        """Its place among the calls in flight; -1 while it waits for one."""
        self.session: RemoteSession | None = None
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
            self.calls.end(self)
        except Exception as error:
            _going_on.failed(error)
        if self.future.done():
            return
        try:
            self.future.set_result(self.function.read(result))
        except Exception as error:
            self.future.set_exception(error)

    def set_exception(self, exception: Exception, /) -> None:
        self.calls.failed(self, exception)

    def fail(self, error: Exception) -> None:
        """It is over."""
        self.calls.end(self)
        if not self.future.done():
            self.future.set_exception(error)

    def give_up(self, why: str) -> None:
        """It gets no answer; `why` begins a sentence that says what became of it."""
        if not self.function.is_mutation:
            self.fail(StoreError(f"{why}nothing was read"))
        elif self.sent:
            self.fail(OutcomeUnknown(f"{why}whether the change was made is not known"))
        else:
            self.fail(StoreError(f"{why}nothing was changed"))


class RemoteCalls:
    """The calls on a link, `max_in_flight` at once, each given up after `timeout` seconds; `start` first.

    `renew` is called when the remote has lost the session on the connection there is; `go_on` when there is another one.
    `look_again` is called when a call needs a feature that the remote is not known to have.
    """

    def __init__(
        self,
        link: Link,
        *,
        timeout: float,
        max_in_flight: int,
        renew: Callable[[], None],
        look_again: Callable[[], None],
    ) -> None:
        self._link = link
        self._client = link.client
        self._timeout = timeout
        self._renew = renew
        self._look_again = look_again
        self._slots = list(range(max_in_flight - 1, -1, -1))
        self._seq = 0
        self._open: dict[RemoteCall, None] = {}
        """All that are open, in the order in which they were made, which is that of their deadlines, too."""
        self._again: list[RemoteCall] = []
        """Calls of connections that broke, to be made again."""
        self._waiting: deque[RemoteCall] = deque()
        self._waits_for_reading = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop

    def start(self) -> None:
        """Calls can be made from now on."""
        self._loop = asyncio.get_running_loop()

    def stop(self) -> None:
        """Give up no more calls for their time; `fail_all` when the connection is closed."""
        if self._timer is not None:
            self._timer.cancel()

    def fail_all(self, why: str) -> None:
        """Give up what is open."""
        for call in list(self._open):
            call.give_up(why)

    def __call__(
        self, function: RemoteFunction, data: bytes, *, request: bytes | None = None, needs: str = "", feature: str = ""
    ) -> asyncio.Future[Any]:
        """Call a function; `data` is its argument without the closing brace.

        The Future gives what the function's `read` makes of the result. It fails with the remote's `FunctionError`, or with
        `StoreError`: no answer in time, a mutation whose outcome is not known, or a remote that has not what the call `needs` (in
        words), or a `feature` (`UNSUPPORTED`).
        """
        if self._link.ring is not None:
            raise StoreError(self._link.ring)
        loop = self._loop
        call = RemoteCall(self, function, data, request, needs, feature, loop.create_future())
        call.deadline = loop.time() + self._timeout
        self._open[call] = None
        if self._timer is None:
            self._timer = loop.call_at(call.deadline, self._expire)
        if self._link.is_ready and self._slots and not self._waiting and not self._client.connection.is_behind:
            call.slot = self._slots.pop()
            self._send(call)
        else:
            self._waiting.append(call)
            self._send_waiting()
        return call.future

    def _send(self, call: RemoteCall) -> None:
        if call.needs and not self._link.is_ours:
            call.give_up(f"the engine at {self._link.url} has no {call.needs}; ")
            return
        if call.feature and call.feature not in self._link.features:
            call.fail(unsupported(f"the engine at {self._link.url}", call.feature))
            self._look_again()
            return
        if call.request is not None:
            data = b'%b,"_iii_state_request":%b}' % (call.data, call.request)
        elif call.function.is_mutation and (session := self._link.session) is not None:
            if call.session is not session:
                self._seq += 1
                call.session, call.seq = session, self._seq
            data = session.sign(call.data, call.slot, call.seq)
        else:
            data = call.data + b"}"
        if self._client.send(call, call.function.id, data, call.trace):
            call.sent = True
        else:
            self._again.append(call)

    def end(self, call: RemoteCall) -> None:
        """A call is over: its place is free."""
        if self._open.pop(call, self) is self:
            return
        if call.slot >= 0:
            self._slots.append(call.slot)
        if self._waiting:
            self._send_waiting()

    def _send_waiting(self) -> None:
        """Send what waits for a place among those in flight, and for the remote to read."""
        while self._waiting and self._slots and self._link.is_ready:
            if self._client.connection.is_behind:
                if not self._waits_for_reading:
                    self._waits_for_reading = True
                    self._client.connection.when_read(self._has_read)
                return
            call = self._waiting.popleft()
            if call in self._open:
                call.slot = self._slots.pop()
                self._send(call)

    def _has_read(self) -> None:
        self._waits_for_reading = False
        self._send_waiting()

    def failed(self, call: RemoteCall, error: Exception) -> None:
        """A call was answered with an error, or its connection broke."""
        if call not in self._open:
            return
        url = self._link.url
        if isinstance(error, ConnectionLost):
            if call.function.is_mutation and call.request is None and call.session is None:
                call.give_up(f"{error}: ")
            else:
                call.uncertain = call.sent
                self._again.append(call)
        elif not isinstance(error, FunctionError):
            call.fail(error)
        elif call.session is not None and error.code in (Code.SESSION_LOST, Code.REQUEST_FENCED):
            self._session_lost(call)
        elif error.code in STOPPED:
            call.give_up(f"{url}: {error}; ")
        elif error.code == Code.TIMEOUT:
            call.give_up(f"{url}: {error.message}; ")
        elif error.code == Code.FUNCTION_NOT_FOUND:
            call.fail(FunctionError(Code.FUNCTION_NOT_FOUND, f"{url}: {error.message}"))
        elif call.request is not None:
            call.fail(session_error(error))
        else:
            call.fail(error)

    def _session_lost(self, call: RemoteCall) -> None:
        """The session is gone while the connection is there, for example because it was not used for long: take another one."""
        if call.uncertain:
            self._give_up_uncertain(call, "it has lost its record of this call")
            return
        lost, call.session, call.sent = call.session, None, False
        if lost is not self._link.session and self._link.is_ready:
            self._send(call)
            return
        self._again.append(call)
        self._link.session, self._link.is_ready = None, False
        self._renew()

    def go_on(self) -> None:
        """The link is ready: make again what was under way, and then what waits."""
        link = self._link
        again, self._again = self._again, []
        for call in again:
            if call not in self._open:
                continue
            lost = link.session is None or (call.request is None and call.session is not link.session)
            if call.uncertain and call.function.is_mutation and lost:
                self._give_up_uncertain(call, link.why_unrecognised)
            else:
                self._send(call)
        self._send_waiting()

    def _give_up_uncertain(self, call: RemoteCall, why: str) -> None:
        call.give_up(f"the connection to {self._link.url} broke, and {why}: ")

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._open and (call := next(iter(self._open))).deadline <= now:
            why = self._link.trouble or f"the engine at {self._link.url} does not answer"
            call.give_up(f"{why}; given up after {self._timeout * 1000:.0f} ms: ")
        if self._open:
            self._timer = self._loop.call_at(next(iter(self._open)).deadline, self._expire)
