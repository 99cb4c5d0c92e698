"""Nodes that die, stop, or are slow: only their partitions wait, and a replica that takes over is found at once."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack

import pytest

from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.cluster.cluster import Cluster
from iii_state.errors import NoAnswer, OutcomeUnknown, StoreError
from iii_state.sessions import Request
from tests.support.redis.nodes import Node, Nodes
from tests.support.redis.partitions import Partition, partitions_on, tag_of
from tests.support.redis.proxy import proxy_to
from tests.support.redis.server import default_version
from tests.support.redis.stores_in_clusters import store_on
from tests.support.waiting import until

SLOTS = [128, 4224, 8320, 12416]
"""Of four partitions; the first two lie at one node, each of the others at another."""

are_announced = pytest.mark.skipif(
    default_version() < (7, 0), reason="nodes announce names, and other ports while they run, since Redis 7.0"
)


class Counting:
    """Increments of counters in all partitions, and what became of them."""

    def __init__(self, partitions: list[Partition]) -> None:
        self.made = dict.fromkeys(partitions, 0)
        self.unknown = dict.fromkeys(partitions, 0)
        self.failures: list[str] = []
        self.stopped = asyncio.Event()

    async def increment(self, partition: Partition, key: str) -> None:
        while not self.stopped.is_set():
            try:
                await partition.increment(key)
            except OutcomeUnknown:
                self.unknown[partition] += 1
            except StoreError as error:
                self.failures.append(str(error))
            else:
                self.made[partition] += 1


async def until_replicated(node: Node, slot: int) -> None:
    """Wait until the replica of a master has all that was written there; one that has just been attached takes a second."""

    def is_replicated() -> bool:
        with node.client.client() as connection:  # WAIT is about what was written over the same one
            connection.set(tag_of(slot) + b":written", 1)
            return bool(connection.wait(1, 1000) >= 1)

    await until(lambda: asyncio.to_thread(is_replicated))


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_a_replica_that_takes_over_is_found_and_every_outcome_is_known_or_said_to_be_unknown(nodes: Nodes, how: str) -> None:
    # With such a timeout nothing but the promotion itself has the connections to a silent master ended.
    async with partitions_on(nodes.url, SLOTS, call_timeout_ms=600_000) as (_, partitions):
        counting = Counting(partitions)
        nodes.set_timeout()
        shard = nodes.shard_of(SLOTS[0])
        old = nodes.master(shard)
        await until_replicated(old, SLOTS[0])
        async with asyncio.TaskGroup() as group:
            for partition in partitions:
                for number in range(4):
                    group.create_task(counting.increment(partition, f"k{number}"))
            await until(lambda: min(counting.made.values()) > 100)
            await asyncio.to_thread(old.kill if how == "killed" else old.pause)
            before = dict(counting.made)
            promoted = await asyncio.to_thread(nodes.wait_for_takeover, shard, old)
            await until(
                lambda: all(counting.made[each] > before[each] + 100 for each in partitions), lambda: str(counting.failures)
            )
            counting.stopped.set()
        assert counting.failures == []
        for partition in partitions:
            held = sum([await partition.count(f"k{number}") for number in range(4)])
            made, unknown = counting.made[partition], counting.unknown[partition]
            if partition.slot in SLOTS[:2]:
                # What the old master had not passed on is lost with it: asynchronous replication. Nothing is made twice.
                assert made - 400 <= held <= made + unknown
                assert partition.connection.is_up
            else:
                assert (held, unknown, partition.connection.traffic().reconnects) == (made, 0, 0)
        assert promoted.client.info("clients")["connected_clients"] >= 1


async def test_writes_in_flight_that_were_replicated_are_recognised_by_the_replica_that_takes_over(nodes: Nodes) -> None:
    async with partitions_on(nodes.url, SLOTS[:1], call_timeout_ms=60_000) as (_, (partition,)):
        shard = nodes.shard_of(SLOTS[0])
        old = nodes.master(shard)
        for _ in range(20):
            await partition.increment()
        await until_replicated(old, SLOTS[0])
        nodes.set_timeout()
        await asyncio.to_thread(old.kill)
        calls = [partition.increment() for _ in range(50)]
        results = await asyncio.gather(*calls)
        assert [b"%d" % number in (updated.new or b"") for number, updated in enumerate(results, 21)] == [True] * 50
        assert await partition.count() == 70


async def test_a_failover_by_order_loses_nothing_and_missing_scripts_are_no_error(nodes: Nodes) -> None:
    nodes.set_timeout()  # masters vote for one replica of a master in twice that time
    async with partitions_on(nodes.url, SLOTS) as (_, partitions):
        counting = Counting(partitions)
        shard = nodes.shard_of(SLOTS[0])
        async with asyncio.TaskGroup() as group:
            for partition in partitions:
                group.create_task(counting.increment(partition, "k"))
            await until(lambda: min(counting.made.values()) > 20)
            nodes.replica(shard).client.script_flush()
            await asyncio.to_thread(nodes.fail_over, shard)
            before = dict(counting.made)
            await until(lambda: all(counting.made[each] > before[each] + 50 for each in partitions))
            counting.stopped.set()
        assert counting.failures == []
        for partition in partitions:
            assert (await partition.count(), counting.unknown[partition]) == (counting.made[partition], 0)


async def test_a_call_with_a_request_id_is_made_once_across_a_failover(nodes: Nodes) -> None:
    nodes.set_timeout()  # the shard is another than in the tests before, in which its masters have voted
    async with partitions_on(nodes.url, SLOTS[2:3]) as (_, (partition,)):
        await partition.connection.send(b"HSET", partition.keys.session(b"caller:c"), b"epoch", b"1")
        shard = nodes.shard_of(SLOTS[2])
        await partition.increment(request=Request("c", 1, 0, 1))
        failing_over = asyncio.create_task(asyncio.to_thread(nodes.fail_over, shard))
        number = 1
        while not failing_over.done():
            number += 1
            await partition.increment(request=Request("c", 1, 0, number))
        await failing_over
        assert await partition.increment(request=Request("c", 1, 0, number)) is not None  # again: recognised
        assert await partition.count() == number


async def test_scripts_that_a_node_has_lost_are_loaded_again(nodes: Nodes) -> None:
    async with partitions_on(nodes.url, SLOTS) as (_, partitions):
        await asyncio.gather(*(partition.increment() for partition in partitions))
        for master in nodes.masters():
            master.client.script_flush()
        await asyncio.gather(*(partition.increment() for partition in partitions for _ in range(10)))
        assert [await partition.count() for partition in partitions] == [11] * 4


@are_announced
async def test_a_node_that_is_slow_delays_only_its_partitions(own_nodes: Nodes) -> None:
    async with AsyncExitStack() as stack:
        slow = own_nodes.master(own_nodes.shard_of(SLOTS[0]))
        proxy = await stack.enter_async_context(proxy_to(slow.port))
        slow.client.config_set("cluster-announce-port", proxy.port)
        await until(lambda: all(str(proxy.port) in str(node.client.execute_command("CLUSTER SLOTS")) for node in own_nodes.nodes))
        seed = own_nodes.master(own_nodes.shard_of(SLOTS[2]))
        _, partitions = await stack.enter_async_context(partitions_on(seed.url, SLOTS, call_timeout_ms=60_000))
        await asyncio.gather(*(partition.increment() for partition in partitions))
        proxy.hold = True
        held = [partition.increment() for partition in partitions[:2]]
        for _ in range(200):
            await asyncio.gather(*(partition.increment() for partition in partitions[2:]))
        assert not any(call.done() for call in held)
        assert [partition.connection.is_up for partition in partitions] == [True] * 4
        proxy.hold = False
        proxy.cut_all()
        await asyncio.gather(*held)
        assert [await partition.count() for partition in partitions] == [2, 2, 201, 201]


async def test_a_cluster_that_is_down_holds_calls_and_says_so(nodes: Nodes) -> None:
    """A master without a replica that could take over dies: no node takes calls, until it is back."""
    async with partitions_on(nodes.url, SLOTS, call_timeout_ms=3000) as (cluster, partitions):
        await asyncio.gather(*(partition.increment() for partition in partitions))
        shard = nodes.shard_of(SLOTS[0])
        replica = nodes.replica(shard)
        await asyncio.to_thread(replica.kill)
        nodes.set_timeout()
        await asyncio.to_thread(nodes.master(shard).kill)
        await until(lambda: "is down" in cluster.trouble)
        with pytest.raises(
            NoAnswer, match=r"the Redis Cluster is down, says Redis at .*; given up after 3000 ms; nothing was changed"
        ):
            await partitions[2].increment()
        with pytest.raises(NoAnswer, match=r"nobody listens there .*; given up after 3000 ms; nothing was changed"):
            await partitions[0].increment()
        with pytest.raises(StoreError, match=r"down|nobody listens"):
            async with partitions_on(nodes.url, SLOTS, call_timeout_ms=1000):
                pass
        waiting = [partition.increment() for partition in partitions]
        await asyncio.to_thread(nodes.revive)
        await asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.gather(*(partition.increment() for partition in partitions))
        assert not cluster.trouble


async def test_a_node_that_refuses_the_password_stops_only_its_partitions(own_nodes: Nodes) -> None:
    for node in own_nodes.nodes:
        node.client.config_set("masterauth", "secret")
    odd = own_nodes.master(own_nodes.shard_of(SLOTS[2]))
    odd.client.config_set("requirepass", "other")
    async with AsyncExitStack() as stack:
        cluster = Cluster(Address.parse(own_nodes.url))
        await cluster.start()
        stack.push_async_callback(cluster.stop)
        partitions = [Partition(cluster, slot) for slot in SLOTS]
        for partition in (partitions[0], partitions[1], partitions[3]):
            await partition.start()
            stack.push_async_callback(partition.connection.stop)
            await partition.increment()
        with pytest.raises(StoreError, match=rf"Redis at 127\.0\.0\.1:{odd.port} asks for a password; give it in redis_url"):
            await partitions[2].start()
    odd.client.execute_command("AUTH", "other")
    odd.client.config_set("requirepass", "")


async def test_a_seed_that_is_away_and_one_that_says_nothing_are_passed_over(nodes: Nodes) -> None:
    gone, silent = nodes.replica(nodes.shards[0]), nodes.replica(nodes.shards[1])
    await asyncio.to_thread(gone.kill)
    await asyncio.to_thread(silent.pause)
    url = f"redis://127.0.0.1:{gone.port},127.0.0.1:{silent.port},127.0.0.1:{nodes.masters()[2].port}"
    async with partitions_on(url, SLOTS) as (_, partitions):
        await asyncio.gather(*(partition.increment() for partition in partitions))
    with pytest.raises(StoreError, match=r"refused: nobody listens there .*; Redis at .* has not answered within 1 s"):
        async with partitions_on(f"redis://127.0.0.1:{gone.port},127.0.0.1:{silent.port}", SLOTS):
            pass


@are_announced
async def test_nodes_are_known_by_the_names_that_they_announce(own_nodes: Nodes) -> None:
    for node in own_nodes.nodes:
        node.client.config_set("cluster-announce-hostname", "localhost")
        node.client.config_set("cluster-preferred-endpoint-type", "hostname")
    await until(lambda: all(str(node.client.execute_command("CLUSTER SLOTS")).count("localhost") >= 6 for node in own_nodes.nodes))
    async with partitions_on(own_nodes.url, SLOTS) as (cluster, partitions):
        await asyncio.gather(*(partition.increment() for partition in partitions))
        assert {server.host for server in cluster.servers} == {"localhost"}
        target = next(shard for shard in own_nodes.shards if shard is not own_nodes.shard_of(SLOTS[0]))
        await asyncio.to_thread(own_nodes.move, SLOTS[0], target, 1000)
        await partitions[0].increment()
        assert await partitions[0].count() == 2


@are_announced
async def test_a_node_that_is_to_be_known_by_name_and_has_none_is_reached_at_its_address(own_nodes: Nodes) -> None:
    async with partitions_on(own_nodes.url, SLOTS) as (cluster, partitions):
        for node in own_nodes.nodes:
            node.client.config_set("cluster-preferred-endpoint-type", "hostname")
        assert own_nodes.nodes[0].client.execute_command("CLUSTER SLOTS")[0][2][0] == b"?"
        target = next(shard for shard in own_nodes.shards if shard is not own_nodes.shard_of(SLOTS[0]))
        await asyncio.to_thread(own_nodes.move, SLOTS[0], target, 1000)
        await asyncio.gather(*(partition.increment() for partition in partitions))
        assert {server.host for server in cluster.servers} == {"127.0.0.1"}


async def test_what_all_partitions_of_a_node_have_to_say_is_one_line(own_nodes: Nodes, caplog: pytest.LogCaptureFixture) -> None:
    async with partitions_on(own_nodes.url, SLOTS) as (_, partitions):
        for partition in partitions:
            await partition.increment("k")
        caplog.clear()
        own_nodes.master(own_nodes.shard_of(SLOTS[0])).kill()
        await until(lambda: all("refused" in partition.connection.trouble for partition in partitions[:2]))
        said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert [words.partition("; ")[2] for words in said if "connecting again" in words] == [
            "0 calls of 2 partitions were on it; connecting again"
        ]
        assert len([words for words in said if "refused" in words]) == 1


async def test_nodes_of_which_only_some_are_asked_each_time_are_not_told_of_each_time(
    own_nodes: Nodes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iii_state.adapters.redis.connection.cluster.cluster.ASKED_AT_ONCE", 2)
    monkeypatch.setattr("iii_state.tasks.repeats.SECONDS", 1000.0)
    async with partitions_on(own_nodes.url, SLOTS) as (cluster, _):
        for node in own_nodes.nodes:
            node.kill()
        told = set[str]()

        def are_different() -> bool:
            told.add(cluster.trouble)
            return len(told) > 2

        await until(are_different)
        assert caplog.text.count("serves which slot cannot be seen") == 1


async def test_what_all_partitions_say_of_heartbeats_and_of_an_engine_that_is_gone_is_one_line(
    own_nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    async with store_on(own_nodes.url, heartbeat_ttl_ms=600, call_timeout_ms=500) as adapter:
        node = own_nodes.master(own_nodes.shard_of(SLOTS[0]))
        lying_there = [partition for partition in adapter._partitions.all if str(node.port) in partition.place]
        assert len(lying_there) > 1
        for partition in adapter._partitions.all:
            await partition.send(b"HSET", partition._shared.keys.engines, b"dead%d" % id(partition), b"1 1")
        await until(lambda: "is gone; its work is taken over" in caplog.text)
        await asyncio.to_thread(node.pause)
        await until(lambda: "no heartbeat" in caplog.text)
        await until(lambda: all(partition.absence() for partition in lying_there))
        said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        node.resume()
        for part in ("is gone; its work", "no heartbeat"):
            assert len({words for words in said if part in words}) == len([words for words in said if part in words])
        assert len([words for words in said if "is gone; its work" in words]) == 1
