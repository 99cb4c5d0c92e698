"""Looking at the keys of a cluster page by page: for lists of lanes that are not counted any more, and for change logs.

What `fleet/checking.py` and `fleet/log_retention.py` do on a single Redis; the keys of each master are gone through once, for all
of the partitions that lie there.
"""

from __future__ import annotations

import asyncio
import logging
import time

from iii_state.adapters.redis.adapter import RedisAdapter
from iii_state.adapters.redis.cluster.partitions import Partitions
from iii_state.adapters.redis.cluster.scanning import Masters
from iii_state.adapters.redis.keyspace.scan import KEYS_PER_STEP, escaped
from iii_state.errors import StoreError
from iii_state.tasks.background import Background

logger = logging.getLogger(__name__)

PAGE_SECONDS = 1.5
"""A page of each master is looked at so often."""

FORGET_SECONDS = 3600
"""Where a master was gone through to is forgotten: slots move, and the masters with them."""


class PageScan:
    """One engine of the fleet does it."""

    def __init__(self, partitions: Partitions[RedisAdapter], masters: Masters, tags: tuple[bytes, ...], prefix: bytes) -> None:
        self._partitions = partitions
        self._masters = masters
        self._numbers = {tag: number for number, tag in enumerate(tags)}
        self._lists = b"{iii-*}:" + escaped(prefix) + b":wait:*"
        self._logs = b"{iii-*}:" + escaped(prefix) + b":history:*"
        self._cursors: dict[tuple[int, ...], dict[bytes, bytes]] = {}
        """Masters, by what lies there → pattern → where to go on."""
        self._forgotten = time.monotonic()
        self._background = Background()

    def start(self) -> None:
        """Begin."""
        self._background.start(self._look_for_ever(), "iii-state look at the keys of a cluster")

    async def stop(self) -> None:
        """End."""
        await self._background.stop()

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(PAGE_SECONDS)
            if time.monotonic() - self._forgotten > FORGET_SECONDS:
                self._cursors, self._forgotten = {}, time.monotonic()
            for numbers in self._masters():
                try:
                    await self._look(numbers)
                except StoreError as error:
                    logger.debug("the keys of %s could not be looked at: %s", self._partitions.all[numbers[0]].place, error)
                except Exception:
                    logger.exception("the keys of a master could not be looked at")

    async def _look(self, numbers: list[int]) -> None:
        """A page of each."""
        first = self._partitions.all[numbers[0]]
        if not first.takeover.is_first():
            return
        cursors = self._cursors.setdefault(tuple(numbers), {})
        for number, page in self._by_partition(await _page(first, cursors, self._lists, b"list")).items():
            await self._partitions.all[number].checking.check_lists(page)
        here = [self._partitions.all[number] for number in numbers]
        if any(partition.log_retention.wants_names for partition in here):
            for number, page in self._by_partition(await _page(first, cursors, self._logs, b"stream")).items():
                self._partitions.all[number].log_retention.add(page)
            if cursors[self._logs] == b"0":
                for partition in here:
                    partition.log_retention.went_through()

    def _by_partition(self, names: list[bytes]) -> dict[int, list[bytes]]:
        found: dict[int, list[bytes]] = {}
        for name in names:
            tag, ends, _ = name.partition(b"}:")
            number = self._numbers.get(tag + ends)
            if number is not None:
                found.setdefault(number, []).append(name)
        return found


async def _page(first: RedisAdapter, cursors: dict[bytes, bytes], pattern: bytes, kind: bytes) -> list[bytes]:
    words = (b"SCAN", cursors.get(pattern, b"0"), b"MATCH", pattern, b"COUNT", b"%d" % KEYS_PER_STEP, b"TYPE", kind)
    cursors[pattern], page = await first.send(*words)
    return list(page)
