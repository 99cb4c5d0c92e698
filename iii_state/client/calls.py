"""The calls that a worker of ours makes: so many on their way, the others in the order in which they were made."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from itertools import count

from iii_state import values
from iii_state.client.connection import ClientConnection
from iii_state.errors import Code, ConnectionLost, FunctionError, NotCarriedOut
from iii_state.host import DEFAULT_NAMESPACE
from iii_state.values import Json
from iii_state.wire import messages
from iii_state.wire.pending import PendingCalls, Waiter


class ClientCalls:
    """Calls on the connection there is; `begin` first.

    They wait for their turn where `max_in_flight` are on their way, and, where the connection comes again, for that; all of it
    within `seconds`.
    """

    def __init__(self, connection: ClientConnection, *, seconds: float, max_in_flight: int) -> None:
        self._connection = connection
        self._seconds = seconds
        self._max_in_flight = max_in_flight
        self._open: PendingCalls | None = None
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._ids = (str(uuid.uuid4())[:24], count(1))

    def begin(self) -> None:
        """Calls can be made from now on."""
        self._open = PendingCalls(asyncio.get_running_loop(), self._seconds)

    def call(
        self,
        function_id: str,
        data: Json,
        *,
        namespace: str | None = None,
        metadata: Json | None = None,
        trace: bytes = b"",
        ahead: bool = False,
    ) -> asyncio.Future[bytes | None]:
        """Call a function; the Future gives its result. Cancelling it gives the call up.

        It fails with `FunctionError`: the engine's, with its code, or `TIMEOUT` after `call_seconds`; or with `ConnectionLost`.
        `trace` is text of `messages.trace_members`; `ahead` passes by what waits, for calls of `greet`.
        """
        connection, pending = self._connection, self._open
        if pending is None:
            raise RuntimeError(f"there is no connection to {connection.url} yet: use the client inside `async with`")
        prefix, numbers = self._ids
        invocation_id = f"{prefix}{next(numbers):012x}"
        future = pending.add(invocation_id)
        elsewhere = namespace is not None and namespace != DEFAULT_NAMESPACE
        frame = messages.invoke_frame(
            invocation_id,
            values.encode_string(function_id),
            data,
            metadata=metadata,
            trace=b'%b,"namespace":%b' % (trace, values.encode_string(namespace)) if elsewhere and namespace is not None else trace,
        )
        if len(frame) > messages.MAX_FRAME_BYTES:
            pending.take(invocation_id)
            future.set_exception(
                NotCarriedOut(Code.PAYLOAD_TOO_LARGE, f"the call of {function_id} is a frame of {len(frame)} bytes")
            )
        elif connection.socket is not None and (
            ahead or (connection.is_greeted and not self._waiting and len(pending) <= self._max_in_flight)
        ):
            connection.socket.send(frame)
        elif connection.is_greeted or (connection.reconnects and not connection.is_over):
            self._waiting.append((invocation_id, frame))
        else:
            pending.take(invocation_id)
            future.set_exception(ConnectionLost(str(connection.why_lost)))
        return future

    def send(self, outcome: Waiter, function_text: bytes, data: Json, trace: bytes = b"") -> bool:
        """Send a call on the connection there is, greeted or not, and let `outcome` have the answer; False if there is none.

        The function's id is JSON text. Errors are those of `call`; the caller bounds what is on its way himself.
        """
        connection, pending = self._connection, self._open
        if connection.socket is None or pending is None:
            return False
        prefix, numbers = self._ids
        invocation_id = f"{prefix}{next(numbers):012x}"
        frame = messages.invoke_frame(invocation_id, function_text, data, trace=trace)
        if len(frame) > messages.MAX_FRAME_BYTES:
            outcome.set_exception(too_large(f"the call of {function_text.decode()[1:-1]}", len(frame)))
        elif connection.max_frame_depth < messages.MAX_FRAME_DEPTH and values.nesting_exceeds(frame, connection.max_frame_depth):
            deep = f"the call of {function_text.decode()[1:-1]} nests deeper than the engine at {connection.url} can read"
            levels = f"({connection.max_frame_depth} levels for a frame)"
            outcome.set_exception(FunctionError(Code.SERIALIZATION_ERROR, f"{deep} {levels}"))
        else:
            pending.add_outcome(invocation_id, outcome)
            connection.socket.send(frame)
        return True

    def answered(self, invocation_id: str, result: bytes | None, error: Exception | None) -> None:
        """The engine has answered a call: another one can be sent."""
        if self._open is not None and (outcome := self._open.take(invocation_id)) is not None:
            if error is not None:
                outcome.set_exception(error)
            else:
                outcome.set_result(result)
        if self._waiting:
            self.send_waiting()

    def send_waiting(self) -> None:
        """Send what waits, as much of it as may be on its way."""
        socket, waiting, pending = self._connection.socket, self._waiting, self._open
        while waiting and socket is not None and pending is not None and len(pending) - len(waiting) < self._max_in_flight:
            invocation_id, frame = waiting.popleft()
            if invocation_id in pending:
                socket.send(frame)

    def sweep(self) -> None:
        """Fail what is overdue."""
        if self._open is not None:
            self._open.sweep(self._connection.trouble)
            while self._waiting and self._waiting[0][0] not in self._open:
                self._waiting.popleft()
            if self._connection.is_greeted:
                self.send_waiting()

    def lost(self) -> None:
        """The connection is gone: what is on its way fails, what waits goes on waiting."""
        if self._open is not None:
            why = f"the connection to {self._connection.url} was lost with the call on its way"
            waiting = {invocation_id for invocation_id, _ in self._waiting}
            self._open.fail(lambda: ConnectionLost(why, sent=True), spared=waiting)

    def fail_waiting(self, error: Exception) -> None:
        """There will be no connection: what waits for it fails."""
        while self._waiting and self._open is not None:
            outcome = self._open.take(self._waiting.popleft()[0])
            if outcome is not None:
                outcome.set_exception(ConnectionLost(str(error)))

    def fail_all(self, why: str) -> None:
        """What is open fails."""
        self._waiting.clear()
        if self._open is not None:
            self._open.fail(lambda: ConnectionLost(why))


def too_large(what: str, size: int) -> FunctionError:
    """That a frame is larger than can be sent."""
    return NotCarriedOut(Code.PAYLOAD_TOO_LARGE, f"{what} is a frame of {size} bytes; {messages.MAX_FRAME_BYTES} can be sent")
