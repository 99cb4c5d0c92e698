"""Writes what became of deliveries into their queues: again and again until it is written."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from iii_state.errors import StoreError
from iii_state.state.dispatch.schedule import ADAPTER_RETRY_SECONDS, Schedule
from iii_state.tasks.results import Result

logger = logging.getLogger(__name__)

T = TypeVar("T")

QUIET_SECONDS = 5.0
"""So often it is said that acknowledgements cannot be written."""


class Settling:
    """Acknowledgements, retries, dead letters and releases on their way to an adapter.

    An adapter that cannot take one (its store is away) is asked again after a pause: without it the event would be delivered again.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.unsettled = 0
        """How many are not written yet."""
        self.trouble = ""
        """Why the last one that failed did."""
        self._schedule = schedule
        self._quiet_until = 0.0
        """Up to here, by the loop's clock, nothing is said of what cannot be written."""

    def settle(self, write: Callable[[], Result[T]], written: Callable[[T], None] | None = None) -> None:
        """Call `write`, and again until it succeeds; `written` is told its result."""
        try:
            answer = write()
        except StoreError as error:
            self._try_later(write, written, error)
            return
        if not isinstance(answer, asyncio.Future):
            if written is not None:
                written(answer)
            return
        self.unsettled += 1
        answer.add_done_callback(partial(self._replied, write, written))

    def _replied(self, write: Callable[[], Result[T]], written: Callable[[T], None] | None, reply: asyncio.Future[T]) -> None:
        self.unsettled -= 1
        if not reply.cancelled():
            if (error := reply.exception()) is not None:
                self._try_later(write, written, error)
            elif written is not None:
                written(reply.result())
        self._schedule.progressed()

    def _try_later(self, write: Callable[[], Result[T]], written: Callable[[T], None] | None, error: BaseException) -> None:
        self.trouble = str(error)
        schedule = self._schedule
        if not schedule.is_stopping and schedule.loop.time() >= self._quiet_until:
            self._quiet_until = schedule.loop.time() + QUIET_SECONDS
            logger.warning("%s; asking again every %s s", error, ADAPTER_RETRY_SECONDS)
        self.unsettled += 1
        schedule.loop.call_later(ADAPTER_RETRY_SECONDS, self._try_again, write, written)

    def _try_again(self, write: Callable[[], Result[T]], written: Callable[[T], None] | None) -> None:
        self.unsettled -= 1
        self.settle(write, written)
