"""Finds out when another program has removed, cut or replaced what iii-state keeps in Redis, and has the fleet go on.

What is lost is not made up: it is counted, and told in the log, once. `lua/repair/check_queues.lua` says what holds in a queue that
no other program has touched. Each engine looks at the queues that it hosts, and one of them also at those that no engine hosts: a
part at each sweep, and at once where a call has met damage. What is put right is looked at again by the script that does it, so
that the traffic of a healthy queue is never taken for damage.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence

from iii_state.adapters.redis.fleet.aside import Aside
from iii_state.adapters.redis.fleet.batches import batches
from iii_state.adapters.redis.fleet.mending import LANES_AT_ONCE, Mending
from iii_state.adapters.redis.fleet.shared_keys import SharedKeys
from iii_state.adapters.redis.fleet.subscriptions import BROADCAST_RETENTION_MS, Subscriptions
from iii_state.adapters.redis.fleet.takeover import Takeover
from iii_state.adapters.redis.keyspace.scan import escaped
from iii_state.adapters.redis.mutations.routes import Wanted, described
from iii_state.adapters.redis.scripts import engines
from iii_state.adapters.redis.shared import Shared
from iii_state.tasks.maintenance import Maintenance

logger = logging.getLogger(__name__)

QUEUES_AT_ONCE = 50
"""Looking at one takes some 15 µs of Redis's time."""

KEYS_PER_SWEEP = 1000
"""So many keys of the database are looked at, at each sweep, for lists of lanes that are not counted any more."""

HASTE_SECONDS = 0.1
"""Where calls meet damage again and again, so long passes between two looks."""

UNSERVED = 50
"""So many subscriptions that want the events of one write, and that no engine serves, are worth a warning."""


