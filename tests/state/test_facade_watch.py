"""`State.watch`: nothing is missed once it has begun, nothing is kept for it, and no writer fails because of it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from iii_state import Engine, Event, FunctionError, Gap, State, StateModule, Watch, ops
from tests.support.engines.embedded import engine_over
from tests.support.waiting import until


async def taken(events: AsyncIterator[Event], count: int) -> list[Event]:
    async with asyncio.timeout(20):
        return [await anext(events) for _ in range(count)]


async def watching(engine: Engine) -> list[str]:
    """The functions of watches that the engine serves, and the triggers of them."""
    functions = await engine.trigger({"function_id": "engine::functions::list", "payload": {"prefix": "iii-state::watch::"}})
    triggers = await engine.trigger({"function_id": "engine::registered-triggers::list", "payload": {"trigger_type": "state"}})
    rows = [*functions["functions"], *triggers["registered_triggers"]]
    return sorted(row["function_id"] for row in rows if row["function_id"].startswith("iii-state::watch::"))


async def queues(engine: Engine) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (await engine.trigger({"function_id": "iii-state::triggers"}))["triggers"]
    return rows


async def test_every_change_comes_from_the_beginning_on_in_the_order_of_the_writes(state: State) -> None:
    await state.set("s", "before", 1)
    async with state.watch() as events:
        await state.set("s", "k", {"n": 2**63})
        await state.update("s", "k", [ops.increment("n")])
        await state.delete("s", "k")
        created, updated, deleted = await taken(events, 3)
    assert (created.scope, created.key, created.event_type) == ("s", "k", "state:created")
    assert (created.old_value, created.new_value, created.cause) == (None, {"n": 2**63}, None)
    assert (updated.event_type, updated.old_value, updated.new_value) == ("state:updated", {"n": 2**63}, {"n": 2**63 + 1})
    assert (deleted.event_type, deleted.old_value, deleted.new_value) == ("state:deleted", {"n": 2**63 + 1}, None)
    assert len({created.event_id, updated.event_id, deleted.event_id} - {""}) == 3
    assert (created.attempt, type(created.fence)) == (1, int)


async def test_only_what_is_asked_for_comes(state: State) -> None:
    async with state.watch(scope="a") as of_scope, state.watch(key="x") as of_key, state.watch(scope="a", key="x") as of_both:
        for scope, key in (("b", "y"), ("b", "x"), ("a", "y"), ("a", "x")):
            await state.set(scope, key, 1)
        assert {(event.scope, event.key) for event in await taken(of_scope, 2)} == {("a", "y"), ("a", "x")}
        assert {(event.scope, event.key) for event in await taken(of_key, 2)} == {("b", "x"), ("a", "x")}
        assert [(event.scope, event.key) for event in await taken(of_both, 1)] == [("a", "x")]


async def test_a_loop_over_it_begins_it_and_leaving_the_loop_ends_it(state: State, embedded: Engine) -> None:
    seen: list[int] = []

    async def write() -> None:
        number = 0
        while len(seen) < 10:
            await state.set("s", "k", number)
            number += 1
            await asyncio.sleep(0.001)

    async def has_ended() -> bool:
        return await watching(embedded) == []

    writing = asyncio.create_task(write())
    async for event in state.watch(scope="s"):
        seen.append(event.new_value)
        if len(seen) == 10:
            break
    await writing
    assert seen == [seen[0] + number for number in range(10)]
    await until(has_ended)


async def test_a_cancelled_reader_leaves_nothing_behind(state: State, embedded: Engine) -> None:
    async def read() -> None:
        async for event in state.watch():
            raise AssertionError(event)

    reading = asyncio.create_task(read())

    async def has_begun() -> bool:
        return len(await watching(embedded)) == 2

    async def has_ended() -> bool:
        return await watching(embedded) == []

    await until(has_begun)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    del reading
    gc.collect()
    await until(has_ended)


async def test_giving_up_waiting_loses_no_event(state: State) -> None:
    async with state.watch() as events:
        for number in range(20):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await anext(events)
            await state.set("s", "k", number)
            assert [event.new_value for event in await taken(events, 1)] == [number]


async def test_a_reader_that_does_not_keep_up_is_told_how_much_it_missed_and_goes_on(state: State) -> None:
    async with state.watch(scope="s", buffer=3) as events, state.watch(scope="s") as all_events:
        for number in range(10):
            await state.set("s", "k", number)
        assert [event.new_value for event in await taken(all_events, 10)] == list(range(10))
        with pytest.raises(Gap, match="7 events were dropped") as gap:
            await anext(events)
        assert gap.value.dropped == 7
        assert [event.new_value for event in await taken(events, 3)] == [7, 8, 9]
        await state.set("s", "k", 10)
        assert [event.new_value for event in await taken(events, 1)] == [10]


async def test_no_writer_fails_because_nobody_reads(tmp_path: Path) -> None:
    async with Engine() as engine:
        await engine.add_module(StateModule({"dispatch": {"max_queue_length": 2}}))
        state = State(engine)

        async def is_delivered() -> bool:
            (queue,) = await queues(engine)
            return not queue["waiting"] and not queue["pending"]

        async with state.watch(buffer=1) as events:
            for number in range(50):
                await state.set("s", "k", number)
                await until(is_delivered)
            with pytest.raises(Gap, match="49 events"):
                await anext(events)
            assert (await anext(events)).new_value == 49


async def test_closing_it_ends_the_loop_of_its_reader_and_drops_what_was_not_read(state: State, embedded: Engine) -> None:
    watch = state.watch()
    async with watch:
        await state.set("s", "k", 1)
        await taken(watch, 1)
        reading = asyncio.create_task(collected(watch))
        await asyncio.sleep(0)
        await watch.aclose()
        await watch.aclose()
        assert await asyncio.wait_for(reading, 20) == []
    assert await watching(embedded) == []
    assert await collected(watch) == []
    with pytest.raises(RuntimeError, match="this watch is over"):
        await watch.__aenter__()


async def collected(watch: Watch) -> list[Event]:
    return [event async for event in watch]


async def test_one_that_was_closed_before_it_began_never_begins(kv: State, kv_engine: Engine) -> None:
    watch = kv.watch()
    await watch.aclose()
    assert await collected(watch) == []
    assert await watching(kv_engine) == []


@pytest.mark.both_loops
async def test_it_ends_behind_what_has_come_when_the_engine_stops(kind: str, tmp_path: Path) -> None:
    async with engine_over(kind, tmp_path) as engine:
        state = State(engine)
        watch = state.watch()
        async with state.watch() as seen, watch:
            reading = asyncio.create_task(collected(watch))
            late = state.watch()
            await state.set("s", "k", 1)
            await taken(seen, 1)
            await engine.stop()
            assert [event.new_value for event in await asyncio.wait_for(reading, 20)] == [1]
            with pytest.raises(RuntimeError, match="this engine has been stopped"):
                await anext(late)


async def test_the_end_of_an_engine_leaves_no_queue_in_the_store(tmp_path: Path) -> None:
    async with engine_over("redis", tmp_path) as other:
        async with engine_over("redis", tmp_path) as engine:
            watch = State(engine).watch()
            await watch.__aenter__()
            assert len(await queues(other)) == 1
        assert await queues(other) == []


async def test_an_engine_that_does_not_run_or_has_no_state_cannot_be_watched() -> None:
    engine = Engine()
    state = State(engine)
    with pytest.raises(RuntimeError, match="this engine is not running"):
        await anext(state.watch())
    async with engine:
        with pytest.raises(FunctionError, match="add a StateModule to it first"):
            await anext(state.watch())
        await engine.add_module(StateModule())
        async with state.watch() as events:
            await state.set("s", "k", 1)
            assert (await taken(events, 1))[0].new_value == 1


async def test_one_of_several_readers_gets_each_event(kv: State) -> None:
    async with kv.watch() as events:
        readers = [asyncio.create_task(taken(events, 5)) for _ in range(4)]
        await asyncio.sleep(0)
        for number in range(20):
            await kv.set("s", "k", number)
        seen = [event.new_value for reader in readers for event in await reader]
    assert sorted(seen) == list(range(20))


async def test_a_watch_that_could_not_be_registered_leaves_nothing_and_can_be_tried_again(
    kv: State, kv_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(request: dict[str, Any]) -> None:
        raise FunctionError("trigger_registration_failed", "the store is away")

    watch = kv.watch()
    with monkeypatch.context() as patched:
        patched.setattr(kv_engine, "register_trigger", refuse)
        with pytest.raises(FunctionError, match="the store is away"):
            await anext(watch)
    assert await watching(kv_engine) == []
    async with watch as events:
        await kv.set("s", "k", 1)
        assert (await taken(events, 1))[0].key == "k"


def test_a_buffer_holds_one_event_at_least() -> None:
    with pytest.raises(ValueError, match="buffer has to be 1 or more events, not 0"):
        State(Engine()).watch(buffer=0)


async def test_events_of_deadlines_come_too(state: State) -> None:
    async with state.watch() as events:
        await state.set("s", "k", 1, ttl_ms=50)
        assert [event.event_type for event in await taken(events, 2)] == ["state:created", "state:deleted"]
