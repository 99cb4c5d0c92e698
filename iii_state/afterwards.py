"""What follows from a write that has been made: whatever goes wrong there, the write is answered as what it is.

A caller that is told of an error makes its call again, and an increment would count twice. So all that comes after a write (events
handed to queues, bells, timers) runs in the one guard below: a fault there is logged, and the answer stays.
"""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Literal

logger = logging.getLogger(__name__)

SECONDS_PER_TRACEBACK = 60.0
"""Of one place; faults in between are counted. Writes are many, and a log has to stay readable."""


class Afterwards:
    """`with` one of these runs a step that comes after a write. `step` says which, for the log."""

    __slots__ = ("_logged_at", "_step", "_unlogged")

    def __init__(self, step: str) -> None:
        self._step = step
        self._logged_at = float("-inf")
        self._unlogged = 0

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> Literal[False] | bool:
        if kind is None:
            return False
        if not isinstance(error, Exception):
            return False
        now = time.monotonic()
        if now - self._logged_at < SECONDS_PER_TRACEBACK:
            self._unlogged += 1
        else:
            before = f" ({self._unlogged} times more since this was logged last)" if self._unlogged else ""
            logger.error("%s has failed after a write was made; the write stands%s", self._step, before, exc_info=error)
            self._logged_at, self._unlogged = now, 0
        return True
