"""Connecting again: one loop for everything that has a connection which is to be there, with pauses that grow and differ."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Never

MAX_DOUBLINGS = 10


class Backoff:
    """Pauses between attempts: each twice as long as the one before, up to `most_seconds`, and shortened at random by up to half,
    so that those who lost the same server do not come back to it at one moment.

    With `at_once` the first attempt after a success is made without a pause.
    """

    __slots__ = ("_at_once", "_failures", "_first_seconds", "_most_seconds")

    def __init__(self, first_seconds: float, most_seconds: float, *, at_once: bool = False) -> None:
        self._first_seconds = first_seconds
        self._most_seconds = most_seconds
        self._at_once = at_once
        self._failures = 0

    def reset(self) -> None:
        """It has worked: begin with the shortest pause again."""
        self._failures = 0

    def next_seconds(self) -> float:
        """How long to wait before the next attempt."""
        failures = self._failures - self._at_once
        self._failures += 1
        if failures < 0:
            return 0.0
        longest: float = min(self._most_seconds, self._first_seconds * 2.0 ** min(failures, MAX_DOUBLINGS))
        return longest * random.uniform(0.5, 1)


class Reconnecting:
    """A connection that is made again whenever it is over.

    `attempt` connects, uses the connection, and returns or raises when it is over; it calls `worked` once the connection has proved
    to be of use, and pauses begin anew then. `failed` is told of every `Exception` that it raises, and whether it says something
    else than the one before; what `failed` raises itself ends the loop.
    """

    def __init__(
        self, attempt: Callable[[], Awaitable[None]], backoff: Backoff, *, failed: Callable[[Exception, bool], None]
    ) -> None:
        self._attempt = attempt
        self._backoff = backoff
        self._failed = failed
        self._trouble: str | None = None
        self._pause: asyncio.Task[None] | None = None

    def is_news(self, error: Exception) -> bool:
        """Whether an error differs from what ended the attempt before, or a connection has worked meanwhile."""
        return str(error) != self._trouble

    def worked(self) -> None:
        """The connection there is does what it is for."""
        self._backoff.reset()
        self._trouble = None

    def hurry(self) -> None:
        """There is a reason to try now: end the pause there is, and begin with the shortest again."""
        self._backoff.reset()
        if self._pause is not None:
            self._pause.cancel()

    async def run(self) -> Never:
        """Connect, and again whenever that is over, until cancelled."""
        while True:
            try:
                await self._attempt()
            except Exception as error:
                is_news = self.is_news(error)
                self._trouble = str(error)
                self._failed(error, is_news)
            self._pause = asyncio.get_running_loop().create_task(asyncio.sleep(self._backoff.next_seconds()))
            try:
                await asyncio.wait((self._pause,))
            finally:
                self._pause.cancel()
