"""The calls that a peer makes: let in, so many at once, and replied to at once or when a Future is done."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

from msgspec import Raw

from iii_state import values
from iii_state.config import ServerLimits
from iii_state.errors import Code, FunctionError
from iii_state.tasks.failures import as_function_error
from iii_state.tasks.results import Result
from iii_state.values import Json
from iii_state.wire import messages
from iii_state.wire.backlog import LARGE_RESULT_BYTES, Asked
from iii_state.wire.limits import DEFAULT, Share
from iii_state.wire.peer import PeerConnection

MAX_AHEAD = 16
MAX_AHEAD_BYTES = 1024 * 1024
"""So many calls of a peer that is behind are let in before it has read, while less than this waits for it: what it has to read may
be events, and results go before those that are sent later."""

MAX_WAITING_BYTES = 1024 * 1024
"""A peer with more than this waiting to be let in is not read until half of it is."""

_FIRST_RESULT_BYTES = 256 * 1024
"""What a result is taken to bring before there has been one."""

_FOR_EACH_CALL = 500
"""What a call that waits takes beside its text."""


class IncomingCalls:
    """The calls that one peer makes. Functions are named by their ids as JSON text; one without an `invocation_id` gets no reply.

    Calls wait (`let_in`) while the peer is behind with reading, or while as much is being worked out for it as may be: it would
    not read further results. Calls of any peer that are expected to bring much wait while much waits for all peers together. The
    results that the peer sends do not wait behind its calls.

    `too_large` words the error for a frame of so many bytes, more than the peer can receive; `unheard` is told of the failures of
    calls that get no reply. A peer with as many calls open as `limits` allow is not read until half of them have a reply, and the
    open calls that the engine itself carries out hold no more than they allow. `share` is that of the peer's token.
    """

    def __init__(
        self,
        link: PeerConnection,
        too_large: Callable[[str, int], FunctionError],
        unheard: Callable[[str, FunctionError], None],
        limits: ServerLimits = DEFAULT,
        share: Share | None = None,
    ):
        self.limits = limits
        self.share = share
        self.open_calls = 0
        self.is_full = False
        """Whether calls have to be let in by `let_in`."""
        self.max_frame_bytes = messages.MAX_FRAME_BYTES
        self.direct_bytes = LARGE_RESULT_BYTES
        """A result in a frame that is no larger can be sent without `settle`."""
        self.max_frame_depth = messages.MAX_FRAME_DEPTH
        self.tells_fates = False
        """Whether the peer is told what became of a call that failed (`messages.FATES`)."""
        self._link = link
        self._backlog = link.backlog
        self._too_large = too_large
        self._unheard = unheard
        self._throttled = False
        self._inside = 0
        self._inside_bytes = 0
        self._result_bytes = _FIRST_RESULT_BYTES
        self._waiting: deque[tuple[int, Callable[[], None], Asked]] = deque()
        self._waiting_bytes = 0
        self._waits_for_reading = False
        self._held = False
        self._ahead = 0
        self._ahead_of = 0

    # --- letting calls in

    def let_in(self, size: int, carry_out: Callable[[], None], asked: Asked) -> None:
        """Carry out a call of so many bytes: now, or in its turn, when there is room and the peer has read its results."""
        if not self.is_full and (self._goes_ahead() if self._link.is_behind else not self._would_add(asked)):
            carry_out()
            return
        self.is_full = True
        size += _FOR_EACH_CALL
        self._waiting.append((size, carry_out, asked))
        self._waiting_bytes += size
        if self._waiting_bytes > MAX_WAITING_BYTES and not self._held:
            self._held = True
            self._link.hold()
        if self._link.is_behind:
            self._wait_for_reading()
        elif self._would_add(self._waiting[0][2]):
            self._backlog.when_room(self._has_room)

    def _would_add(self, asked: Asked) -> bool:
        """Whether a call has to wait until others have read: it is likely to bring much, and much waits already."""
        return self._backlog.is_full and self._backlog.expected(asked) > 0 and self._link.is_open

    def _has_room(self) -> None:
        # Others are told, too, and each of them takes some of it.
        asyncio.get_running_loop().call_soon(self._go_on)

    def _goes_ahead(self) -> bool:
        if self._backlog.is_full:
            return False
        if self._ahead_of != self._link.times_behind:
            self._ahead_of = self._link.times_behind
            self._ahead = 0
        self._ahead += 1
        return self._ahead <= MAX_AHEAD and self._link.unsent <= MAX_AHEAD_BYTES

    def _wait_for_reading(self) -> None:
        if not self._waits_for_reading:
            self._waits_for_reading = True
            self._link.when_read(self._has_read)

    def _has_read(self) -> None:
        self._waits_for_reading = False
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting and not self._is_over():
            if self._link.is_behind and self._link.is_open:
                self._wait_for_reading()
                break
            if self._would_add(self._waiting[0][2]):
                self._backlog.when_room(self._has_room)
                break
            size, carry_out, _ = self._waiting.popleft()
            self._waiting_bytes -= size
            carry_out()
        self.is_full = bool(self._waiting) or self._is_over()
        if self._held and self._waiting_bytes <= MAX_WAITING_BYTES // 2:
            self._held = False
            self._link.release()

    def _is_over(self) -> bool:
        return self._inside_bytes + self._inside * self._result_bytes > self.limits.bytes_in_flight and self._link.is_open

    def disconnected(self) -> None:
        """The peer is gone: its calls are carried out all the same."""
        self._go_on()

    # --- replying

    def settle(
        self, invocation_id: Raw, function_text: bytes, answer: Result[bytes | None], size: int = 0, data: Json = b""
    ) -> None:
        """Answer a call, now or when its Future is done. `size` and `data` are those of one that the engine itself carries out."""
        if isinstance(answer, asyncio.Future):
            self.open_calls += 1
            if self.open_calls >= self.limits.calls_in_flight and not self._throttled:
                self._throttled = True
                self._link.hold()
            promised = 0
            if size:
                if (promised := self._backlog.expected((function_text, data))) > 0:
                    self._backlog.promise(promised)
                self._inside += 1
                self._inside_bytes += size
                if self._inside_bytes + self._inside * self._result_bytes > self.limits.bytes_in_flight:
                    self.is_full = True
            share = self.share
            if share is not None:
                share.begin(self._link, size)
            answer.add_done_callback(partial(self._done, invocation_id, function_text, size, data, promised, share))
        elif messages.is_given(invocation_id):
            if size and answer is not None and len(answer) > LARGE_RESULT_BYTES:
                self._backlog.brought((function_text, data), len(answer))
            self._answer(invocation_id, function_text, answer)

    def _done(
        self,
        invocation_id: Raw,
        function_text: bytes,
        size: int,
        data: Json,
        promised: int,
        share: Share | None,
        answer: asyncio.Future[bytes | None],
    ) -> None:
        self.open_calls -= 1
        if share is not None:
            share.end(size)
        if answer.cancelled():
            self.fail(invocation_id, function_text, FunctionError(Code.INVOCATION_STOPPED, "Invocation stopped"))
        elif (error := answer.exception()) is not None:
            self.fail(invocation_id, function_text, error)
        else:
            result = answer.result()
            if size:
                brought = 0 if result is None else len(result)
                self._result_bytes = max(brought, self._result_bytes - (self._result_bytes >> 3))
                if promised or brought > LARGE_RESULT_BYTES:
                    self._backlog.brought((function_text, data), brought)
            if messages.is_given(invocation_id):
                self._answer(invocation_id, function_text, result)
        if promised:
            self._backlog.promise(-promised)  # what has come of it waits for the peer now, or has left
        if size:
            self._inside -= 1
            self._inside_bytes -= size
            if self.is_full:
                self._go_on()
        if self._throttled and self.open_calls <= self.limits.calls_in_flight // 2:
            self._throttled = False
            self._link.release()

    def _answer(self, invocation_id: Raw, function_text: bytes, result: bytes | None) -> None:
        frame = messages.result_frame(invocation_id, function_text, result)
        if len(frame) > self.max_frame_bytes:
            self.refuse(
                invocation_id,
                function_text,
                self._too_large(f"{function_text.decode()[1:-1]} was carried out, but its result", len(frame)),
            )
        elif self.max_frame_depth < messages.MAX_FRAME_DEPTH and values.nesting_exceeds(frame, self.max_frame_depth):
            deep = FunctionError(
                Code.SERIALIZATION_ERROR,
                f"{function_text.decode()[1:-1]} was carried out, but its result cannot be sent: "
                f"the engine reads frames that nest {self.max_frame_depth} levels deep, and this one is deeper",
            )
            self.refuse(invocation_id, function_text, deep)
        else:
            self._link.send(frame)

    def fail(self, invocation_id: Raw, function_text: bytes, error: BaseException) -> None:
        """Reply to a call with an error; `unheard` is told where the call gets no reply."""
        fault = as_function_error(error)
        if messages.is_given(invocation_id):
            self.refuse(invocation_id, function_text, fault)
        else:
            self._unheard(function_text.decode(), fault)

    def refuse(self, invocation_id: Json, function_text: bytes, error: FunctionError) -> None:
        """Answer with an error. Its texts are bounded: only what the peer itself has sent can make the frame too large for it."""
        frame = messages.error_frame(invocation_id, function_text, error, tells_fate=self.tells_fates)
        if len(frame) <= self.max_frame_bytes:
            self._link.send(frame)
