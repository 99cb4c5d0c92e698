"""One subscription over a bridge: its events here, and the calls of the remote that wait for what becomes of them.

An event of a remote that keeps it is *held*: it is given back when it is not taken, or when its call is lost, since the remote
delivers it again. Any other is kept here, in memory, until it has been handled.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import NamedTuple

from iii_state.adapters.bridge.events import Mark
from iii_state.adapters.local_queue import Queue, number_of
from iii_state.errors import Code, FunctionError, NotCarriedOut, WorkerLost
from iii_state.events import Change, Delivery, Failure, Subscription
from iii_state.tasks.awake import AwakeTimer
from iii_state.tasks.results import Result

logger = logging.getLogger(__name__)

_UNCOUNTED_BEFORE = frozenset({Code.INVOCATION_STOPPED, Code.CHANNEL_SEND_FAILED, Code.PAYLOAD_TOO_LARGE})
"""Codes that a remote of version 0.1.0 takes for its own, and counts no attempt."""

MAX_HANDLED = 10_000
HANDLED_SECONDS = 60.0
"""So many events that were handled while the remote was not there to hear of it are remembered, for so long."""

Number = tuple[int, int]
"""Attempt and fence: which call of an event it is."""


class _Open(NamedTuple):
    """A call of the remote's that waits for the outcome of a delivery."""

    answer: asyncio.Future[bytes | None]
    arrived: float
    number: Number


class _Handled(NamedTuple):
    """An event that was handled in a call whose answer could not be given; in `number` the highest fence of the same call again."""

    number: Number
    at: float


