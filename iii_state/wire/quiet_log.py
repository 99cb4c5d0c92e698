"""Log lines that one peer, or one failing function, can cause at will: so many in ten seconds and no more."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

SECONDS = 10


class QuietLog:
    """A logger that lets `burst` lines pass in ten seconds and then says how many it held back.

    `ids` are what a line is about, for logs that machines read (`observe/logs.py`).
    """

    def __init__(self, logger: logging.Logger, burst: int = 20) -> None:
        self._logger = logger
        self._burst = burst
        self._since = 0.0
        self._lines = 0

    def warning(self, message: str, *details: object, ids: Mapping[str, object] | None = None) -> None:
        """Log a warning, or count it."""
        if self._passes(logging.WARNING, "warnings"):
            self._logger.warning(message, *details, extra=ids)

    def error(self, message: str, *details: object, ids: Mapping[str, object] | None = None) -> None:
        """Log an error, or count it."""
        if self._passes(logging.ERROR, "errors"):
            self._logger.error(message, *details, extra=ids)

    def _passes(self, level: int, kind: str) -> bool:
        now = time.monotonic()
        if now - self._since >= SECONDS:
            if self._lines > self._burst:
                self._logger.log(level, "%d more %s of this kind were not logged", self._lines - self._burst, kind)
            self._since, self._lines = now, 0
        self._lines += 1
        return self._lines <= self._burst
