"""What is moved of queues: a head for each, behind it its events in the order of their lanes, and behind those its dead letters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol

from iii_state.events import Change, Subscription


class QueueHead(NamedTuple):
    """Whose the events behind it are. Without a subscription it has ended, and left dead letters.

    `fence` is at least that of any delivery so far, `paused_at_ms` since when it is paused, in milliseconds since 1970.
    """

    id: str
    subscription: Subscription | None = None
    dropped: int = 0
    paused_at_ms: int | None = None
    fence: int = 0

    @property
    def name(self) -> str:
        """For people."""
        return self.id if self.subscription is None else self.subscription.function_id


class QueuedEvent(NamedTuple):
    """An event that waits. `attempt` and `crashes` are what it is delivered with next, `due_ms` is when, where that is planned.

    Those with a plan stand before all others of their queue: each is the first of its lane.
    """

    event: Change
    attempt: int = 1
    crashes: int = 0
    due_ms: int | None = None


class BuriedEvent(NamedTuple):
    """A dead letter of the queue."""

    event: Change
    function_id: str
    attempts: int
    error: str
    buried_at_ms: int


QueueItem = QueueHead | QueuedEvent | BuriedEvent


class QueueSource(Protocol):
    """A store whose queues are read, and no engine runs."""

    left_out: int
    """Queues of the delivery `broadcast`: each is of one engine, and ends with it."""

    skipped: int
    """Entries that were no events."""

    def items(self) -> AsyncIterator[QueueItem]:
        """All of them. Raises `StateError`, also where an engine has begun to run meanwhile."""
        ...


class QueueTarget(Protocol):
    """A store whose queues are filled, and no engine runs. Each method raises `StateError`."""

    @property
    def name(self) -> str:
        """Where that is, for people."""
        ...

    async def resumed(self, import_id: str) -> str | None:
        """Behind which queue an import that was cut off goes on, "" for the first; None where none was."""
        ...

    async def held(self, queue: str) -> int:
        """How many events and dead letters a queue holds there."""
        ...

    async def start(self, import_id: str) -> None:
        """From here on it is filled."""
        ...

    async def begin(self, head: QueueHead) -> None:
        """Empty a queue, and make it where there is none; one that is there keeps its settings."""
        ...

    async def put(self, item: QueuedEvent | BuriedEvent) -> None:
        """Append to it."""
        ...

    async def end(self) -> None:
        """All of a queue has been put."""
        ...

    async def finish(self) -> None:
        """All queues have been."""
        ...
