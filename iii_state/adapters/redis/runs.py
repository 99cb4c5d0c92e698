"""Runs: the events of a hot lane that are handled here one behind the other, ahead of their acknowledgements.

An event that is acknowledged makes the next one of its lane ready, which costs a round trip for each event of a key. Where that
next one was taken here in the same call, the lane is hot: from then on each acknowledgement also reads what waits behind it, and
the dispatcher starts that (`Delivery.following`) as soon as the handler of the one before has returned here. What has been handled
meanwhile is acknowledged together (lua/queues/ack_run.lua), one call of a lane in flight at a time.

No other engine gets an event of a lane while one runs here: the first that has not been acknowledged is always pending here. Where
that cannot be kept, since other lanes have something ready, the run is acknowledged at its end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Protocol, cast

from iii_state.adapters.redis.connection.call import Reply, ScriptCall
from iii_state.adapters.redis.connection.connection import RedisConnection
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.mutations.foreign_text import check_event
from iii_state.adapters.redis.run import QueuePlace, Run, Unhandled, disown
from iii_state.adapters.redis.scripts import queues as calls
from iii_state.adapters.redis.scripts.queues import Entry, RunStep, is_paused
from iii_state.errors import StoreError
from iii_state.events import Delivery, Subscription
from iii_state.tasks.results import Result

MOST_AHEAD = 16
"""So many events of a lane are known here at most, the first that has not been acknowledged among them."""

LOW = MOST_AHEAD // 2
"""Where more are known that wait to be handled, what has been handled is acknowledged together with what follows."""

LATE_SECONDS = 0.005
"""For so long at most."""

AGAIN_SECONDS = 0.5
"""After so long an acknowledgement is made again that failed."""

MOST_RUNS = 16
"""So many lanes are hot at a time: what waits in them is kept here as well."""

MOST_ACKNOWLEDGED = 4
"""A lane becomes hot where no more are acknowledged together with it: an engine that is busy with many gains nothing from it."""

MOST_EVENT_BYTES = 8192
"""Behind a larger event nothing is read, see lua/lib/queues/peek.lua."""


class Taker(Protocol):
    """Keeps what is pending at this engine."""

    def take_in(self, reply: Reply, place: QueuePlace, ended: Sequence[Entry]) -> list[Delivery]:
        """Note what a script has taken and ended."""
        ...

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Make ready again what was taken."""
        ...

    def about_to_take(self, place: QueuePlace) -> Subscription | None:
        """A script is to be called that takes. What is hosted there, None where nothing more is to be taken."""
        ...

    def dropped(self, place: QueuePlace) -> int:
        """How many events of a queue are known to have been dropped."""
        ...

    def was_damaged(self) -> None:
        """What was pending here is so no more."""
        ...


