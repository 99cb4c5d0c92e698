"""Counts the calls of a function: how many, with which outcome, how many are open, and how long one in sixteen takes."""

from __future__ import annotations

import asyncio
import time
from asyncio import Future
from collections.abc import Iterable, Iterator
from contextvars import copy_context
from functools import partial

from iii_state.errors import Code, FunctionError
from iii_state.figures import Figure, Histogram, counter, gauge, histogram
from iii_state.host import Caller, Handler
from iii_state.tasks.results import Result
from iii_state.values import Json

TIMED = 15
"""A call is timed where its number has none of these bits: one in sixteen."""

MOST_CODES = 50
"""So many codes of errors are told apart in one function; what a remote engine answers with is its own."""

CALLS = counter(
    "calls",
    "Calls of functions of the module that are over, by outcome: ok, or the code of the error.",
    *("function", "adapter", "code"),
)
OPEN = gauge("calls_in_flight", "Calls of functions of the module that have not been answered yet.", "function", "adapter")
DURATION = histogram(
    "call_duration_seconds", "How long calls of functions of the module take, of one call in sixteen.", "function", "adapter"
)


LARGE_BYTES = 16 * 1024
"""An answer that is no larger may be held for a moment, until it is looked at."""

LOOK_SECONDS = 1.0
"""So long, at most, an answer is held that has come."""

FIRST_LOOK = 64


class CountedFunction:
    """A handler, and what has been counted of its calls: `call` stands in its place.

    A call that answers at once costs some 0.17 µs more. The Futures of those that answer later are kept and looked at together
    (0.4 µs a call), since a callback of each costs twice as much; large answers get one all the same, and are not kept.
    """

    __slots__ = (
        *("_answers", "_are_large", "_context", "_ended", "_handler", "_look_at", "_open", "_timer"),
        *("begun", "codes", "durations", "failures"),
    )

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._answers: list[Future[bytes | None]] = []
        self._are_large = False
        """Whether the last answers that came had more than `LARGE_BYTES`."""
        self._look_at = FIRST_LOOK
        """With so many answers they are looked at: four times as many as were open the last time, so that few are met twice."""
        self._timer: asyncio.TimerHandle | None = None
        self._open = 0
        """Calls that have a callback, and are open."""
        # Made once: binding a method and copying a context for each callback is a third of its cost.
        self._ended, self._context = self._end, copy_context()
        self.begun = 0
        self.failures = 0
        self.codes: dict[str, int] = {}
        self.durations = Histogram()

    def call(self, data: Json, caller: Caller) -> Result[bytes | None]:
        """Call it: a `Handler`. (An object with `__call__` would cost more to call than the counting does.)"""
        self.begun = number = self.begun + 1
        if not number & TIMED:
            return self._timed(data, caller)
        try:
            answer = self._handler(data, caller)
        except BaseException as error:
            self._failed(error)
            raise
        if type(answer) is bytes or answer is None or not isinstance(answer, Future):
            return answer
        if self._are_large or len(data) > LARGE_BYTES:
            self._open += 1
            answer.add_done_callback(self._ended, context=self._context)
            return answer
        answers = self._answers
        answers.append(answer)
        if len(answers) >= self._look_at:
            self._look()
        elif self._timer is None:
            self._timer = answer.get_loop().call_later(LOOK_SECONDS, self._look_later)
        return answer

    def _timed(self, data: Json, caller: Caller) -> Result[bytes | None]:
        began = time.perf_counter()
        try:
            answer = self._handler(data, caller)
        except BaseException as error:
            self._failed(error)
            self.durations.add(time.perf_counter() - began)
            raise
        if isinstance(answer, Future):
            self._open += 1
            answer.add_done_callback(partial(self._end_timed, began), context=self._context)
        else:
            self.durations.add(time.perf_counter() - began)
        return answer

    # --- calls that are answered later

    def _end_timed(self, began: float, answer: Future[bytes | None]) -> None:
        self.durations.add(time.perf_counter() - began)
        self._end(answer)

    def _end(self, answer: Future[bytes | None]) -> None:
        self._open -= 1
        self._take((answer,))

    def _look(self) -> None:
        """Count the answers that have come, and keep the others."""
        still_open = self._answers = self._take(self._answers)
        self._look_at = 4 * len(still_open) + FIRST_LOOK

    def _take(self, answers: Iterable[Future[bytes | None]]) -> list[Future[bytes | None]]:
        """Count how calls have ended; those that have not are given back."""
        still_open = []
        last = None
        for answer in answers:
            if not answer.done():
                still_open.append(answer)
                continue
            try:
                error = answer.exception()
            except asyncio.CancelledError:
                self._count("cancelled")
                continue
            if error is not None:
                self._failed(error)
            else:
                last = answer
        if last is not None:
            self._are_large = len(last.result() or b"") > LARGE_BYTES
        return still_open

    def _look_later(self) -> None:
        self._look()
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look_later) if self._answers else None

    # --- what has been counted

    def _failed(self, error: BaseException) -> None:
        self._count(error.code if isinstance(error, FunctionError) else Code.INVOCATION_FAILED)

    def _count(self, code: str) -> None:
        self.failures += 1
        if code not in self.codes and len(self.codes) >= MOST_CODES:
            code = "other"
        self.codes[code] = self.codes.get(code, 0) + 1

    def figures(self, function_id: str, adapter: str) -> Iterator[Figure]:
        """What has been counted."""
        self._look()
        labels, still_open = (function_id, adapter), self._open + len(self._answers)
        yield Figure(CALLS, self.begun - still_open - self.failures, (*labels, "ok"))
        for code, count in self.codes.items():
            yield Figure(CALLS, count, (*labels, code))
        if self.begun:
            yield Figure(OPEN, still_open, labels)
            yield Figure(DURATION, self.durations, labels)
