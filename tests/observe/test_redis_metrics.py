"""What an engine counts of its Redis, and which of several engines tells what belongs to Redis."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from iii_state import Engine, StateModule
from tests.support.metrics import Metrics, metrics_of
from tests.support.redis.server import RedisServer, shared_server
from tests.support.waiting import until

Open = Callable[..., Awaitable[Engine]]


@pytest.fixture
def server() -> RedisServer:
    server = shared_server()
    server.client.flushall()
    return server


@pytest.fixture
async def opened(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Open]:
    """Opens engines on one Redis, which ask for their queues at each scrape."""
    monkeypatch.setattr("iii_state.state.queue_figures.ASK_SECONDS", 0)
    async with AsyncExitStack() as stack:

        async def open_one(**settings: Any) -> Engine:
            config = {"adapter": {"name": "redis", "config": {"redis_url": server.url, **settings}}}
            engine = await stack.enter_async_context(Engine())
            await engine.add_module(StateModule(config))
            return engine

        yield open_one


@asynccontextmanager
async def one_on(server: RedisServer) -> AsyncIterator[Engine]:
    async with Engine() as engine:
        await engine.add_module(StateModule({"adapter": {"name": "redis", "config": {"redis_url": server.url}}}))
        yield engine


async def put(engine: Engine, key: str = "k", value: object = 1) -> None:
    await engine.trigger({"function_id": "state::set", "payload": {"scope": "s", "key": key, "value": value}})


async def when(engine: Engine, name: str, holds: Callable[[float], bool], **labels: str) -> Metrics:
    async def told() -> Metrics | None:
        metrics = await metrics_of(engine)
        value = metrics(name, **labels)
        return metrics if value is not None and holds(value) else None

    found = await until(told, f"{name} {labels}")
    assert found is not None
    return found


def tells(metrics: Metrics) -> bool:
    return bool(metrics.all("events_waiting"))


async def test_calls_that_leave_together_are_one_round_trip(opened: Open) -> None:
    engine = await opened(heartbeat_ttl_ms=60_000)
    before = await metrics_of(engine)
    await asyncio.gather(*(put(engine, str(number), "x" * 1000) for number in range(50)))
    after = await metrics_of(engine)

    def grown(name: str) -> float:
        return (after(name) or 0) - (before(name) or 0)

    assert 50 <= grown("redis_calls_total") < 100
    assert 1 <= grown("redis_round_trips_total") < 40
    assert 50_000 < grown("redis_sent_bytes_total") < 100_000
    assert grown("redis_received_bytes_total") > 50
    assert after("redis_calls_waiting") == 0
    assert (after("redis_calls_in_flight") or 0) < 10, "those of the engine itself"
    assert after("store_up", adapter="redis") == 1


async def test_reconnects_script_loads_and_what_is_sent_again(opened: Open, server: RedisServer) -> None:
    engine = await opened()
    before = await metrics_of(engine)
    assert (before("redis_reconnects_total"), before("script_loads_total")) == (0, 1)
    server.client.script_flush()
    await put(engine)
    after = await metrics_of(engine)
    assert after("script_loads_total") == 2
    assert (after("redis_calls_sent_again_total") or 0) > (before("redis_calls_sent_again_total") or 0)
    server.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await put(engine)
    after = await when(engine, "redis_reconnects_total", lambda value: value >= 1)
    assert after("script_loads_total") == 3


async def test_foreign_writes_are_counted(opened: Open, server: RedisServer) -> None:
    engine = await opened(foreign_writes=True)
    await put(engine)
    server.client.hset("state:s", "k", "2")
    await when(engine, "foreign_writes_total", lambda value: value == 1)


async def test_an_engine_that_was_taken_for_dead_has_been_fenced(opened: Open, server: RedisServer) -> None:
    engine = await opened(heartbeat_ttl_ms=300)
    server.client.delete("iii-state:engines")
    metrics = await when(engine, "fences_total", lambda value: value == 1)
    assert metrics("takeovers_total") == 0


async def test_an_engine_that_is_found_dead_is_a_takeover(opened: Open, server: RedisServer) -> None:
    engine = await opened(heartbeat_ttl_ms=300)
    server.client.hset("iii-state:engines", "gone", "100 7")
    await when(engine, "takeovers_total", lambda value: value == 1)


async def test_events_that_somebody_has_removed_are_lost(opened: Open, server: RedisServer) -> None:
    engine = await opened()
    may_go_on = asyncio.Event()

    async def handler(event: object) -> None:
        await may_go_on.wait()

    engine.register_function("f", handler)
    await engine.register_trigger({"type": "state", "function_id": "f", "config": {"scope": "s", "concurrency": 1}})
    for number in range(200):
        await put(engine, str(number))
    (stream,) = [name for name in server.client.keys("iii-state:q:*") if server.client.type(name) == b"stream"]
    server.client.xtrim(stream, maxlen=0, approximate=False)
    may_go_on.set()
    await when(engine, "events_lost_total", lambda value: value > 0, adapter="redis")


async def test_one_engine_of_several_tells_what_belongs_to_redis(opened: Open, server: RedisServer) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(one_on(server))
        second = await opened()
        for engine in (first, second):
            engine.register_function("f", lambda event: None)
            await engine.register_trigger({"type": "state", "function_id": "f", "config": {"scope": "s"}})
        await put(first)
        for _ in range(3):
            assert tells(await metrics_of(first))
            assert not tells(await metrics_of(second))
        assert (await metrics_of(second)).all("calls_total"), "what it has counted itself it tells"
    assert tells(await metrics_of(second)), "the one before is gone"


async def test_an_engine_that_nobody_asks_does_not_keep_the_others_from_telling(opened: Open, server: RedisServer) -> None:
    engines = [await opened() for _ in range(3)]
    engine = engines[-1]
    engine.register_function("f", lambda event: None)
    await engine.register_trigger({"type": "state", "function_id": "f", "config": {"scope": "s"}})
    assert tells(await metrics_of(engine))
    server.client.delete("iii-state:teller")  # as if its lease were over
    assert tells(await metrics_of(engines[0]))
    assert 0 < server.client.pttl("iii-state:teller") <= 150_000


async def test_what_counts_here_is_told_while_redis_is_away(opened: Open) -> None:
    with RedisServer() as own, contextlib.ExitStack() as stack:
        async with one_on(own) as engine:
            await put(engine)
            own.kill()
            stack.callback(own.start)
            metrics = await when(engine, "store_up", lambda value: value == 0, adapter="redis")
            assert metrics("calls_total", function="state::set", adapter="redis", code="ok") == 1
            assert not tells(metrics)
            own.start()
            stack.pop_all()
            await when(engine, "store_up", lambda value: value == 1, adapter="redis")
