"""A pause in a fleet: no engine takes, older engines are in its way, and what only they could break is repaired or told."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from iii_state.adapters.redis import RedisAdapter
from iii_state.adapters.redis.opening import inspection
from iii_state.config import RedisSettings
from iii_state.errors import StoreError
from iii_state.events import QueueStats, Subscription
from tests.support.redis.adapters import Open, drain
from tests.support.redis.server import RedisServer
from tests.support.stores import ALL
from tests.support.waiting import answer_of, until

EACH = msgspec.structs.replace(ALL, delivery="broadcast", retention_ms=60_000)


async def stats_of(adapter: RedisAdapter, subscription: Subscription = ALL) -> list[QueueStats]:
    return [each for each in await adapter.admin.stats() if each.subscription.id == subscription.id]


async def set_values(adapter: RedisAdapter, count: int) -> None:
    for number in range(count):
        await answer_of(adapter.values.set("s", f"k{number}", b"%d" % number))


async def test_no_engine_takes_anything_and_each_starts_nothing_that_it_has_taken(opened: Open) -> None:
    one, two = await opened(), await opened()
    for adapter in (one, two):
        await answer_of(adapter.queues.subscribe(ALL))
    await set_values(one, 6)
    taken = await answer_of(one.queues.take(ALL.id, 3))
    assert all(one.queues.holds(delivery) for delivery in taken)
    assert await two.admin.pause(ALL) == 3
    await until(lambda: not any(one.queues.holds(delivery) for delivery in taken))
    assert await answer_of(two.queues.take(ALL.id, 10)) == []
    assert await answer_of(one.queues.ack(taken[:1], 10)) == []
    await answer_of(one.queues.release(taken[1:]))
    (stats,) = await stats_of(one)
    assert (stats.waiting, stats.pending) == (5, 0)
    assert await one.admin.resume(ALL)
    assert len(await drain(two)) == 5


async def test_a_pause_that_was_not_heard_of_is_found_with_the_next_reply(opened: Open, server: RedisServer) -> None:
    adapter = await opened()
    await answer_of(adapter.queues.subscribe(ALL))
    await set_values(adapter, 3)
    taken = await answer_of(adapter.queues.take(ALL.id, 2))
    server.client.hset("iii-state:paused", ALL.id, b'0 {"function_id":"all"}')  # no wake-up tells of it
    assert await answer_of(adapter.queues.ack(taken[:1], 10)) == []
    assert not adapter.queues.holds(taken[1])


async def test_a_pause_is_of_all_queues_of_a_broadcast_also_of_later_ones(opened: Open) -> None:
    one, two = await opened(), await opened()
    await answer_of(one.queues.subscribe(EACH))
    await one.admin.pause(EACH)
    await answer_of(two.queues.subscribe(EACH))
    await set_values(one, 2)
    for adapter in (one, two):
        assert await answer_of(adapter.queues.take(EACH.id, 10)) == []
    assert [each.paused_at_ms is None for each in await stats_of(one, EACH)] == [False, False]
    assert await one.admin.purge(EACH) == 4
    await set_values(one, 1)
    await one.admin.resume(EACH)
    assert [len(await drain(adapter, EACH)) for adapter in (one, two)] == [1, 1]


async def test_a_pause_is_refused_while_an_engine_knows_of_none(opened: Open, server: RedisServer) -> None:
    adapter, older = await opened(), await opened()
    await answer_of(adapter.queues.subscribe(ALL))
    server.client.hset("iii-state:features", older._shared.engine.id, "lineages triggers.v2 triggers.pauses")
    with pytest.raises(StoreError, match="knows of no pause"):
        await adapter.admin.pause(ALL)
    await set_values(adapter, 1)
    assert len(await drain(adapter)) == 1
    await older.stop()
    await adapter.admin.pause(ALL)


async def test_engines_that_come_after_a_crash_keep_to_the_pause(opened: Open, server: RedisServer) -> None:
    """Nobody may be there when a subscription is paused, or when it is found paused."""
    adapter = await opened()
    await answer_of(adapter.queues.subscribe(ALL))
    await set_values(adapter, 2)
    await adapter.stop()
    settings = RedisSettings(redis_url=server.url)
    async with inspection(settings) as admin:
        assert await admin.pause(ALL) == 0
    again = await opened()
    await answer_of(again.queues.subscribe(ALL))
    assert await answer_of(again.queues.take(ALL.id, 10)) == []
    async with inspection(settings) as admin:
        assert await admin.resume(ALL)
    assert len(await drain(again)) == 2


async def test_what_is_in_the_way_of_the_pauses_is_moved_aside(opened: Open, server: RedisServer) -> None:
    adapter = await opened()
    await answer_of(adapter.queues.subscribe(ALL))
    server.client.set("iii-state:paused", "no hash")
    await set_values(adapter, 1)
    assert len(await drain(adapter)) == 1
    await until(lambda: not server.client.exists("iii-state:paused"))
    await adapter.admin.pause(ALL)
    assert len(server.client.keys("iii-state:paused:damaged:*")) == 1


async def test_a_long_queue_is_purged_in_parts_while_others_write(opened: Open) -> None:
    """Hot lanes and many lanes, and large events: more than one call of the script takes."""
    adapter, writer = await opened(), await opened()
    await answer_of(adapter.queues.subscribe(ALL))
    for start in range(0, 3000, 500):
        keys = [("hot" if number % 2 else f"k{number}") for number in range(start, start + 500)]
        await asyncio.gather(*(answer_of(adapter.values.set("s", key, b'"x"')) for key in keys))
    for _ in range(6):
        await answer_of(adapter.values.set("s", "large", b'"%b"' % (b"x" * 1_000_000)))
    stop = asyncio.Event()

    async def write() -> int:
        count = 0
        while not stop.is_set():
            await answer_of(writer.values.set("s", f"new{count}", b"1"))
            count += 1
        return count

    writing = asyncio.create_task(write())
    dropped = await adapter.admin.purge(ALL)
    stop.set()
    written = await writing
    (stats,) = await stats_of(adapter)
    assert dropped >= 3006
    assert stats.waiting == 3006 + written - dropped
    assert stats.dropped == dropped
    assert len(await drain(adapter)) == stats.waiting
    counted = await adapter._shared.connection.send(b"HGETALL", adapter._shared.keys.busy(ALL.id.encode()))
    assert counted == []


async def test_nothing_is_taken_for_damage_after_a_purge(opened: Open, server: RedisServer) -> None:
    adapter = await opened()
    await answer_of(adapter.queues.subscribe(ALL))
    for number in range(20):
        await answer_of(adapter.values.set("s", f"k{number % 4}", b"%d" % number))
    (out,) = await answer_of(adapter.queues.take(ALL.id, 1))
    assert await adapter.admin.purge(ALL) == 19
    adapter.checking.look_soon()
    await answer_of(adapter.queues.ack([out]))
    (stats,) = await stats_of(adapter)
    assert (stats.waiting, stats.pending) == (0, 0)
    assert adapter._mending.lost == 0
    assert server.client.hget(f"iii-state:sub:{ALL.id}", "lost") is None
