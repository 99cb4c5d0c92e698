"""Finds out when somebody has removed, cut or replaced what iii-state keeps in Redis, and has the fleet go on.

What is lost is not made up: it is counted, and told in the log, once. `lua/repair/check_queues.lua` says what holds in a queue that
nobody else has touched. Each engine looks at the queues that it hosts, and one of them also at those that nobody hosts: a part of
them at each sweep, and at once where a call has stumbled. Whatever is put right is looked at again by the script that does it, so
that the traffic of a healthy queue is never taken for damage.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import msgspec

from iii_state.adapters.redis.connection.call import Run
from iii_state.adapters.redis.fleet.subscriptions import BROADCAST_RETENTION_MS, Subscriptions
from iii_state.adapters.redis.identity import Identity
from iii_state.adapters.redis.keys import FORMAT, Keys, lane
from iii_state.adapters.redis.keyspace.foreign_writes import LOCK_SECONDS
from iii_state.adapters.redis.keyspace.scan import escaped, hashes
from iii_state.adapters.redis.keyspace.scopes import PAUSE_SECONDS
from iii_state.adapters.redis.mutations.fanout import HOLD_MS, Fanout
from iii_state.adapters.redis.mutations.routes import BEGAN, Wanted, deadlines_setting, route_text
from iii_state.adapters.redis.scripts import queues
from iii_state.events import Subscription
from iii_state.tasks.maintenance import SWEEP_SECONDS, Upkeep

logger = logging.getLogger(__name__)

T = TypeVar("T")

QUEUES_PER_SWEEP, QUEUES_AT_ONCE = 200, 50
"""Looking at one takes some 15 µs of Redis's time."""

KEYS_PER_SWEEP = 1000
"""So many keys of the database are looked at, at each sweep, for lists of lanes that nobody counts any more."""

PAGES_PER_SWEEP = 10
"""So many queues are looked at, at each sweep, event by event: a page of their stream, and one of their lanes."""

LANES_AT_ONCE = 500
MOST_ENTRIES = 500
PAGE_BYTES = 1_000_000
"""A page of a stream ends with the event that makes it as large as this, or at so many entries."""

BYTES_PER_SECOND = 2_000_000
"""Reading an entry costs Redis some 2 ns for each of its bytes, and no command tells of entries without their values. So much is
read of queues in which nothing seems wrong; after a larger event, looking waits until that is made up for."""

REST = 3.0
"""Between two steps there is a pause of so many times what the step took."""

HASTE_SECONDS = 0.1
"""Where calls stumble again and again, so long passes between two looks."""

HANDLER_SECONDS = 5.0
"""For so long a handler may end an event that is not in the stream any more; then its lane goes on without waiting for that."""

UNSERVED = 50
"""So many subscriptions that want the events of one write, and that nobody serves, are worth a warning."""

UNROUTED_SWEEPS = 3
"""So often another engine may still remember the routes that are gone."""

MOST_PATIENCE_SECONDS = 60.0

FACTS_PER_SWEEP = 500

_subscription = msgspec.json.Decoder(Subscription)


