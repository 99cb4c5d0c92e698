"""Mending one queue: its events are counted again, and its lanes go on, where another program has removed or cut what
iii-state keeps.

What is put right is looked at again by the script that does it, so that the traffic of a healthy queue is never taken for damage.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from iii_state.adapters.redis.fleet.aside import Aside
from iii_state.adapters.redis.fleet.batches import batches
from iii_state.adapters.redis.keys import lane
from iii_state.adapters.redis.keyspace.scan import escaped, is_text
from iii_state.adapters.redis.scripts import queues
from iii_state.adapters.redis.shared import Shared
from iii_state.tasks.maintenance import SWEEP_SECONDS

logger = logging.getLogger(__name__)

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

HANDLER_SECONDS = 5.0
"""For so long a handler may end an event that is not in the stream any more, or of which nobody knows whether it was pending; then
its lane goes on without waiting for that."""

MOST_PATIENCE_SECONDS = 60.0


class Mending:
    """Looks at queues event by event, a page at a time, and puts right what is wrong."""

    def __init__(self, shared: Shared, aside: Aside) -> None:
        self._keys = shared.keys
        self._run = shared.connection.run
        self._send = shared.connection.send
        self._engine = shared.engine
        self._routes = shared.fanout.routes
        self._aside = aside
        self.lost = 0
        """Events that were found to be lost here."""
        self._mended: dict[bytes, tuple[float, float]] = {}
        """Queues in which nothing was found to put right, though they are uneven: when to look again, and after how long next."""
        self._pages: dict[bytes, tuple[bytes, bytes]] = {}
        """Of queues that are looked at event by event: how far in their stream and their lanes. The first was looked at first."""
        self._bytes_left, self._bytes_at = float(PAGE_BYTES), 0.0
        """How much may be read of queues in which nothing seems wrong, less than 0 after a large event; and when that was so."""
        self._dangling: dict[bytes, float] = {}
        """Queues in which something is pending that is in no stream, by since when."""

    def forget_mended(self, even: set[bytes]) -> None:
        """These are even again."""
        self._mended = {queue: when for queue, when in self._mended.items() if queue not in even}

    def keep_pages(self, hosted: set[bytes]) -> None:
        """Forget how far the others were looked at."""
        self._pages = {queue: page for queue, page in self._pages.items() if queue in hosted}

    def name_of(self, queue: bytes) -> str:
        """What people know a queue by: its function."""
        return self._routes.function_of(queue) or queue.decode("utf-8", "replace")

    def tell_lost(self, queue: bytes, count: int) -> None:
        """Events are lost: say so, once."""
        self.lost += count
        logger.error(
            "%d events of %s (queue %s) are lost: somebody has removed or cut what iii-state keeps in Redis",
            *(count, self.name_of(queue), queue.decode("utf-8", "replace")),
            extra={"function_id": self.name_of(queue), "queue": queue.decode("utf-8", "replace")},
        )

    async def look_at_events(self, found: set[bytes], *, everything: bool) -> None:
        """Some of the queues that hold events: those that were not looked at for longest."""
        loop = asyncio.get_running_loop()
        known = [queue for queue in self._pages if queue in found]
        for queue in [*(found - set(known)), *known][:PAGES_PER_SWEEP]:
            began = loop.time()
            self._bytes_left = min(SWEEP_SECONDS * BYTES_PER_SECOND, self._bytes_left + BYTES_PER_SECOND * (began - self._bytes_at))
            self._bytes_at = began
            if self._bytes_left > 0:
                await self.look_at_page(queue)
            await self.look_at_lanes(queue, everything=everything)
            await asyncio.sleep((loop.time() - began) * REST)

    async def look_at_page(self, queue: bytes) -> None:
        """The next page of a stream: what was taken, and is nowhere any more, is made ready."""
        behind, lanes_behind = self._pages.pop(queue, (b"-", b"0"))
        last, looked_at, _ = await self._read_page(queue, behind, MOST_ENTRIES)
        self._bytes_left -= looked_at
        self._pages[queue] = (last or b"-", lanes_behind)

    async def _read_page(self, queue: bytes, behind: bytes, entries: int) -> tuple[bytes, int, list[tuple[bytes, bytes, int]]]:
        """The last id, bytes, and of each event its id, lane and bytes."""
        keys = self._keys
        clock = (keys.clock, keys.clock_copy)
        names = (b"7", keys.stream(queue), keys.later, keys.routes, keys.subscription(queue), *clock, keys.busy(queue))
        words = (queue, behind, b"%d" % entries, b"%d" % PAGE_BYTES)
        last, looked_at, ready, wrong, events = await self._run("repair/requeue_entries", [*names, *words])
        if ready:
            logger.warning(
                "%d events of %s had been taken, and were pending nowhere any more: they are delivered (again)",
                *(ready, self.name_of(queue)),
            )
        found = list[tuple[bytes, bytes, int]]()
        for entry_id, write, scope, key, size in batches(events, 5):
            if is_text(write, scope, key):
                found.append((entry_id, lane(scope, key), size))
            else:
                wrong.append(entry_id)
        removed = await self._run("repair/drop_entries", queues.drop_entries(self._keys, queue, wrong)) if wrong else 0
        if removed:
            logger.error(
                "%d entries in the queue of %s (%s) were no events: somebody else has put them there; they have been removed",
                *(removed, self.name_of(queue), ", ".join(map(bytes.decode, wrong[:5]))),
            )
        return last, looked_at, found

    async def look_at_lanes(self, queue: bytes, *, everything: bool) -> None:
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

    async def mend_if_due(self, queue: bytes, *, was_counted: bool) -> None:
        """What an old backup brought back may keep a queue uneven until it has been handled: look less and less often."""
        loop = asyncio.get_running_loop()
        due, pause = self._mended.pop(queue, (0.0, SWEEP_SECONDS))
        if loop.time() < due:
            self._mended[queue] = (due, pause)
        elif not await self.mend(queue, was_counted=was_counted):
            self._mended[queue] = (loop.time() + pause, min(MOST_PATIENCE_SECONDS, 2 * pause))

    async def mend(self, queue: bytes, *, was_counted: bool) -> bool:
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
            await self._move_lists_aside(queue)
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
            logger.error("somebody has removed what was counted of the queue of %s: it has been counted again", self.name_of(queue))
        if lost:
            await self._send(b"HINCRBY", self._keys.subscription(queue), b"lost", b"%d" % lost)
            self.tell_lost(queue, lost)
        return bool(lost) or not was_counted

    async def _adopt(self, queue: bytes, found: Sequence[tuple[bytes, bytes, int]]) -> None:
        if not found:
            return
        keys = self._keys
        counted = await self._send(b"HMGET", keys.busy(queue), *(name for _, name, _ in found))
        unknown = [event for event, count in zip(found, counted, strict=True) if count is None]
        if not unknown:
            return
        for _ in range(2):  # once more those whose list was in the way: a lane that is not counted would be overtaken
            names = [keys.stream(queue), keys.busy(queue), *(keys.wait(queue, name) for _, name, _ in unknown)]
            words = [word for entry_id, name, size in unknown for word in (name, entry_id, b"%d" % size)]
            wrong = await self._run("repair/recount_lanes", [b"%d" % len(names), *names, *words])
            unknown = [unknown[number - 1] for number in wrong]
            for _, name, _ in unknown:
                await self._aside.move(keys.wait(queue, name), b"list")
            if not unknown:
                break

    async def _is_being_handled(self, queue: bytes) -> bool:
        """Whether something is pending that is in no stream any more, or was so, perhaps, in a stream or group that somebody has
        removed: while its handler may end it, its lane does not go on."""
        loop = asyncio.get_running_loop()
        cut = await self._send(b"HGET", self._keys.subscription(queue), b"cut")
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
        if cut is not None:
            age_ms = (self._engine.own_now_ms() or 0) - int(cut) if cut.isdigit() else float("inf")
            if not cut or abs(age_ms) < 1000 * HANDLER_SECONDS:  # an engine's own time may be a little behind
                return True
            await self._send(b"HDEL", self._keys.subscription(queue), b"cut")
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
        """How many events are lost, and the lanes of which nothing could be said yet. Without an id, of lanes that go on; with `-`,
        only what is in the way of their lists is looked for."""
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
                await self._aside.move(keys.wait(queue, part[number - 1]), b"list")
            left = left[reply[4] :]
        if lost and not behind:
            await self._send(b"HINCRBY", keys.subscription(queue), b"lost", b"%d" % lost)
            self.tell_lost(queue, lost)
        return lost, left

    async def _move_lists_aside(self, queue: bytes) -> None:
        """Move aside what is in the way of lists of lanes: writes fail for that."""
        loop = asyncio.get_running_loop()
        cursor = b"0"
        while True:
            began = loop.time()
            cursor, lanes = await self._lanes(queue, cursor)
            await self._mend_lanes(queue, b"-", lanes)
            if cursor == b"0":
                break
            await asyncio.sleep((loop.time() - began) * REST)

    async def _find_lists(self, queue: bytes, behind: bytes, met: set[bytes]) -> None:
        """Lanes of which nothing is left but what waits in them."""
        beginning, cursor, found = self._keys.waiting(queue), b"0", list[bytes]()
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            cursor, page = await self._send(b"SCAN", cursor, b"MATCH", escaped(beginning) + b"*", b"COUNT", b"1000")
            found += [name[len(beginning) :] for name in page if not self._keys.is_aside(name)]
            if cursor == b"0":
                break
            await asyncio.sleep((loop.time() - began) * REST)
        for part in batches([name for name in dict.fromkeys(found) if name not in met], LANES_AT_ONCE):
            behind, _ = await self._go_on(queue, behind, list(part), met)
