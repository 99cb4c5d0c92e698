"""`State.watch` with a change log: what is there, then every change, with no gap and nothing twice, from any position on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from iii_state import Code, Engine, Event, FunctionError, State, StateModule, ops
from tests.state.test_facade_watch import taken, watching
from tests.support.engines.embedded import engine_over


def apply(copy: dict[str, Any], event: Event) -> None:
    if event.event_type == "state:deleted":
        copy.pop(event.key, None)
    else:
        copy[event.key] = event.new_value


async def test_what_is_there_comes_first_and_then_every_change(state: State) -> None:
    await state.set("ledger", "a", 1)
    await state.set("ledger", "b", {"n": 1})
    await state.set("ledger", "gone", 1)
    await state.delete("ledger", "gone")
    async with state.watch(scope="ledger", initial=True) as events:
        await state.update("ledger", "b", [ops.increment("n")])
        await state.delete("ledger", "a")
        present = await taken(events, 2)
        updated, deleted = await taken(events, 2)
    assert {event.key: event.new_value for event in present} == {"a": 1, "b": {"n": 1}}
    assert [(event.event_type, event.old_value) for event in present] == [("state:created", None)] * 2
    assert [event.after is None for event in present] == [True, False]
    assert (updated.event_type, updated.old_value, updated.new_value) == ("state:updated", {"n": 1}, {"n": 2})
    assert (deleted.event_type, deleted.key, deleted.old_value) == ("state:deleted", "a", 1)
    assert deleted.after == events.after


@pytest.mark.parametrize("keys", [7, 300])
async def test_a_watch_that_begins_among_writes_has_no_gap_and_nothing_twice(state: State, keys: int) -> None:
    """A copy that follows the watch goes through the same versions of each key as the writer, from what was there on."""
    stop = asyncio.Event()
    written = dict.fromkeys(range(keys), 0)

    async def write() -> None:
        number = 0
        while not stop.is_set():
            key = number % keys
            written[key] += 1
            await state.set("ledger", f"k{key}", written[key])
            number += 1
            await asyncio.sleep(0.001)  # over kv in memory a call is answered at once, and a reader needs its turn

    writer = asyncio.create_task(write())
    await asyncio.sleep(0.05)
    seen: dict[str, int] = {}
    async with state.watch(scope="ledger", initial=True) as events, asyncio.timeout(30):
        changes = 0
        while changes < 3 * keys:
            event = await anext(events)
            if event.old_value is not None:
                changes += 1
                assert event.old_value == seen[event.key]
            elif event.key in seen:
                raise AssertionError(f"{event.key} comes twice: {event}")
            assert event.key not in seen or event.new_value == seen[event.key] + 1
            seen[event.key] = event.new_value
            if changes == keys:
                stop.set()
                await writer
                break
        while events.after is None or {f"k{key}": count for key, count in written.items() if count} != seen:
            event = await anext(events)
            assert event.new_value == seen.get(event.key, 0) + 1
            seen[event.key] = event.new_value


async def test_it_goes_on_behind_the_position_of_any_event(state: State) -> None:
    for number in range(5):
        await state.set("ledger", "k", number)
    async with state.watch(scope="ledger", initial=True) as events:
        (present,) = await taken(events, 1)
        await state.set("ledger", "k", 5)
        await state.set("ledger", "k", 6)
        (first,) = await taken(events, 1)
    assert (present.new_value, first.new_value) == (4, 5)
    for after, expected in ((present.after, [5, 6]), (first.after, [6])):
        async with state.watch(scope="ledger", after=after) as events:
            assert [event.new_value for event in await taken(events, len(expected))] == expected
            await state.set("other", "k", 1)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await anext(events)


async def test_values_that_are_too_large_for_a_page_are_there_too(state: State) -> None:
    large = "x" * 9_000_000
    await state.set("ledger", "large", [large])
    await state.set("ledger", "small", None)
    async with state.watch(scope="ledger", initial=True) as events, asyncio.timeout(30):
        assert {event.key: event.new_value for event in await taken(events, 2)} == {"large": [large], "small": None}
        await state.set("ledger", "large", 1)
        assert [event.new_value for event in await taken(events, 1)] == [1]
    async with state.watch(scope="ledger", key="large", initial=True) as events:
        assert [event.new_value for event in await taken(events, 1)] == [1]


async def test_it_can_be_about_one_key(state: State) -> None:
    await state.set("ledger", "other", 1)
    await state.set("ledger", "k", None)
    async with state.watch(scope="ledger", key="k", initial=True) as events:
        await state.set("ledger", "other", 2)
        await state.set("ledger", "k", 2)
        assert [(event.key, event.new_value) for event in await taken(events, 2)] == [("k", None), ("k", 2)]


async def test_it_begins_in_an_empty_scope(state: State) -> None:
    async with state.watch(scope="ledger", initial=True) as events:
        assert events.after is not None
        await state.set("ledger", "k", 1)
        assert [event.key for event in await taken(events, 1)] == ["k"]


async def test_too_late_is_compacted(state: State, embedded: Engine) -> None:
    async with state.watch(scope="short", initial=True) as events:
        after = events.after
    for number in range(10):
        await state.set("short", "k", number)
    for position in (after, "another:3"):
        with pytest.raises(FunctionError) as failed:
            async with state.watch(scope="short", after=position) as events:
                await anext(events)
        assert failed.value.code == Code.COMPACTED
    assert await watching(embedded) == []


async def test_a_scope_without_a_log_is_refused(state: State, embedded: Engine) -> None:
    with pytest.raises(FunctionError) as failed:
        await anext(state.watch(scope="s", initial=True))
    assert failed.value.code == Code.HISTORY_ERROR
    assert await watching(embedded) == []


def test_what_makes_no_sense_is_refused(kv: State) -> None:
    with pytest.raises(ValueError, match="need a scope"):
        kv.watch(initial=True)
    with pytest.raises(ValueError, match="give one"):
        kv.watch(scope="ledger", initial=True, after="x:1")


async def test_it_ends_when_the_engine_stops(kind: str, tmp_path: Path) -> None:
    seen: list[Event] = []

    async def follow(events: AsyncIterator[Event]) -> None:
        async for event in events:
            seen.append(event)

    async with engine_over(kind, tmp_path) as engine:
        state = State(engine)
        watch = state.watch(scope="ledger", initial=True)
        async with watch:
            following = asyncio.create_task(follow(watch))
            await state.set("ledger", "k", 1)
            async with asyncio.timeout(10):
                while not seen:
                    await asyncio.sleep(0.01)
            await engine.stop()
            async with asyncio.timeout(10):
                await following


async def test_it_goes_on_where_it_was_when_the_program_runs_again(tmp_path: Path) -> None:
    config = {
        "adapter": {"name": "kv", "config": {"store_method": "file_based", "file_path": str(tmp_path / "data")}},
        "history": [{"scope": "ledger"}],
    }
    copy: dict[str, Any] = {}
    after: str | None = None
    for run in range(3):
        async with Engine() as engine:
            await engine.add_module(StateModule(config))
            state = State(engine)
            await state.set("ledger", f"k{run}", run)
            async with state.watch(scope="ledger", after=after, initial=after is None) as events:
                await state.set("ledger", "last", run)
                async with asyncio.timeout(10):
                    while copy.get("last") != run:
                        apply(copy, await anext(events))
                after = events.after
            await state.set("ledger", f"unseen{run}", run)
    assert copy == {"k0": 0, "k1": 1, "k2": 2, "unseen0": 0, "unseen1": 1, "last": 2}
