"""Handlers that lead to themselves are seen: a warning that says where, a row that says so, and an end where there is a limit."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from iii_state import Engine, Event, State, StateModule
from iii_state.state.dispatch.loops import Loops
from tests.support.engines.embedded import HISTORY, engine_over
from tests.support.redis.server import shared_server
from tests.support.waiting import until

LOOPS = "iii_state.state.dispatch.loops"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What has been said of loops; not what the remote of a bridge says, which sees them, too."""
    messages = (record.getMessage() for record in caplog.records if record.name == LOOPS)
    return [message for message in messages if "through iii-state::bridge::" not in message]


async def rows(engine: Engine) -> dict[str, dict[str, Any]]:
    answer = await engine.trigger({"function_id": "iii-state::triggers", "payload": {}})
    return {row["function_id"]: row for row in answer["triggers"]}


async def dead_letters(engine: Engine) -> list[dict[str, Any]]:
    answer = await engine.trigger({"function_id": "iii-state::dead_show", "payload": {}})
    found: list[dict[str, Any]] = answer["dead"]
    return found


async def test_a_handler_that_writes_the_key_it_watches_is_named_once_and_goes_on(
    state: State, embedded: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    called = 0

    @state.on_change(scope="s", function_id="counts")
    async def changed(event: Event) -> None:
        nonlocal called
        called += 1
        if called < 400 or not warnings(caplog):
            await state.update("s", "k", [{"type": "increment", "path": "n", "by": 1}])

    await state.set("s", "k", {"n": 0})
    await until(lambda: warnings(caplog))
    await until(lambda: called >= 400)
    (warning,) = warnings(caplog)
    assert "through counts (scope 's', key 'k')" in warning
    assert "a second" in warning
    assert "dispatch.loop_limit" in warning
    assert (await until(lambda: looping(embedded, "counts")))["looping"] is True


async def looping(engine: Engine, function_id: str) -> dict[str, Any] | None:
    row = (await rows(engine))[function_id]
    return row if row.get("looping") else None


async def test_a_function_that_writes_each_of_very_many_keys_is_named_once(kv: State, caplog: pytest.LogCaptureFixture) -> None:
    at: dict[str, int] = {}

    @kv.on_change(scope="many", function_id="counts")
    async def changed(event: Event) -> None:
        at[event.key] = event.new_value
        if event.new_value < 150:
            await kv.set("many", event.key, event.new_value + 1)

    @kv.on_change(scope="one", function_id="last")
    async def changed_later(event: Event) -> None:
        if "through last" not in " ".join(warnings(caplog)):
            await kv.set("one", event.key, event.new_value + 1)

    for number in range(50):
        await kv.set("many", f"k{number}", 0)
    await until(lambda: list(at.values()) == [150] * 50)
    await kv.set("one", "k", 0)
    first, last = await until(lambda: warnings(caplog)[1:] and warnings(caplog))
    assert "through counts (scope 'many', key 'k" in first
    assert "through last (scope 'one', key 'k')" in last


async def test_a_long_key_is_named_by_its_beginning_and_kept_no_longer(kv: State, caplog: pytest.LogCaptureFixture) -> None:
    key = "k" * 5000

    @kv.on_change(scope="s", function_id="counts")
    async def changed(event: Event) -> None:
        if not warnings(caplog):
            await kv.set("s", event.key, event.new_value + 1)

    await kv.set("s", key, 0)
    (warning,) = await until(lambda: warnings(caplog))
    assert f"key '{'k' * 199}…'" in warning
    assert len(warning) < 500
    watching = [each for each in gc.get_objects() if isinstance(each, Loops)]
    assert any(loops._chains for loops in watching)
    assert not any(chain.places for loops in watching for chain in loops._chains.values())


async def test_two_functions_that_feed_each_other_over_two_keys_are_both_named(
    state: State, embedded: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    @state.on_change(scope="s", key="ping", function_id="pings")
    async def ping(event: Event) -> None:
        if not warnings(caplog):
            await state.set("s", "pong", event.new_value + 1)

    @state.on_change(scope="s", key="pong", function_id="pongs")
    def pong(event: Event) -> asyncio.Task[Any]:
        return asyncio.ensure_future(state.set("s", "ping", event.new_value + 1))

    @state.on_change(scope="s", key="ping", function_id="bystander")
    def look_on(event: Event) -> None: ...

    await state.set("s", "ping", 0)
    (warning,) = await until(lambda: warnings(caplog))
    assert "pings (scope 's', key 'ping')" in warning
    assert "pongs (scope 's', key 'pong')" in warning
    await until(lambda: looping(embedded, "pings"))
    await until(lambda: looping(embedded, "pongs"))


async def test_a_chain_of_fifty_and_a_key_that_is_written_a_thousand_times_are_no_loops(
    state: State, embedded: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    chained, handled, echoed = [], 0, 0

    @state.on_change(scope="chain", function_id="links")
    async def link(event: Event) -> None:
        chained.append(event.new_value)
        if event.new_value < 50:
            await state.set("chain", "k", event.new_value + 1)

    @state.on_change(scope="hot", function_id="hot")
    async def hot(event: Event) -> None:
        nonlocal handled
        handled += 1
        await state.set("echo", "k", event.new_value)

    @state.on_change(scope="echo", function_id="echo")
    def echo(event: Event) -> None:
        nonlocal echoed
        echoed += 1

    await state.set("chain", "k", 1)
    for start in range(0, 1000, 100):
        await asyncio.gather(*(state.set("hot", "k", number) for number in range(start, start + 100)))
    await until(lambda: (handled, echoed, len(chained)) == (1000, 1000, 50))
    assert not any("looping" in row for row in (await rows(embedded)).values())
    assert warnings(caplog) == []


@pytest.fixture(params=["kv", "redis", "bridge-kv"])
async def limited(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    """An engine with `dispatch.loop_limit: 20`."""
    dispatch = {"loop_limit": 20}
    async with engine_over(request.param, tmp_path, dispatch=dispatch) as engine:
        yield engine


async def test_beyond_the_limit_an_event_is_a_dead_letter_and_begins_anew_when_it_is_retried(limited: Engine) -> None:
    state, called, goes_on = State(limited), [], True

    @state.on_change(scope="s", function_id="counts")
    async def changed(event: Event) -> None:
        called.append(event.new_value)
        if goes_on:
            await state.set("s", "k", event.new_value + 1)

    await state.set("s", "k", 0)
    (dead,) = await until(lambda: dead_letters(limited))
    assert called == list(range(21))
    assert dead["event"]["new_value"] == 21
    assert dead["error"] == "loop_limit_exceeded: 21 deliveries have led to it, one behind the other; dispatch.loop_limit is 20"
    goes_on = False
    retried = await limited.trigger({"function_id": "iii-state::dead_retry", "payload": {"id": dead["id"]}})
    assert retried == {"retried": 1}
    await until(lambda: len(called) == 22)
    assert called[-1] == 21


async def test_a_loop_over_two_engines_is_seen_by_both(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with engine_over("redis", tmp_path) as first, Engine() as second:
        config = {"adapter": {"name": "redis", "config": {"redis_url": shared_server().url}}, "history": HISTORY}
        await second.add_module(StateModule(config))
        one, other = State(first), State(second)

        @one.on_change(scope="s", key="ping", function_id="pings")
        async def ping(event: Event) -> None:
            if len(warnings(caplog)) < 2:
                await one.set("s", "pong", event.new_value + 1)

        @other.on_change(scope="s", key="pong", function_id="pongs")
        async def pong(event: Event) -> None:
            await other.set("s", "ping", event.new_value + 1)

        await one.start()
        await other.start()
        await one.set("s", "ping", 0)
        await until(lambda: len(warnings(caplog)) == 2)
        said = " ".join(warnings(caplog))
        assert "through pings (scope 's', key 'ping')" in said
        assert "through pongs (scope 's', key 'pong')" in said
        await until(lambda: looping(second, "pings"))  # which only the first one hands out


async def test_the_count_goes_on_behind_a_restart(tmp_path: Path) -> None:
    called: list[int] = []

    def handle(engine: Engine, last: int) -> State:
        state = State(engine)

        @state.on_change(scope="s", function_id="counts")
        async def changed(event: Event) -> None:
            called.append(event.new_value)
            await state.set("s", "k", event.new_value + 1)
            if event.new_value == last:
                await engine.stop()

        return state

    async with engine_over("kv-file", tmp_path, dispatch={"loop_limit": 20}) as engine:
        await handle(engine, 10).set("s", "k", 0)
        await until(lambda: 10 in called)
    assert len(called) < 20
    async with engine_over("kv-file", tmp_path, dispatch={"loop_limit": 20}) as engine:
        handle(engine, -1)
        (dead,) = await until(lambda: dead_letters(engine))
    assert called == list(range(21))
    assert dead["error"].startswith("loop_limit_exceeded: 21 deliveries")
