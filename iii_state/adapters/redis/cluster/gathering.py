"""What an engine knows of a subscription's queues in the partitions: which were woken, which are asked, what came."""

from __future__ import annotations

import asyncio
from collections import deque

from iii_state.events import Delivery


class Gathering:
    """One subscription's. Nothing that is ready stays unseen: a partition is woken until it has been asked and had no more."""

    def __init__(self) -> None:
        self.places: frozenset[int] | None = None
        """The partitions in which it is hosted here, None where that is not known."""
        self.woken: dict[int, None] = {}
        """The partitions in which something may be ready, in the order in which they are asked."""
        self.asked: dict[int, int] = {}
        """Partition → how many deliveries it has been asked for, and has not answered yet."""
        self.ready: deque[Delivery] = deque()
        """What has been taken, and not handed out yet."""
        self.waiter: asyncio.Future[list[Delivery]] | None = None
        """Of the one who waits for what has been asked for."""
        self.wanted = 0
        """How many deliveries that one wants."""
        self.awaited: set[int] = set()
        """The partitions that this one waits for; the others have been asked before."""
        self.failed: set[int] = set()
        """The partitions that could not be asked for this one."""
        self.patience: asyncio.TimerHandle | None = None
        """When it waits no longer for those that have not answered, where others have something or may have."""
        self.error: BaseException | None = None
        """What a partition failed with last while somebody waited."""
        self.is_over = False
        """Whether it is not hosted here any more."""
        self.dropped: dict[int, int] = {}
        """Partition → how many events were dropped there, where the trigger bounds its queues."""

    @property
    def free(self) -> list[int]:
        """The partitions that can be asked now."""
        return [partition for partition in self.woken if partition not in self.asked]

    @property
    def has_more(self) -> bool:
        """Whether something is there, or may be."""
        return bool(self.ready) or any(partition not in self.asked for partition in self.woken)

    def take_ready(self, count: int) -> list[Delivery]:
        """Up to so many of those that are there."""
        ready = self.ready
        return [ready.popleft() for _ in range(min(count, len(ready)))]


def shares(count: int, among: int) -> list[int]:
    """So many deliveries, as evenly as it goes; no share is empty, so there may be fewer."""
    parts = min(count, among)
    return [count // parts + (number < count % parts) for number in range(parts)] if parts else []
