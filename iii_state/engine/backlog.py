"""What waits for peers that read more slowly than they are sent to: how much that is altogether, and whose turn is next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

MAX_BYTES = 256 * 1024 * 1024
"""While more than this waits for all peers that are behind together, nobody is sent an event."""

FULL_PATIENCE_SECONDS = 5
"""And a peer is dropped that reads nothing for so long, so that those that do read get theirs."""


class Backlog:
    """The bytes that wait for the peers of one process that are behind."""

    def __init__(self) -> None:
        self.total = 0
        self.is_full = False
        """Whether so much waits that no more should."""
        self._waiting: dict[object, int] = {}
        self._when_room: dict[Callable[[], None], None] = {}

    def note(self, peer: object, unsent: int) -> None:
        """So much waits for a peer now; 0 for one that has read all, or is gone."""
        self.total += unsent - self._waiting.pop(peer, 0)
        if unsent:
            self._waiting[peer] = unsent
        self.is_full = self.total > MAX_BYTES
        if self._when_room and not self.is_full:
            waiting, self._when_room = self._when_room, {}
            for go_on in waiting:
                go_on()

    def when_room(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` once, when it is not full any more."""
        self._when_room[go_on] = None


class Turns:
    """Who waits to send to one peer: calls and their results in one line, events in another; the two take turns."""

    __slots__ = ("_events_next", "calls", "events")

    def __init__(self) -> None:
        self.calls: deque[Callable[[], None]] = deque()
        self.events: deque[Callable[[], None]] = deque()
        self._events_next = False

    def call_next(self, *, events: bool) -> bool:
        """Call the one whose turn it is, one with an event only if they are to be sent. Whether there was one."""
        events = events and bool(self.events)
        if not events and not self.calls:
            return False
        line = self.events if events and (self._events_next or not self.calls) else self.calls
        self._events_next = line is self.calls
        line.popleft()()
        return True

    def call_all(self) -> None:
        """Call all that wait now."""
        for line in (self.calls, self.events):
            for _ in range(len(line)):
                line.popleft()()
