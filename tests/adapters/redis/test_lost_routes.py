"""Routes of which another program removes parts: every engine goes on with what it knows, and no write misses a queue."""

from __future__ import annotations

import asyncio
import logging
from itertools import combinations

import pytest

from iii_state.adapters.redis import RedisAdapter
from iii_state.events import Subscription
from tests.support.redis.adapters import Open, drain
from tests.support.redis.server import RedisServer
from tests.support.stores import ALL
from tests.support.waiting import answer_of, until

PREFIX = "iii-state:"
ROUTES, VERSION, LOG, ENGINES = (PREFIX + name for name in ("routes", "routes:version", "routes:log", "engines"))
WAITING = Subscription("waiting", scope="s", retention_ms="forever")
EMPTIED = "the database has been emptied"


async def without_checking(opened: Open) -> RedisAdapter:
    """An engine that puts nothing right: as between two of its sweeps."""
    adapter = await opened()
    await adapter.checking.stop()
    return adapter


async def written(writers: list[RedisAdapter], key: str) -> None:
    await asyncio.gather(*(answer_of(writer.values.set("s", f"{key} {at}", b"1")) for at, writer in enumerate(writers)))


async def keys_handled(adapter: RedisAdapter, subscription: Subscription = ALL, most: int = 100) -> list[str]:
    """The keys of so many events of a subscription."""
    keys: list[str] = []

    async def came() -> bool:
        keys.extend([delivery.event.key for delivery in await drain(adapter, subscription)])
        return len(keys) >= most

    await until(came, lambda: f"only {keys} came")
    return sorted(keys)


def parts(pair: tuple[str, str]) -> str:
    return " and ".join(name.removeprefix(PREFIX) for name in pair)


@pytest.mark.parametrize("pair", [*combinations((ROUTES, VERSION, LOG, ENGINES), 2)], ids=parts)
@pytest.mark.parametrize("apart", [False, True], ids=["at once", "one by one"])
async def test_no_write_misses_a_queue_where_two_keys_of_the_fleet_are_gone(
    opened: Open, server: RedisServer, caplog: pytest.LogCaptureFixture, pair: tuple[str, str], apart: bool
) -> None:
    hosting, other = await without_checking(opened), await without_checking(opened)
    await answer_of(hosting.queues.subscribe(WAITING))
    await answer_of(hosting.queues.abandon(WAITING.id))  # its route is remembered, and by no registration
    await answer_of(hosting.queues.subscribe(ALL))
    await written([hosting, other], "before")
    for name in pair:
        server.client.delete(name)
        if apart and name != pair[1]:
            await written([hosting, other], "between")
    await written([hosting, other], "after")
    times = ("after", "before", "between") if apart else ("after", "before")
    expected = [f"{when} {at}" for when in times for at in range(2)]
    assert await keys_handled(hosting, ALL, len(expected)) == expected
    await answer_of(other.queues.subscribe(WAITING))
    assert await keys_handled(other, WAITING, len(expected)) == expected
    assert EMPTIED not in caplog.text


async def test_routes_whose_version_is_gone_too_are_written_down_again(
    opened: Open, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = await opened()
    await answer_of(adapter.queues.subscribe(ALL))
    began = server.client.hget(ROUTES, ":began")
    server.client.delete(ROUTES, VERSION)
    await written([adapter], "after")
    await until(lambda: server.client.hget(ROUTES, ":began") == began)
    assert server.client.hexists(ROUTES, ALL.id)
    assert server.client.exists(VERSION)
    assert await keys_handled(adapter, ALL, 1) == ["after 0"]
    assert "somebody has removed the routes from Redis; they have been written down again" in caplog.text
    assert EMPTIED not in caplog.text


@pytest.mark.parametrize("gone", [(VERSION,), (ROUTES, VERSION)], ids=["version", "routes and version"])
async def test_an_engine_that_joins_where_the_version_is_gone_takes_nothing_from_the_others(
    opened: Open, server: RedisServer, caplog: pytest.LogCaptureFixture, gone: tuple[str, ...]
) -> None:
    hosting = await without_checking(opened)
    await answer_of(hosting.queues.subscribe(WAITING))
    await answer_of(hosting.queues.abandon(WAITING.id))
    server.client.delete(*gone)
    await opened()
    await written([hosting], "after")
    await answer_of(hosting.queues.subscribe(WAITING))
    assert await keys_handled(hosting, WAITING, 1) == ["after 0"]
    assert EMPTIED not in caplog.text


async def test_a_version_that_is_gone_twice_hides_no_change_made_in_between(opened: Open, server: RedisServer) -> None:
    """Else an engine that has done nothing in between would take the second time for the first."""
    idle, other = await without_checking(opened), await opened()
    server.client.delete(VERSION)
    await written([idle, other], "before")
    await until(lambda: server.client.exists(VERSION))
    await answer_of(other.queues.subscribe(ALL))
    server.client.delete(VERSION)
    await until(lambda: server.client.exists(VERSION))
    await written([idle], "after")
    assert await keys_handled(other, ALL, 1) == ["after 0"]


async def test_an_old_version_that_is_brought_back_hides_no_change_made_since(opened: Open, server: RedisServer) -> None:
    idle, other = await without_checking(opened), await opened()
    await written([idle, other], "before")
    version = server.client.get(VERSION)
    await answer_of(other.queues.subscribe(ALL))
    server.client.set(VERSION, version)
    other.checking.look_soon()
    await until(lambda: server.client.get(VERSION) != version)
    await written([idle], "after")
    assert await keys_handled(other, ALL, 1) == ["after 0"]


@pytest.mark.parametrize("ttl_ms", [None, 600_000], ids=["a value", "one with a deadline"])
async def test_nothing_is_written_down_again_in_a_database_that_has_been_emptied(
    opened: Open, server: RedisServer, caplog: pytest.LogCaptureFixture, ttl_ms: int | None
) -> None:
    adapter = await opened(heartbeat_ttl_ms=3_600_000)
    await answer_of(adapter.queues.subscribe(WAITING))
    await answer_of(adapter.queues.abandon(WAITING.id))
    with caplog.at_level(logging.WARNING):
        server.client.flushall()
        for _ in range(3):
            assert await adapter.checking._shared_keys.check()
        assert server.client.exists(ROUTES, VERSION) == 0
        await answer_of(adapter.values.set("s", "k", b"1", ttl_ms=ttl_ms))
        await until(lambda: EMPTIED in caplog.text)
    await until(lambda: server.client.hexists(ROUTES, ":began"))
    assert not server.client.hexists(ROUTES, WAITING.id)
    assert adapter._shared.fanout.routes.queues() == []
