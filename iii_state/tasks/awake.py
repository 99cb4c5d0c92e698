"""Timers after which something is thrown away: time in which this process did not run does not count against anybody.

An engine that was stopped (a suspended machine, SIGSTOP, a debugger) could be asked for nothing meanwhile. What ends for not being
asked for ends only after its whole time has passed with the engine there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LATE_SECONDS = 1.0
"""A timer that comes so much later than planned tells of a process that did not run."""


class AwakeTimer:
    """Calls `callback` after so many seconds; from the beginning if the process did not run when they ended."""

    __slots__ = ("_callback", "_due", "_seconds", "_timer")

    def __init__(self, seconds: float, callback: Callable[[], object]) -> None:
        self._seconds = seconds
        self._callback = callback
        self._begin()

    def cancel(self) -> None:
        """Do not call it."""
        self._timer.cancel()

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + self._seconds
        self._timer = loop.call_at(self._due, self._ring)

    def _ring(self) -> None:
        if asyncio.get_running_loop().time() - self._due > LATE_SECONDS:
            self._begin()
        else:
            self._callback()
