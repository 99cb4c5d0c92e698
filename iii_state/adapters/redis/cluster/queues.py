"""The queues of a store in a cluster: a subscription's lie in one partition, or, where it wants all scopes, in each.

The partitions wake a subscription each for itself. It is remembered which did, these are asked, together and in turn, and the
dispatcher is woken until none is left that was woken and not asked. One that is slow keeps nobody waiting: what comes from the
others is handed out meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

from iii_state.adapters.redis.adapter import RedisAdapter
from iii_state.adapters.redis.cluster.gathering import Gathering, shares
from iii_state.adapters.redis.cluster.partitions import Partitions
from iii_state.adapters.redis.cluster.tags import partition_of
from iii_state.adapters.redis.queues import RedisQueues
from iii_state.errors import StoreError
from iii_state.events import Delivery, Failure, Subscription
from iii_state.tasks.background import Background
from iii_state.tasks.results import Result, result_of, then

logger = logging.getLogger(__name__)

T = TypeVar("T")

GRACE_SECONDS = 0.01
"""For so long those that have been asked are waited for: then what others have is handed out, or others are asked, too."""

ASKED_ON = 4
"""So many others at once."""

ASK_AGAIN_SECONDS = 0.5
"""A partition that could not be asked is asked again so much later."""


class ClusterQueues:
    """See `base.Queues`."""

    def __init__(self, partitions: Partitions[RedisAdapter], background: Background) -> None:
        self._partitions = partitions
        self._background = background
        self._gatherings: dict[str, Gathering] = {}
        """By subscription id."""
        self._settled: set[object] = set()
        """Tokens of deliveries that are settled already, of calls that are made again since others of theirs could not be."""
        self._wake: Callable[[str], None] = _nothing
        self._enabled = True

    def start(self, wake: Callable[[str], None]) -> None:
        """Call this with the id of every subscription that may have something to take. The partitions are there by now."""
        self._wake = wake
        self.enable_events(self._enabled)

    def woken(self, partition: int, subscription_id: str) -> None:
        """A partition has woken a subscription."""
        gathering = self._gatherings.get(subscription_id)
        if gathering is None:
            gathering = self._gatherings[subscription_id] = Gathering()
        gathering.woken[partition] = None
        if gathering.waiter is not None and partition not in gathering.asked and not gathering.ready:
            count = max(1, gathering.wanted // (len(gathering.asked) + 1))
            self._ask(subscription_id, gathering, partition, count)
            gathering.awaited.add(partition)
        else:
            self._wake(subscription_id)

    def enable_events(self, enabled: bool) -> None:
        """Whether mutations have events from now on."""
        self._enabled = enabled
        for partition in self._partitions.all:
            partition.queues.enable_events(enabled)

    def are_wanted(self, scope: str, key: str) -> bool:
        """As the routes of the scope's partition say that are known here."""
        return self._partitions.of(scope).queues.are_wanted(scope, key)

    # -- hosting

    def subscribe(self, subscription: Subscription) -> Result[None]:
        """Host it in the partition of its scope, or in all."""
        places = self._places_of(subscription)
        gathering = self._gatherings.setdefault(subscription.id, Gathering())
        was_hosted, gathering.places, gathering.is_over = gathering.places is not None, places, False
        if len(places) == 1:
            (place,) = places
            return self._queues(place).subscribe(subscription)
        answers: dict[int, Result[None]] = {}
        for place in sorted(places):
            try:
                answers[place] = self._queues(place).subscribe(subscription)
            except StoreError as error:
                answers[place] = _failed(error)
        return self._background.call(self._subscribed(subscription.id, answers, was_hosted=was_hosted))

    async def _subscribed(self, subscription_id: str, answers: dict[int, Result[None]], *, was_hosted: bool) -> None:
        """When all partitions have it. What is half done is let go: it would gather events that nobody takes."""
        outcomes = await asyncio.gather(*map(result_of, answers.values()), return_exceptions=True)
        failures = {place: outcome for place, outcome in zip(answers, outcomes, strict=True) if isinstance(outcome, BaseException)}
        if not failures:
            return
        if not was_hosted:
            there = [place for place in answers if place not in failures]
            for error in await asyncio.gather(
                *(self._queues(place).abandon(subscription_id) for place in there), return_exceptions=True
            ):
                if isinstance(error, StoreError):
                    logger.info("a trigger that could not be registered everywhere is let go later: %s", error)
            self._forget(subscription_id)
        raise self._partitions.failed(failures)

    def unsubscribe(self, subscription_id: str) -> Result[None]:
        """Stop hosting, for good."""
        return self._let_go(subscription_id, lambda queues: queues.unsubscribe(subscription_id))

    def abandon(self, subscription_id: str) -> Result[None]:
        """Stop hosting for now."""
        return self._let_go(subscription_id, lambda queues: queues.abandon(subscription_id))

    def _let_go(self, subscription_id: str, step: Callable[[RedisQueues], Result[None]]) -> Result[None]:
        places = self._hosted_at(subscription_id)
        self._forget(subscription_id)
        answers = {place: step(self._queues(place)) for place in places}
        return self._all(answers)

    def _forget(self, subscription_id: str) -> None:
        gathering = self._gatherings.pop(subscription_id, None)
        if gathering is not None:
            gathering.is_over = True
            self._give_back(gathering)
            if gathering.waiter is not None and not gathering.waiter.done():
                gathering.waiter.set_result([])

    def _places_of(self, subscription: Subscription) -> frozenset[int]:
        count = len(self._partitions)
        if subscription.scope is None:
            return frozenset(range(count))
        return frozenset((partition_of(subscription.scope.encode(), count),))

    def _hosted_at(self, subscription_id: str) -> Iterable[int]:
        gathering = self._gatherings.get(subscription_id)
        places = None if gathering is None else gathering.places
        return range(len(self._partitions)) if places is None else sorted(places)

    def offer(self, subscription_id: str, served: bool) -> None:
        """Nothing comes that is not taken."""

    def note_loop(self, subscription_id: str) -> Result[None]:
        """Its handler has been seen to lead to itself. One partition says so for all."""
        for place in self._hosted_at(subscription_id):
            return self._queues(place).note_loop(subscription_id)
        return None

    # -- taking

    def take(self, subscription_id: str, count: int) -> Result[list[Delivery]]:
        """Up to so many deliveries that are ready, of the partitions that were woken."""
        gathering = self._gatherings.get(subscription_id)
        if gathering is None or count <= 0:
            return []
        taken = gathering.take_ready(count)
        free = gathering.free
        before = set(gathering.asked)
        for place, share in zip(free, shares(count - len(taken), len(free)), strict=False):
            self._ask(subscription_id, gathering, place, share)
        if taken or not gathering.asked or gathering.waiter is not None:
            self._wake_for_more(subscription_id, gathering)
            return taken
        gathering.wanted, gathering.error, gathering.awaited = count, None, set(gathering.asked) - before
        gathering.failed.clear()
        gathering.waiter = waiter = asyncio.get_running_loop().create_future()
        self._be_patient(subscription_id, gathering)
        return waiter

    def _ask(self, subscription_id: str, gathering: Gathering, place: int, count: int) -> None:
        """Ask one partition. While it has not answered it is not asked again; it may be woken meanwhile."""
        del gathering.woken[place]
        try:
            answer = self._queues(place).take(subscription_id, count)
        except StoreError as error:
            gathering.woken[place] = None
            gathering.error = error
            gathering.failed.add(place)
            self._wake_later(subscription_id, gathering)
            return
        if isinstance(answer, asyncio.Future):
            gathering.asked[place] = count
            answer.add_done_callback(partial(self._answered, subscription_id, gathering, place))
        else:
            gathering.ready.extend(answer)

    def _answered(self, subscription_id: str, gathering: Gathering, place: int, answer: asyncio.Future[list[Delivery]]) -> None:
        count = gathering.asked.pop(place)
        if answer.cancelled():
            gathering.woken[place] = None
        elif (error := answer.exception()) is not None:
            gathering.woken[place] = None
            gathering.error = error
            gathering.failed.add(place)
            self._wake_later(subscription_id, gathering)
        else:
            self._took(gathering, place, count, answer.result())
        if gathering.is_over:
            self._give_back(gathering)
        elif gathering.waiter is None:
            if gathering.ready:
                self._wake(subscription_id)
        else:
            gathering.awaited.discard(place)
            if not gathering.asked and not gathering.ready:
                self._ask_on(subscription_id, gathering)
            if not gathering.asked or (gathering.ready and not gathering.awaited):
                self._resolve(subscription_id, gathering)

    def _be_patient(self, subscription_id: str, gathering: Gathering) -> None:
        loop = asyncio.get_running_loop()
        gathering.patience = loop.call_later(GRACE_SECONDS, self._lose_patience, subscription_id, gathering)

    def _lose_patience(self, subscription_id: str, gathering: Gathering) -> None:
        """Not all have answered that were asked: hand out what others have had, or ask others."""
        gathering.patience = None
        if gathering.ready:
            self._resolve(subscription_id, gathering)
        elif gathering.waiter is not None:
            self._ask_on(subscription_id, gathering)
            if gathering.free:
                self._be_patient(subscription_id, gathering)

    def _ask_on(self, subscription_id: str, gathering: Gathering) -> None:
        free = [place for place in gathering.free if place not in gathering.failed][:ASKED_ON]
        for place in free:
            self._ask(subscription_id, gathering, place, max(1, gathering.wanted // len(free)))
            gathering.awaited.add(place)

    def _took(self, gathering: Gathering, place: int, count: int, deliveries: list[Delivery]) -> None:
        if len(deliveries) >= count:  # there may be more
            gathering.woken[place] = None
        self._count_dropped(gathering, place, deliveries)
        gathering.ready.extend(deliveries)

    @staticmethod
    def _count_dropped(gathering: Gathering, place: int, deliveries: list[Delivery]) -> None:
        """What was dropped of a subscription's queues is told as one number."""
        if deliveries and (gathering.dropped or deliveries[-1].dropped):
            gathering.dropped[place] = deliveries[-1].dropped
            total = sum(gathering.dropped.values())
            for delivery in deliveries:
                delivery.dropped = total

    def _resolve(self, subscription_id: str, gathering: Gathering) -> None:
        if gathering.patience is not None:
            gathering.patience.cancel()
            gathering.patience = None
        waiter, gathering.waiter = gathering.waiter, None
        if waiter is None or waiter.done():
            self._wake_for_more(subscription_id, gathering)
            return
        taken = gathering.take_ready(gathering.wanted)
        if not taken and gathering.error is not None and not gathering.asked:
            waiter.set_exception(gathering.error)
            return
        waiter.set_result(taken)
        self._wake_for_more(subscription_id, gathering)

    def _wake_for_more(self, subscription_id: str, gathering: Gathering) -> None:
        """Wake the dispatcher once more where something is left, behind what it makes of what it is given now."""
        if gathering.has_more:
            asyncio.get_running_loop().call_soon(self._wake, subscription_id)

    def _wake_later(self, subscription_id: str, gathering: Gathering) -> None:
        def wake() -> None:
            if not gathering.is_over and gathering.has_more:
                self._wake(subscription_id)

        asyncio.get_running_loop().call_later(ASK_AGAIN_SECONDS, wake)

    def _give_back(self, gathering: Gathering) -> None:
        """What has been taken, and will not be handed out."""
        if gathering.ready:
            held = gathering.take_ready(len(gathering.ready))
            answer = self.release(held)
            if isinstance(answer, asyncio.Future):
                answer.add_done_callback(_log_not_given_back)

    # -- ending

    def holds(self, delivery: Delivery) -> bool:
        """Whether it is pending here for certain."""
        return self._partitions.of(delivery.event.scope).queues.holds(delivery)

    def ack(self, deliveries: Sequence[Delivery], want: int = 0, *, ahead: bool = False) -> Result[list[Delivery]]:
        """These are done; answers up to `want` further ones. A hot lane is of one partition, and so is a run of it (see `runs`)."""
        if not deliveries:
            return []
        subscription_id = deliveries[0].subscription_id
        gathering = self._gatherings.get(subscription_id)
        by_place = self._by_place(deliveries)
        if gathering is None:
            want = 0
        if len(by_place) == 1 and not self._settled:
            ((place, part),) = by_place.items()
            answer = self._queues(place).ack(part, want, ahead=ahead)
            if gathering is None or want == 0:
                return self._going_on(gathering, place, answer)
            return then(answer, partial(self._took_with_ack, subscription_id, gathering, place, want))
        answers: dict[int, Result[list[Delivery]]] = {}
        parts = [*shares(want, len(by_place)), *(0 for _ in by_place)]
        for (place, part), share in zip(by_place.items(), parts, strict=False):
            answer = answers[place] = self._queues(place).ack(part, share)
            if not share:
                self._going_on(gathering, place, None)
            if gathering is not None and share and isinstance(answer, asyncio.Future):
                answer.add_done_callback(partial(self._took_with_others, subscription_id, gathering, place, share))
        acknowledged = self._all(answers, deliveries, by_place)
        return then(acknowledged, lambda _: [] if gathering is None else gathering.take_ready(want))

    @staticmethod
    def _going_on(gathering: Gathering | None, place: int, answer: T) -> T:
        """Lanes go on there, or begin again: the partition is asked with the next."""
        if gathering is not None:
            gathering.woken[place] = None
        return answer

    def _took_with_ack(
        self, subscription_id: str, gathering: Gathering, place: int, want: int, deliveries: list[Delivery]
    ) -> list[Delivery]:
        self._took(gathering, place, want, deliveries)
        taken = gathering.take_ready(want)
        self._wake_for_more(subscription_id, gathering)
        return taken

    def _took_with_others(
        self, subscription_id: str, gathering: Gathering, place: int, count: int, answer: asyncio.Future[list[Delivery]]
    ) -> None:
        """One of several partitions has acknowledged; the others may take longer."""
        if answer.cancelled() or answer.exception() is not None:
            return
        self._took(gathering, place, count, answer.result())
        if gathering.is_over:
            self._give_back(gathering)
        else:
            self._wake_for_more(subscription_id, gathering)

    def retry(self, delivery: Delivery, delay_ms: int, failure: Failure, *, crashed: bool = False) -> Result[None]:
        """Deliver it again when so much time has passed."""
        return self._partitions.of(delivery.event.scope).queues.retry(delivery, delay_ms, failure, crashed=crashed)

    def dead_letter(self, delivery: Delivery, failure: Failure) -> Result[None]:
        """Move it to the dead letters."""
        place = partition_of(delivery.event.scope.encode(), len(self._partitions))
        answer = self._queues(place).dead_letter(delivery, failure)
        return self._going_on(self._gatherings.get(delivery.subscription_id), place, answer)

    def release(self, deliveries: Sequence[Delivery], *, begun: bool = False) -> Result[None]:
        """Give them back unfinished."""
        by_place = self._by_place(deliveries)
        answers = {place: self._queues(place).release(part, begun=begun) for place, part in by_place.items()}
        for place, part in by_place.items():
            self._going_on(self._gatherings.get(part[0].subscription_id), place, None)
        return self._all(answers, deliveries, by_place)

    def _by_place(self, deliveries: Sequence[Delivery]) -> dict[int, list[Delivery]]:
        """Deliveries by partition, without what is settled already."""
        found: dict[int, list[Delivery]] = {}
        count, settled = len(self._partitions), self._settled
        for delivery in deliveries:
            if not settled or delivery.token not in settled:
                found.setdefault(partition_of(delivery.event.scope.encode(), count), []).append(delivery)
        return found

    def _all(
        self,
        answers: dict[int, Result[T]],
        deliveries: Sequence[Delivery] = (),
        by_place: dict[int, list[Delivery]] | None = None,
    ) -> Result[None]:
        """When all have answered. Where some fail, so does the whole; what the others have settled is not settled again."""
        waiting = {place: answer for place, answer in answers.items() if isinstance(answer, asyncio.Future)}
        if not waiting:
            return None
        if len(waiting) == 1 and not self._settled:
            (only,) = waiting.values()
            return then(only, lambda _: None)
        return self._background.call(self._settle(waiting, deliveries, by_place or {}))

    async def _settle(
        self, waiting: dict[int, asyncio.Future[T]], deliveries: Sequence[Delivery], by_place: dict[int, list[Delivery]]
    ) -> None:
        outcomes = await asyncio.gather(*waiting.values(), return_exceptions=True)
        failures = {place: outcome for place, outcome in zip(waiting, outcomes, strict=True) if isinstance(outcome, BaseException)}
        tokens = {place: [delivery.token for delivery in part] for place, part in by_place.items()}
        if failures:
            self._settled.update(token for place, part in tokens.items() if place not in failures for token in part)
            raise self._partitions.failed(failures)
        if self._settled:
            self._settled.difference_update(delivery.token for delivery in deliveries)

    def _queues(self, place: int) -> RedisQueues:
        return self._partitions.all[place].queues


def _nothing(subscription_id: str) -> None:
    """Before the adapter has been started, no wake-up is of use."""


def _failed(error: StoreError) -> asyncio.Future[None]:
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    failed.set_exception(error)
    return failed


def _log_not_given_back(answer: asyncio.Future[None]) -> None:
    if not answer.cancelled() and (error := answer.exception()) is not None:
        logger.warning("what had been taken could not be given back yet: %s", error)
