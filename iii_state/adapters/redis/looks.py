"""Which servers have been looked at: once for all partitions that lie there."""

from __future__ import annotations

import asyncio

from iii_state.adapters.redis.connection.durability import Durability

AGAIN_SECONDS = 5.0
"""A server that is connected to again is looked at again after so much time: it may have been started with other settings."""


class Looks:
    """What an engine has looked at."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int], float] = {}
        self.durability: dict[tuple[str, int], Durability] = {}
        """What is known of each server."""

    def are_due(self, place: tuple[str, int]) -> bool:
        """Whether a server is to be looked at now; it counts as looked at from here on."""
        now = asyncio.get_running_loop().time()
        if now - self._seen.get(place, -AGAIN_SECONDS) < AGAIN_SECONDS:
            return False
        self._seen[place] = now
        return True
