"""The line of those that serve this store to engines, in memory: over bridges they are several processes."""

from __future__ import annotations

import time
from itertools import count


class Line:
    """Who stands in line since when, and until when each of them counts."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[int, float]] = {}
        """Worker → its number, and until when it counts."""
        self._numbers = count()

    def line_up(self, worker: str, ttl_ms: int) -> list[str]:
        """Put a worker into the line, or say that it is still there; the workers before it."""
        now = time.monotonic()
        self._places = {known: place for known, place in self._places.items() if place[1] > now}
        own = self._places[worker][0] if worker in self._places else next(self._numbers)
        self._places[worker] = (own, now + ttl_ms / 1000)
        return [other for other, (number, _) in self._places.items() if number < own]

    def step_out(self, worker: str) -> None:
        """Take a worker out."""
        self._places.pop(worker, None)
