"""How calls of a connection's other side are answered: at once, or when a Future is done; with so many open at most."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from msgspec import Raw

from iii_state import values
from iii_state.engine import protocol
from iii_state.engine.registry import as_function_error
from iii_state.engine.workers import Link
from iii_state.errors import FunctionError
from iii_state.host import Answer
from iii_state.values import Json

MAX_OPEN_CALLS = 10_000
"""A peer with so many calls open is not read until half of them are answered."""


class Answering:
    """The open calls of one peer. Functions are named by their ids as JSON text; an absent `invocation_id` wants no answer.

    `too_large` says in words that the peer cannot receive a frame of so many bytes, `unheard` is told of failures that nobody
    waits for.
    """

    def __init__(self, link: Link, too_large: Callable[[str, int], FunctionError], unheard: Callable[[str, FunctionError], None]):
        self.open_calls = 0
        self.max_frame_bytes = protocol.MAX_FRAME_BYTES
        self.max_frame_depth = protocol.MAX_FRAME_DEPTH
        self.tells_fates = False
        """Whether the peer is told what became of a call that failed (`protocol.FATES`)."""
        self._link = link
        self._too_large = too_large
        self._unheard = unheard
        self._throttled = False

    def settle(self, invocation_id: Raw, function_text: bytes, answer: Answer[bytes | None]) -> None:
        """Answer a call, now or when its Future is done."""
        if isinstance(answer, asyncio.Future):
            self.open_calls += 1
            if self.open_calls >= MAX_OPEN_CALLS and not self._throttled:
                self._throttled = True
                self._link.hold()
            answer.add_done_callback(partial(self._done, invocation_id, function_text))
        elif protocol.is_given(invocation_id):
            self._answer(invocation_id, function_text, answer)

    def _done(self, invocation_id: Raw, function_text: bytes, answer: asyncio.Future[bytes | None]) -> None:
        self.open_calls -= 1
        if answer.cancelled():
            self.fail(invocation_id, function_text, FunctionError("invocation_stopped", "Invocation stopped"))
        elif (error := answer.exception()) is not None:
            self.fail(invocation_id, function_text, error)
        elif protocol.is_given(invocation_id):
            self._answer(invocation_id, function_text, answer.result())
        if self._throttled and self.open_calls <= MAX_OPEN_CALLS // 2:
            self._throttled = False
            self._link.release()

    def _answer(self, invocation_id: Raw, function_text: bytes, result: bytes | None) -> None:
        frame = protocol.result_frame(invocation_id, function_text, result)
        if len(frame) > self.max_frame_bytes:
            self.refuse(
                invocation_id,
                function_text,
                self._too_large(f"{function_text.decode()[1:-1]} was carried out, but its result", len(frame)),
            )
        elif self.max_frame_depth < protocol.MAX_FRAME_DEPTH and values.nesting_exceeds(frame, self.max_frame_depth):
            deep = FunctionError(
                "serialization_error",
                f"{function_text.decode()[1:-1]} was carried out, but its result cannot be sent: "
                f"the engine reads frames that nest {self.max_frame_depth} levels deep, and this one is deeper",
            )
            self.refuse(invocation_id, function_text, deep)
        else:
            self._link.send(frame)

    def fail(self, invocation_id: Raw, function_text: bytes, error: BaseException) -> None:
        """Answer a call with an error; one that nobody waits for is told to `unheard`."""
        fault = as_function_error(error)
        if protocol.is_given(invocation_id):
            self.refuse(invocation_id, function_text, fault)
        else:
            self._unheard(function_text.decode(), fault)

    def refuse(self, invocation_id: Json, function_text: bytes, error: FunctionError) -> None:
        """Answer with an error, shortened to what the peer can receive."""
        frame = protocol.error_frame(invocation_id, function_text, error, tells_fate=self.tells_fates)
        if len(frame) > self.max_frame_bytes:
            shortened = type(error)(error.code[:100], error.message[:10_000] + " …")
            frame = protocol.error_frame(invocation_id, function_text, shortened, tells_fate=self.tells_fates)
        if len(frame) <= self.max_frame_bytes:
            self._link.send(frame)
