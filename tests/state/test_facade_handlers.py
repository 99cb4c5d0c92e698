"""`State.on_change`: decorated functions get typed events, under names by which their subscriptions are found again."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from iii_state import Engine, Event, FunctionError, State, StateModule
from iii_state.state import handlers
from tests.support.engines.embedded import engine_over
from tests.support.waiting import until

HERE = "tests.state.test_facade_handlers"


async def registered(engine: Engine) -> list[tuple[str, Any]]:
    rows = await engine.trigger({"function_id": "engine::registered-triggers::list", "payload": {"trigger_type": "state"}})
    return sorted((row["function_id"], row["config"]) for row in rows["registered_triggers"])


def at_the_top(event: Event) -> None: ...


@pytest.mark.both_loops
async def test_a_handler_gets_the_events_of_writes_behind_its_decoration(state: State) -> None:
    seen: list[Event] = []

    @state.on_change(scope="orders")
    async def changed(event: Event) -> None:
        await asyncio.sleep(0)
        seen.append(event)

    await state.set("orders", "o1", {"n": 1})
    await state.set("others", "o1", {"n": 1})
    await state.delete("orders", "o1")
    await until(lambda: len(seen) == 2)
    assert (seen[0].scope, seen[0].key, seen[0].event_type) == ("orders", "o1", "state:created")
    assert (seen[0].old_value, seen[0].new_value, seen[0].cause, seen[0].attempt) == (None, {"n": 1}, None, 1)
    assert seen[0].event_id
    assert (seen[1].event_type, seen[1].old_value, seen[1].new_value) == ("state:deleted", {"n": 1}, None)


async def test_a_plain_function_is_a_handler_and_what_handlers_return_is_ignored(state: State) -> None:
    seen = []

    @state.on_change()
    def plain(event: Event) -> object:
        seen.append(event.attempt)
        return object()

    @state.on_change(retry={"max_attempts": 1})
    async def waiting(event: Event) -> object:
        seen.append(event.attempt)
        return {1, 2}, object()

    await state.set("s", "k", 1)
    await until(lambda: len(seen) == 2)
    await asyncio.sleep(0.05)
    assert seen == [1, 1]


async def test_a_failing_handler_is_called_again_as_its_retry_says(state: State, embedded: Engine) -> None:
    attempts: list[tuple[str, int]] = []

    @state.on_change(scope="s", retry={"max_attempts": 3, "backoff_ms": 1})
    async def fails(event: Event) -> None:
        attempts.append((event.event_id, event.attempt))
        raise ValueError("no")

    async def is_dead() -> bool:
        letters = await embedded.trigger({"function_id": "iii-state::dead_list", "payload": {}})
        return bool(letters["dead"])

    await state.set("s", "k", 1)
    await until(is_dead)
    assert [attempt for _, attempt in attempts] == [1, 2, 3]
    assert len({event_id for event_id, _ in attempts}) == 1


async def test_a_final_error_is_not_tried_again(kv: State, kv_engine: Engine) -> None:
    attempts = []

    @kv.on_change()
    def fails(event: Event) -> None:
        attempts.append(event.attempt)
        raise FunctionError("hopeless", "no use", final=True)

    async def is_dead() -> bool:
        letters = await kv_engine.trigger({"function_id": "iii-state::dead_list", "payload": {}})
        return bool(letters["dead"])

    await kv.set("s", "k", 1)
    await until(is_dead)
    assert attempts == [1]


async def test_a_function_is_named_by_where_it_stands(kv: State, kv_engine: Engine) -> None:
    @kv.on_change(scope="a")
    def inside(event: Event) -> None: ...

    kv.on_change(scope="b")(at_the_top)
    kv.on_change(scope="c", function_id="orders::changed")(at_the_top)
    kv.on_change(scope="d", function_id="a lambda")(lambda event: None)
    await kv.start()
    inner = f"{HERE}.test_a_function_is_named_by_where_it_stands.<locals>.inside"
    assert await registered(kv_engine) == sorted(
        [
            (inner, {"scope": "a"}),
            (f"{HERE}.at_the_top", {"scope": "b"}),
            ("orders::changed", {"scope": "c"}),
            ("a lambda", {"scope": "d"}),
        ]
    )


async def test_all_that_is_said_of_a_subscription_reaches_it(kv: State, kv_engine: Engine) -> None:
    kv.on_change(
        scope="s",
        key="k",
        function_id="f",
        condition_function_id="c",
        delivery="broadcast",
        retry={"max_attempts": 2, "backoff_ms": 1, "max_backoff_ms": 2, "timeout_ms": 3},
        retention_ms="forever",
        concurrency=4,
    )(at_the_top)
    await kv.start()
    config = {
        "scope": "s",
        "key": "k",
        "condition_function_id": "c",
        "delivery": "broadcast",
        "retry": {"max_attempts": 2, "backoff_ms": 1, "max_backoff_ms": 2, "timeout_ms": 3},
        "retention_ms": "forever",
        "concurrency": 4,
    }
    assert await registered(kv_engine) == [("f", config)]


async def test_a_handler_may_be_decorated_for_several_scopes(kv: State) -> None:
    seen = []

    @kv.on_change(scope="a")
    @kv.on_change(scope="b")
    def changed(event: Event) -> None:
        seen.append(event.scope)

    for scope in ("a", "b", "c"):
        await kv.set(scope, "k", 1)
    await until(lambda: len(seen) == 2)
    assert sorted(seen) == ["a", "b"]


async def test_two_handlers_of_one_name_are_refused(kv: State) -> None:
    def made() -> Callable[[Event], None]:
        def changed(event: Event) -> None: ...

        return changed

    kv.on_change(scope="a")(made())
    with pytest.raises(
        ValueError, match=r"made\.<locals>\.changed is the name of another handler already: give each a function_id"
    ):
        kv.on_change(scope="b")(made())
    kv.on_change(scope="b", function_id="second")(made())


class Counter:
    def __call__(self, event: Event) -> None: ...


def no_argument() -> None: ...


def two_arguments(event: Event, metadata: object) -> None: ...


def named_argument(*, event: Event) -> None: ...


def yields(event: Event) -> Iterator[int]:
    yield 1


async def yields_too(event: Event) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("wrong", [no_argument, two_arguments, named_argument])
def test_what_cannot_be_called_with_an_event_is_refused_when_it_is_decorated(wrong: Any) -> None:
    with pytest.raises(
        TypeError, match=rf"{wrong.__name__}\(.*\).* cannot be called with an event alone: a handler takes one argument"
    ):
        State(Engine()).on_change()(wrong)


@pytest.mark.parametrize("wrong", [yields, yields_too])
def test_a_generator_is_refused_since_nothing_would_run_it(wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"{wrong.__name__} yields"):
        State(Engine()).on_change()(wrong)


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError, match="a function that takes an event, not 'orders'"):
        State(Engine()).on_change()("orders")  # type: ignore[type-var]


def test_what_has_no_name_of_its_own_needs_a_function_id() -> None:
    state = State(Engine())
    with pytest.raises(TypeError, match=r"a lambda of tests\.state\.test_facade_handlers has no name of its own"):
        state.on_change()(lambda event: None)
    with pytest.raises(TypeError, match="give a function_id"):
        state.on_change()(functools.partial(two_arguments, metadata=None))
    with pytest.raises(TypeError, match="give a function_id"):
        state.on_change()(Counter())
    state.on_change(function_id="counter")(Counter())


async def test_handlers_of_a_program_that_does_not_run_yet_are_registered_when_it_starts() -> None:
    engine = Engine()
    state = State(engine)
    await asyncio.to_thread(lambda: state.on_change(scope="s")(decorated))  # where no loop runs, as at the top of a module

    def other_writer() -> Any:
        return engine.trigger({"function_id": "state::set", "payload": {"scope": "s", "key": "k", "value": 1}})

    with pytest.raises(RuntimeError, match="this engine is not running"):
        await state.start()
    async with engine:
        await engine.add_module(StateModule())
        await state.start()
        await state.start()
        decorated_seen.clear()
        await other_writer()
        await until(lambda: len(decorated_seen) == 1)


decorated_seen: list[Event] = []


def decorated(event: Event) -> None:
    decorated_seen.append(event)


async def test_the_first_call_registers_what_was_decorated_before(kv_engine: Engine) -> None:
    state = State(kv_engine)
    decorated_seen.clear()
    await asyncio.to_thread(lambda: state.on_change(scope="s")(decorated))
    await state.set("s", "k", 1)
    await until(lambda: len(decorated_seen) == 1)


async def test_in_a_running_program_it_is_registered_without_being_asked(kv_engine: Engine) -> None:
    seen = []

    @State(kv_engine).on_change()
    def changed(event: Event) -> None:
        seen.append(event.key)

    async def is_registered() -> bool:
        return len(await registered(kv_engine)) == 1

    await until(is_registered)
    await kv_engine.trigger({"function_id": "state::set", "payload": {"scope": "s", "key": "k", "value": 1}})
    await until(lambda: seen == ["k"])


async def test_a_config_that_cannot_be_used_is_raised_by_start_and_every_call_and_is_logged(
    kv: State, kv_engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "iii_state"):
        kv.on_change(function_id="f", retry={"max_attempts": 0})(at_the_top)
        await until(lambda: bool(caplog.records))
    assert "no events come to f yet" in caplog.text
    assert "max_attempts" in caplog.text
    for call in (kv.start, lambda: kv.get("s", "k"), lambda: anext(kv.watch())):
        with pytest.raises(FunctionError, match=r"max_attempts") as refused:
            await call()
        assert refused.value.code == "trigger_registration_failed"
    assert kv_engine.functions.get("default", "f") is None


async def test_what_fails_once_is_tried_again_by_itself(
    kv: State, kv_engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(handlers, "AGAIN_SECONDS", 0.01)
    register, failures = kv_engine.register_trigger, 3

    async def refuse(request: dict[str, Any]) -> Any:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise FunctionError("trigger_registration_failed", "the store is away")
        return await register(request)

    monkeypatch.setattr(kv_engine, "register_trigger", refuse)
    kv.on_change(function_id="f")(at_the_top)

    async def is_registered() -> bool:
        return await registered(kv_engine) == [("f", {})]

    await until(is_registered)
    assert caplog.text.count("the store is away") == 1


async def test_decorated_before_the_engine_runs_it_is_logged_that_it_does_not(caplog: pytest.LogCaptureFixture) -> None:
    state = State(Engine())
    state.on_change(function_id="f")(at_the_top)
    await until(lambda: "no events come to f yet: this engine is not running" in caplog.text)


async def test_a_subscription_is_found_again_with_what_has_waited(tmp_path: Path) -> None:
    """A program that runs again handles what was written while it was away."""
    async with engine_over("redis", tmp_path) as other:
        async with engine_over("redis", tmp_path) as engine:
            first = State(engine)
            first.on_change(scope="s")(decorated)
            await first.start()
        decorated_seen.clear()
        await State(other).set("s", "k", "while it was away")
        async with engine_over("redis", tmp_path) as engine:
            second = State(engine)
            second.on_change(scope="s")(decorated)
            await second.start()
            await until(lambda: len(decorated_seen) == 1)
            assert decorated_seen[0].new_value == "while it was away"


async def test_once_is_one_of_two_engines_and_broadcast_is_each(tmp_path: Path) -> None:
    async with engine_over("redis", tmp_path) as one, engine_over("redis", tmp_path) as other:
        once: list[str] = []
        everywhere: list[str] = []
        states = [State(one), State(other)]
        for state in states:
            state.on_change(scope="s", function_id="once")(lambda event: once.append(event.key))
            state.on_change(scope="s", function_id="everywhere", delivery="broadcast")(lambda event: everywhere.append(event.key))
            await state.start()
        await states[0].set("s", "k", 1)
        await until(lambda: len(everywhere) == 2 and len(once) == 1)
        await asyncio.sleep(0.1)
        assert (once, everywhere) == (["k"], ["k", "k"])


async def test_a_condition_that_says_false_skips_the_handler(kv: State, kv_engine: Engine) -> None:
    seen: list[int] = []
    kv_engine.register_function("is_even", lambda event: event["new_value"] % 2 == 0)

    @kv.on_change(condition_function_id="is_even", concurrency=1)
    def changed(event: Event) -> None:
        seen.append(event.new_value)

    for number in range(5):
        await kv.set("s", "k", number)
    await until(lambda: len(seen) == 3)
    assert seen == [0, 2, 4]


def test_an_event_has_the_cause_and_the_delivery_that_its_engine_tells_of() -> None:
    payload = {"type": "state", "event_type": "state:deleted", "scope": "s", "key": "k", "old_value": 1, "new_value": None}
    assert handlers.event_of(payload, None) == Event("s", "k", "state:deleted", 1, None)
    metadata = {"iii_state": {"event_id": "w:s", "attempt": 2, "fence": 3}}
    expired = handlers.event_of(payload | {"cause": "expired", "_caller_worker_id": ""}, metadata)
    assert expired == Event("s", "k", "state:deleted", 1, None, "expired", "w:s", 2, 3)


async def test_handler_condition_and_watch_are_told_that_a_deadline_was_the_cause(state: State, embedded: Engine) -> None:
    asked: list[Any] = []
    seen: list[Event] = []
    embedded.register_function("any", lambda event: asked.append(event.get("cause", "absent")))

    @state.on_change(scope="s", condition_function_id="any", retry={"max_attempts": 2, "backoff_ms": 1})
    def changed(event: Event) -> None:
        seen.append(event)
        if event.cause == "expired" and event.attempt == 1:
            raise RuntimeError("not yet")

    async with state.watch(scope="s") as watch:
        await state.set("s", "k", 1, ttl_ms=30)
        watched = [await anext(watch), await anext(watch)]
    await until(lambda: len(seen) == 3)
    assert [(event.event_type, event.cause) for event in watched] == [("state:created", None), ("state:deleted", "expired")]
    assert [(event.cause, event.attempt) for event in seen] == [(None, 1), ("expired", 1), ("expired", 2)]
    assert asked == ["absent", "expired", "expired"]


def test_a_cause_that_is_not_known_here_is_none() -> None:
    payload = {"event_type": "state:deleted", "scope": "s", "key": "k", "old_value": 1, "new_value": None, "cause": "evicted"}
    assert handlers.event_of(payload, None).cause is None


async def test_a_handler_may_write_itself(state: State) -> None:
    @state.on_change(scope="a")
    async def copy(event: Event) -> None:
        await state.set("b", event.key, event.new_value)

    async with state.watch(scope="b") as events:
        await state.set("a", "k", 1)
        async with asyncio.timeout(20):
            assert (await anext(events)).new_value == 1
