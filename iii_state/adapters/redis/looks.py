"""Which servers have been looked at: once for all partitions that lie there."""

from __future__ import annotations

import asyncio

from iii_state.adapters.redis.connection.address import Place
from iii_state.adapters.redis.connection.durability import Durability
from iii_state.adapters.redis.mutations.confirming import Confirming

AGAIN_SECONDS = 5.0
"""A server that is connected to again is looked at again after so much time: it may have been started with other settings."""


class Looks:
    """What an engine has looked at."""

    def __init__(self) -> None:
        self._seen: dict[Place, float] = {}
        self.durability: dict[Place, Durability] = {}
        """What is known of each server."""
        self.confirming: dict[Place, Confirming] = {}
        """What waits at each server until its replicas have what was written."""

    def are_due(self, place: Place) -> bool:
        """Whether a server is to be looked at now; it counts as looked at from here on."""
        now = asyncio.get_running_loop().time()
        if now - self._seen.get(place, -AGAIN_SECONDS) < AGAIN_SECONDS:
            return False
        self._seen[place] = now
        return True
