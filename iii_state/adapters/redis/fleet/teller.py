"""Which engine of a fleet tells what belongs to Redis: one that is asked, for as long as it is asked."""

from __future__ import annotations

from iii_state.adapters.redis.shared import Shared

LEASE_MS = b"150000"
"""An engine that is not asked for so long leaves it to another one; Prometheus asks every minute, or more often."""


class Teller:
    """Whether this engine is that one. For a moment two may be, where they find at once that the one before is gone."""

    def __init__(self, shared: Shared) -> None:
        self._keys = shared.keys
        self._engine = shared.engine
        self._send = shared.connection.send

    async def is_here(self) -> bool:
        """This engine is asked: is it the one that tells? It is where no other was, or that one is not among the engines now."""
        if not self._engine.is_member.is_set():
            return False
        name, engine = self._keys.teller, self._engine.id
        take = (b"SET", name, engine, b"NX", b"PX", LEASE_MS)
        if await self._send(*take):
            return True
        teller = await self._send(b"GET", name)
        if teller == engine:
            await self._send(b"PEXPIRE", name, LEASE_MS)
            return True
        if teller is not None and await self._send(b"HEXISTS", self._keys.engines, teller):
            return False
        await self._send(b"DEL", name)
        return bool(await self._send(*take))
