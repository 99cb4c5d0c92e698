"""What is published in a cluster: heard at the node that serves a slot, wherever that is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from iii_state.adapters.redis.connection.carrier import Carrier
from tests.support.redis.nodes import Node, Nodes
from tests.support.redis.partitions import Partition, partitions_on
from tests.support.redis.server import default_version
from tests.support.waiting import until

SLOTS = [128, 4224, 8320, 12416]
"""Of four partitions; the first two lie at one node, each of the others at another."""

is_too_old = pytest.mark.skipif(default_version() < (7, 0), reason="sharded channels came with Redis 7.0")
sharded_or_not = pytest.mark.parametrize("sharded", [pytest.param(True, marks=is_too_old), False], ids=["sharded", "plain"])


class Heard:
    """What a partition hears; listening has begun where it has heard None."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.messages: list[tuple[bytes, bytes | None]] = []
        self.wake_up = partition.keys.stream(b"q")
        self.keyspace = b"__keyspace@0__:" + partition.values_key
        self.pattern = b"__keyspace@0__:%b*" % partition.keys.values(b"other-")

    def listen(self) -> None:
        """On a channel of wake-ups, on one key's, and on those of a pattern."""
        self.partition.pubsub.listen([self.wake_up], self.heard)
        self.partition.pubsub.listen([self.keyspace], self.heard)
        self.partition.pubsub.listen_to_all(self.pattern, self.heard)
        self.partition.pubsub.start()

    def heard(self, channel: bytes, message: bytes | None) -> None:
        self.messages.append((channel, message))

    def begun(self) -> int:
        """How often listening to each of the three has begun, at least."""
        return min(self.messages.count((name, None)) for name in (self.wake_up, self.keyspace, self.pattern))

    def came(self, channel: bytes, message: bytes) -> bool:
        return (channel, message) in self.messages

    async def hears(self, word: bytes) -> None:
        """Cause one of each, and wait for it."""
        sent = b"SPUBLISH" if self.partition.connection.scripts.is_sharded else b"PUBLISH"
        await self.partition.connection.send(sent, self.wake_up, word)
        del self.messages[:]
        await self.partition.connection.send(b"HSET", self.partition.values_key, word, b"1")
        await self.partition.connection.send(b"HSET", self.partition.keys.values(b"other-1"), word, b"1")

        async def is_woken() -> bool:  # a node may begin to serve a slot again just now: then listening has begun once more
            await self.partition.connection.send(sent, self.wake_up, word + b"!")
            return self.came(self.wake_up, word + b"!")

        await until(is_woken)
        await until(lambda: self.came(self.keyspace, b"hset"))
        await until(lambda: self.came(b"__keyspace@0__:" + self.partition.keys.values(b"other-1"), b"hset"))


@asynccontextmanager
async def listening(nodes: Nodes, sharded: bool) -> AsyncIterator[list[Heard]]:
    for node in nodes.nodes:
        node.client.config_set("notify-keyspace-events", "KA")
    async with partitions_on(nodes.url, SLOTS, sharded=sharded) as (_, partitions):
        found = [Heard(partition) for partition in partitions]
        for heard in found:
            heard.listen()
        await until(lambda: all(heard.begun() == 1 for heard in found))
        yield found
        for partition in partitions:
            await partition.pubsub.stop()


def listeners(node: Node) -> int:
    """How many connections listen at a node."""
    return sum(client["name"] == "iii-state:bells" for client in node.client.client_list())


@sharded_or_not
async def test_one_connection_per_node_hears_for_all_partitions_there(nodes: Nodes, sharded: bool) -> None:
    async with listening(nodes, sharded) as found:
        for heard in found:
            await heard.hears(b"one")
            assert heard.begun() == 0
        assert [listeners(master) for master in nodes.masters()] == [1, 1, 1]
        if default_version() >= (7, 0):
            assert bool(nodes.masters()[0].client.execute_command("PUBSUB", "SHARDCHANNELS")) == sharded
        found[0].partition.pubsub.ignore(found[0].wake_up)
        del found[0].messages[:]
        await found[0].partition.connection.send(b"SPUBLISH" if sharded else b"PUBLISH", found[0].wake_up, b"unheard")
        await found[1].hears(b"two")
        assert not any(channel == found[0].wake_up for channel, _ in found[0].messages)


@sharded_or_not
async def test_a_slot_that_moves_takes_its_listeners_along(nodes: Nodes, sharded: bool) -> None:
    async with listening(nodes, sharded) as found:
        target = next(shard for shard in nodes.shards if shard is not nodes.shard_of(SLOTS[0]))
        del found[1].messages[:]
        await asyncio.to_thread(nodes.move, SLOTS[0], target, 1000)
        if not sharded:  # nothing tells a listener; the next call does
            await found[0].partition.increment()
        await until(lambda: found[0].begun() == 2)
        await found[0].hears(b"moved")
        await found[1].hears(b"stayed")
        assert found[1].begun() == 0


@sharded_or_not
async def test_listening_goes_on_at_the_replica_that_takes_over(nodes: Nodes, sharded: bool) -> None:
    async with listening(nodes, sharded) as found:
        shard = nodes.shard_of(SLOTS[0])
        old = nodes.master(shard)
        nodes.set_timeout()
        await asyncio.to_thread(old.kill)
        await asyncio.to_thread(nodes.wait_for_takeover, shard, old)
        await until(lambda: all(heard.begun() >= 2 for heard in found[:2]))
        for heard in found:
            await heard.hears(b"promoted")
        assert found[2].begun() == 0


async def test_one_of_the_partitions_prepares_each_new_connection(nodes: Nodes) -> None:
    prepared: list[int] = []

    def preparing(partition: Partition) -> None:
        async def prepare(carrier: Carrier) -> None:
            prepared.append(partition.slot)

        partition.pubsub.prepare = prepare

    async with partitions_on(nodes.url, SLOTS) as (_, partitions):
        for partition in partitions:
            preparing(partition)
            partition.pubsub.listen([partition.keys.stream(b"q")], lambda channel, message: None)
            partition.pubsub.start()
        await until(lambda: len(prepared) == 3)
        nodes.masters()[0].client.client_kill_filter(_type="pubsub")
        await until(lambda: len(prepared) == 4)
        assert (sorted(prepared[:3]), prepared[3]) == ([128, 8320, 12416], 128)
        await partitions[0].pubsub.stop()
        nodes.masters()[0].client.client_kill_filter(_type="pubsub")
        await until(lambda: len(prepared) == 5)
        assert prepared[4] == 4224
