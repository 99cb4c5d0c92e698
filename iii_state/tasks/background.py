"""Background tasks: each is owned by the part that started it, is heard of when it fails, and ends with its owner."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)

STOP_SECONDS = 10.0
"""So long an end waits for tasks that were cancelled."""


class Background:
    """The tasks of one owner."""

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        """How many tasks run."""
        return len(self._tasks)

    def start(
        self, work: Coroutine[Any, Any, None], name: str, *, died: Callable[[BaseException], None] | None = None
    ) -> asyncio.Task[None]:
        """Do `work` until it ends, or until `stop`.

        What it raises is logged with its traceback, since no caller waits for it, and handed to `died`, with which an owner that
        cannot do without the task ends, too. `name` stands in the log.
        """
        task = self._add(work, name)
        task.add_done_callback(lambda done: _ended(done, died))
        return task

    def call(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do `work` for a caller, who waits for the task and gets what it returns or raises."""
        return self._add(work, None)

    async def stop(self) -> None:
        """Cancel what runs, and wait until it has ended, at most `STOP_SECONDS`."""
        await stop_tasks(self._tasks)

    def _add(self, work: Coroutine[Any, Any, T], name: str | None) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def stop_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and wait until they have ended, at most `STOP_SECONDS`; what they raise is not raised here."""
    running = [task for task in tasks if not task.done() and task is not asyncio.current_task()]
    for task in running:
        task.cancel()
    if not running:
        return
    done, left = await asyncio.wait(running, timeout=STOP_SECONDS)
    for task in done:
        task.cancelled() or task.exception()
    for task in left:
        logger.error("the task %s has not ended %g s after it was cancelled", task.get_name(), STOP_SECONDS)


async def first_of(*work: Coroutine[Any, Any, object]) -> None:
    """Wait for the first of these to end, end the others, and raise what the first raised."""
    tasks = [asyncio.get_running_loop().create_task(one) for one in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await stop_tasks(tasks)
    for task in done:
        task.result()


def _ended(task: asyncio.Task[None], died: Callable[[BaseException], None] | None) -> None:
    if task.cancelled():
        return
    error = task.exception()
    if error is not None:
        logger.error("the task %s has failed", task.get_name(), exc_info=error)
        if died is not None:
            died(error)
