"""Log lines that many parts of an engine say alike, and again and again: each is said once in ten seconds, with how often."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

SECONDS = 10.0


class Repeats:
    """A logger. A line that `of` has said within the last ten seconds is counted, and the next one tells how many were.

    Lines are the same that have the same words, or that are said to be `alike`, whatever they name.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._said: dict[tuple[object, str], tuple[float, int]] = {}
        """When a line was said, and how often it has been held back since."""

    def warning(
        self, message: str, *details: object, of: object = None, alike: str = "", ids: Mapping[str, object] | None = None
    ) -> None:
        """Log a warning, or count it."""
        self._log(logging.WARNING, message, details, (of, alike or message % details), ids)

    def error(self, message: str, *details: object, of: object = None) -> None:
        """Log an error, or count it."""
        self._log(logging.ERROR, message, details, (of, message % details), None)

    def _log(
        self, level: int, message: str, details: tuple[object, ...], line: tuple[object, str], ids: Mapping[str, object] | None
    ) -> None:
        now = time.monotonic()
        said_at, held_back = self._said.get(line, (float("-inf"), 0))
        if now - said_at < SECONDS:
            self._said[line] = (said_at, held_back + 1)
            return
        about = f"{message} (and %d times more since it was said last)" if held_back else message
        self._logger.log(level, about, *details, *([held_back] if held_back else []), extra=ids)
        # What has not been said again for long is forgotten, with its count: it was said once.
        self._said = {other: known for other, known in self._said.items() if now - known[0] < 6 * SECONDS}
        self._said[line] = (now, 0)
