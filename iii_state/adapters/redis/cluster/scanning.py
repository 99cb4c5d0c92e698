"""Going through the keys of a cluster for scopes: those of each master once, for all of the partitions that lie there.

Scopes are looked for as `keyspace/scopes.py` does it on a single Redis. What a stock engine has written, without a hash tag, is not
seen here: it is said once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol, TypeVar

from iii_state.adapters.redis.cluster.partitions import Partitions
from iii_state.adapters.redis.keyspace.scan import KEYS_PER_STEP
from iii_state.adapters.redis.keyspace.scopes import PAUSE_SECONDS, STEP_SECONDS, Scopes
from iii_state.errors import StoreError
from iii_state.tasks.background import Background

logger = logging.getLogger(__name__)

Masters = Callable[[], list[list[int]]]
"""The partitions of each master, as far as is known."""


class Scanned(Protocol):
    """A partition, as far as its keys are gone through."""

    scopes: Scopes

    @property
    def place(self) -> str: ...

    def send(self, *words: bytes) -> asyncio.Future[Any]: ...


S = TypeVar("S", bound=Scanned)


class ScopeScan:
    """Scans, by commands that any partition's connection takes to its master."""

    def __init__(self, partitions: Partitions[S], masters: Masters, tags: tuple[bytes, ...]) -> None:
        self._partitions: Partitions[Any] = partitions
        self._masters = masters
        self._numbers = {tag: number for number, tag in enumerate(tags)}
        self._first: asyncio.Task[None] | None = None
        self._has_warned = False
        self._background = Background()

    def start(self) -> None:
        """Begin to scan in the background."""
        self._background.start(self._scan_for_ever(), "iii-state scan of a cluster for scopes")

    async def stop(self) -> None:
        """Stop scanning."""
        await self._background.stop()

    async def first(self) -> None:
        """Look at every key, where that has never been done; who asks meanwhile waits for the same."""
        if self._first is None or self._first.done():
            self._first = self._background.call(self.scan())
        await asyncio.shield(self._first)

    async def scan(self) -> None:
        """Look at every key of all masters, at once. Raises `StoreError` where a partition has none."""
        found = self._masters()
        lacking = set(range(len(self._partitions))) - {number for numbers in found for number in numbers}
        if lacking:
            raise self._partitions.failed({number: StoreError("no node serves its slot") for number in sorted(lacking)})
        await asyncio.gather(*(self._scan(numbers, 0) for numbers in found))

    async def _scan_for_ever(self) -> None:
        while True:
            for numbers in self._masters():
                scopes: Scopes = self._partitions.all[numbers[0]].scopes
                try:
                    if await scopes.begin_scan():
                        await self._scan(numbers, STEP_SECONDS)
                        await scopes.ended_scan()
                except StoreError as error:
                    logger.debug("the scan for scopes of other programs was interrupted: %s", error)
                except Exception:
                    logger.exception("the scan for scopes of other programs has failed")
            await asyncio.sleep(PAUSE_SECONDS / 2)

    async def _scan(self, numbers: list[int], pause: float) -> None:
        first, steps = self._partitions.all[numbers[0]], 0
        async for names in _pages(first):
            found: dict[int, list[bytes]] = {}
            for name in names:
                tag, ends, rest = name.partition(b"}:")
                number = self._numbers.get(tag + ends)
                if number is not None and rest.startswith(b"state:"):
                    found.setdefault(number, []).append(name)
                elif name.startswith(b"state:"):
                    self._warn_of(name, first.place)
            await asyncio.gather(*(self._partitions.all[number].scopes.add(part) for number, part in found.items()))
            steps += 1
            if pause:
                if steps % 100 == 0:
                    await first.scopes.go_on_scanning()
                await asyncio.sleep(pause)
        await asyncio.gather(*(self._partitions.all[number].scopes.were_scanned() for number in numbers))

    def _warn_of(self, name: bytes, place: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "the Redis Cluster at %s holds %r, which has no hash tag: a stock engine, or another program, has written it. It "
                "is not seen here; write it through an engine, if it is wanted",
                *(place, name[:200]),
            )


async def _pages(partition: Scanned) -> AsyncIterator[list[bytes]]:
    """The names of all hashes of a master that may hold values, page by page."""
    cursor = b"0"
    while True:
        words = (b"SCAN", cursor, b"MATCH", b"*state:*", b"COUNT", b"%d" % KEYS_PER_STEP, b"TYPE", b"hash")
        cursor, page = await partition.send(*words)
        yield page
        if cursor == b"0":
            return
