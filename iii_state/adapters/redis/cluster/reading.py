"""Looking at a store in a cluster without being one of its engines: its values, its queues and dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from iii_state.adapters.base import Entries
from iii_state.adapters.redis.admin import RedisAdmin
from iii_state.adapters.redis.cluster.admin import ClusterAdmin
from iii_state.adapters.redis.cluster.layout import Layout
from iii_state.adapters.redis.cluster.nodes import Nodes, asked
from iii_state.adapters.redis.cluster.partitions import AT_ONCE, Partitions
from iii_state.adapters.redis.cluster.scanning import ScopeScan
from iii_state.adapters.redis.cluster.store_id import store_of
from iii_state.adapters.redis.cluster.tags import slot_of, tags
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.pace import pace_of
from iii_state.adapters.redis.reading import RedisReader
from iii_state.adapters.redis.scripts.loader import PARTED, SHARDED
from iii_state.adapters.redis.shared import Shared
from iii_state.errors import StoreError
from iii_state.events import QueueLimits


class PartReader:
    """The values of one partition."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self.values = RedisReader(shared)
        self.scopes = self.values.index

    @property
    def place(self) -> str:
        """Where it lies, for people."""
        return str(self._shared.connection.place)

    def send(self, *words: bytes) -> asyncio.Future[Any]:
        """Send one command to the server on which it lies."""
        return self._shared.connection.send(*words)


class ClusterReader:
    """The values in a cluster. There are none where no engine has ever begun there."""

    def __init__(self, address: str, partitions: Partitions[PartReader], scan: ScopeScan | None) -> None:
        self.address = address
        self._partitions = partitions
        self._scan = scan

    @property
    def store(self) -> str | None:
        """The id of what is stored there."""
        return store_of([partition.values.store for partition in self._partitions.all])

    @property
    def has_foreign_writes(self) -> bool:
        """Whether its engines have agreed on watching the writes of other programs."""
        return any(partition.values.has_foreign_writes for partition in self._partitions.all)

    async def scopes(self) -> list[str]:
        """The scopes that have a key, those of other programs included, where these have put them into a partition."""
        if self._scan is None:
            return []
        await self._scan.scan()
        found = await self._partitions.gather(lambda partition: partition.scopes.all(), at_once=AT_ONCE)
        return [scope for part in found for scope in part]

    async def count(self, scopes: Sequence[str]) -> int:
        """How many values these scopes hold."""
        by_partition: dict[PartReader, list[str]] = {}
        for scope in scopes:
            by_partition.setdefault(self._partitions.of(scope), []).append(scope)
        return sum(await asyncio.gather(*(partition.values.count(part) for partition, part in by_partition.items())))

    def pages(self, scope: str) -> AsyncIterator[Entries]:
        """Keys and stored texts of a scope, and their deadlines, page by page."""
        return self._partitions.of(scope).values.pages(scope)


@asynccontextmanager
async def cluster_reading(nodes: Nodes, prefix: str) -> AsyncIterator[ClusterReader]:
    """Read a cluster. Raises `StoreError` in words."""
    async with cluster_partitions(nodes, prefix) as (parts, slots):
        await asyncio.gather(*(_read_on(shared) for shared in parts))
        partitions = Partitions([PartReader(shared) for shared in parts])
        scan = ScopeScan(partitions, partial(nodes.masters, slots), tags(len(parts))) if parts else None
        try:
            yield ClusterReader(str(nodes.address), partitions, scan)
        finally:
            if scan is not None:
                await scan.stop()


async def _read_on(shared: Shared) -> None:
    await shared.store.read()
    await shared.fanout.read()


@asynccontextmanager
async def cluster_inspection(nodes: Nodes, prefix: str) -> AsyncIterator[ClusterAdmin]:
    """Look at the queues of a cluster. Raises `StoreError` in words, also where no engine has ever begun there."""
    async with cluster_partitions(nodes, prefix) as (parts, _):
        if not parts:
            raise StoreError(f"the Redis Cluster at {nodes.address} holds nothing of iii-state under the prefix {prefix}")
        yield ClusterAdmin(Partitions([RedisAdmin(shared.keys, shared.connection, QueueLimits()) for shared in parts]))


async def is_sharded(nodes: Nodes, prefix: str) -> bool:
    """Whether what is published there is sharded, or would be if an engine began now. Raises `StoreError` in words."""
    held = await asked(nodes, Keys(prefix.encode()).format, b"GET", Keys(prefix.encode()).format)
    return await nodes.can_shard() if held is None else Layout.read(held, str(nodes.address)).is_sharded


@asynccontextmanager
async def cluster_partitions(nodes: Nodes, prefix: str) -> AsyncIterator[tuple[list[Shared], list[int]]]:
    """The partitions that there are, each with its connection, and their slots; none where no engine has ever begun there."""
    async with AsyncExitStack() as stack:
        await nodes.start()
        stack.push_async_callback(nodes.stop)
        held = await asked(nodes, Keys(prefix.encode()).format, b"GET", Keys(prefix.encode()).format)
        if held is None:
            yield [], []
            return
        layout = Layout.read(held, str(nodes.address))
        scripts = SHARDED if layout.is_sharded else PARTED
        slots = [slot_of(tag) for tag in tags(layout.partitions)]
        parts: list[Shared] = []
        for tag, slot in zip(tags(layout.partitions), slots, strict=True):
            keys = Keys(prefix.encode(), tag)
            connection = nodes.connection(slot, keys, scripts)
            stack.push_async_callback(connection.stop)
            parts.append(Shared.over(keys, connection, nodes.pubsub(slot), QueueLimits(), pace=pace_of(layout.partitions)))
            stack.push_async_callback(parts[-1].background.stop)
        await asyncio.gather(*(shared.connection.start() for shared in parts))
        yield parts, slots