class Repair:
    """Looks, and puts right.

    `store` gives the id of what is stored here, `session` the engine's own; `is_first` tells whether this engine is the one that
    looks at what nobody hosts.
    """

    def __init__(
        self,
        fanout: Fanout,
        run: Run,
        send: Callable[..., Awaitable[Any]],
        engine: Identity,
        subscriptions: Subscriptions,
        store: Callable[[], str | None],
        is_first: Callable[[], bool],
        session: Callable[[], bytes],
    ) -> None:
        self._fanout = fanout
        self._keys: Keys = fanout.keys
        self._run = run
        self._send = send
        self._engine = engine
        self._subscriptions = subscriptions
        self._store = store
        self._is_first = is_first
        self._session = session
        # Apart from the upkeep of the queues: that waits for Redis to be as it should be.
        self._upkeep = Upkeep((self._look,), list, lambda subscription_id: None)
        self._next = 0.0
        """When the next sweep is due."""
        self._not_before = 0.0
        self._is_urgent = False
        self._hosted_at = self._others_at = self._facts_at = 0
        self._lists_at = b"0"
        self._unrouted = 0
        """At so many sweeps there were no routes."""
        self._mended: dict[bytes, tuple[float, float]] = {}
        """Queues in which nothing was found to put right, though they are uneven: when to look again, and after how long next."""
        self._unserved: set[bytes] = set()
        """Queues that nobody hosts."""
        self._warned: set[Wanted] = set()
        self._pages: dict[bytes, tuple[bytes, bytes]] = {}
        """Of queues that are looked at event by event: how far in their stream and their lanes. The first was looked at first."""
        self._bytes_left, self._bytes_at = float(PAGE_BYTES), 0.0
        """How much may be read of queues in which nothing seems wrong, less than 0 after a large event; and when that was so."""
        self._dangling: dict[bytes, float] = {}
        """Queues in which something is pending that is in no stream, by since when."""

    def start(self) -> None:
        """Begin."""
        self._upkeep.start()

    async def stop(self) -> None:
        """End."""
        await self._upkeep.stop()

    def stumbled(self) -> None:
        """A call has met something that is not as it should be: look at once."""
        if not self._is_urgent:
            self._is_urgent = True
            wait = self._not_before - asyncio.get_running_loop().time()
            self._upkeep.plan(max(0.0, wait))

    # -- looking

    async def _look(self) -> int:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now < self._not_before or (now < self._next and not self._is_urgent):
            return int(1000 * max(0.0, min(self._next, max(now, self._not_before)) - now)) + 1
        is_urgent, self._is_urgent = self._is_urgent, False
        self._next, self._not_before = now + SWEEP_SECONDS, now + HASTE_SECONDS
        if await self._check_fleet():
            await self._check_facts()
            await self._check_queues(is_urgent)
            if self._is_first():
                await self._check_lists()
        return int(1000 * (HASTE_SECONDS if self._is_urgent else SWEEP_SECONDS))

    def _fleet_keys(self) -> list[tuple[bytes, bytes]]:
        keys, engine = self._keys, self._engine.id
        first = [keys.format, keys.store, keys.routes, keys.hold, keys.filling, keys.scopes + b":scanning"]
        typed: dict[bytes, list[bytes]] = {
            b"hash": [keys.engines, keys.session(self._session()), keys.line, keys.clock],
            b"set": [keys.scopes, keys.dead_queues, keys.fenced, keys.hosts(engine)],
            b"zset": [keys.orphans, keys.later, keys.deadlines],
            b"stream": [keys.routes_log],
            b"string": [keys.routes_version, keys.engine(engine), keys.waited, keys.scopes + b":scanned"],
        }
        found = [(key, b"hash" if key == keys.routes else b"string") for key in first]
        return [*found, *((key, kind) for kind, names in typed.items() for key in names)]

    async def _check_fleet(self) -> bool:
        """Whether the keys that all share are as they should be by now."""
        typed = self._fleet_keys()
        held = (10 * HOLD_MS, 1000 * LOCK_SECONDS, 1000 * PAUSE_SECONDS)
        words = [b"%d" % FORMAT, (self._store() or "").encode(), *(b"%d" % ms for ms in held), *(kind for _, kind in typed)]
        is_routed, wrong = await self._run("repair/check_fleet", [b"%d" % len(typed), *(key for key, _ in typed), *words])
        for number in wrong:
            await self._move_aside(*typed[number - 1])
        if wrong:
            self._is_urgent = True
            return False
        version = await self._send(b"GET", self._keys.routes_version)
        if version is not None and not version.isdigit():
            await self._send(b"RENAME", self._keys.routes_version, self._keys.aside(self._keys.routes_version, _now_ms()))
            logger.error("the version of the routes in Redis was %r, which is none of ours: it has been moved aside", version[:80])
        self._unrouted = 0 if is_routed else self._unrouted + 1
        if self._unrouted and BEGAN in self._fanout.routes.settings:
            await self._restore_routes()
        elif self._unrouted >= UNROUTED_SWEEPS and self._is_first():
            await self._rebuild_routes()
        return True

    async def _restore_routes(self) -> None:
        routes = self._fanout.routes
        others = [pair for pair in _batches(routes.table(), 2) if pair[0] != BEGAN]
        names = (b"2", self._keys.routes, self._keys.routes_version)
        for part in _batches(others, LANES_AT_ONCE):
            await self._run("fleet/restore_routes", [*names, *(word for pair in part for word in pair)])
        if await self._run("fleet/restore_routes", [*names, BEGAN, routes.settings[BEGAN]]):
            logger.error(
                "somebody has removed the routes from Redis; they have been written down again, as this engine remembers them: "
                "%d subscriptions",
                len(routes.queues()),
            )

    async def _rebuild_routes(self) -> None:
        """No engine remembers the routes: they follow from the subscriptions, and from the scopes that have deadlines."""
        table: list[tuple[bytes, bytes]] = []
        beginning = self._keys.subscription(b"")
        async for page in hashes(self._send, beginning):
            for name in page:
                settings, ending = await self._send(b"HMGET", name, b"settings", b"ending")
                if settings is not None and ending is None:
                    table.append((name[len(beginning) :], route_text(_subscription.decode(settings))))
        cursor = b"0"
        while True:
            cursor, page = await self._send(b"ZSCAN", self._keys.deadlines, cursor, b"COUNT", b"1000")
            table += [(deadlines_setting(scope), b"1") for scope in page[::2]]
            if cursor == b"0":
                break
        names = (b"2", self._keys.routes, self._keys.routes_version)
        for part in _batches([*table, (BEGAN, b"%d" % self._fanout.routes.version)], LANES_AT_ONCE):
            await self._run("fleet/restore_routes", [*names, *(word for pair in part for word in pair)])
        await self._fanout.read(self._send)
        logger.error(
            "somebody has removed the routes from Redis while no engine ran; they have been made again from what else is there: %d",
            len(table),
        )

    async def _move_aside(self, key: bytes, kind: bytes) -> None:
        aside = self._keys.aside(key, _now_ms())
        was = await self._run("repair/move_aside", [b"2", key, aside, kind])
        if was:
            logger.error(
                "the key %s in Redis was a %s, and iii-state keeps a %s there: somebody has replaced it; it is called %s now, and "
                "what iii-state kept there is lost",
                *(key.decode("utf-8", "replace"), was.decode(), kind.decode(), aside.decode("utf-8", "replace")),
            )
            if key == self._keys.scopes:  # made again by the next scan, which listing waits for
                await self._send(b"DEL", self._keys.scopes + b":scanned", self._keys.scopes + b":scanning")

    async def _check_facts(self) -> None:
        """Scopes that have deadlines have to be among those that are looked at for them."""
        scopes = list(islice(self._fanout.routes.with_deadlines, self._facts_at, self._facts_at + FACTS_PER_SWEEP))
        self._facts_at = self._facts_at + len(scopes) if len(scopes) == FACTS_PER_SWEEP else 0
        if not scopes:
            return
        names = [scope.encode() for scope in scopes]
        planned = await self._send(b"ZMSCORE", self._keys.deadlines, *names)
        missing = [name for name, when in zip(names, planned, strict=True) if when is None]
        for name in missing:
            known = await self._send(b"HEXISTS", self._keys.routes, deadlines_setting(name))
            earliest = await self._send(b"ZRANGE", self._keys.deadlines_of(name), b"0", b"0", b"WITHSCORES")
            if known and earliest:
                await self._send(b"ZADD", self._keys.deadlines, b"NX", earliest[1], name)
                await self._send(b"PUBLISH", self._keys.deadlines, b"")

    # -- queues

    async def _check_queues(self, is_urgent: bool) -> None:
        hosted = [hosted.queue for hosted in self._subscriptions.hosted.values()]
        hosted_here = set(hosted)
        others = [queue for queue in self._fanout.routes.queues() if queue not in hosted_here] if self._is_first() else []
        if is_urgent:
            self._hosted_at = self._others_at = 0
        part, self._hosted_at = _part(hosted, self._hosted_at)
        rest, self._others_at = _part(others, self._others_at)
        found = [each for some in _batches(part, QUEUES_AT_ONCE) for each in await self._found(some, b"1")]
        found += [each for some in _batches(rest, QUEUES_AT_ONCE) for each in await self._found(some, b"")]
        self._unserved = (self._unserved - set(rest)) & set(others)
        self._unserved.update(queue for queue, word, _ in found if word == b"UNSERVED")
        self._warn_of_unserved()
        uneven = {queue for queue, word, _ in found if word == b"UNEVEN"}
        even = {*part, *rest} - uneven
        self._mended = {queue: when for queue, when in self._mended.items() if queue not in even}
        with_events: set[bytes] = set()
        for queue, word, detail in found:
            match word:
                case b"TYPE":
                    keys = self._keys
                    kinds = {keys.busy(queue): b"hash", keys.subscription(queue): b"hash"}
                    await self._move_aside(detail, kinds.get(detail, b"stream"))
                    self._is_urgent = True
                case b"GONE":
                    await self._take_over(queue, detail)
                case b"UNHOSTED":
                    self._subscriptions.doubt_one(queue)
                case b"UNKNOWN":
                    logger.error(
                        "somebody has removed the subscription of %s from Redis: its queue ends in %d s, unless it is registered "
                        "again",
                        *(self._name(queue), int(detail) // 1000),
                    )
                case b"LOST":
                    self._tell_lost(queue, int(detail))
                case b"DEAD":
                    logger.error("the dead letters of %s are gone: somebody has removed them from Redis", self._name(queue))
                case b"GROUP":
                    await self._mend(queue, was_counted=True)
                case b"UNEVEN":
                    await self._mend_if_due(queue, was_counted=detail != b"doubt")
                case b"EVENTS":
                    with_events.add(queue)
                case _:
                    pass
        await self._look_at_events(with_events, everything=is_urgent)
        self._pages = {queue: page for queue, page in self._pages.items() if queue in hosted_here}

    def _warn_of_unserved(self) -> None:
        """Every write that many queues want pays for each of them, whether anybody serves it or not."""
        wanted = Counter(self._fanout.routes.wanted_by(queue) for queue in self._unserved)
        many = {match: count for match, count in wanted.items() if match is not None and count > UNSERVED}
        for (scope, key), count in many.items():
            if (scope, key) not in self._warned:
                logger.warning(
                    "%d subscriptions with scope %s and key %s are served by nobody, and each write that they want pays for "
                    "each of them: unregister what is not needed any more, or give it a shorter retention_ms",
                    *(count, "(any)" if scope is None else repr(scope), "(any)" if key is None else repr(key)),
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

    def _name(self, queue: bytes) -> str:
        return self._fanout.routes.function_of(queue) or queue.decode("utf-8", "replace")

    def _tell_lost(self, queue: bytes, count: int) -> None:
        logger.error(
            "%d events of %s (queue %s) are lost: somebody has removed or cut what iii-state keeps in Redis",
            *(count, self._name(queue), queue.decode("utf-8", "replace")),
        )

    async def _take_over(self, queue: bytes, engine: bytes) -> None:
        while True:
            reply = await self._run("fleet/takeover", queues.takeover(self._keys, queue, engine, LANES_AT_ONCE))
            if reply[0] != b"OK" or reply[2]:
                return

    async def _check_lists(self) -> None:
        """Some of the keys of the database: lists of lanes that nobody counts."""
        beginning = self._keys.waiting(b"").removesuffix(b":")
        pattern = escaped(beginning) + b"*"
        self._lists_at, page = await self._send(b"SCAN", self._lists_at, b"MATCH", pattern, b"COUNT", b"%d" % KEYS_PER_SWEEP)
        lanes: dict[bytes, list[bytes]] = {}
        for name in page:
            queue, _, lane_name = name[len(beginning) :].partition(b":")
            lanes.setdefault(queue, []).append(lane_name)
        keys = self._keys
        for queue, found in lanes.items():
            for part in _batches(found, LANES_AT_ONCE):
                names = [keys.busy(queue), keys.routes, *(keys.wait(queue, name) for name in part)]
                if await self._run("repair/check_waiting", [b"%d" % len(names), *names, queue, *part]):
                    self._is_urgent = True

    # -- event by event

    async def _look_at_events(self, found: set[bytes], *, everything: bool) -> None:
        """Some of the queues that hold events: those that were not looked at for longest."""
        loop = asyncio.get_running_loop()
        known = [queue for queue in self._pages if queue in found]
        for queue in [*(found - set(known)), *known][:PAGES_PER_SWEEP]:
            began = loop.time()
            self._bytes_left = min(SWEEP_SECONDS * BYTES_PER_SECOND, self._bytes_left + BYTES_PER_SECOND * (began - self._bytes_at))
            self._bytes_at = began
            if self._bytes_left > 0:
                await self._look_at_page(queue)
            await self._look_at_lanes(queue, everything=everything)
            await asyncio.sleep((loop.time() - began) * REST)

    async def _look_at_page(self, queue: bytes) -> None:
        """The next page of a stream: what was taken, and is nowhere any more, is made ready."""
        behind, lanes_behind = self._pages.pop(queue, (b"-", b"0"))
        last, looked_at, _ = await self._read_page(queue, behind, MOST_ENTRIES)
        self._bytes_left -= looked_at
        self._pages[queue] = (last or b"-", lanes_behind)

    async def _read_page(self, queue: bytes, behind: bytes, entries: int) -> tuple[bytes, int, list[tuple[bytes, bytes, int]]]:
        """The last id, bytes, and of each event its id, lane and bytes."""
        names = (b"3", self._keys.stream(queue), self._keys.later, self._keys.routes)
        words = (queue, behind, b"%d" % entries, b"%d" % PAGE_BYTES)
        last, looked_at, ready, wrong, events = await self._run("repair/requeue_entries", [*names, *words])
        if ready:
            logger.warning(
                "%d events of %s had been taken, and were pending nowhere any more: they are delivered (again)",
                *(ready, self._name(queue)),
            )
        found = list[tuple[bytes, bytes, int]]()
        for entry_id, write, scope, key, size in _batches(events, 5):
            if _is_text(write, scope, key):
                found.append((entry_id, lane(scope, key), size))
            else:
                wrong.append(entry_id)
        removed = await self._run("repair/drop_entries", queues.drop_entries(self._keys, queue, wrong)) if wrong else 0
        if removed:
            logger.error(
                "%d entries in the queue of %s (%s) were no events: somebody else has put them there; they have been removed",
                *(removed, self._name(queue), ", ".join(map(bytes.decode, wrong[:5]))),
            )
        return last, looked_at, found

    async def _look_at_lanes(self, queue: bytes, *, everything: bool) -> None:
        """The next lanes: as many events have to wait in each as are counted."""
        behind, cursor = self._pages.get(queue, (b"-", b"0"))
        while True:
            cursor, lanes = await self._lanes(queue, cursor)
            await self._mend_lanes(queue, b"", lanes)
            if cursor == b"0" or not everything:
                break
        self._pages[queue] = (behind, cursor)

    async def _lanes(self, queue: bytes, cursor: bytes) -> tuple[bytes, list[bytes]]:
        cursor, page = await self._send(b"HSCAN", self._keys.busy(queue), cursor, b"COUNT", b"%d" % LANES_AT_ONCE)
        return cursor, [name for name in page[::2] if not name[:1].isalpha()]

    async def _mend_if_due(self, queue: bytes, *, was_counted: bool) -> None:
        """What an old backup brought back may keep a queue uneven until it has been handled: look less and less often."""
        loop = asyncio.get_running_loop()
        due, pause = self._mended.pop(queue, (0.0, SWEEP_SECONDS))
        if loop.time() < due:
            self._mended[queue] = (due, pause)
        elif not await self._mend(queue, was_counted=was_counted):
            self._mended[queue] = (loop.time() + pause, min(MOST_PATIENCE_SECONDS, 2 * pause))

    async def _mend(self, queue: bytes, *, was_counted: bool) -> bool:
        """Go through a whole queue, step by step, and have every lane go on that has stopped. Whether there was one, or may be."""
        loop = asyncio.get_running_loop()
        behind, met = b"-", set[bytes]()
        at_end = False
        while not at_end:
            began = loop.time()
            last, _, found = await self._read_page(queue, behind, MOST_ENTRIES)
            await self._adopt(queue, found)
            met.update(name for _, name, _ in found)
            at_end = not last
            behind = last or behind
            await asyncio.sleep((loop.time() - began) * REST)
        behind = b"0-0" if behind == b"-" else behind
        if await self._is_being_handled(queue):
            return True
        lost = 0
        cursor = b"0"
        while True:
            began = loop.time()
            cursor, lanes = await self._lanes(queue, cursor)
            missing = [name for name in lanes if name not in met]
            behind, gone = await self._go_on(queue, behind, missing, met)
            lost += gone
            if cursor == b"0":
                break
            await asyncio.sleep((loop.time() - began) * REST)
        if not was_counted:
            await self._find_lists(queue, behind, met)
            await self._send(b"HDEL", self._keys.busy(queue), b"doubt")
            logger.error("somebody has removed what was counted of the queue of %s: it has been counted again", self._name(queue))
        if lost:
            await self._send(b"HINCRBY", self._keys.subscription(queue), b"lost", b"%d" % lost)
            self._tell_lost(queue, lost)
        return bool(lost) or not was_counted

    async def _adopt(self, queue: bytes, found: Sequence[tuple[bytes, bytes, int]]) -> None:
        if not found:
            return
        keys = self._keys
        counted = await self._send(b"HMGET", keys.busy(queue), *(name for _, name, _ in found))
        unknown = [event for event, count in zip(found, counted, strict=True) if count is None]
        if not unknown:
            return
        names = [keys.stream(queue), keys.busy(queue), *(keys.wait(queue, name) for _, name, _ in unknown)]
        words = [word for entry_id, name, size in unknown for word in (name, entry_id, b"%d" % size)]
        for number in await self._run("repair/recount_lanes", [b"%d" % len(names), *names, *words]):
            await self._move_aside(keys.wait(queue, unknown[number - 1][1]), b"list")
            self._is_urgent = True

    async def _is_being_handled(self, queue: bytes) -> bool:
        """Whether something is pending that is in no stream any more: while its handler may end it, its lane is not lost."""
        loop = asyncio.get_running_loop()
        since = self._dangling.get(queue)
        is_over = since is not None and loop.time() - since >= HANDLER_SECONDS
        behind, missing = b"-", 0
        while True:
            began = loop.time()
            words = (behind, b"%d" % LANES_AT_ONCE, b"%d" % PAGE_BYTES, b"1" if is_over else b"")
            last, count = await self._run("repair/check_pending", [b"1", self._keys.stream(queue), *words])
            missing += count
            if not last:
                break
            behind = last
            await asyncio.sleep((loop.time() - began) * REST)
        if missing and not is_over:
            self._dangling.setdefault(queue, loop.time())
            return True
        self._dangling.pop(queue, None)
        return False

    async def _go_on(self, queue: bytes, behind: bytes, missing: list[bytes], met: set[bytes]) -> tuple[bytes, int]:
        """Have lanes go on that were not met in the stream up to an id. That id from now on, and how many events are lost."""
        loop = asyncio.get_running_loop()
        lost = 0
        while missing:
            began = loop.time()
            gone, left = await self._mend_lanes(queue, behind, missing)
            lost += gone
            if not left:
                break
            last, looked_at, found = await self._read_page(queue, behind, MOST_ENTRIES // 5)
            await self._adopt(queue, found)
            behind = last or behind
            met.update(name for _, name, _ in found)
            missing = [name for name in left if name not in met]
            if looked_at >= PAGE_BYTES:  # where events are small, they must not come in faster than this goes on
                await asyncio.sleep((loop.time() - began) * REST)
        return behind, lost

    async def _mend_lanes(self, queue: bytes, behind: bytes, lanes: Sequence[bytes]) -> tuple[int, Sequence[bytes]]:
        """How many events are lost, and the lanes of which nothing could be said yet. Without an id, of lanes that go on."""
        lost = 0
        keys = self._keys
        left = lanes
        while left:
            part = left[:LANES_AT_ONCE]
            names = [keys.stream(queue), keys.busy(queue), *(keys.wait(queue, name) for name in part)]
            bounds = (b"%d" % (MOST_ENTRIES // 5), b"%d" % PAGE_BYTES)
            reply = await self._run("repair/resume_lanes", [b"%d" % len(names), *names, behind, *bounds, *part])
            if reply[0] == b"MORE":
                break
            lost += reply[1]
            for number in reply[3]:
                await self._move_aside(keys.wait(queue, part[number - 1]), b"list")
                self._is_urgent = True
            left = left[reply[4] :]
        if lost and not behind:
            await self._send(b"HINCRBY", keys.subscription(queue), b"lost", b"%d" % lost)
            self._tell_lost(queue, lost)
        return lost, left

    async def _find_lists(self, queue: bytes, behind: bytes, met: set[bytes]) -> None:
        """Lanes of which nothing is left but what waits in them."""
        beginning, cursor, found = self._keys.waiting(queue), b"0", list[bytes]()
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            cursor, page = await self._send(b"SCAN", cursor, b"MATCH", escaped(beginning) + b"*", b"COUNT", b"1000")
            found += [name[len(beginning) :] for name in page if b":damaged:" not in name[len(beginning) :]]
            if cursor == b"0":
                break
            await asyncio.sleep((loop.time() - began) * REST)
        for part in _batches([name for name in dict.fromkeys(found) if name not in met], LANES_AT_ONCE):
            behind, _ = await self._go_on(queue, behind, list(part), met)


def _part(names: Sequence[bytes], at: int) -> tuple[Sequence[bytes], int]:
    """What is to be looked at this time, and where to go on the next."""
    if at >= len(names):
        at = 0
    return names[at : at + QUEUES_PER_SWEEP], at + QUEUES_PER_SWEEP


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """So many at once."""
    return (items[at : at + size] for at in range(0, len(items), size))


def _is_text(*names: bytes) -> bool:
    try:
        for name in names:
            name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _now_ms() -> int:
    return int(time.time() * 1000)
