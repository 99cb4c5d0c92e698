"""What has to be done from time to time, and also as soon as something is due."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from iii_state.errors import StoreError
from iii_state.tasks.background import Background

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 1.5

Duty = Callable[[], Awaitable[int]]
"""Does what is due, and answers the milliseconds until something is next, -1 if that is not known."""


class Maintenance:
    """One task, that wakes at every sweep and whenever something is due before. What a duty raises is logged, and the next does
    its work all the same. `following` tells, of the loop's clock, when the sweep after one is."""

    def __init__(self, following: Callable[[float], float] | None = None) -> None:
        self._following = following or _usual
        self._wake = asyncio.Event()
        self._next = 0.0
        """When the timer rings. Not asked of it: uvloop's has no time where that has come already."""
        self._timer: asyncio.TimerHandle | None = None
        self._background = Background()

    def start(self, *duties: Duty, swept: Callable[[], None] = lambda: None) -> None:
        """Begin. `swept` is called at every sweep, before the duties."""
        self._background.start(self._work(duties, swept), "iii-state redis maintenance")

    async def stop(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()
        await self._background.stop()

    def plan(self, seconds: float) -> None:
        """Something is due so much later."""
        loop = asyncio.get_running_loop()
        when = loop.time() + seconds
        if self._timer is not None:
            if self._next <= when:
                return
            self._timer.cancel()
        self._next = when
        self._timer = loop.call_at(when, self._due)

    def _due(self) -> None:
        self._timer = None
        self._wake.set()

    async def _work(self, duties: tuple[Duty, ...], swept: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        swept_at = loop.time()
        while True:
            try:
                async with asyncio.timeout_at(self._following(swept_at)):
                    await self._wake.wait()
            except TimeoutError:
                swept_at = loop.time()
                swept()
            self._wake.clear()
            for duty in duties:
                try:
                    following = await duty()
                except StoreError as error:
                    logger.info("maintenance is put off: %s", error)
                except Exception:
                    logger.exception("maintenance has failed")
                else:
                    if following >= 0:
                        self.plan(following / 1000)


def _usual(swept_at: float) -> float:
    return swept_at + SWEEP_SECONDS
