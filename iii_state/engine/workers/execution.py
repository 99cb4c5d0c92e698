"""The calls that a worker executes: sent to it, and open until it answers or goes away."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Callable
from functools import partial
from itertools import count

from iii_state.engine.functions.function import Function, Invocation
from iii_state.errors import Code, FunctionError, NotCarriedOut, WorkerLost
from iii_state.tasks.results import Result
from iii_state.wire import messages
from iii_state.wire.messages import ABSENT, given
from iii_state.wire.peer import PeerConnection
from iii_state.wire.pending import NOT_SENT, PendingCalls

MAX_UNSENT_BYTES = 64 * 1024 * 1024
"""A worker for which more than this waits is sent no call of anybody's."""

LARGE_BYTES = 256 * 1024
"""A call of this size takes a while to send, on a slow connection."""

_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")

TooLarge = Callable[[str, int], FunctionError]
"""The error that says that the worker cannot receive a frame of so many bytes; the text says what the frame is."""


class Execution:
    """The calls that one worker executes.

    `too_large` words the error of a call that it cannot receive, `check_invokable` raises `FunctionError` for a function that is
    not called over its connection, `worker_name` says who it is. Until it is known which frames the worker can receive, calls in
    large ones wait here.
    """

    def __init__(
        self,
        link: PeerConnection,
        call_timeout: float,
        too_large: TooLarge,
        check_invokable: Callable[[str], None],
        worker_name: Callable[[], str],
    ) -> None:
        self.max_frame_bytes = messages.MAX_FRAME_BYTES
        self.is_ours = False
        """Whether the worker is this project's: a null result of its is one (SDKs send it for none at all, too), and what it says
        of a call's fate counts."""
        self.pending = PendingCalls(asyncio.get_running_loop(), call_timeout)
        self._link = link
        self._too_large = too_large
        self._check_invokable = check_invokable
        self._worker_name = worker_name
        self._sending: dict[asyncio.Future[bytes | None], int] = {}
        """Large calls, with the position in all that is sent to the worker at which each ends; some may have left."""
        self._large_calls: dict[str, tuple[Function, bytes]] | None = {}
        """Calls that wait until it is known whether the worker can receive them, by their id; None once that is known."""
        self._large_bytes = 0
        self._fresh = (str(uuid.uuid4())[:24], count(1))

    @property
    def holds_large_calls(self) -> bool:
        """Whether it is not known yet which frames the worker can receive."""
        return self._large_calls is not None

    def execute(self, function: Function, call: Invocation) -> Result[bytes | None]:
        """Send a call to the worker. The Future fails with `WorkerLost` when it goes away, with the engine's `TIMEOUT`."""
        link = self._link
        if not link.is_open:
            raise NotCarriedOut(Code.INVOCATION_STOPPED, "Invocation stopped")
        waiting = self._large_bytes + (link.unsent if link.is_behind else 0)
        if waiting > MAX_UNSENT_BYTES:
            about = f"worker {self._worker_name()} does not keep up: {waiting} bytes wait to be read by it"
            raise NotCarriedOut(Code.CHANNEL_SEND_FAILED, about)
        self._check_invokable(function.id)
        invocation_id = call.invocation_id
        if invocation_id is None or invocation_id in self.pending or _UUID.fullmatch(invocation_id) is None:
            prefix, numbers = self._fresh
            invocation_id = f"{prefix}{next(numbers):012x}"
        data = messages.with_caller(call.data, call.caller.worker_id) if call.caller.worker_id else call.data
        frame = messages.invoke_frame(invocation_id, function.id_text, data, metadata=call.metadata, trace=call.trace)
        if len(frame) > self.max_frame_bytes:
            raise self._too_large(f"The call of {function.id}", len(frame))
        if len(frame) > messages.OLD_PYTHON_FRAME_BYTES and self._large_calls is not None:
            future = self.pending.add(invocation_id, NOT_SENT)
            self._large_calls[invocation_id] = (function, frame)
            self._large_bytes += len(frame)
        else:
            future = self.pending.add(invocation_id, link.position + len(frame))
            link.send_call(frame)
            if len(frame) > LARGE_BYTES and link.is_behind:
                self._sending[future] = link.position
                future.add_done_callback(self._sending.pop)
        return future

    def is_sending(self, answer: asyncio.Future[bytes | None]) -> bool:
        """Whether the call of which this is the result has not left in whole yet."""
        return self._link.is_open and self._sending.get(answer, 0) > self._link.left

    def send_large_calls(self) -> None:
        """It is known now which frames the worker can receive, or has to be guessed: send what has waited for that."""
        waiting, self._large_calls = self._large_calls or {}, None
        self._large_bytes = 0
        for invocation_id, (function, frame) in waiting.items():
            if len(frame) <= self.max_frame_bytes:
                self.pending.sent(invocation_id, self._link.position + len(frame))
                self._link.send_call(frame)
            elif (future := self.pending.take(invocation_id)) is not None:
                future.set_exception(self._too_large(f"The call of {function.id}", len(frame)))

    def take_result(self, message: messages.InvocationResult) -> None:
        """The worker has answered a call."""
        error = messages.read_error(message.error, tells_fate=self.is_ours)
        future = self.pending.take(message.invocation_id)
        if future is None:
            return
        if error is not None:
            future.set_exception(error)
        else:
            result = given(message.result)
            if result is None and message.result is not ABSENT and self.is_ours:
                result = messages.NULL
            future.set_result(None if result is None else bytes(result))

    def take_malformed_result(self, invocation_id: str, reason: str) -> None:
        """The worker has answered a call with what cannot be read."""
        future = self.pending.take(invocation_id)
        if future is not None:
            about = f"the worker's answer could not be read: {reason}"
            future.set_exception(FunctionError(Code.INVOCATION_ERROR, about))

    def disconnected(self, *, may_crash: bool) -> None:
        """The connection is gone, and with it all that the worker was executing, perhaps because of it (`may_crash`).

        What has not left as a whole cannot have been begun: it is no crash.
        """
        self.pending.fail_unsent(self._link.left, lambda: NotCarriedOut(Code.INVOCATION_STOPPED, "Invocation stopped"))
        lost = WorkerLost if may_crash else partial(NotCarriedOut, begun=True)
        self.pending.fail(lambda: lost(Code.INVOCATION_STOPPED, "Invocation stopped"))
        self._large_calls = None
