"""What operators do with subscriptions: pause them, resume them, drop what waits for them, and end those that nobody serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import msgspec

from iii_state import values
from iii_state.adapters.base import Admin
from iii_state.errors import Code, FunctionError
from iii_state.events import QueueStats, Subscription
from iii_state.host import Caller
from iii_state.state.functions.declared import Registration
from iii_state.state.functions.operators import asked, may_see
from iii_state.tasks.results import Awaited, Result, result_of
from iii_state.values import Json
from iii_state.values.requests import read

logger = logging.getLogger(__name__)

Step = Callable[[Subscription], Awaited[Any]]
Counted = Callable[[Step, list[QueueStats]], Coroutine[Any, Any, dict[str, int]]]


class SubscriptionRequest(msgspec.Struct):
    """Which subscriptions: all those of a function, in one namespace or any, or the one with an id (`iii-state::triggers`)."""

    function_id: str | None = None
    namespace: str | None = None
    id: str | None = None

    def means(self, subscription: Subscription) -> bool:
        """Whether it is one of these."""
        return (
            self.function_id in (None, subscription.function_id)
            and self.namespace in (None, subscription.namespace)
            and self.id in (None, subscription.id)
        )


class SubscriptionFunctions:
    """The functions `iii-state::trigger_*`. Those of a function are dealt with one after the other."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin

    def __iter__(self) -> Iterator[Registration]:
        admin, which = self._admin, "{function_id?, namespace?, id?}"
        functions: list[tuple[str, Step, Counted, str]] = [
            ("pause", admin.pause, _pause, "Start no handler for subscriptions, at any engine, until they are resumed"),
            ("resume", admin.resume, _resume, "Let paused subscriptions go on"),
            ("purge", admin.purge, _purge, "Drop the events that wait for subscriptions"),
            ("remove", admin.remove, _remove, "End subscriptions that no engine serves, with all that waits for them"),
        ]
        for word, step, counted, description in functions:
            function_id = f"iii-state::trigger_{word}"
            yield function_id, partial(self._each, function_id, step, counted), f"{description}: {which}"

    def _each(self, function_id: str, step: Step, counted: Counted, data: Json, caller: Caller) -> Result[bytes | None]:
        request = read(function_id, data, SubscriptionRequest)
        if request.function_id is None and request.id is None:
            why = "function_id or id: one of them has to be given"
            raise FunctionError(Code.DESERIALIZATION_ERROR, f"Failed to deserialize input for {function_id}: {why}")

        async def run() -> bytes:
            found = [
                stats
                for stats in await result_of(asked(self._admin.stats))
                if request.means(stats.subscription) and may_see(caller, stats.subscription.scope)
            ]
            if not found:
                which = request.function_id if request.id is None else f"the id {request.id}"
                words = f"there is no subscription of {which}: `iii-state triggers` lists those that there are"
                raise FunctionError(Code.NOT_FOUND, words)
            return values.encode(await counted(step, found))

        return asyncio.ensure_future(run())


async def _pause(step: Step, found: list[QueueStats]) -> dict[str, int]:
    out = 0
    for subscription in _each_once(found):
        out += await result_of(asked(partial(step, subscription)))
        _tell(logging.WARNING, "%s has been paused by an operator: its events wait until it is resumed", subscription)
    return {"paused": len(_each_once(found)), "out": out}


async def _resume(step: Step, found: list[QueueStats]) -> dict[str, int]:
    count = 0
    for subscription in _each_once(found):
        if await result_of(asked(partial(step, subscription))):
            count += 1
            _tell(logging.INFO, "%s has been resumed", subscription)
    return {"resumed": count}


async def _purge(step: Step, found: list[QueueStats]) -> dict[str, int]:
    dropped = 0
    for subscription in _each_once(found):
        events = await result_of(asked(partial(step, subscription)))
        dropped += events
        if events:
            _tell(logging.WARNING, "%s has been purged by an operator: %d events were dropped", subscription, events)
    return {"purged": len(_each_once(found)), "dropped": dropped}


async def _remove(step: Step, found: list[QueueStats]) -> dict[str, int]:
    """Of several those that nobody serves; where all are served, the first says why it is not removed."""
    stale = [stats for stats in found if not stats.hosts] or found
    events = 0
    for subscription in _each_once(stale):
        lost = await result_of(asked(partial(step, subscription)))
        events += lost
        level = logging.WARNING if lost else logging.INFO
        _tell(level, "%s has been removed by an operator: its queue is gone, with %d events", subscription, lost)
    return {"removed": len(_each_once(stale)), "dropped": events}


def _each_once(found: list[QueueStats]) -> list[Subscription]:
    """Each subscription once: with the delivery `broadcast` each engine has a queue of its own."""
    return list({stats.subscription.id: stats.subscription for stats in found}.values())


def _tell(level: int, words: str, subscription: Subscription, *numbers: int) -> None:
    function_id = subscription.function_id
    logger.log(level, words, function_id, *numbers, extra={"function_id": function_id})
