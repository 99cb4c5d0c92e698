"""`wait_replicas` in a cluster: the partitions at one node share one connection on which they wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from iii_state.adapters.redis.cluster.adapter import ClusterAdapter
from iii_state.adapters.redis.opening import open_redis
from iii_state.config import RedisSettings
from iii_state.errors import NotConfirmed
from tests.support.redis.nodes import Node, Nodes
from tests.support.waiting import answer_of, until


@asynccontextmanager
async def adapter_on(nodes: Nodes, **settings: object) -> AsyncIterator[ClusterAdapter]:
    adapter = await open_redis(RedisSettings(redis_url=nodes.url, partitions=12, **settings))  # type: ignore[arg-type]
    assert isinstance(adapter, ClusterAdapter)
    async with asyncio.timeout(30):
        await adapter.start(lambda subscription_id: None)
    yield adapter
    async with asyncio.timeout(30):
        await adapter.stop()


def waiting_at(node: Node) -> int:
    return sum(client["name"] == "iii-state:replicas" for client in node.client.client_list())


async def test_writes_of_all_partitions_are_confirmed_over_one_connection_per_node(nodes: Nodes) -> None:
    async with adapter_on(nodes, wait_replicas=1, call_timeout_ms=20_000) as adapter:
        await asyncio.gather(*(answer_of(adapter.values.set(f"s{number}", "k", b"1")) for number in range(200)))
        assert [waiting_at(master) for master in nodes.masters()] == [1, 1, 1]
        waits = sum(master.client.info("commandstats")["cmdstat_wait"]["calls"] for master in nodes.masters())
        assert waits < 100


async def test_an_acknowledged_write_is_at_the_replica_that_takes_over(nodes: Nodes) -> None:
    async with adapter_on(nodes, wait_replicas=1, call_timeout_ms=60_000) as adapter:
        stopped, acknowledged = asyncio.Event(), dict[str, int]()

        async def write(scope: str) -> None:
            number = 0
            while not stopped.is_set():
                number += 1
                try:
                    await answer_of(adapter.values.set(scope, "k", b"%d" % number))
                except NotConfirmed:
                    continue
                acknowledged[scope] = number

        async with asyncio.TaskGroup() as group:
            for number in range(24):
                group.create_task(write(f"s{number}"))
            await until(lambda: len(acknowledged) == 24)
            nodes.set_timeout()
            shard = nodes.shards[0]
            old = nodes.master(shard)
            await asyncio.to_thread(old.kill)
            promoted = await asyncio.to_thread(nodes.wait_for_takeover, shard, old)
            await asyncio.to_thread(nodes.revive)
            before = dict(acknowledged)
            await until(lambda: all(acknowledged[scope] > before[scope] for scope in acknowledged))
            stopped.set()
        for scope, number in acknowledged.items():
            assert int(await answer_of(adapter.values.get(scope, "k")) or 0) >= number
        assert waiting_at(promoted) == 1


async def test_a_partition_that_moves_is_confirmed_where_it_is(nodes: Nodes) -> None:
    async with adapter_on(nodes, wait_replicas=1, call_timeout_ms=20_000) as adapter:
        for number in range(50):
            await answer_of(adapter.values.set(f"s{number}", "k", b"1"))
        slots = [
            slot
            for slot in nodes.slots_of(nodes.shards[0])
            if nodes.master(nodes.shards[0]).client.cluster("COUNTKEYSINSLOT", slot)
        ]
        for slot in slots:
            await asyncio.to_thread(nodes.move, slot, nodes.shards[1], 1000)
        for number in range(50):
            assert await answer_of(adapter.values.set(f"s{number}", "k", b"2")) == b"1"
        await until(lambda: waiting_at(nodes.masters()[0]) == 0)
        for slot in slots:
            await asyncio.to_thread(nodes.move, slot, nodes.shards[0], 1000)


async def test_what_no_replica_has_is_said_to_be_unconfirmed(nodes: Nodes) -> None:
    async with adapter_on(nodes, wait_replicas=1, call_timeout_ms=1500) as adapter:
        for shard in nodes.shards:
            await asyncio.to_thread(nodes.replica(shard).pause)
        with pytest.raises(NotConfirmed, match=r"the change was made on Redis at .*: of 1 replicas 0 have confirmed it so far"):
            await answer_of(adapter.values.set("s", "k", b"1"))
        nodes.revive()
        await until(lambda: answer_of(adapter.values.set("s", "k", b"2")))
