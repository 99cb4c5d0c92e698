"""What operators look at in a cluster: queues, each the sum of its parts in the partitions, and the dead letters of all of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from iii_state.adapters.base import Backup, EngineSeen
from iii_state.adapters.redis.admin import RedisAdmin
from iii_state.adapters.redis.cluster.partitions import AT_ONCE, Asked, Partitions
from iii_state.events import DeadLetter, QueueStats, Subscription
from iii_state.tasks.results import result_of

T = TypeVar("T")

_ID = re.compile(r"(\d{1,4})/(.+)", re.DOTALL)
"""Of a dead letter: its partition, and its id there."""


class ClusterAdmin:
    """See `base.Admin`. Where one partition does not answer there is no answer, but words that say which."""

    def __init__(self, partitions: Partitions[RedisAdmin]) -> None:
        self._partitions = partitions

    async def stats(self) -> list[QueueStats]:
        """Every queue there is, hosted or waiting."""
        found: dict[bytes, QueueStats] = {}
        for part in await self._partitions.gather(lambda admin: admin.stats_by_queue(), at_once=AT_ONCE):
            for queue, stats in part.items():
                found[queue] = _sum(found[queue], stats) if queue in found else stats
        return list(found.values())

    async def dead_letters(self, function_id: str | None = None) -> list[DeadLetter]:
        """Dead letters, oldest first."""
        found = await self._partitions.gather(lambda admin: admin.dead_letters(function_id), at_once=AT_ONCE)
        told = [replace(dead, id=f"{number}/{dead.id}") for number, part in enumerate(found) for dead in part]
        return sorted(told, key=lambda dead: dead.buried_at_ms)

    async def dead_retry(self, dead_letter_id: str) -> bool:
        """Deliver a dead letter again; False if it is not there."""
        admin, own_id = self._place_of(dead_letter_id)
        return admin is not None and await admin.dead_retry(own_id)

    async def dead_drop(self, dead_letter_id: str) -> bool:
        """Drop a dead letter; False if it is not there."""
        admin, own_id = self._place_of(dead_letter_id)
        return admin is not None and await admin.dead_drop(own_id)

    # -- subscriptions in hand

    async def engines(self) -> list[EngineSeen]:
        """The engines of the store: each is one of every partition's, and is shown where it has been silent for longest."""
        found: dict[str, EngineSeen] = {}
        for part in await self._partitions.gather(lambda admin: admin.engines(), at_once=AT_ONCE):
            for engine in part:
                known = found.get(engine.name)
                if known is None or (engine.silent_ms or 0) > (known.silent_ms or 0):
                    found[engine.name] = engine
        return sorted(found.values(), key=lambda each: each.name)

    async def pause(self, subscription: Subscription) -> int:
        """Hand out nothing more of it; answers how many of its events are out."""
        return sum(await self._of(subscription, lambda admin: admin.pause(subscription)))

    async def resume(self, subscription: Subscription) -> bool:
        """Hand out again; False where it was paused nowhere."""
        return any(await self._of(subscription, lambda admin: admin.resume(subscription)))

    async def purge(self, subscription: Subscription) -> int:
        """Drop what waits; answers how many events that were."""
        return sum(await self._of(subscription, lambda admin: admin.purge(subscription)))

    async def remove(self, subscription: Subscription) -> int:
        """End its queues that no engine hosts; answers how many events they held."""
        return sum(await self._of(subscription, lambda admin: admin.remove(subscription)))

    async def _of(self, subscription: Subscription, ask: Callable[[RedisAdmin], Asked[T]]) -> list[T]:
        """Ask the partition of its scope, or all of them where it has none."""
        if subscription.scope is not None:
            return [await result_of(ask(self._partitions.of(subscription.scope)))]
        return await self._partitions.gather(ask, at_once=AT_ONCE)

    async def backup(self, name: str) -> Backup:
        """Redis sees to its own files."""
        return await self._partitions.first.backup(name)

    def _place_of(self, dead_letter_id: str) -> tuple[RedisAdmin | None, str]:
        found = _ID.fullmatch(dead_letter_id)
        if found is None or int(found[1]) >= len(self._partitions):
            return None, ""
        return self._partitions.all[int(found[1])], found[2]


def _sum(one: QueueStats, other: QueueStats) -> QueueStats:
    """What a queue has in two partitions."""
    oldest = _known((one.oldest_at_ms, other.oldest_at_ms))
    paused = _known((one.paused_at_ms, other.paused_at_ms))
    return replace(
        one,
        waiting=one.waiting + other.waiting,
        pending=one.pending + other.pending,
        retrying=one.retrying + other.retrying,
        dead=one.dead + other.dead,
        dropped=one.dropped + other.dropped,
        hosts=sorted({*one.hosts, *other.hosts}),
        oldest_at_ms=min(oldest, default=None),
        is_looping=one.is_looping or other.is_looping,
        ready=one.ready + other.ready,
        paused_at_ms=min(paused, default=None),
    )


def _known(times: Iterable[int | None]) -> list[int]:
    return [time for time in times if time is not None]
