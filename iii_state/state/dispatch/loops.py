"""Handlers that lead to themselves: seen, said once a minute, and ended where there is a limit.

A handler that writes what it watches is called by its own write, for ever; so are two that feed each other over two keys. iii
allows that, and so it goes on. How many deliveries have led to a write, one behind the other, its event says (`lineages.py`). Where
the worker's SDK does not carry that along, a worker that writes the very key whose event it is handling, again and again, may be
such a loop, too: of that there is a warning, and nothing else follows from it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from iii_state import lineages
from iii_state.errors import Code
from iii_state.events import Change, Failure
from iii_state.host import Caller
from iii_state.state.dispatch.consumers import Attempt, Consumer
from iii_state.state.dispatch.schedule import Context

logger = logging.getLogger(__name__)

LOOP_HOPS = 100
"""So many deliveries one behind the other are a loop; and so many times in a row that a worker writes the key that it handles."""

GATHER_SECONDS = 1.0
"""For so long it is seen where a loop passes, before that is said."""

QUIET_SECONDS = 60.0
"""For so long nothing more is said of a function, whichever keys it is called with: a scope may have very many."""

MOST_PLACES = 100
MOST_CHAINS = 1000
PLACES_NAMED = 6
MOST_CHARACTERS = 200
"""Of a name in a warning: a key may have a million."""


class Place(NamedTuple):
    """What is passed in a loop."""

    function_id: str
    scope: str
    key: str

    def __str__(self) -> str:
        return f"{_short(self.function_id)} (scope {_short(self.scope)!r}, key {_short(self.key)!r})"


@dataclass(slots=True)
class _Chain:
    """Deliveries that follow from one write, behind the first hundred: where they passed, and how many there were of late."""

    since: float
    places: dict[Place, None] = field(default_factory=dict)
    subscriptions: dict[str, None] = field(default_factory=dict)
    count: int = 0
    hops: int = 0
    told_at: float | None = None


class _Told:
    """What has been told of within the last minute."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        """Those that are over first come first."""

    def tell(self, names: Iterable[str], now: float) -> list[str]:
        """Of these names, those that it has not; now it has."""
        until = self._until
        while until and next(iter(until.values())) <= now:
            del until[next(iter(until))]
        new = [name for name in names if name not in until]
        until.update(dict.fromkeys(new, now + QUIET_SECONDS))
        return new


class Loops:
    """Watches what the dispatcher hands out for loops."""

    def __init__(self, context: Context) -> None:
        self._loop = context.loop
        self._queues = context.adapter.queues
        self._schedule = context.schedule
        self._limit = context.limits.loop_limit
        self._chains: dict[str, _Chain] = {}
        self._functions = _Told()
        self._subscriptions = _Told()
        self._handled: dict[tuple[str, str, str], list[Attempt]] = {}
        """What workers handle, by worker, scope and key."""
        self._in_a_row: dict[tuple[str, Place], list[float]] = {}
        """Of a worker and what it handles: when it wrote that key meanwhile, since the last time that it did not. Who wrote
        last comes last."""

    def refuses(self, consumer: Consumer, event: Change) -> Failure | None:
        """Note an event that is about to be handed out; why it must not be, where it lies beyond the limit."""
        lineage = event.lineage
        if lineage is None:
            return None
        hops, limit = lineage.hops, self._limit
        if hops >= LOOP_HOPS:
            self._note(consumer, event, lineage)
        if limit is None or hops <= limit:
            return None
        about = f"{hops} deliveries have led to it, one behind the other; dispatch.loop_limit is {limit}"
        return Failure(Code.LOOP_LIMIT_EXCEEDED, about)

    def _note(self, consumer: Consumer, event: Change, lineage: lineages.Lineage) -> None:
        now = self._loop.time()
        chain = self._chains.get(lineage.chain)
        if chain is None or (chain.told_at is not None and now - chain.told_at >= QUIET_SECONDS):
            if chain is None and len(self._chains) >= MOST_CHAINS:
                del self._chains[next(iter(self._chains))]
            chain = self._chains[lineage.chain] = _Chain(now)
            self._loop.call_later(GATHER_SECONDS, self._tell, lineage.chain)
        if chain.told_at is None:
            chain.count += 1
            chain.hops = max(chain.hops, lineage.hops)
            if len(chain.places) < MOST_PLACES:
                chain.places[Place(consumer.function[1], event.scope, event.key)] = None
                chain.subscriptions[consumer.subscription.id] = None

    def _tell(self, name: str) -> None:
        chain = self._chains.get(name)
        if chain is None or self._schedule.is_stopping:
            return
        now = chain.told_at = self._loop.time()
        places, chain.places = chain.places, {}  # what has been told of is kept no longer: a key may be long
        subscriptions, chain.subscriptions = chain.subscriptions, {}
        for subscription_id in self._subscriptions.tell(subscriptions, now):
            self._queues.note_loop(subscription_id)
        if not self._functions.tell({place.function_id for place in places}, now):
            return
        rate = chain.count / max(now - chain.since, GATHER_SECONDS)
        logger.warning(
            "a loop: %d deliveries have led to one another, and it goes on, %.0f a second, through %s. A handler that writes what "
            "it watches is called by that again: end it there, or with dispatch.loop_limit",
            *(chain.hops, rate, _names(places)),
        )

    # --- where no lineage comes along

    def begin(self, attempt: Attempt) -> None:
        """A handler is called."""
        worker_id = "" if attempt.runner is None else attempt.runner.id
        if worker_id and not attempt.consumer.is_bridge:
            event = attempt.delivery.event
            self._handled.setdefault((worker_id, event.scope, event.key), []).append(attempt)

    def written(self, caller: Caller, scope: str, key: str) -> None:
        """A worker makes a write, of which nothing says where it comes from."""
        for attempt in self._handled.get((caller.worker_id, scope, key), ()):
            attempt.has_written = True

    @property
    def are_handled(self) -> bool:
        """Whether workers handle anything."""
        return bool(self._handled)

    def end(self, attempt: Attempt) -> None:
        """The call is over."""
        worker_id = "" if attempt.runner is None else attempt.runner.id
        if not worker_id or attempt.consumer.is_bridge:
            return
        event = attempt.delivery.event
        handled = self._handled[worker_id, event.scope, event.key]
        handled.remove(attempt)
        if not handled:
            del self._handled[worker_id, event.scope, event.key]
        if not attempt.has_written and not self._in_a_row:
            return
        place = Place(attempt.consumer.function[1], event.scope, event.key)
        if attempt.has_written:
            self._wrote_again(worker_id, place, attempt)
        else:
            self._in_a_row.pop((worker_id, place), None)

    def _wrote_again(self, worker_id: str, place: Place, attempt: Attempt) -> None:
        in_a_row, now = self._in_a_row, self._loop.time()
        times = in_a_row.pop((worker_id, place), None)
        if times is None:
            if len(in_a_row) >= MOST_CHAINS:
                oldest = next(iter(in_a_row))
                if now - in_a_row[oldest][-1] < QUIET_SECONDS:
                    return  # drive none out: those that are followed come to a hundred
                del in_a_row[oldest]
            times = []
        times.append(now)
        in_a_row[worker_id, place] = times
        if len(times) < LOOP_HOPS:
            return
        rate = len(times) / max(now - times[0], 0.001)
        in_a_row[worker_id, place] = times[-1:]
        if self._functions.tell([place.function_id], now):
            assert attempt.runner is not None
            logger.warning(
                "perhaps a loop: worker %s has written the key that it was handling %d times in a row, %.0f a second, in %s. It "
                "does not say what its writes are made within (is the telemetry of its SDK off?), so that may be something else",
                *(attempt.runner.name or worker_id, LOOP_HOPS, rate, place),
            )


def _short(name: str) -> str:
    return name if len(name) <= MOST_CHARACTERS else f"{name[: MOST_CHARACTERS - 1]}…"


def _names(places: dict[Place, None]) -> str:
    named = [str(place) for place in list(places)[:PLACES_NAMED]]
    more = len(places) - len(named)
    return ", ".join(named) + (f", and {more} more" if more else "")
