"""Going through the keys of a cluster: those of each master once, for all of the partitions that lie there.

Scopes are looked for as `keyspace/scopes.py` does it on a single Redis, lists of lanes as `fleet/checking.py` does, change logs as
`fleet/log_retention.py`. What a stock engine has written, without a hash tag, is not seen here: it is said once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

from iii_state.adapters.redis.adapter import RedisAdapter
from iii_state.adapters.redis.cluster.partitions import Partitions
from iii_state.adapters.redis.keyspace.scan import KEYS_PER_STEP, escaped
from iii_state.adapters.redis.keyspace.scopes import PAUSE_SECONDS, STEP_SECONDS
from iii_state.errors import StoreError
from iii_state.tasks.background import Background

logger = logging.getLogger(__name__)

Masters = Callable[[], list[list[int]]]
"""The partitions of each master, as far as is known."""

PAGE_SECONDS = 1.5
"""Of lists of lanes, and of change logs, a page of each master is looked at so often."""


class ClusterScan:
    """Scans, by commands that any partition's connection takes to its master."""

    def __init__(self, partitions: Partitions[RedisAdapter], masters: Masters, tags: tuple[bytes, ...], prefix: bytes) -> None:
        self._partitions = partitions
        self._masters = masters
        self._numbers = {tag: number for number, tag in enumerate(tags)}
        self._lists = b"{iii-*}:" + escaped(prefix) + b":wait:*"
        self._logs = b"{iii-*}:" + escaped(prefix) + b":history:*"
        self._cursors: dict[tuple[int, ...], dict[bytes, bytes]] = {}
        """Masters, by what lies there → pattern → where to go on."""
        self._first: asyncio.Task[None] | None = None
        self._has_warned = False
        self._background = Background()

    def start(self) -> None:
        """Begin."""
        self._background.start(self._scan_for_ever(), "iii-state scan of a cluster for scopes")
        self._background.start(self._look_for_ever(), "iii-state look at the pages of a cluster")

    async def stop(self) -> None:
        """End."""
        await self._background.stop()

    # -- scopes

    async def first(self) -> None:
        """Look at every key, where that has never been done; who asks meanwhile waits for the same."""
        if self._first is None or self._first.done():
            self._first = self._background.call(self.scan())
        await asyncio.shield(self._first)

    async def scan(self) -> None:
        """Look at every key of all masters, at once."""
        for numbers in self._masters():
            await self._scan(numbers, 0)

    async def _scan_for_ever(self) -> None:
        while True:
            for numbers in self._masters():
                partition = self._partitions.all[numbers[0]]
                try:
                    if await partition.scopes.begin_scan():
                        await self._scan(numbers, STEP_SECONDS)
                        await partition.scopes.ended_scan()
                except StoreError as error:
                    logger.debug("the scan for scopes of other programs was interrupted: %s", error)
                except Exception:
                    logger.exception("the scan for scopes of other programs has failed")
            await asyncio.sleep(PAUSE_SECONDS / 2)

    async def _scan(self, numbers: list[int], pause: float) -> None:
        first, steps = self._partitions.all[numbers[0]], 0
        async for names in self._pages(first, b"*state:*", b"hash"):
            found: dict[int, list[bytes]] = {}
            for name in names:
                tag, ends, rest = name.partition(b"}:")
                number = self._numbers.get(tag + ends)
                if number is not None and rest.startswith(b"state:"):
                    found.setdefault(number, []).append(name)
                elif name.startswith(b"state:"):
                    self._warn_of(name, first)
            for number, part in found.items():
                await self._partitions.all[number].scopes.add(part)
            steps += 1
            if pause:
                if steps % 100 == 0:
                    await first.scopes.go_on_scanning()
                await asyncio.sleep(pause)
        await asyncio.gather(*(self._partitions.all[number].scopes.were_scanned() for number in numbers))

    def _warn_of(self, name: bytes, found_by: RedisAdapter) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "the Redis Cluster at %s holds %r, which has no hash tag: a stock engine, or another program, has written it. It "
                "is not seen here; copy it through an engine, if it is wanted",
                *(found_by.place, name[:200]),
            )

    async def _pages(self, partition: RedisAdapter, pattern: bytes, kind: bytes) -> AsyncIterator[list[bytes]]:
        cursor = b"0"
        while True:
            words = (b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % KEYS_PER_STEP, b"TYPE", kind)
            cursor, page = await partition.send(*words)
            yield page
            if cursor == b"0":
                return

    # -- lists of lanes, and change logs

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(PAGE_SECONDS)
            for numbers in self._masters():
                try:
                    await self._look(numbers)
                except StoreError as error:
                    logger.debug("the keys of %s could not be looked at: %s", self._partitions.all[numbers[0]].place, error)
                except Exception:
                    logger.exception("the keys of a master could not be looked at")

    async def _look(self, numbers: list[int]) -> None:
        """A page of each. One engine of the fleet does it."""
        first = self._partitions.all[numbers[0]]
        if not first.takeover.is_first():
            return
        cursors = self._cursors.setdefault(tuple(numbers), {})
        if len(self._cursors) > 1000:  # slots move, and the masters with them
            self._cursors = {tuple(numbers): cursors}
        for number, page in self._by_partition(await self._page(first, cursors, self._lists, b"list")).items():
            await self._partitions.all[number].checking.check_lists(page)
        here = [self._partitions.all[number] for number in numbers]
        if any(partition.log_retention.wants_names for partition in here):
            for number, page in self._by_partition(await self._page(first, cursors, self._logs, b"stream")).items():
                self._partitions.all[number].log_retention.add(page)
            if cursors[self._logs] == b"0":
                for partition in here:
                    partition.log_retention.went_through()

    @staticmethod
    async def _page(first: RedisAdapter, cursors: dict[bytes, bytes], pattern: bytes, kind: bytes) -> list[bytes]:
        words = (b"SCAN", cursors.get(pattern, b"0"), b"MATCH", pattern, b"COUNT", b"%d" % KEYS_PER_STEP, b"TYPE", kind)
        cursors[pattern], page = await first.send(*words)
        return list(page)

    def _by_partition(self, names: list[bytes]) -> dict[int, list[bytes]]:
        found: dict[int, list[bytes]] = {}
        for name in names:
            tag, ends, _ = name.partition(b"}:")
            number = self._numbers.get(tag + ends)
            if number is not None:
                found.setdefault(number, []).append(name)
        return found
