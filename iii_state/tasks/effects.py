"""What follows from a write that has been made: whatever goes wrong there, the write is answered as what it is.

A caller that is told of an error makes its call again, and an increment would count twice. So all that comes after a write (events
handed to queues, wake-ups, timers) is guarded: a fault there is logged here, and the answer stays.
"""

from __future__ import annotations

import logging
import time

logger = logging.getLogger(__name__)

SECONDS_PER_TRACEBACK = 60.0
"""Of one place; faults in between are counted. Writes are many, and a log has to stay readable."""


class Afterwards:
    """A step that comes after a write; `step` says which, for the log. Where it raises an `Exception`, that is told to `failed`."""

    __slots__ = ("_logged_at", "_step", "_unlogged")

    def __init__(self, step: str) -> None:
        self._step = step
        self._logged_at = float("-inf")
        self._unlogged = 0

    def failed(self, error: Exception) -> None:
        """Log what has gone wrong, with its traceback, once in a while."""
        now = time.monotonic()
        if now - self._logged_at < SECONDS_PER_TRACEBACK:
            self._unlogged += 1
            return
        before = f" ({self._unlogged} times more since this was logged last)" if self._unlogged else ""
        logger.error("%s has failed after a write was made; the write stands%s", self._step, before, exc_info=error)
        self._logged_at, self._unlogged = now, 0
