"""Which consumers there is something to do for, and what the parts of a dispatcher share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from iii_state.adapters.base import Adapter
from iii_state.events import DispatchLimits
from iii_state.host import Host
from iii_state.state.dispatch.consumers import Consumer
from iii_state.state.tracing import Tracing

ADAPTER_RETRY_SECONDS = 0.5
"""How long to wait before asking an adapter again that could not be asked."""


class Schedule:
    """Collects consumers that there is something to do for, and has them run together in the next turn of the event loop.

    It also knows whether handlers may start at all, and wakes who waits for the last of them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, run: Callable[[], None]) -> None:
        self.loop = loop
        self.is_planned = False
        """Whether `run` is going to be called."""
        self.is_stopping = False
        self.is_paused = False
        self._run = run
        self._ready: dict[Consumer, None] = {}
        self._progress = asyncio.Event()

    def add(self, consumer: Consumer) -> None:
        """There is something to do for a consumer."""
        self._ready[consumer] = None
        if not self.is_planned:
            self.is_planned = True
            self.loop.call_soon(self._run)

    def remove(self, consumer: Consumer) -> None:
        """What there is to do for a consumer is about to be done."""
        self._ready.pop(consumer, None)

    def take(self) -> dict[Consumer, None]:
        """All that have been added since the last time."""
        self.is_planned = False
        ready, self._ready = self._ready, {}
        return ready

    def wake(self, consumer: Consumer) -> None:
        """The queue of a consumer may hold something that is ready."""
        if consumer.hosted:
            consumer.more = True
            self.add(consumer)

    def wake_later(self, consumer: Consumer) -> None:
        """Look at its queue again after a pause: it could not be asked, or what it gave not handed out."""
        self.loop.call_later(ADAPTER_RETRY_SECONDS, self.wake, consumer)

    @property
    def starts_handlers(self) -> bool:
        """Whether handlers may start."""
        return not self.is_stopping and not self.is_paused

    def progressed(self) -> None:
        """Something has ended, for which `until` may be waiting."""
        if self.is_stopping:
            self._progress.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until a condition holds, once this is stopping."""
        while not holds():
            self._progress.clear()
            await self._progress.wait()


@dataclass(slots=True, frozen=True)
class Context:
    """What the parts of a dispatcher share."""

    host: Host
    adapter: Adapter
    limits: DispatchLimits
    schedule: Schedule
    loop: asyncio.AbstractEventLoop
    tracing: Tracing | None = None
