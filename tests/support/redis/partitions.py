"""Partitions of a Redis Cluster without an adapter: the connection of each, and counted calls on them."""

from __future__ import annotations

import asyncio
import re
from binascii import crc_hqx
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from itertools import count

from iii_state.adapters.base import Updated
from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.carrier import Carrier
from iii_state.adapters.redis.connection.cluster.cluster import Cluster
from iii_state.adapters.redis.identity import EngineIdentity
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.mutations.commands import Update
from iii_state.adapters.redis.mutations.fanout import Fanout
from iii_state.adapters.redis.mutations.wake_ups import WakeUps
from iii_state.adapters.redis.scripts.loader import PARTED, SHARDED
from iii_state.events import QueueLimits
from iii_state.sessions import Request
from iii_state.values import MAX_VALUE_BYTES
from tests.support.redis.adapters import INCREMENT

SLOTS = 16384
SCOPE = "s"


@cache
def tag_of(slot: int) -> bytes:
    """A hash tag with a slot."""
    return next(b"{iii-%d}" % number for number in count() if crc_hqx(b"iii-%d" % number, 0) % SLOTS == slot)


class Partition:
    """What is reached at one slot."""

    def __init__(self, cluster: Cluster, slot: int, *, sharded: bool = False) -> None:
        self.slot = slot
        self.keys = Keys(tag=tag_of(slot))
        self.connection = cluster.connection(slot, self.keys, SHARDED if sharded else PARTED)
        self.pubsub = cluster.pubsub(slot)
        self.connection.primary.moved.connect(self.pubsub.hurry)
        wake_ups = WakeUps(self.keys, self.connection.session)
        self.fanout = Fanout(self.keys, self.connection, EngineIdentity(), wake_ups, QueueLimits())
        self.values_key = self.keys.values(SCOPE.encode())

    async def start(self, check: Callable[[Carrier], Awaitable[None]] | None = None) -> None:
        """Connect."""
        await self.connection.start(check)

    def increment(self, key: str = "k", request: Request | None = None) -> asyncio.Future[Updated]:
        """Add 1 to a counter, with a number of the connection's session or a request id."""
        return self.connection.call(Update(self.fanout, SCOPE, key, (INCREMENT, MAX_VALUE_BYTES), request, None))

    async def count(self, key: str = "k") -> int:
        """What a counter is at."""
        held = await self.connection.send(b"HGET", self.values_key, key.encode())
        return counted(held)


def counted(stored: bytes | None) -> int:
    """The number in a counter."""
    found = re.search(rb'"n":(\d+)', stored or b"")
    return int(found[1]) if found else 0


@asynccontextmanager
async def partitions_on(
    url: str, slots: Sequence[int], *, sharded: bool = False, call_timeout_ms: int = 20_000
) -> AsyncIterator[tuple[Cluster, list[Partition]]]:
    """A cluster's partitions, connected."""
    cluster = Cluster(Address.parse(url), call_timeout_ms=call_timeout_ms)
    async with asyncio.timeout(30):
        await cluster.start()
    partitions = [Partition(cluster, slot, sharded=sharded) for slot in slots]
    try:
        async with asyncio.timeout(30):
            await asyncio.gather(*(partition.start() for partition in partitions))
        yield cluster, partitions
    finally:
        async with asyncio.timeout(30):
            await asyncio.gather(*(partition.connection.stop() for partition in partitions), return_exceptions=True)
            await cluster.stop()
