"""Which delivery of a full queue is dropped next: the oldest that is not out, found without a walk over those that are."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable

SPARE = 64


class OldestWaiting:
    """The numbers of deliveries, of which `waits` says whether one is there and not out. Numbers are added in growing order.

    One that is out when it is passed is looked at again when it has come back (`give_back`).
    """

    def __init__(self, numbers: Iterable[int], waits: Callable[[int], bool]) -> None:
        self._waits = waits
        self._order = deque(numbers)
        self._returned: list[int] = []

    def add(self, number: int, held: int) -> None:
        """A new delivery, of a queue that now holds so many."""
        self._order.append(number)
        if len(self._order) > 2 * held + SPARE:
            self._order = deque(filter(self._waits, self._order))

    def give_back(self, number: int, held: int) -> None:
        """A delivery was out, and waits again."""
        heapq.heappush(self._returned, number)
        if len(self._returned) > 2 * held + SPARE:
            self._returned = sorted({each for each in self._returned if self._waits(each)})

    def next(self) -> int | None:
        """The oldest that waits, None where none does."""
        order, returned, waits = self._order, self._returned, self._waits
        while order and not waits(order[0]):
            order.popleft()
        while returned and not waits(returned[0]):
            heapq.heappop(returned)
        if returned and (not order or returned[0] < order[0]):
            return returned[0]
        return order[0] if order else None
