"""Slots that move from node to node: no call is lost or made twice, and none overtakes another."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress

import pytest

from iii_state.adapters.base import Updated
from iii_state.adapters.redis.mutations.commands import Update
from iii_state.errors import NoAnswer
from iii_state.values import MAX_VALUE_BYTES
from iii_state.values.ops import compile_text
from tests.support.redis.nodes import Node, Nodes
from tests.support.redis.partitions import SCOPE, Partition, partitions_on
from tests.support.redis.slot_moves import SlotMove
from tests.support.waiting import until

SLOTS = [128, 4224, 8320, 12416]
"""Of four partitions; the first two lie at one node, each of the others at another."""


def append(partition: Partition, key: str, number: int) -> asyncio.Future[Updated]:
    ops = compile_text(b'[{"type":"append","path":"l","value":%d}]' % number)
    return partition.connection.call(Update(partition.fanout, SCOPE, key, (ops, MAX_VALUE_BYTES), None, None))


async def numbers_in(partition: Partition, key: str) -> list[int]:
    stored = await partition.connection.send(b"HGET", partition.values_key, key.encode())
    return [int(number) for number in re.findall(rb"\d+", stored or b"")]


async def fill(partition: Partition, keys: int = 300) -> None:
    """Keys beside those that are tested, so that a move takes its time."""
    for number in range(keys):
        await partition.connection.send(b"SET", partition.keys.session(b"filling-%d" % number), b"x" * 100)


def another(nodes: Nodes, slot: int) -> list[Node]:
    """A shard that does not serve a slot."""
    return next(shard for shard in nodes.shards if shard is not nodes.shard_of(slot))


async def test_calls_go_on_in_their_order_at_the_node_to_which_their_slot_has_moved(nodes: Nodes) -> None:
    async with partitions_on(nodes.url, SLOTS) as (cluster, partitions):
        first, second, *_ = partitions
        assert len(cluster.masters(SLOTS)) == 3
        await append(first, "k", 0)
        await asyncio.to_thread(nodes.move, first.slot, another(nodes, first.slot), 1000)
        await asyncio.gather(*(append(first, f"k{number % 3}", number) for number in range(1, 500)), append(second, "k", 1))
        for rest in range(3):
            assert await numbers_in(first, f"k{rest}") == [number for number in range(1, 500) if number % 3 == rest]
        assert first.connection.traffic().reconnects == 1
        assert second.connection.traffic().reconnects == 0
        assert [4224] not in [[SLOTS[each] for each in together] for together in cluster.masters(SLOTS) if 0 in together]


async def test_an_engine_that_starts_while_a_slot_moves_waits_for_it(nodes: Nodes) -> None:
    async with partitions_on(nodes.url, []) as (cluster, _):
        partition = Partition(cluster, SLOTS[0])
        with nodes.moving(SLOTS[0], another(nodes, SLOTS[0])):
            starting = asyncio.create_task(partition.start())
            await until(lambda: partition.connection.primary.is_moving)
        await starting
        try:
            await append(partition, "k", 1)
        finally:
            await partition.connection.stop()


async def test_a_slot_that_moves_to_and_fro_under_traffic_loses_and_repeats_nothing(nodes: Nodes) -> None:
    async with partitions_on(nodes.url, SLOTS[:2]) as (_, partitions):
        moving, staying = partitions
        await fill(moving)
        stopped, made, ordered = asyncio.Event(), dict.fromkeys(partitions, 0), 0

        async def increment(partition: Partition, key: str) -> None:
            while not stopped.is_set():
                await partition.increment(key)
                made[partition] += 1

        async def append_in_order() -> None:
            nonlocal ordered
            while not stopped.is_set():
                await asyncio.gather(*(append(moving, "order", ordered + each) for each in range(20)))
                ordered += 20

        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(increment(moving, f"k{number}"))
                group.create_task(increment(staying, f"k{number}"))
            group.create_task(append_in_order())
            for _ in range(4):
                enough = made[moving] + 50
                await asyncio.to_thread(nodes.move, moving.slot, another(nodes, moving.slot), 10)
                while made[moving] < enough:
                    await asyncio.sleep(0.002)
            stopped.set()
        for partition in partitions:
            counts = [await partition.count(f"k{number}") for number in range(8)]
            assert sum(counts) == made[partition]
        assert await numbers_in(moving, "order") == list(range(ordered))
        assert moving.connection.traffic().reconnects > 1
        assert staying.connection.traffic().reconnects == 0


async def test_calls_for_a_slot_on_its_way_are_held_and_made_in_order_when_it_has_arrived(nodes: Nodes) -> None:
    async with partitions_on(nodes.url, SLOTS[:2]) as (_, partitions):
        moving, staying = partitions
        await append(moving, "k", 0)
        move = nodes.moving(moving.slot, another(nodes, moving.slot))
        await asyncio.to_thread(move.begin)
        await asyncio.to_thread(move.step, 1)  # some keys are here, some there: TRYAGAIN
        calls = [append(moving, "k", number) for number in range(1, 200)]
        await until(lambda: moving.connection.trouble)
        assert "the slot is being moved from Redis at 127.0.0.1:" in moving.connection.trouble
        assert (await staying.increment()).new is not None
        await asyncio.to_thread(move.step, 1000)  # all keys are there: ASK
        calls += [append(moving, "k", number) for number in range(200, 300)]
        assert (await staying.increment()).new is not None
        assert not any(call.done() for call in calls)
        await asyncio.to_thread(move.finish)
        await asyncio.gather(*calls)
        assert await numbers_in(moving, "k") == list(range(300))
        assert not moving.connection.trouble


async def test_what_is_held_fails_in_words_when_its_time_is_over(nodes: Nodes) -> None:
    async with partitions_on(nodes.url, SLOTS[:1], call_timeout_ms=4000) as (_, (moving,)):
        await moving.increment()
        move = nodes.moving(moving.slot, another(nodes, moving.slot))
        await asyncio.to_thread(move.begin)
        await asyncio.to_thread(move.step, 1000)
        with pytest.raises(NoAnswer, match=r"the slot is being moved from Redis at .* given up after 4000 ms; nothing was changed"):
            await moving.increment()
        await asyncio.to_thread(move.finish)
        assert await moving.count() == 1
        await moving.increment()
        assert await moving.count() == 2


async def test_a_call_that_is_cancelled_while_it_is_held_is_not_made(nodes: Nodes) -> None:
    async with partitions_on(nodes.url, SLOTS[:1]) as (_, (moving,)):
        await moving.increment()
        move = nodes.moving(moving.slot, another(nodes, moving.slot))
        await asyncio.to_thread(move.begin)
        await asyncio.to_thread(move.step, 1000)
        given_up, kept = moving.increment(), moving.increment()
        await until(lambda: moving.connection.trouble)
        given_up.cancel()
        await asyncio.to_thread(move.finish)
        await kept
        with suppress(asyncio.CancelledError):
            await given_up
        assert await moving.count() == 2


async def test_a_connection_that_breaks_while_its_slot_is_on_its_way_comes_back_with_the_slot(nodes: Nodes) -> None:
    """The session lies at the other node already: it cannot be opened again before the slot has arrived."""
    async with partitions_on(nodes.url, SLOTS[:1]) as (_, (moving,)):
        await moving.increment()
        move = nodes.moving(moving.slot, another(nodes, moving.slot))
        await asyncio.to_thread(move.begin)
        await asyncio.to_thread(move.step, 1000)
        held = moving.increment()
        await asyncio.to_thread(move.source.client.client_kill_filter, _type="normal", skipme=True)
        await until(lambda: not moving.connection.is_up)
        await until(lambda: "is being moved" in moving.connection.trouble)
        await asyncio.to_thread(move.finish)
        await held
        assert await moving.count() == 2


async def test_no_mutation_overtakes_another_when_a_slot_begins_to_move(nodes: Nodes) -> None:
    """All of its keys are there, so the node would take it."""
    async with partitions_on(nodes.url, SLOTS[:1]) as (_, (moving,)):
        await append(moving, "k", 1)
        await append(moving, "k", 2)
        await moving.connection.send(b"SET", moving.keys.routes_version, b"0")
        await moving.connection.send(b"XADD", moving.keys.routes_log, b"*", b"k", b"v")
        source, target = (nodes.master(shard) for shard in (nodes.shard_of(moving.slot), another(nodes, moving.slot)))
        move = SlotMove(moving.slot, source, target, nodes.masters())
        move.begin()
        held = [append(moving, "k", number) for number in (3, 4, 5)]
        await until(lambda: bool(moving.connection.trouble))
        assert not any(each.done() for each in held)
        await asyncio.to_thread(move.finish)
        await asyncio.gather(*held)
        assert await numbers_in(moving, "k") == [1, 2, 3, 4, 5]
