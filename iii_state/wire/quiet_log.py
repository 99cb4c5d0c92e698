"""Log lines that one peer can cause at will, so many a second and no more."""

from __future__ import annotations

import logging
import time


class QuietLog:
    """A logger that lets `burst` lines pass in ten seconds and then says how many it held back."""

    def __init__(self, logger: logging.Logger, burst: int = 20) -> None:
        self._logger = logger
        self._burst = burst
        self._since = 0.0
        self._lines = 0

    def warning(self, message: str, *details: object) -> None:
        """Log a warning, or count it."""
        now = time.monotonic()
        if now - self._since >= 10:
            if self._lines > self._burst:
                self._logger.warning("%d more warnings of this kind were not logged", self._lines - self._burst)
            self._since, self._lines = now, 0
        self._lines += 1
        if self._lines <= self._burst:
            self._logger.warning(message, *details)
