"""Many events of one key over Redis: handled one behind the other, ahead of their acknowledgements, whatever comes between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from iii_state import Engine, StateModule
from iii_state.adapters.redis.runs import MOST_AHEAD
from tests.support.redis.server import RedisServer, shared_server
from tests.support.waiting import until

QUICK = {"backoff_ms": 1, "max_backoff_ms": 2}
EVENTS = 60


class Hot:
    """An engine, and a handler that keeps what it was called with."""

    def __init__(self, engine: Engine, module: StateModule) -> None:
        self.engine = engine
        self.module = module
        self.calls: list[tuple[str, Any]] = []
        self.metadata: list[dict[str, Any]] = []
        self.completed: list[Any] = []
        self.running = self.most_running = 0
        self.gate = asyncio.Event()
        self.fails: Callable[[Any, int], bool] = lambda value, attempt: False
        self.after: dict[Any, Callable[[], object]] = {}
        """What is done when the handler has completed an event, by its value."""
        engine.register_function("on", self.on)

    async def on(self, event: dict[str, Any], metadata: dict[str, Any]) -> None:
        told = metadata["iii_state"]
        self.calls.append((event["key"], event["new_value"]))
        self.metadata.append(told)
        self.running += event["key"] == "k"
        self.most_running = max(self.most_running, self.running)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
            if self.fails(event["new_value"], told["attempt"]):
                raise ValueError("not this time")
            self.completed.append(event["new_value"])
            self.after.get(event["new_value"], lambda: None)()
        finally:
            self.running -= event["key"] == "k"

    async def trigger(self, **config: Any) -> Any:
        config = {"scope": "s", "retry": QUICK, **config}
        return await self.engine.register_trigger({"type": "state", "function_id": "on", "config": config})

    async def set(self, value: Any, key: str = "k") -> None:
        await self.engine.trigger({"function_id": "state::set", "payload": {"scope": "s", "key": key, "value": value}})

    async def backlog(self, count: int = EVENTS, **config: Any) -> None:
        """So many events of one key, of which the first is being handled."""
        await self.trigger(**config)
        for value in range(count):
            await self.set(value)
        await until(lambda: self.calls)

    def values(self, key: str = "k") -> list[Any]:
        return [value for name, value in self.calls if name == key]


@pytest.fixture
def server() -> RedisServer:
    server = shared_server()
    server.client.flushall()
    return server


@asynccontextmanager
async def hot_engine(server: RedisServer, **settings: Any) -> AsyncIterator[Hot]:
    module = StateModule({"adapter": {"name": "redis", "config": {"redis_url": server.url}}, **settings})
    async with Engine() as engine:
        await engine.add_module(module)
        hot = Hot(engine, module)
        try:
            yield hot
        finally:
            hot.gate.set()


@pytest.fixture
async def hot(server: RedisServer) -> AsyncIterator[Hot]:
    async with hot_engine(server) as running:
        yield running


async def test_events_of_one_key_come_in_order_one_at_a_time_with_far_fewer_calls_than_events(
    server: RedisServer, hot: Hot
) -> None:
    await hot.backlog()
    before = server.client.info("commandstats")["cmdstat_evalsha"]["calls"]
    hot.gate.set()
    await until(lambda: len(hot.completed) == EVENTS)
    await until(lambda: not server.client.keys("iii-state:wait:*") and not server.client.keys("iii-state:busy:*"))
    assert hot.values() == list(range(EVENTS))
    assert hot.most_running == 1
    calls = server.client.info("commandstats")["cmdstat_evalsha"]["calls"] - before
    assert calls < EVENTS / 2


async def test_one_that_fails_is_tried_again_in_its_place(hot: Hot) -> None:
    await hot.backlog()
    hot.fails = lambda value, attempt: value % 7 == 3 and attempt < 3
    hot.gate.set()
    await until(lambda: len(hot.completed) == EVENTS)
    expected = [value for value in range(EVENTS) for _ in range(3 if value % 7 == 3 else 1)]
    assert hot.values() == expected
    attempts = [told["attempt"] for told in hot.metadata]
    assert attempts == [attempt for value in range(EVENTS) for attempt in ((1, 2, 3) if value % 7 == 3 else (1,))]
    assert hot.most_running == 1


async def test_one_that_keeps_failing_is_a_dead_letter_and_the_others_go_on(hot: Hot) -> None:
    await hot.backlog(retry={**QUICK, "max_attempts": 2})
    hot.fails = lambda value, attempt: value == 20
    hot.gate.set()
    await until(lambda: len(hot.completed) == EVENTS - 1)
    assert hot.completed == [value for value in range(EVENTS) if value != 20]
    assert hot.values().count(20) == 2


async def test_what_a_condition_skips_holds_up_nothing(hot: Hot) -> None:
    hot.engine.register_function("even", lambda event: event["new_value"] % 2 == 0)
    await hot.backlog(condition_function_id="even")
    hot.gate.set()
    await until(lambda: len(hot.completed) == EVENTS // 2)
    assert hot.values() == list(range(0, EVENTS, 2))


async def test_another_key_is_not_held_up(hot: Hot) -> None:
    await hot.backlog(200)
    await hot.set("other", key="other")
    hot.gate.set()
    await until(lambda: ("other", "other") in hot.calls)
    assert hot.calls.index(("other", "other")) <= 3 * MOST_AHEAD
    await until(lambda: len(hot.completed) == 201)
    assert hot.values() == list(range(200))


async def test_other_keys_with_many_events_keep_their_order_beside_it(hot: Hot) -> None:
    await hot.trigger()
    for value in range(40):
        for key in ("k", "l", "m"):
            await hot.set(value, key=key)
    hot.gate.set()
    await until(lambda: len(hot.completed) == 120)
    assert [hot.values(key) for key in ("k", "l", "m")] == [list(range(40))] * 3
    assert hot.most_running == 1


async def test_disabled_triggers_start_nothing_more_of_a_run_and_it_goes_on_when_they_are_enabled(
    server: RedisServer, hot: Hot
) -> None:
    await hot.backlog()
    settings = {"adapter": {"name": "redis", "config": {"redis_url": server.url}}}
    hot.after[30] = lambda: hot.module.reconfigure({**settings, "triggers_enabled": False})
    hot.gate.set()
    await until(lambda: len(hot.completed) == 31)
    await hot.set("unseen")
    assert len(hot.completed) == 31
    hot.module.reconfigure(settings)
    await until(lambda: len(hot.completed) == EVENTS)
    assert hot.values()[:EVENTS] == list(range(EVENTS))


@pytest.mark.parametrize("done", [1, 7, 30])
async def test_stopping_in_mid_run_gives_back_what_was_not_done_and_nothing_else(server: RedisServer, done: int) -> None:
    async with hot_engine(server) as hot:
        await hot.backlog()
        hot.after[done] = hot.gate.clear
        hot.gate.set()
        await until(lambda: len(hot.completed) == done + 1 and hot.running)
        stopping = asyncio.create_task(hot.module.stop())
        await asyncio.sleep(0)
        hot.gate.set()
        await stopping
        first = hot.completed
        assert first == list(range(done + 2))
        assert hot.values() == first
    async with hot_engine(server) as again:
        again.gate.set()
        await again.trigger()
        await until(lambda: len(again.completed) == EVENTS - len(first))
        assert first + again.values() == list(range(EVENTS))
        assert {told["attempt"] for told in again.metadata} == {1}


async def test_a_handler_that_does_not_end_comes_again_with_a_higher_fence_after_a_stop(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iii_state.state.module.STOP_SECONDS", 0.05)
    async with hot_engine(server) as hot:
        await hot.backlog()
        hot.after[10] = hot.gate.clear
        hot.gate.set()
        await until(lambda: len(hot.completed) == 11 and hot.running)
        fence = hot.metadata[-1]["fence"]
        await hot.module.stop()
    async with hot_engine(server) as again:
        again.gate.set()
        await again.trigger()
        await until(lambda: len(again.completed) == EVENTS - 11)
        assert again.values() == list(range(11, EVENTS))
        assert all(told["fence"] > fence for told in again.metadata)


async def test_a_trigger_that_is_unregistered_in_mid_run_and_comes_back_goes_on_where_it_was(hot: Hot) -> None:
    await hot.backlog()
    hot.after[20] = hot.gate.clear
    hot.gate.set()
    await until(lambda: len(hot.completed) == 21 and hot.running)
    (binding,) = hot.engine.triggers
    hot.module.triggers.unregister(binding.trigger, disconnected=True)
    hot.gate.set()
    await until(lambda: len(hot.completed) == 22)
    await asyncio.sleep(0)
    hot.module.triggers.register(binding.trigger)
    await until(lambda: len(hot.completed) == EVENTS)
    assert hot.values() == list(range(EVENTS))
