"""When values go: the deadlines of a kv store, and one timer for the earliest of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from heapq import heapify, heappop, heappush, heapreplace

from iii_state.adapters.figures import LATE_MS
from iii_state.errors import StoreError

logger = logging.getLogger(__name__)

RETRY_MS = 200
"""A value that could not be removed (a full queue, a full disk) is not seen any more, and goes as soon as it can."""

MAX_WAIT_MS = 1000
"""The machine's clock may be set while the timer runs, so it is looked at so often while anything has a deadline."""

ENDS_PER_TURN = 500
"""So many values go before the event loop gets its turn."""


class KvDeadlines:
    """Deadlines of values, in milliseconds since 1970; at its deadline a value is over.

    `has(scope, key, at)` tells whether a value, committed or on its way, has this deadline. `end(scope, key)` removes a value
    that is over and says whether it did, or raises `StoreError`; it is called again for as long as something has the deadline.
    """

    def __init__(self, has: Callable[[str, str, int], bool], end: Callable[[str, str], bool], clock: Callable[[], int]) -> None:
        self.watched: list[tuple[int, int, str, str]] = []
        """A heap of when to look, deadline, scope, key; empty where nothing has a deadline."""
        self.now = clock
        self.ended = self.late = 0
        """How many values were ended when their deadline was over, and how many of them late."""
        self._of: dict[str, dict[str, int]] = {}
        """Scope → key → deadline of the committed value; only what has one."""
        self._has = has
        self._end = end
        self._timer: asyncio.TimerHandle | None = None
        self._due_at = 0
        """When the timer ends, by `clock`. Not asked of it: uvloop's has no time where that has come already."""
        self._crowded = 64

    def of(self, scope: str, key: str) -> int | None:
        """The deadline of the committed value."""
        deadlines = self._of.get(scope)
        return None if deadlines is None else deadlines.get(key)

    def of_scope(self, scope: str) -> dict[str, int]:
        """Key → deadline of the committed values of a scope that have one."""
        return dict(self._of.get(scope, ()))

    def over(self, scope: str) -> set[str]:
        """The keys of a scope whose committed values are over."""
        deadlines = self._of.get(scope)
        if deadlines is None:
            return set()
        now = self.now()
        return {key for key, at in deadlines.items() if at <= now}

    def commit(self, scope: str, key: str, at: int | None) -> None:
        """The value that is committed now has this deadline, or none."""
        if at is not None:
            self._of.setdefault(scope, {})[key] = at
        elif (deadlines := self._of.get(scope)) is not None and deadlines.pop(key, None) is not None and not deadlines:
            del self._of[scope]

    def watch(self, scope: str, key: str, at: int) -> None:
        """End the value when this deadline is over, if it still has it then."""
        heappush(self.watched, (at, at, scope, key))
        if len(self.watched) > self._crowded:  # values that are set again and again leave their former deadlines behind
            self.watched[:] = {entry for entry in self.watched if self._has(entry[2], entry[3], entry[1])}
            heapify(self.watched)
            self._crowded = 2 * len(self.watched) + 64
        if self._timer is None or at < self._due_at:
            self._arm()

    def end_due(self) -> None:
        """End what is over."""
        self.stop()
        now = self.now()
        tried = 0
        trouble: Exception | None = None
        while self.watched and self.watched[0][0] <= now and tried < ENDS_PER_TURN:
            _, at, scope, key = self.watched[0]
            tried += 1
            if self._has(scope, key, at):
                try:
                    if self._end(scope, key):
                        self.ended += 1
                        self.late += now - at > LATE_MS
                except Exception as error:  # the others are to go all the same
                    trouble = error
            if self._has(scope, key, at):
                heapreplace(self.watched, (now + RETRY_MS, at, scope, key))
            else:
                heappop(self.watched)
        if trouble is not None:
            fault = None if isinstance(trouble, StoreError) else trouble
            logger.info("values whose deadline is over are not seen, but could not be removed yet: %s", trouble, exc_info=fault)
        self._arm()

    def stop(self) -> None:
        """End nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self.stop()
        if self.watched:
            now = self.now()
            self._due_at = min(max(now, self.watched[0][0]), now + MAX_WAIT_MS)
            self._timer = asyncio.get_running_loop().call_later((self._due_at - now) / 1000, self.end_due)
