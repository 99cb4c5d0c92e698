"""What the dispatcher keeps of each subscription, of each function, and of each handler that runs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from iii_state import values
from iii_state.events import BRIDGE_FUNCTIONS, Delivery, Subscription
from iii_state.host import Host, Runner
from iii_state.state.dispatch.tallies import Tally
from iii_state.state.tracing import Span

MAX_RUNNING_BYTES = 32 * 1024 * 1024
"""The handlers of one function have events of so many bytes at once, or a single larger one."""

MAX_TAKEN_BYTES = 256 * 1024
"""So many bytes, as far as can be guessed, are taken at once ahead of the handlers of one subscription."""

FIRST_TAKEN = 1
"""How many are taken of events whose size is not known yet: a few huge ones are more than Redis can answer in time."""

FunctionName = tuple[str, str]
"""Namespace and id."""


@dataclass(slots=True, eq=False)
class Suspects:
    """Events of one function that were with a worker when it went away: each is handed out alone now (`isolation`)."""

    waiting: deque[tuple[Consumer, Delivery]] = field(default_factory=deque)
    claim: tuple[Runner, ...] = ()
    """The workers that get nothing else until the first of those that wait is done."""
    alone: Attempt | None = None
    """The one that runs."""

    @property
    def reserved(self) -> int:
        """Places that are kept for the next one."""
        return 1 if self.waiting and self.alone is None else 0


@dataclass(slots=True, eq=False, weakref_slot=True)
class Capacity:
    """How many handlers of one function run, over all its subscriptions, and the size of their events."""

    running: int = 0
    bytes: int = 0
    blocked: deque[Consumer] = field(default_factory=deque)
    """Those that wait for a place."""
    suspects: Suspects = field(default_factory=Suspects)
    tally: Tally = field(default_factory=Tally)
    """What is counted of the function's deliveries."""

    def is_full(self, limit: int) -> bool:
        """Whether no further handler may start, where `limit` may run."""
        running = self.running + self.suspects.reserved
        return running >= limit or (self.bytes > MAX_RUNNING_BYTES and self.running > 0)


@dataclass(slots=True, eq=False)
class Consumer:
    """One subscription that is hosted here: what was taken of its queue, and what runs."""

    subscription: Subscription
    function: FunctionName
    condition: FunctionName | None
    capacity: Capacity
    metadata_head: bytes | None
    """The trigger's metadata as the beginning of an object to which `iii_state` is added; None where it is sent untouched."""
    is_narrowed: bool
    """Whether an event has to be looked at before it is handed out: it may have been queued although it does not match."""
    is_bridge: bool
    """Whether its worker is a bridge, by whose writes nothing is told of its handler."""
    buffer: deque[Delivery] = field(default_factory=deque)
    """Taken, and not handed out yet."""
    gathered: list[Delivery] = field(default_factory=list)
    """To be handed out together with others, where its trigger wants batches."""
    gathering: asyncio.TimerHandle | None = None
    """Until when the first of them waits."""
    has_waited: bool = False
    """Whether that is over."""
    running: dict[Attempt, None] = field(default_factory=dict)
    done: list[Delivery] = field(default_factory=list)
    """Handled, and not acknowledged yet."""
    suspects: int = 0
    """How many of its function's suspects that wait are of this subscription."""
    more: bool = True
    """Whether its queue may hold something that is ready."""
    taking: bool = False
    """Whether its queue has been asked, and has not replied yet."""
    hosted: bool = True
    timer: asyncio.TimerHandle | None = None
    """For the earliest deadline of what runs."""
    event_bytes: int = 0
    """The size of the last event that was started, by which that of others is guessed; 0 before there was one."""
    waits: bool = False
    """Whether it waits until its worker takes more."""
    giving_back: asyncio.TimerHandle | None = None
    go_on: Callable[[], None] = lambda: None
    """Its worker takes more."""

    @classmethod
    def of(cls, subscription: Subscription, capacity_of: Callable[[FunctionName], Capacity]) -> Consumer:
        """The consumer of a subscription, which shares its function's capacity with the function's other ones."""
        function = (subscription.namespace, subscription.function_id)
        condition = None
        if subscription.condition_function_id is not None:
            condition = (subscription.namespace, subscription.condition_function_id)
        is_bridge = subscription.function_id.startswith(BRIDGE_FUNCTIONS)
        head, is_narrowed = _metadata_head(subscription.metadata), subscription.is_narrowed
        return cls(subscription, function, condition, capacity_of(function), head, is_narrowed, is_bridge)

    def take_settings(self, subscription: Subscription) -> None:
        """The subscription has been registered again, with other settings perhaps."""
        self.subscription = subscription
        self.metadata_head = _metadata_head(subscription.metadata)

    @property
    def functions(self) -> tuple[FunctionName, ...]:
        """What is called for an event: the condition, if there is one, then the handler."""
        return (self.function,) if self.condition is None else (self.condition, self.function)

    def is_served(self, host: Host) -> bool:
        """Whether handler and condition are both registered: a worker that left burns no attempts."""
        has = host.has_function
        namespace, function_id = self.function
        return has(function_id, namespace) and (self.condition is None or has(self.condition[1], namespace))

    def within_bytes(self, count: int) -> int:
        """How many deliveries to take, of up to `count`."""
        size = self.event_bytes
        return max(1, min(count, MAX_TAKEN_BYTES // size)) if size else min(count, FIRST_TAKEN)


@dataclass(slots=True, eq=False)
class Attempt:
    """A handler (or its condition) that is running."""

    consumer: Consumer
    delivery: Delivery
    deadline: float
    """By the event loop's clock."""
    began: float = 0.0
    """When it began, by `time.perf_counter`, where it is timed; else 0."""
    batch: list[Delivery] = field(default_factory=list)
    """All that the handler is called with, `delivery` the first of it, where that is a batch."""
    size: int = 0
    """Of its events, in bytes."""
    condition_runner: Runner | None = None
    runner: Runner | None = None
    payload: bytes = b""
    trace: bytes = b""
    """What its calls are made within (`lineages.within`)."""
    remembered: tuple[str, int] | None = None
    """A trace that is remembered while this runs, and the hops of what is written within it."""
    has_written: bool = False
    """Whether its worker has meanwhile written the key of its event, without saying what that comes from."""
    waiting_for: asyncio.Future[bytes | None] | None = None
    span: Span | None = None
    """Where there is a tracer."""

    @property
    def deliveries(self) -> list[Delivery]:
        """What is being delivered."""
        return self.batch or [self.delivery]

    def each(self) -> list[Attempt]:
        """An attempt of each delivery by itself, as far as its outcome goes."""
        if not self.batch:
            return [self]
        return [Attempt(self.consumer, delivery, self.deadline, runner=self.runner) for delivery in self.batch]


def _metadata_head(metadata: bytes | None) -> bytes | None:
    if metadata is None:
        return b"{"
    if not metadata.lstrip().startswith(b"{"):
        return None
    members = {name: text for name, text in values.members(metadata).items() if name != "iii_state"}
    return values.compact_members(members)[:-1] + (b"," if members else b"")
