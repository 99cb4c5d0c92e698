"""Who an engine is among those that share a Redis."""

from __future__ import annotations

import asyncio
import secrets

from iii_state.host import engine_name


class EngineIdentity:
    """Who this engine is. It gets a new id whenever it has been declared dead; `instance` stays for as long as the process."""

    def __init__(self) -> None:
        self.instance = secrets.token_hex(6).encode()
        self.id = secrets.token_hex(6).encode()
        self.name = engine_name().encode()
        """What people know this process by."""
        self.is_member = asyncio.Event()
        """Set while the id is among the engines, as far as is known."""
        self.was_lost = asyncio.Event()
        self.lease_until = 0.0
        """Up to here, by the loop's clock, no other engine can have declared this one dead."""

    def is_alive(self) -> bool:
        """Whether this engine is among the engines for certain."""
        return self.is_member.is_set() and asyncio.get_running_loop().time() < self.lease_until

    def lost(self, engine: bytes) -> None:
        """The engine of this id has been declared dead."""
        if engine == self.id and self.is_member.is_set():
            self.is_member.clear()
            self.was_lost.set()

    def renew(self) -> None:
        """Take another id."""
        self.id = secrets.token_hex(6).encode()
        self.was_lost.clear()
