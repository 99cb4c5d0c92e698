"""Who an engine is among those that share a Redis."""

from __future__ import annotations

import asyncio
import secrets
import time

from iii_state.host import engine_name


def steady() -> float:
    """Seconds, by a clock that cannot be set, and that goes on while the machine is suspended where there is such a one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class EngineIdentity:
    """Who this engine is, and the time that it has. It gets a new id whenever it is declared dead; `instance` stays for as long
    as the process, and is the same in all partitions of a cluster."""

    def __init__(self, instance: bytes | None = None) -> None:
        self.instance = instance or secrets.token_hex(6).encode()
        self.id = secrets.token_hex(6).encode()
        self.name = engine_name().encode()
        """What people know this process by."""
        self.is_member = asyncio.Event()
        """Set while the id is among the engines, as far as is known."""
        self.was_lost = asyncio.Event()
        self.times_lost = 0
        """How often this engine has been declared dead."""
        self.lease_until = 0.0
        """Up to here, by the loop's clock, no other engine can have declared this one dead."""
        self._now_ms, self._read_at = 0.0, 0.0
        """The time of the fleet, 0 where it was never known, and when it was so by the steady clock."""

    def is_alive(self) -> bool:
        """Whether this engine is among the engines for certain."""
        return self.is_member.is_set() and asyncio.get_running_loop().time() < self.lease_until

    def own_now_ms(self) -> int | None:
        """The time of the fleet by this engine's own clock, None where it has never known it."""
        return int(self._now_ms + 1000 * (steady() - self._read_at)) if self._now_ms else None

    def was_told_time(self, now_ms: int, asked_at: float) -> None:
        """Redis has answered a question, asked at this time of the steady clock, with the time of the fleet. It may have done so at
        once or just now, so a time that this engine has is kept within these bounds: a slow answer sets no clock back."""
        self._now_ms, self._read_at = told_time(self.own_now_ms(), now_ms, 1000 * (steady() - asked_at)), steady()

    def lost(self, engine: bytes) -> None:
        """The engine of this id has been declared dead."""
        if engine == self.id and self.is_member.is_set():
            self.times_lost += 1
            self.is_member.clear()
            self.was_lost.set()

    def renew(self) -> None:
        """Take another id."""
        self.id = secrets.token_hex(6).encode()
        self.was_lost.clear()


def told_time(own_ms: float | None, told_ms: float, took_ms: float) -> float:
    """The time nearest to one's own, None for none, where one was told a time by somebody whose answer took so long."""
    return told_ms if own_ms is None else min(max(own_ms, told_ms), told_ms + took_ms)
