"""What a store in a cluster needs of the way to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from hiredis import ReplyError

from iii_state.adapters.redis.cluster.tags import slot_of
from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.connection import RedisConnection
from iii_state.adapters.redis.connection.explain import explain
from iii_state.adapters.redis.connection.pubsub import Listens
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.scripts.loader import Scripts
from iii_state.errors import StoreError


class Nodes(Protocol):
    """The servers on which the partitions lie."""

    @property
    def address(self) -> Address:
        """What the configuration names, for people."""
        ...

    async def start(self) -> None:
        """Find the servers. Raises `StoreError` in words."""
        ...

    async def stop(self) -> None:
        """Let go of them."""
        ...

    async def can_shard(self) -> bool:
        """Whether all of them have sharded channels (Redis 7.0)."""
        ...

    async def ask(self, slot: int, *commands: Sequence[bytes]) -> list[Any]:
        """Ask the server that has a slot, over a connection of its own; error replies included. Raises `StoreError`."""
        ...

    def connection(self, slot: int, keys: Keys, scripts: Scripts) -> RedisConnection:
        """The connection of a partition, which follows its slot; not open yet."""
        ...

    def pubsub(self, slot: int) -> Listens:
        """What a partition listens with; not open yet."""
        ...

    def masters(self, slots: Sequence[int]) -> list[list[int]]:
        """The places of these slots in the list, together those that one server has."""
        ...


async def asked(nodes: Nodes, key: bytes, *words: bytes) -> bytes | None:
    """The reply to one command about a key that belongs to no partition. Raises `StoreError` in words."""
    (reply,) = await nodes.ask(slot_of(key), words)
    if isinstance(reply, ReplyError):
        raise StoreError(explain(nodes.address, str(reply)))
    return reply if isinstance(reply, bytes) else None
