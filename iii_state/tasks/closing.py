"""Stopping something once, and as a whole: giving up waiting does not cut it off, and a part that fails spares no other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any


class Stopping:
    """The end of something that has one.

    `work` is done once, in a task of its own. Every call waits for it: one that is cancelled or times out leaves it running, and a
    later call waits for the same.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._work = work
        self._task: asyncio.Task[None] | None = None

    @property
    def has_begun(self) -> bool:
        """Whether it has been asked for."""
        return self._task is not None

    @property
    def is_over(self) -> bool:
        """Whether it has come to its end."""
        return self._task is not None and self._task.done()

    def begin(self) -> asyncio.Task[None]:
        """Begin, and do not wait."""
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        return self._task

    async def __call__(self) -> None:
        """Begin, and wait for the end. Raises what the work raised."""
        await asyncio.shield(self.begin())


async def in_turn(*steps: Callable[[], Awaitable[None]]) -> None:
    """Take every step, also when one before it has raised or was cancelled; then raise what the last one of those raised."""
    async with AsyncExitStack() as stack:
        for step in reversed(steps):
            stack.push_async_callback(step)
