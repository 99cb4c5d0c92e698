"""A store in Redis as a move sees it: its parts, how it is laid out, and whether engines run on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from hiredis import ReplyError

from iii_state.adapters.redis.cluster.layout import Layout
from iii_state.adapters.redis.cluster.partitions import ranges
from iii_state.adapters.redis.cluster.tags import partition_of, slot_of, tags
from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.cluster.cluster import Cluster
from iii_state.adapters.redis.connection.explain import explain
from iii_state.adapters.redis.connection.primary import Primary
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.opening import cluster_of, is_parted
from iii_state.config import RedisSettings
from iii_state.config.settings import PARTITIONS
from iii_state.errors import ConfigError, TransferError
from iii_state.transfer.moving.part import Part


class PartedStore:
    """A store and its parts, open. A single Redis is one part.

    Args:
        layout: of a cluster; None for a single Redis.
        cluster: None for a single Redis.
    """

    def __init__(self, address: Address, prefix: bytes, layout: Layout | None, cluster: Cluster | None) -> None:
        self.address = address
        self.layout = layout
        self._whole = Keys(prefix)
        self._cluster = cluster
        self._slots: list[int] = []
        if cluster is None or layout is None:
            self.parts = [Part(0, self._whole, Primary(address))]
        else:
            names = tags(layout.partitions)
            self._slots = [slot_of(tag) for tag in names]
            primaries = [cluster.primary(slot) for slot in self._slots]
            self.parts = [
                Part(number, Keys(prefix, tag), primary) for number, (tag, primary) in enumerate(zip(names, primaries, strict=True))
            ]

    @property
    def name(self) -> str:
        """Where that is, for people."""
        return f"Redis{' Cluster' if self.layout is not None else ''} at {self.address}"

    @property
    def format_key(self) -> bytes:
        """The key that says how all of it is laid out, or, while it is being moved here, that it is."""
        return self._whole.format

    def of(self, scope: bytes) -> Part:
        """The part of a scope."""
        return self.parts[partition_of(scope, len(self.parts))]

    def masters(self) -> list[Part]:
        """One part at each server, for what is asked of a server."""
        if self._cluster is None:
            return self.parts
        return [self.parts[positions[0]] for positions in self._cluster.masters(self._slots)]

    async def at(self, key: bytes, *words: bytes) -> Any:
        """Send a command to where a key of no part lies, and give its reply. Raises `StoreError`."""
        if self._cluster is None:
            return await self.parts[0].ask(*words)
        (reply,) = await self._cluster.ask(slot_of(key), words)
        if isinstance(reply, ReplyError):
            raise TransferError(explain(self.address, str(reply)))
        return reply

    async def refuse_living(self) -> None:
        """Raises `TransferError` where an engine runs on it."""
        found = await asyncio.gather(*map(_living, self.parts))
        numbers = [part.number for part, names in zip(self.parts, found, strict=True) if names]
        if numbers:
            name = next(names[0] for names in found if names)
            where = f" ({ranges(numbers)})" if self.layout is not None else ""
            raise TransferError(
                f"the engine {name} runs on the {self.name}{where}: stop all engines of the fleet first. One that was killed "
                "counts as running until its heartbeat is over (heartbeat_ttl_ms)"
            )


async def _living(part: Part) -> list[str]:
    engines = await part.ask(b"HKEYS", part.keys.engines)
    held = await part.all([(b"GET", part.keys.engine(engine)) for engine in engines])
    return [name.decode("utf-8", "replace") for name in held if name is not None]


@asynccontextmanager
async def opened(settings: RedisSettings, *, wanted: int | None = None, is_target: bool = False) -> AsyncIterator[PartedStore]:
    """Open a store. Raises `StateError` in words.

    Args:
        wanted: how many partitions a cluster is to have that nothing has been moved into yet.
        is_target: whether there need be no store yet.
    """
    address = Address.parse(settings.redis_url, settings.tls)
    prefix = settings.prefix.encode()
    if not await is_parted(settings):
        if wanted is not None and is_target:
            raise ConfigError(f"--partitions is for a Redis Cluster, and Redis at {address} is a single Redis")
        store = PartedStore(address, prefix, None, None)
        async with _open(store):
            yield store
        return
    cluster = cluster_of(settings)
    await cluster.start()
    try:
        key = Keys(prefix).format
        (held,) = await cluster.ask(slot_of(key), (b"GET", key))
        layout = await _layout(cluster, held, wanted, is_target)
        store = PartedStore(address.of_cluster(), prefix, layout, cluster)
        async with _open(store):
            yield store
    finally:
        await cluster.stop()


async def _layout(cluster: Cluster, held: object, wanted: int | None, is_target: bool) -> Layout:
    if isinstance(held, bytes):
        text = held.rpartition(b": cluster ")
        found = Layout.read(b"cluster " + text[2] if is_target and text[1] else held, str(cluster.address))
        if is_target and wanted is not None and wanted != found.partitions:
            raise ConfigError(f"--partitions is {wanted}, and what has been moved there so far has {found.partitions}")
        return found
    if not is_target:
        raise TransferError(f"the Redis Cluster at {cluster.address} holds nothing of iii-state under this prefix")
    return Layout(wanted or PARTITIONS, await cluster.can_shard())


@asynccontextmanager
async def _open(store: PartedStore) -> AsyncIterator[None]:
    try:
        await asyncio.gather(*(part.open() for part in store.parts))
        yield
    finally:
        await asyncio.gather(*(part.close() for part in store.parts))
