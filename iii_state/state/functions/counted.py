"""Counts the calls of a function: how many, with which outcome, how many are open, and how long one in sixteen takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
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


class CountedFunction:
    """A handler, and what has been counted of its calls. It is a `Handler`.

    A call that answers at once costs one addition; one that answers later costs a callback.
    """

    __slots__ = ("_context", "_ended", "_handler", "begun", "codes", "durations", "failures", "open")

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        # Made once: binding a method and copying a context for each callback is a third of its cost.
        self._ended, self._context = self._end, copy_context()
        self.begun = 0
        self.open = 0
        self.failures = 0
        self.codes: dict[str, int] = {}
        self.durations = Histogram()

    def __call__(self, data: Json, caller: Caller) -> Result[bytes | None]:
        self.begun = number = self.begun + 1
        if not number & TIMED:
            return self._timed(data, caller)
        try:
            answer = self._handler(data, caller)
        except BaseException as error:
            self._failed(error)
            raise
        if type(answer) is bytes or answer is None or not isinstance(answer, asyncio.Future):
            return answer
        self.open += 1
        answer.add_done_callback(self._ended, context=self._context)
        return answer

    def _timed(self, data: Json, caller: Caller) -> Result[bytes | None]:
        began = time.perf_counter()
        try:
            answer = self._handler(data, caller)
        except BaseException as error:
            self._failed(error)
            self.durations.add(time.perf_counter() - began)
            raise
        if isinstance(answer, asyncio.Future):
            self.open += 1
            answer.add_done_callback(partial(self._end_timed, began))
        else:
            self.durations.add(time.perf_counter() - began)
        return answer

    def _end_timed(self, began: float, answer: asyncio.Future[bytes | None]) -> None:
        self.durations.add(time.perf_counter() - began)
        self._end(answer)

    def _end(self, answer: asyncio.Future[bytes | None]) -> None:
        self.open -= 1
        try:
            error = answer.exception()
        except asyncio.CancelledError:
            self._count("cancelled")
        else:
            if error is not None:
                self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self._count(error.code if isinstance(error, FunctionError) else Code.INVOCATION_FAILED)

    def _count(self, code: str) -> None:
        self.failures += 1
        if code not in self.codes and len(self.codes) >= MOST_CODES:
            code = "other"
        self.codes[code] = self.codes.get(code, 0) + 1

    def figures(self, function_id: str, adapter: str) -> Iterator[Figure]:
        """What has been counted."""
        labels = (function_id, adapter)
        yield Figure(CALLS, self.begun - self.open - self.failures, (*labels, "ok"))
        for code, count in self.codes.items():
            yield Figure(CALLS, count, (*labels, code))
        if self.begun:
            yield Figure(OPEN, self.open, labels)
            yield Figure(DURATION, self.durations, labels)
