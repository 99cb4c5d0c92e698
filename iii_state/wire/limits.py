"""How much one peer may have open at once, and send in a second: what is over a limit is not read yet, and costs no memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from iii_state.config import ServerLimits
from iii_state.rights import TokenLimits
from iii_state.wire.peer import PeerConnection

DEFAULT = ServerLimits()


class Share:
    """What all connections with one token's name have open together, where that is limited."""

    def __init__(self, limits: TokenLimits) -> None:
        self.limits = limits
        self.calls = 0
        self.bytes = 0
        self.rate = Rate(limits.frames_per_second)
        self._held: list[PeerConnection] = []

    def limit(self, limits: TokenLimits) -> None:
        """Other limits from now on."""
        self.limits = limits
        self.rate.per_second = limits.frames_per_second

    def begin(self, link: PeerConnection, size: int) -> None:
        """A call of so many bytes is open; over a limit the connection that has made it is not read until half of it is."""
        self.calls += 1
        self.bytes += size
        if self._is_over(1.0):
            link.hold()
            self._held.append(link)

    def end(self, size: int) -> None:
        """A call has its reply."""
        self.calls -= 1
        self.bytes -= size
        if self._held and not self._is_over(0.5):
            held, self._held = self._held, []
            for link in held:
                link.release()

    def _is_over(self, part: float) -> bool:
        calls, size = self.limits.calls_in_flight, self.limits.bytes_in_flight
        return (calls is not None and self.calls >= max(1.0, calls * part)) or (size is not None and self.bytes > size * part)


class Rate:
    """So many messages a second, None for as many as come."""

    def __init__(self, per_second: int | None) -> None:
        self.per_second = per_second
        self._second = 0.0
        self._count = 0

    def count(self, now: float) -> float:
        """A message has come; how many seconds no other should."""
        if self.per_second is None:
            return 0.0
        if now - self._second >= 1.0:
            self._second, self._count = now, 0
        self._count += 1
        return 0.0 if self._count < self.per_second else max(0.0, self._second + 1.0 - now)


class _Receiver(Protocol):
    def receive(self, message: bytes | bytearray, binary: bool) -> None: ...

    def disconnected(self) -> None: ...


class RatedReceiver:
    """Hands messages on, and has no more read where more have come than may in a second. `rates` are all that count."""

    def __init__(self, receiver: _Receiver, link: PeerConnection, rates: Sequence[Rate]) -> None:
        self.receiver = receiver
        self.disconnected = receiver.disconnected
        self._receive = receiver.receive
        self._link = link
        self._rates = rates
        self._loop = asyncio.get_running_loop()

    def receive(self, message: bytes | bytearray, binary: bool) -> None:
        """Take a message."""
        self._receive(message, binary)
        now = self._loop.time()
        pause = max(rate.count(now) for rate in self._rates)
        if pause and self._link.is_open:
            self._link.hold()
            self._loop.call_later(pause, self._link.release)