class Runs:
    """Those of this engine."""

    def __init__(self, keys: Keys, connection: RedisConnection, taker: Taker) -> None:
        self.keys = keys
        self._connection = connection
        self._taker = taker
        self._runs: dict[tuple[bytes, bytes], Run] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def begin(self, place: QueuePlace, hosted: Subscription | None, ended: Sequence[Entry], taken: Sequence[Delivery]) -> None:
        """Deliveries were ended together, and others taken in the same call: those of the same lanes are hot."""
        if len(ended) > MOST_ACKNOWLEDGED or len(taken) > len(ended) or not _may_run(hosted):
            return
        lanes = {entry.lane for entry in ended}
        entries = [cast(Entry, delivery.token) for delivery in taken]
        if all(entry.lane in lanes for entry in entries):
            for delivery, entry in zip(taken, entries, strict=True):
                lane = (place.queue, entry.lane)
                if entry.size <= MOST_EVENT_BYTES and len(self._runs) < MOST_RUNS and lane not in self._runs:
                    self._runs[lane] = Run(place, entry.lane, deque((delivery,)))

    def of(self, delivery: Delivery) -> Run | None:
        """The run of a delivery, if it is of one."""
        entry = cast(Entry, delivery.token)
        run = self._runs.get((entry.queue, entry.lane))
        return run if run is not None and delivery in run.events else None

    def among(self, deliveries: Sequence[Delivery]) -> tuple[list[tuple[Run, list[Delivery]]], list[Delivery]]:
        """Of deliveries, those of each run, and those of none."""
        of_runs: dict[Run, list[Delivery]] = {}
        others: list[Delivery] = []
        for delivery in deliveries:
            run = self.of(delivery)
            if run is None:
                others.append(delivery)
            else:
                of_runs.setdefault(run, []).append(delivery)
        return list(of_runs.items()), others

    def forget_all(self) -> None:
        """Nothing is pending here any more."""
        for run in list(self._runs.values()):
            self._forget(run)

    def hurry(self, subscription_id: str) -> None:
        """Its handler is not here any more: what waits for its next attempt here is made ready for others."""
        for run in list(self._runs.values()):
            if run.place.subscription_id == subscription_id and run.outcome is not None and run.outcome.timer is not None:
                self._make_ready(run)

    # --- what becomes of its events

    def handled(self, run: Run, deliveries: Sequence[Delivery], want: int) -> Result[list[Delivery]]:
        """These have been handled. Answers what may be started then."""
        for delivery in deliveries:
            if delivery is run.current:
                run.handled += 1
        run.want = max(run.want, want)
        answer: Result[list[Delivery]] = []
        if run.acknowledged is None:
            answer = run.acknowledged = asyncio.get_running_loop().create_future()
        self._go_on(run)
        return answer

    def ended(self, run: Run, delivery: Delivery, outcome: Unhandled) -> Result[None]:
        """It was called, and was not handled. The run ends with it."""
        place = run.events.index(delivery)
        run.cut_behind(place + 1)
        if place == 0:
            self._forget(run)
            return outcome.write()
        run.outcome = outcome
        run.is_kept = False
        self._go_on(run)
        return outcome.written

    def given_back(self, run: Run, delivery: Delivery) -> bool:
        """It is not to be started. Whether it is pending here; else it is still in its list."""
        is_pending = bool(cast(Entry, delivery.token).id)
        run.cut_behind(run.events.index(delivery))
        self._go_on(run)
        return is_pending

    def _forget(self, run: Run) -> None:
        self._runs.pop((run.place.queue, run.lane), None)
        if run.late is not None:
            run.late.cancel()
        for delivery in run.events:
            disown(delivery)
        acknowledged, run.acknowledged = run.acknowledged, None
        if acknowledged is not None and not acknowledged.done():
            acknowledged.set_result([])
        outcome, run.outcome = run.outcome, None
        if outcome is not None:
            outcome.settle()

    # --- calls

    def _go_on(self, run: Run) -> None:
        """Acknowledge what has been handled, if that can be now."""
        outcome = run.outcome
        if run.is_flying:
            return
        if outcome is not None and len(run.events) == 1:
            self._write(run, outcome)
            return
        if not run.handled:
            if not run.events:
                self._forget(run)
            return
        is_next = outcome is not None and run.handled == len(run.events) - 1
        if outcome is not None and is_next and outcome.is_due:
            self._fly(run, keep=False)
        elif run.current is None or not run.is_kept:
            left = len(run.events) - run.handled
            if left <= LOW or outcome is not None:
                self._fly(run, keep=left > 0)
            elif run.late is None:
                run.late = asyncio.get_running_loop().call_later(LATE_SECONDS, self._acknowledge_late, run)
        elif outcome is not None and is_next and outcome.timer is None:
            loop = asyncio.get_running_loop()
            outcome.timer = loop.call_later(outcome.delay_ms / 1000, self._make_ready, run)

    def _acknowledge_late(self, run: Run) -> None:
        run.late = None
        if not run.is_flying and run.handled and not run.is_kept:
            self._fly(run, keep=run.current is not None)

    def _make_ready(self, run: Run) -> None:
        if run.outcome is not None:
            run.outcome.is_due = True
            self._go_on(run)

    def _write(self, run: Run, outcome: Unhandled) -> None:
        run.outcome = None
        self._forget(run)
        try:
            answer = outcome.write()
        except Exception as error:
            outcome.settle(error)
            return
        if isinstance(answer, asyncio.Future):
            answer.add_done_callback(lambda written: outcome.settle(None if written.cancelled() else written.exception()))
        else:
            outcome.settle()

    def _fly(self, run: Run, *, keep: bool) -> None:
        head, *handled = [run.events[number] for number in range(run.handled)]
        known = [run.events[number] for number in range(run.handled, len(run.events))]
        subscription = self._taker.about_to_take(run.place)
        want, run.want = 0 if subscription is None else run.want, 0
        outcome = run.outcome
        is_small = cast(Entry, run.events[-1].token).size <= MOST_EVENT_BYTES
        may_peek = is_small and outcome is None and not run.is_cut and (keep or want) and _may_run(subscription)
        peek = MOST_AHEAD - max(1, len(known)) if may_peek else 0
        step = RunStep(head, handled, known, want, keep, peek)
        if outcome is not None and not keep:
            step = step._replace(want=0, attempt=outcome.attempt, crashes=outcome.crashes, begun=outcome.begun, is_last=True)
        acknowledged, run.acknowledged = run.acknowledged, None
        if run.late is not None:
            run.late.cancel()
            run.late = None
        run.is_flying = True
        flight = Flight(self, self._connection, run, step, acknowledged)
        try:
            self._connection.call(flight).add_done_callback(flight.over)
        except StoreError as error:
            self.failed(flight, error)

    def landed(self, flight: Flight, reply: Reply) -> None:
        """A call has been answered."""
        run, step = flight.run, flight.step
        run.is_flying = False
        word = reply[0]
        if is_paused(reply):
            word = b"OK" if reply[1] else b"KEPT"
        taken = self._taker.take_in(reply, run.place, [cast(Entry, step.head.token)] if word == b"OK" else [])
        if self._runs.get((run.place.queue, run.lane)) is not run:
            startable = taken
        elif word == b"OK":
            startable = self._acknowledged(run, step, reply, taken)
        elif word == b"KEPT" or word == b"OTHER":
            run.is_kept, startable = True, taken
            if word == b"OTHER" and run.outcome is None:
                # Somebody has dropped events. What runs here is let finish; the first is pending until then.
                run.cut_behind(sum(delivery.begun or delivery.returned for delivery in run.events))
        else:
            if word == b"GONE":
                self._taker.was_damaged()
            self._forget(run)
            startable = taken
        if flight.acknowledged is not None and not flight.acknowledged.done():
            flight.acknowledged.set_result(startable)
        elif startable:
            for delivery in startable:
                if (other := self.of(delivery)) is not None:
                    self._forget(other)
            self._taker.give_back(startable)
        if self._runs.get((run.place.queue, run.lane)) is run:
            self._go_on(run)

    def failed(self, flight: Flight, error: BaseException) -> None:
        """A call has failed: it is made again when that is asked for again, or, where nobody waits for it, after a pause."""
        run, acknowledged = flight.run, flight.acknowledged
        run.is_flying = False
        is_gone = "NOGROUP" in str(error)  # the queue
        if is_gone:
            self._forget(run)
        if acknowledged is None:
            asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._again, run)
        elif not acknowledged.done():
            if is_gone:
                acknowledged.set_result([])
            else:
                acknowledged.set_exception(error)
        outcome, run.outcome = run.outcome, None
        if outcome is not None:
            outcome.settle(error)

    def _again(self, run: Run) -> None:
        if self._runs.get((run.place.queue, run.lane)) is run:
            self._go_on(run)

    def _acknowledged(self, run: Run, step: RunStep, reply: Reply, taken: list[Delivery]) -> list[Delivery]:
        """Go on with what is left of a run. Answers what may be started."""
        for _ in range(1 + len(step.handled)):
            run.events.popleft()
        run.handled -= 1 + len(step.handled)
        was_cut, run.is_cut = run.is_cut, False
        if step.is_last:
            self._forget(run)
            return taken
        promoted = next((delivery for delivery in taken if cast(Entry, delivery.token).lane == run.lane), None)
        others = [delivery for delivery in taken if delivery is not promoted]
        if not run.events:
            if promoted is None:
                self._forget(run)
                return others
            run.events.append(promoted)
            run.is_kept = False
            if not was_cut:
                self._follow(run, reply)
            return [*others, promoted]
        known = run.events[0]
        if promoted is None or promoted.event.write_id != known.event.write_id:  # its list was damaged just now
            self._forget(run)
            return taken
        known.token = promoted.token
        if not known.begun:
            known.fence = promoted.fence
        return others if was_cut or run.outcome is not None else [*others, *self._follow(run, reply)]

    def _follow(self, run: Run, reply: Reply) -> list[Delivery]:
        """Link what was read behind the last event that is known. Answers the first of it if it may be started."""
        last, startable, dropped = run.events[-1], list[Delivery](), self._taker.dropped(run.place)
        for delivery in calls.following(reply, last):
            check_event(delivery.event)
            delivery.dropped = dropped
            run.events.append(delivery)
            if last.returned:
                startable.append(delivery)
            else:
                last.following = delivery
            last = delivery
        return startable


class Flight(ScriptCall[None]):
    """A call of queues/ack_run.lua. It is carried out to its end, also where `acknowledged` was cancelled meanwhile."""

    __slots__ = ("_runs", "acknowledged", "run", "step")

    def __init__(
        self, runs: Runs, connection: RedisConnection, run: Run, step: RunStep, acknowledged: asyncio.Future[list[Delivery]] | None
    ) -> None:
        super().__init__(connection.scripts.of("queues/ack_run"), calls.ack_run(runs.keys, step))
        self._runs = runs
        self.run = run
        self.step = step
        self.acknowledged = acknowledged

    def result(self, reply: Reply) -> None:
        self._runs.landed(self, reply)

    def over(self, call: asyncio.Future[None]) -> None:
        """It has been answered, or has failed."""
        if not call.cancelled() and (error := call.exception()) is not None:
            self._runs.failed(self, error)


def _may_run(subscription: Subscription | None) -> bool:
    """Whether what waits may be handled ahead of what is acknowledged.

    Not where it may still become another event, where several are handled together, and where one that fails must not be called
    again (see `Unhandled`).
    """
    return (
        subscription is not None
        and not subscription.coalesce
        and subscription.batch is None
        and subscription.retry.max_attempts > 1
    )
