"""A node that leaves the cluster and joins another one, as an address does that is given to another machine: it is not followed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.cluster.cluster import Cluster
from iii_state.adapters.redis.connection.cluster.topology import Topology
from iii_state.errors import StoreError
from tests.support.redis.nodes import Nodes
from tests.support.redis.partitions import partitions_on
from tests.support.waiting import until

SLOT = 128


@pytest.fixture
def ours() -> Iterator[Nodes]:
    """A cluster of one master, and a node more."""
    with ExitStack() as stack:
        nodes = Nodes(stack, shards=1, replicas=0)
        nodes.add_shard()
        yield nodes


@pytest.fixture
def other() -> Iterator[Nodes]:
    """Another one, with the higher epoch."""
    with ExitStack() as stack:
        nodes = Nodes(stack, shards=1, replicas=0)
        nodes.nodes[0].client.cluster("RESET", "HARD")
        nodes.nodes[0].client.cluster("SET-CONFIG-EPOCH", "1000")
        nodes.nodes[0].client.cluster("ADDSLOTS", *range(16384))
        yield nodes


async def go_over(ours: Nodes, other: Nodes) -> None:
    """Take the second node of the cluster away, and give it to the other one."""
    stayed, gone = ours.nodes
    gone.client.cluster("RESET", "HARD")
    stayed.client.cluster("FORGET", gone.id)
    gone.client.cluster("MEET", "127.0.0.1", other.nodes[0].port)
    await until(lambda: gone.client.cluster("INFO")["cluster_state"] == "ok")


async def test_a_node_that_is_in_another_cluster_by_now_does_not_lead_there(ours: Nodes, other: Nodes) -> None:
    async with partitions_on(ours.seeds, [SLOT, 4224]) as (cluster, partitions):
        await asyncio.gather(*(partition.increment() for partition in partitions))
        await go_over(ours, other)
        await asyncio.to_thread(ours.nodes[0].pause)  # only the other one answers
        waiting = [partition.increment() for partition in partitions]
        await until(lambda: "belong to another cluster: nothing is written there" in cluster.trouble)
        ours.nodes[0].resume()
        await asyncio.gather(*waiting)
        assert [await partition.count() for partition in partitions] == [2, 2]
        await until(lambda: not cluster.trouble)
    assert other.nodes[0].client.dbsize() == 0


async def test_a_node_that_has_served_the_slot_is_not_followed_into_another_cluster(ours: Nodes, other: Nodes) -> None:
    here, there = ours.shards
    await asyncio.to_thread(ours.move, SLOT, there)
    async with partitions_on(ours.seeds, [SLOT]) as (cluster, (partition,)):
        await partition.increment()
        await asyncio.to_thread(ours.move, SLOT, here)
        await go_over(ours, other)
        await asyncio.to_thread(ours.nodes[0].pause)
        waiting = partition.increment()
        await until(lambda: bool(cluster.trouble))
        ours.nodes[0].resume()
        await waiting
        assert await partition.count() == 2
    assert other.nodes[0].client.dbsize() == 0


async def test_nodes_of_different_clusters_are_refused(ours: Nodes, other: Nodes) -> None:
    url = f"{ours.nodes[0].url},127.0.0.1:{other.nodes[0].port}"
    with pytest.raises(StoreError, match="belong to different Redis Clusters: redis_url has to name nodes of one"):
        await Cluster(Address.parse(url)).start()


def test_a_cluster_is_known_by_most_of_its_nodes() -> None:
    def of(*servers: tuple[str, int]) -> Topology:
        ranges = tuple((port, port, ("host", port)) for _, port in servers)
        return Topology(ranges, frozenset(), True, 1, frozenset(id for id, _ in servers))

    known = of(("a", 1), ("b", 2), ("c", 3))
    assert of(("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)).is_of(known)  # grown
    assert of(("a", 1), ("b", 2)).is_of(known)  # shrunk
    assert of(("a", 1), ("b", 2), ("z", 9)).is_of(known)  # a node replaced
    assert of(("a", 11), ("b", 12), ("c", 13)).is_of(known)  # renamed
    assert of(("x", 1), ("y", 2), ("z", 3)).is_of(known)  # started anew
    assert not of(("a", 1)).is_of(known)
    assert not of(("a", 1), ("y", 8), ("z", 9)).is_of(known)
    assert known.is_of(Topology((), frozenset(), True, -1))