class Relay:
    """The queue of a subscription, its function and its trigger at the remote."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.trigger_id = str(uuid.uuid4())
        self.function_id: str | None = None
        """The function at the remote; None before it is known what the remote is."""
        self.is_offered = False
        """Whether function and condition are there."""
        self.is_served = False
        """Whether the remote has been told of the function."""
        self.is_paused = False
        """Whether the remote has been told from here to send nothing for now; false again with the next that it sends."""
        self.ends: AwakeTimer | None = None
        self._held: dict[str, Delivery] = {}
        """What the remote keeps in its queue until it is answered, by the event's id there."""
        self._open: dict[str, _Open] = {}
        """The remote's calls, by the same ids; none for what is held over a connection that broke."""
        self._ids: dict[int, str] = {}
        """Number of a delivery that is held → its event's id at the remote."""
        self._handled: dict[str, _Handled] = {}
        """Events whose calls were lost, for when the remote makes the same call again. One that failed is simply tried again."""
        self._lost: dict[str, Number] = {}
        """Events that run here and whose calls were lost: the highest number that the remote may make the same call again with."""
        self._numbers = 0

    @property
    def subscription(self) -> Subscription:
        return self.queue.subscription

    # -- events that come

    def keep(self, event: Change) -> None:
        """Take an event on that the remote does not keep. Where there is no room, the oldest goes."""
        while self.queue.overflow(event) is not None and self.queue.drop_oldest() is not None:
            dropped = self.queue.dropped
            if dropped == 1 or dropped % 1000 == 0:
                function = self.subscription.function_id
                logger.warning("the queue of %s is full; %d of its oldest events dropped so far", function, dropped)
        self.queue.push(self._delivery(event))

    def hold(self, mark: Mark, event: Change) -> Result[bytes | None]:
        """Take an event on that the remote keeps until this is answered. It may be one that is here already, or has been."""
        event_id = mark.event_id
        self.is_paused = False
        loop = asyncio.get_running_loop()
        handled = self._handled.pop(event_id, None)
        self._lost.pop(event_id, None)
        if (
            handled is not None
            and handled.number[0] == mark.attempt
            and mark.fence <= handled.number[1]
            and loop.time() - handled.at < HANDLED_SECONDS
        ):
            return None
        answer: asyncio.Future[bytes | None] = loop.create_future()
        earlier = self._open.get(event_id)
        self._open[event_id] = _Open(answer, loop.time(), (mark.attempt, mark.fence))
        if earlier is not None and not earlier.answer.done():
            earlier.answer.set_result(None)  # the remote has given it up
        if event_id not in self._held:
            self._begin(event_id, event, (mark.attempt, mark.fence), mark.crashes, mark.dropped)
        return answer

    def _begin(self, event_id: str, event: Change, number: Number, crashes: int, dropped: int) -> None:
        delivery = self._delivery(event, *number, crashes)
        delivery.dropped = dropped
        self._held[event_id] = delivery
        self._ids[self._numbers] = event_id
        self.queue.push(delivery)

    def _delivery(self, event: Change, attempt: int = 1, fence: int = 0, crashes: int = 0) -> Delivery:
        self._numbers += 1
        return Delivery(self.queue.id, event, attempt, fence, self._numbers, crashes=crashes)

    def take(self, count: int) -> list[Delivery]:
        """Up to so many that are ready."""
        taken = self.queue.take(count)
        if dropped := self.queue.dropped:
            for delivery in taken:
                delivery.dropped = max(delivery.dropped, dropped)
        return taken

    # -- what becomes of them

    def is_held(self, delivery: Delivery) -> bool:
        """Whether the remote keeps this one."""
        return number_of(delivery) in self._ids

    def is_certain(self, delivery: Delivery) -> bool:
        """Whether no other engine can have it by now."""
        event_id = self._ids.get(number_of(delivery))
        return self.queue.is_pending(delivery) and (event_id is None or event_id in self._open)

    def finish(self, delivery: Delivery, failure: Failure | None = None, *, final: bool = False, crashed: bool = False) -> None:
        """A pending delivery is over. A remote that keeps it is told how that went, now or when it calls again."""
        if not self.queue.is_pending(delivery):
            return
        self.queue.finish(delivery)
        event_id = self._ids.pop(number_of(delivery), None)
        if event_id is None:
            return
        del self._held[event_id]
        lost = self._lost.pop(event_id, None)
        number = (delivery.attempt, delivery.fence)
        waiting = self._open.get(event_id)
        if waiting is not None and failure is not None and waiting.number != number:
            # It was an earlier call that failed, and this one has not begun.
            self._begin(event_id, delivery.event, waiting.number, delivery.crashes + crashed, delivery.dropped)
            return
        self._open.pop(event_id, None)
        if waiting is None and failure is None:
            if len(self._handled) >= MAX_HANDLED:
                del self._handled[next(iter(self._handled))]
            self._handled[event_id] = _Handled(lost or number, asyncio.get_running_loop().time())
        elif waiting is not None and not waiting.answer.done():
            if failure is None:
                waiting.answer.set_result(None)
            else:
                waiting.answer.set_exception(_error(failure, final=final, crashed=crashed))

    def release(self, delivery: Delivery, *, begun: bool) -> None:
        """A pending delivery was not carried out: it is ready again here, or given back to the remote.

        The remote gives out the fences, so one whose handler may still be running (`begun`) always goes back.
        """
        if not self.queue.is_pending(delivery):
            return
        event_id = self._ids.get(number_of(delivery))
        if begun and event_id is None:
            delivery.fence += 1
        self.queue.release(delivery)
        if event_id is not None and (begun or self.is_paused or not self.is_served or event_id not in self._open):
            self._let_go(event_id, begun=begun)

    def give_back_waiting(self, before: float | None = None) -> None:
        """Give back what has not been taken: all of it; or what arrived before a time, and has not begun."""
        for event_id, delivery in list(self._held.items()):
            is_waiting = not self.queue.is_pending(delivery) or (before is not None and not delivery.begun)
            call = self._open.get(event_id)
            if is_waiting and (before is None or (call is not None and call.arrived < before)):
                self._let_go(event_id)

    def lose_calls(self) -> None:
        """The connection is gone: the remote delivers again what it keeps. What runs here goes on."""
        lost, self._open = self._open, {}
        self.give_back_waiting()
        # With each call that had left for here, the fence of the queue grows by one; for a dead letter that is retried, once more.
        for event_id, call in lost.items():
            if event_id in self._held:
                attempt, fence = call.number
                self._lost[event_id] = (attempt, fence + len(lost))

    def end(self) -> None:
        """Give everything back, and stop."""
        self.queue.hosted = False
        for event_id, delivery in list(self._held.items()):
            self._let_go(event_id, begun=delivery.begun and self.queue.is_pending(delivery))
        self.close()

    def close(self) -> None:
        """Stop all timers."""
        if self.ends is not None:
            self.ends.cancel()
            self.ends = None
        self.queue.hosted = False
        self.queue.close()

    def _let_go(self, event_id: str, *, begun: bool = False) -> None:
        """Give an event back, uncounted, whatever has become of it here."""
        delivery = self._held.pop(event_id)
        self._lost.pop(event_id, None)
        self._ids.pop(number_of(delivery), None)
        self.queue.drop(delivery)
        waiting = self._open.pop(event_id, None)
        if waiting is not None and not waiting.answer.done():
            waiting.answer.set_exception(NotCarriedOut(Code.INVOCATION_STOPPED, "nobody takes it here at the moment", begun=begun))


def _error(failure: Failure, *, final: bool, crashed: bool) -> FunctionError:
    """A failure as the remote is told of it."""
    if crashed:
        return WorkerLost(failure.code, failure.message)
    if failure.code in _UNCOUNTED_BEFORE:
        return FunctionError(Code.INVOCATION_FAILED, str(failure), final=final)
    return FunctionError(failure.code, failure.message, final=final)
