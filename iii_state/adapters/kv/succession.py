"""The succession of those that serve this store to engines, in memory: over bridges they are several processes."""

from __future__ import annotations

import time
from itertools import count


class KvSuccession:
    """Who has entered it in which order, and until when each of them counts."""

    def __init__(self) -> None:
        self._members: dict[str, tuple[int, float]] = {}
        """Worker → its number, and until when it counts."""
        self._numbers = count()

    def enter(self, worker: str, ttl_ms: int) -> list[str]:
        """Enter a worker, or say that it is still there; answers those before it."""
        now = time.monotonic()
        self._members = {known: member for known, member in self._members.items() if member[1] > now}
        own = self._members[worker][0] if worker in self._members else next(self._numbers)
        self._members[worker] = (own, now + ttl_ms / 1000)
        return [other for other, (number, _) in self._members.items() if number < own]

    def leave(self, worker: str) -> None:
        """Take a worker out."""
        self._members.pop(worker, None)
