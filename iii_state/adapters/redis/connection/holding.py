"""When calls are held because a node of a cluster does not take them: while their slot is being moved, or the cluster is down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

HOLD_SECONDS, MAX_HOLD_SECONDS = 0.002, 0.05
"""How long calls are held: the first time, and at most; each is twice the one before."""

SETTLED_SECONDS = 0.5
"""A slot for which no call has been refused for so long is being moved no more."""


class Holding:
    """Whether calls are sent one after the other, so that none overtakes one that is refused: from a refusal on, until there has
    been none for `SETTLED_SECONDS`. `go_on` is called at the end of each pause."""

    def __init__(self, go_on: Callable[[], None]) -> None:
        self.reason = ""
        """Why; empty while all calls are taken."""
        self.is_due = False
        """Whether a call has been refused since the last pause."""
        self._go_on = go_on
        self._until = 0.0
        self._seconds = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def refused(self, reason: str) -> bool:
        """A call has been refused that changed nothing. True for the first since the last pause."""
        is_news, self.is_due = not self.is_due, True
        self.reason = reason
        self._until = asyncio.get_running_loop().time() + SETTLED_SECONDS
        return is_news

    def pause(self) -> None:
        """Go on a little later."""
        self.is_due = False
        self._seconds = min(MAX_HOLD_SECONDS, self._seconds * 2 or HOLD_SECONDS)
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._end_pause)

    def _end_pause(self) -> None:
        self._timer = None
        self._go_on()

    def taken(self) -> None:
        """What was sent last has been taken: the next pause is the shortest."""
        self._seconds = 0.0

    def settle(self) -> None:
        """Nothing is refused at the moment: hold no more, where that has been so for a while."""
        if asyncio.get_running_loop().time() >= self._until:
            self.end()

    def end(self) -> None:
        """Hold no more."""
        self.reason = ""
        self.is_due = False
        self._seconds = 0.0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
