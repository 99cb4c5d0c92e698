"""Functions that are Python callables of the engine's own process."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, TypeAlias

from iii_state import lineages, values
from iii_state.engine.functions.function import Function, Invocation
from iii_state.errors import Code, FunctionError, own
from iii_state.tasks.failures import contained
from iii_state.tasks.results import Result
from iii_state.values import Json
from iii_state.wire.pending import PendingCalls

log = logging.getLogger(__name__)

PythonCallable: TypeAlias = Callable[..., Any] | Callable[..., Awaitable[Any]]
"""`def f(event)` or `def f(event, metadata)`, plain or async, on Python objects."""


class PythonTasks:
    """The calls of async Python functions that run, each a task that ends with its engine or its timeout."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        self.loop = loop
        self.pending = PendingCalls(loop, timeout)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ids = count()

    def run(self, work: Awaitable[Any]) -> asyncio.Future[bytes | None]:
        """Run what an async function returned; the Future is its result as JSON text."""
        call_id = str(next(self._ids))
        answer = self.pending.add(call_id)

        async def settle() -> None:
            try:
                result = await work
                text = None if result is None else values.encode(result)
            except BaseException as error:
                task = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                    raise  # given up; one that it raises without being asked to is an error like any other
                if not answer.done() and not self.loop.is_closed():
                    answer.set_exception(own(contained(error)))
            else:
                if not answer.done():
                    answer.set_result(text)

        def over(task: asyncio.Task[None]) -> None:
            self._tasks.pop(call_id, None)
            self.pending.take(call_id)
            if task.cancelled() and not answer.done():
                answer.set_exception(FunctionError(Code.INVOCATION_STOPPED, "Invocation stopped"))

        def given_up(done: asyncio.Future[bytes | None]) -> None:
            if done.cancelled():
                self._cancel(call_id)

        task = self.loop.create_task(settle())
        self._tasks[call_id] = task
        task.add_done_callback(over)
        answer.add_done_callback(given_up)
        return answer

    def _cancel(self, call_id: str) -> None:
        task = self._tasks.get(call_id)
        if task is not None:
            task.cancel()

    def sweep(self) -> None:
        """End what is overdue."""
        self.pending.sweep(expired=self._cancel)

    def runs(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether a task is one of these."""
        return task is not None and task in self._tasks.values()

    async def stop(self, seconds: float) -> None:
        """Cancel what runs and wait for it, bounded: a function may pass over its cancellation."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            _, running = await asyncio.wait(tasks, timeout=seconds)
            if running:
                log.error("%d Python functions go on after they were cancelled, and are left alone", len(running))


class PythonFunction:
    """A Python callable that serves a function: an executor."""

    id = ""
    name = "in-process"
    is_exclusive = False
    outlet = None
    is_settled = True
    may_crash = False
    identity = None

    def __init__(self, function: PythonCallable, tasks: PythonTasks) -> None:
        self._function = function
        self._tasks = tasks
        self._takes_metadata = _takes_metadata(function)

    def execute(self, function: Function, call: Invocation) -> Result[bytes | None]:
        """Call it with the payload (and the call's metadata, if it has a parameter for it) as Python objects."""
        event = values.decode(call.data)
        if call.trace:
            return lineages.inside(call.trace, self._call, event, call.metadata)
        return self._call(event, call.metadata)

    def _call(self, event: Any, metadata: Json | None) -> Result[bytes | None]:
        try:
            if self._takes_metadata:
                result = self._function(event, None if metadata is None else values.decode(metadata))
            else:
                result = self._function(event)
            if inspect.isawaitable(result):
                return self._tasks.run(result)
            return None if result is None else values.encode(result)
        except BaseException as error:
            raise own(contained(error)) from error


def _takes_metadata(function: PythonCallable) -> bool:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # a builtin without a signature
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(positional) >= 2 and (positional[1].name == "metadata" or positional[1].default is positional[1].empty)
