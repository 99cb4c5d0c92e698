"""The cluster that tests start does what clusters do: it moves slots, fails over, grows and shrinks, and loses nothing by it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from tests.support.redis.nodes import Nodes, cluster_nodes
from tests.support.redis.server import binary
from tests.support.slow import slow

KEYS = [f"{{iii}}:{number}" for number in range(50)]
SLOT = key_slot(b"iii")


@pytest.fixture(scope="module", params=["7", slow("valkey"), slow("6.2")])
def nodes(request: pytest.FixtureRequest) -> Iterator[Nodes]:
    with cluster_nodes(executable=binary(request.param)) as running:
        yield running


@pytest.fixture
def client(nodes: Nodes) -> Any:
    nodes.empty()
    client = nodes.client()
    for key in KEYS:
        client.set(key, key)
    return client


def everything(client: Any) -> list[str]:
    return [str(client.get(key), "ascii") for key in KEYS]


def test_a_slot_is_moved_in_steps_and_answers_as_it_does_meanwhile(nodes: Nodes, client: Any) -> None:
    source = nodes.shard_of(SLOT)
    target = next(shard for shard in nodes.shards if shard is not source)
    raw = nodes.master(source).client
    with nodes.moving(SLOT, target) as move:
        assert move.step(10) == 10
        replies = set()
        for one, other in itertools.pairwise(KEYS):
            try:
                raw.execute_command("MGET", one, other)
                replies.add("both")
            except redis.ResponseError as error:
                replies.add(type(error).__name__)
        assert replies | {"TryAgainError"} == {"both", "AskError", "TryAgainError"}  # 6.2 answers ASK for what is at both, too
    with pytest.raises(redis.exceptions.MovedError):
        raw.execute_command("GET", KEYS[0])
    assert nodes.shard_of(KEYS[0]) is target
    assert everything(client) == KEYS


def test_a_replica_takes_over_from_a_master_that_is_told_to_that_is_killed_and_that_is_stopped(nodes: Nodes, client: Any) -> None:
    shard = nodes.shard_of(SLOT)
    master = nodes.master(shard)
    promoted = nodes.fail_over(shard)
    assert nodes.master(shard) is promoted is not master
    nodes.wait_until_whole()
    nodes.set_timeout()
    promoted.kill()
    assert nodes.wait_for_takeover(shard, promoted) is master
    nodes.revive()
    master.pause()
    assert nodes.wait_for_takeover(shard, master) is promoted
    nodes.revive()
    assert nodes.master(shard) is promoted
    assert everything(client) == KEYS


def test_a_shard_is_added_filled_emptied_and_removed(nodes: Nodes, client: Any) -> None:
    before = list(nodes.shards)
    added = nodes.add_shard()
    nodes.move(SLOT, added)
    assert nodes.slots_of(added) == [SLOT]
    assert everything(client) == KEYS
    nodes.vacate(added)
    nodes.remove_shard(added)
    assert nodes.shards == before
    assert sorted(slot for shard in nodes.shards for slot in nodes.slots_of(shard)) == list(range(16_384))
    assert everything(client) == KEYS


@slow
def test_valkey_moves_a_slot_at_once() -> None:
    with cluster_nodes(executable=binary("valkey"), replicas=0) as nodes:
        client = nodes.client()
        for key in KEYS:
            client.set(key, key)
        target = next(shard for shard in nodes.shards if shard is not nodes.shard_of(SLOT))
        nodes.move_at_once(SLOT, SLOT, target)
        assert nodes.shard_of(SLOT) is target
        assert everything(client) == KEYS
