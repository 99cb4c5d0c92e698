"""What has to be done from time to time: planned attempts, queues that nobody hosts any more, bells that were lost, deadlines."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice

from iii_state.errors import StoreError

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 1.5
RINGS_PER_SWEEP = 500
"""So many hosted queues are looked at in one sweep, the others in the next ones."""


class Upkeep:
    """One task, that wakes at every sweep and whenever something is due before. Each duty answers the milliseconds until then."""

    def __init__(
        self, duties: Sequence[Callable[[], Awaitable[int]]], hosted: Callable[[], Sequence[str]], bell: Callable[[str], None]
    ):
        self._duties = duties
        self._hosted = hosted
        self._bell = bell
        self._wake = asyncio.Event()
        self._next = 0.0
        """When the timer rings. Not asked of it: uvloop's has no time where that has come already."""
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._rung = 0

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._work(), name="iii-state redis upkeep")

    async def stop(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

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

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        swept = loop.time()
        while True:
            try:
                async with asyncio.timeout_at(swept + SWEEP_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                swept = loop.time()
                self._ring()
            self._wake.clear()
            for duty in self._duties:
                try:
                    following = await duty()
                except StoreError as error:
                    logger.info("upkeep is put off: %s", error)
                except Exception:
                    logger.exception("upkeep has failed")
                else:
                    if following >= 0:
                        self.plan(following / 1000)

    def _ring(self) -> None:
        hosted = self._hosted()
        if self._rung >= len(hosted):
            self._rung = 0
        for subscription_id in islice(hosted, self._rung, self._rung + RINGS_PER_SWEEP):
            self._bell(subscription_id)
        self._rung += RINGS_PER_SWEEP
