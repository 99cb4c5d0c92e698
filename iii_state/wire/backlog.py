"""What waits for peers that read more slowly than they are sent to: how much it is altogether, and in which order it goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from iii_state.values import Json

MAX_BYTES = 256 * 1024 * 1024
"""While more than this waits for all peers that are behind together, calls wait that would add to it."""

FULL_PATIENCE_SECONDS = 5
"""While so much waits, a peer that reads nothing for so long is dropped, so that those that do read get theirs."""

LARGE_RESULT_BYTES = 1024 * 1024
"""A call that has brought a larger result is expected to bring as much again."""

_MAX_KNOWN = 1000
_MAX_ASKED_BYTES = 4096

Asked = tuple[bytes, Json]
"""What a call asks for: the function's id as JSON text, and its payload."""


class Backlog:
    """The bytes that wait for the peers of one process that are behind, and what calls are expected to add to them.

    Results differ in size a million times, and how large one is shows when it is there. So what brought a large one is remembered:
    the same call of anybody is expected to bring as much.
    """

    def __init__(self) -> None:
        self.total = 0
        self.is_full = False
        """Whether so much waits, or is being worked out, that no more should."""
        self._promised = 0
        self._known: dict[int, int] = {}
        self._waiting: dict[object, int] = {}
        self._when_room: dict[Callable[[], None], None] = {}

    def note(self, peer: object, unsent: int) -> None:
        """Take down how many bytes wait for a peer now; 0 for one that has read all, or is gone."""
        self.total += unsent - self._waiting.pop(peer, 0)
        if unsent:
            self._waiting[peer] = unsent
        self._update()

    def promise(self, size: int) -> None:
        """Count a result of so many bytes as one that is to come; below 0: take that back, since it is there or will not come."""
        self._promised += size
        self._update()

    def _update(self) -> None:
        self.is_full = self.total + self._promised > MAX_BYTES
        if self._when_room and not self.is_full:
            waiting, self._when_room = self._when_room, {}
            for go_on in waiting:
                go_on()

    def when_room(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` once, when it is not full any more."""
        self._when_room[go_on] = None

    def expected(self, asked: Asked) -> int:
        """How large a result a call is expected to bring, 0 for one that is small or not known."""
        return self._known.get(_key(asked), 0) if self._known and len(asked[1]) <= _MAX_ASKED_BYTES else 0

    def brought(self, asked: Asked, size: int) -> None:
        """How large the result of a call was."""
        if len(asked[1]) > _MAX_ASKED_BYTES:
            return
        key = _key(asked)
        self._known.pop(key, None)
        if size > LARGE_RESULT_BYTES:
            self._known[key] = size
            if len(self._known) > _MAX_KNOWN:
                del self._known[next(iter(self._known))]


def _key(asked: Asked) -> int:
    return hash((asked[0], bytes(asked[1])))


class Turns:
    """What waits to send to one peer, as callbacks: calls and their results in one line, events in another; the two take turns."""

    __slots__ = ("_events_next", "calls", "events")

    def __init__(self) -> None:
        self.calls: deque[Callable[[], None]] = deque()
        self.events: deque[Callable[[], None]] = deque()
        self._events_next = False

    def call_next(self) -> bool:
        """Call the one whose turn it is. Returns whether there was one."""
        if not self.events and not self.calls:
            return False
        line = self.events if self.events and (self._events_next or not self.calls) else self.calls
        self._events_next = line is self.calls
        line.popleft()()
        return True

    def call_all(self) -> None:
        """Call all that wait now."""
        for line in (self.calls, self.events):
            for _ in range(len(line)):
                line.popleft()()
