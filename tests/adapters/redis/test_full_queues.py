"""A full queue that drops its oldest events: however many writes are under way, none fails, and each takes a few calls."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from iii_state.adapters.redis.mutations.full_queues import AHEAD
from iii_state.events import Subscription
from tests.support.redis.adapters import adapter_on
from tests.support.redis.server import RedisServer
from tests.support.stores import stored
from tests.support.waiting import answer_of

WRITES, IN_FLIGHT, ROOM = 5000, 500, 1000


@pytest.mark.parametrize("keys", [7, WRITES], ids=["few keys", "a key each"])
async def test_writers_pay_little_for_a_queue_that_is_full(own_server: RedisServer, keys: int) -> None:
    watch = Subscription("watch", on_full="drop_oldest", max_queue_length=ROOM)
    async with adapter_on(own_server.url) as adapter:
        await answer_of(adapter.queues.subscribe(watch))
        own_server.client.config_resetstat()
        numbers = count()

        async def write() -> None:
            while (number := next(numbers)) < WRITES:
                await answer_of(adapter.values.set("s", f"k{number % keys}", stored(number)))

        await asyncio.gather(*(write() for _ in range(IN_FLIGHT)))
        calls = own_server.client.info("commandstats")["cmdstat_evalsha"]["calls"]
        assert calls < 4 * WRITES
        (stats,) = await adapter.admin.stats()
        assert stats.dropped + stats.waiting == WRITES
        assert ROOM - AHEAD <= stats.waiting <= ROOM


async def test_a_writer_that_waits_for_each_write_is_refused_once_in_fifty_times(own_server: RedisServer) -> None:
    watch = Subscription("watch", on_full="drop_oldest", max_queue_length=ROOM)
    async with adapter_on(own_server.url) as adapter:
        await answer_of(adapter.queues.subscribe(watch))
        for number in range(ROOM):
            await answer_of(adapter.values.set("s", f"k{number}", stored(number)))
        own_server.client.config_resetstat()
        for number in range(ROOM):
            await answer_of(adapter.values.set("s", f"k{ROOM + number}", stored(number)))
        calls = own_server.client.info("commandstats")["cmdstat_evalsha"]["calls"]
        assert calls < 1.2 * ROOM, "each was three calls: refused, dropped for, made"
        (stats,) = await adapter.admin.stats()
        assert stats.dropped + stats.waiting == 2 * ROOM
