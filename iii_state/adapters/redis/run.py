"""One run: the events of a hot lane that are known at this engine, and what has become of them (see `runs`)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from iii_state.adapters.redis.scripts.queues import Entry
from iii_state.events import Delivery
from iii_state.tasks.results import Result


class QueuePlace(NamedTuple):
    """Where deliveries are taken: a subscription, its queue, and the engine at which they are pending."""

    subscription_id: str
    queue: bytes
    engine: bytes


@dataclass(slots=True, eq=False)
class Unhandled:
    """What becomes of an event of a run that was not handled: `write` once it is pending here.

    Where that cannot be, since other lanes have something ready, it is made ready after a pause, as the attempt given.
    """

    write: Callable[[], Result[None]]
    delay_ms: int = 0
    attempt: int = 0
    crashes: int = 0
    begun: bool = False
    """Whether its handler may still be running."""
    is_due: bool = False
    """Whether it is to be made ready."""
    timer: asyncio.TimerHandle | None = None
    written: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def settle(self, error: BaseException | None = None) -> None:
        """It is written, or could not be."""
        if self.timer is not None:
            self.timer.cancel()
        if self.written.done():
            return
        if error is None:
            self.written.set_result(None)
        else:
            self.written.set_exception(error)


@dataclass(slots=True, eq=False)
class Run:
    """The events of one lane that are known here, the first that has not been acknowledged before all others."""

    place: QueuePlace
    lane: bytes
    events: deque[Delivery]
    handled: int = 0
    """How many of them, from the first on, have been handled."""
    want: int = 0
    is_flying: bool = False
    """Whether a call is on its way."""
    acknowledged: asyncio.Future[list[Delivery]] | None = None
    """For the next call: it is set when what has been handled since is acknowledged."""
    is_kept: bool = False
    """Whether it is acknowledged at its end."""
    is_cut: bool = False
    """Whether it ends with what is known: what a call that is on its way reads does not follow that."""
    outcome: Unhandled | None = None
    """Of the last one, where that has failed or was given back."""
    late: asyncio.TimerHandle | None = None
    """When it is acknowledged, however many are known."""

    @property
    def current(self) -> Delivery | None:
        """The first that has not been handled."""
        return self.events[self.handled] if self.handled < len(self.events) else None

    def cut_behind(self, count: int) -> None:
        """Forget all but the first events: the others are still in Redis."""
        self.is_cut = True
        while len(self.events) > count:
            disown(self.events.pop())
        if self.events:
            self.events[-1].following = None


def disown(delivery: Delivery) -> None:
    """It is of a run no more: where it is not pending here, it waits in its list, and is not this engine's to start."""
    entry = cast(Entry, delivery.token)
    delivery.following = None
    if not entry.id:
        delivery.token = entry._replace(engine=b"")