class Checking:
    """Looks, and has put right what is not as it should be."""

    def __init__(
        self,
        shared: Shared,
        subscriptions: Subscriptions,
        takeover: Takeover,
        shared_keys: SharedKeys,
        mending: Mending,
        aside: Aside,
    ) -> None:
        self._keys = shared.keys
        self._engine = shared.engine
        self._pace = shared.pace
        self._run = shared.connection.run
        self._send = shared.connection.send
        self._routes = shared.fanout.routes
        self._subscriptions = subscriptions
        self._takeover = takeover
        self._shared_keys = shared_keys
        self._mending = mending
        self._aside = aside
        # Apart from the maintenance of the queues: that waits for Redis to be as it should be.
        self._maintenance = Maintenance(lambda swept_at: shared.pace.after(swept_at, shared.pace.seconds))
        self._next = 0.0
        """When the next sweep is due."""
        self._not_before = 0.0
        self._is_urgent = False
        self._hosted_at = self._others_at = 0
        self._lists_at = b"0"
        self._unserved: set[bytes] = set()
        """Queues that no engine hosts."""
        self._warned: set[Wanted] = set()
        shared.connection.damaged.connect(self.look_soon)
        aside.moved.connect(self._hurry)

    def start(self) -> None:
        """Begin."""
        self._maintenance.start(self._look)

    async def stop(self) -> None:
        """End."""
        await self._maintenance.stop()

    def look_soon(self) -> None:
        """A call has met something that is not as it should be: look at once."""
        if not self._is_urgent:
            self._is_urgent = True
            wait = self._not_before - asyncio.get_running_loop().time()
            self._maintenance.plan(max(0.0, wait))

    def _hurry(self) -> None:
        """There is more to be looked at."""
        self._is_urgent = True

    # -- looking

    async def _look(self) -> int:
        loop = asyncio.get_running_loop()
        now = loop.time()
        due = self._not_before if self._is_urgent else max(self._next, self._not_before)
        if now < due:
            return int(1000 * (due - now)) + 1
        is_urgent, self._is_urgent = self._is_urgent, False
        self._next = self._pace.after(now, self._pace.seconds)
        self._not_before = now + HASTE_SECONDS
        if await self._shared_keys.check():
            await self._shared_keys.check_deadlines()
            await self._check_queues(is_urgent)
            if self._pace.is_alone and self._takeover.is_first():
                await self._check_lists()
        return int(1000 * HASTE_SECONDS) if self._is_urgent else -1

    # -- queues

    async def _check_queues(self, is_urgent: bool) -> None:
        hosted = [hosted.queue for hosted in self._subscriptions.hosted.values()]
        hosted_here = set(hosted)
        others = [queue for queue in self._routes.queues() if queue not in hosted_here] if self._takeover.is_first() else []
        if is_urgent:
            self._hosted_at = self._others_at = 0
        part, self._hosted_at = self._part(hosted, self._hosted_at)
        rest, self._others_at = self._part(others, self._others_at)
        found = [each for some in batches(part, QUEUES_AT_ONCE) for each in await self._found(some, b"1")]
        found += [each for some in batches(rest, QUEUES_AT_ONCE) for each in await self._found(some, b"")]
        self._unserved = (self._unserved - set(rest)) & set(others)
        self._unserved.update(queue for queue, word, _ in found if word == b"UNSERVED")
        self._warn_of_unserved()
        uneven = {queue for queue, word, _ in found if word == b"UNEVEN"}
        even = {*part, *rest} - uneven
        self._mending.forget_mended(even)
        with_events: set[bytes] = set()
        for queue, word, detail in found:
            match word:
                case b"TYPE":
                    keys = self._keys
                    kinds = {keys.busy(queue): b"hash", keys.subscription(queue): b"hash"}
                    await self._aside.move(detail, kinds.get(detail, b"stream"), counts=detail == keys.busy(queue))
                case b"GONE":
                    await self._take_over(queue, detail)
                case b"UNHOSTED":
                    self._subscriptions.doubt_one(queue)
                case b"UNKNOWN":
                    logger.error(
                        "somebody has removed the subscription of %s from Redis: its queue ends in %d s, unless it is registered "
                        "again",
                        *(self._mending.name_of(queue), int(detail) // 1000),
                    )
                case b"LOST":
                    self._mending.tell_lost(queue, int(detail))
                case b"DEAD":
                    logger.error(
                        "the dead letters of %s are gone: somebody has removed them from Redis", self._mending.name_of(queue)
                    )
                case b"GROUP":
                    await self._mending.mend(queue, was_counted=True)
                case b"UNEVEN":
                    await self._mending.mend_if_due(queue, was_counted=detail != b"doubt")
                case b"EVENTS":
                    with_events.add(queue)
                case _:
                    pass
        await self._mending.look_at_events(with_events, everything=is_urgent)
        self._mending.keep_pages(hosted_here)

    def _warn_of_unserved(self) -> None:
        """Every write that many queues want pays for each of them, whether anybody serves it or not."""
        wanted = Counter(self._routes.wanted_by(queue) for queue in self._unserved)
        many = {match: count for match, count in wanted.items() if match is not None and count > UNSERVED}
        for match, count in many.items():
            if match not in self._warned:
                logger.warning(
                    "%d subscriptions with %s are served by nobody, and each write that they want pays for "
                    "each of them: unregister what is not needed any more, or give it a shorter retention_ms",
                    *(count, described(match)),
                )
        self._warned = set(many)

    async def _found(self, looked_at: Sequence[bytes], is_hosted: bytes) -> list[tuple[bytes, bytes, bytes]]:
        keys, engine = self._keys, self._engine.id
        names = [keys.engines, keys.routes, keys.hosts(engine), keys.orphans, keys.dead_queues, keys.clock]
        for queue in looked_at:
            names += [keys.stream(queue), keys.busy(queue), keys.subscription(queue), keys.dead(queue)]
        words = [word for queue in looked_at for word in (queue, is_hosted)]
        found = await self._run("repair/check_queues", [b"%d" % len(names), *names, engine, b"%d" % BROADCAST_RETENTION_MS, *words])
        return [(looked_at[number - 1], word, detail) for number, word, detail in found]

    async def _take_over(self, queue: bytes, engine: bytes) -> None:
        while True:
            reply = await self._run("fleet/takeover", engines.takeover(self._keys, queue, engine, LANES_AT_ONCE))
            if reply[0] != b"OK" or reply[2]:
                return

    async def _check_lists(self) -> None:
        """Some of the keys of the database: lists of lanes that are not counted."""
        pattern = escaped(self._keys.waiting(b"").removesuffix(b":")) + b"*"
        self._lists_at, page = await self._send(b"SCAN", self._lists_at, b"MATCH", pattern, b"COUNT", b"%d" % KEYS_PER_SWEEP)
        await self.check_lists(page)

    async def check_lists(self, page: Sequence[bytes]) -> None:
        """Look at lists of lanes, by their names."""
        beginning = self._keys.waiting(b"").removesuffix(b":")
        lanes: dict[bytes, list[bytes]] = {}
        for name in page:
            if self._keys.is_aside(name):
                continue
            queue, _, lane_name = name[len(beginning) :].partition(b":")
            lanes.setdefault(queue, []).append(lane_name)
        keys = self._keys
        for queue, found in lanes.items():
            for part in batches(found, LANES_AT_ONCE):
                names = [keys.busy(queue), keys.routes, *(keys.wait(queue, name) for name in part)]
                if await self._run("repair/check_waiting", [b"%d" % len(names), *names, queue, *part]):
                    self._is_urgent = True

    def _part(self, names: Sequence[bytes], at: int) -> tuple[Sequence[bytes], int]:
        """What is to be looked at this time, and where to go on the next."""
        if at >= len(names):
            at = 0
        following = at + self._pace.queues_per_sweep
        return names[at:following], following
