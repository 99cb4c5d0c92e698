"""Attached workers at an engine as stock ones were up to 0.22 (a likeness of one: see `old_engine`)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from iii_state.client.about import About
from iii_state.client.client import Client
from iii_state.errors import FunctionError
from iii_state.host import Caller
from iii_state.tasks.results import Result
from iii_state.values import Json
from tests.support.engines.attached import attached, said
from tests.support.engines.calls import SOON, Seen, call_over
from tests.support.engines.old_engine import OldEngine
from tests.support.redis.server import RedisServer
from tests.support.waiting import until


@pytest.fixture
async def engine() -> AsyncIterator[OldEngine]:
    async with OldEngine() as engine:
        yield engine


@pytest.fixture
async def client(engine: OldEngine) -> AsyncIterator[Client]:
    async with Client(engine.url, About("a-worker")) as client:
        yield client


async def test_it_serves_calls_and_triggers(engine: OldEngine, client: Client, redis: RedisServer) -> None:
    seen = Seen()
    with attached(engine.url, "--redis-url", redis.url) as process:
        await said(process, "attached to")
        client.serving.register_function("handler", seen)
        await client.triggers.register("state", "handler", {"scope": "s"})
        await call_over(client, "state::set", {"scope": "s", "key": "settle", "value": 0})
        await until(lambda: len(engine.triggers) == 1, "no trigger")
        for value in (1, {"n": 1}):
            await call_over(client, "state::set", {"scope": "s", "key": "k", "value": value})
        await until(lambda: seen.values[-2:] == [1, {"n": 1}], "an event is lost")
        assert redis.client.hget("state:s", "k") == b'{\t\n"n":1\n}'  # without the caller's id
        with pytest.raises(FunctionError) as refused:
            await call_over(client, "state::get", {"scope": "s"})
        assert refused.value.code == "deserialization_error"


async def test_the_one_that_stands_by_registers_nothing_until_the_other_is_gone(
    engine: OldEngine, client: Client, redis: RedisServer
) -> None:
    seen = Seen()
    with attached(engine.url, "--redis-url", redis.url) as first:
        await said(first, "attached to")
        owner = engine.functions["state::set"][0]
        with attached(engine.url, "--redis-url", redis.url) as second:
            await said(second, "standby at")
            client.serving.register_function("handler", seen)
            await client.triggers.register("state", "handler", {"scope": "s"})
            await call_over(client, "state::set", {"scope": "s", "key": "k", "value": 1})
            assert engine.functions["state::set"][0] == engine.types["state"] == owner
            first.kill()
            await said(second, "attached to")
            await call_over(client, "state::set", {"scope": "s", "key": "k", "value": 2})
            await until(lambda: list(dict.fromkeys(seen.values)) == [1, 2], "an event is lost")  # one may come twice


async def test_one_that_slept_too_long_is_replaced_and_steps_down_when_it_wakes(
    engine: OldEngine, client: Client, redis: RedisServer
) -> None:
    seen = Seen()
    with attached(engine.url, "--redis-url", redis.url) as first:
        await said(first, "attached to")
        with attached(engine.url, "--redis-url", redis.url) as second:
            await said(second, "standby at")
            client.serving.register_function("handler", seen)
            await client.triggers.register("state", "handler", {"scope": "s"})
            await call_over(client, "state::set", {"scope": "s", "key": "k", "value": 1})
            first.pause(True)
            await said(second, "attached to")
            await call_over(client, "state::set", {"scope": "s", "key": "k", "value": 2})
            first.pause(False)
            await said(first, "steps down")
            await said(first, "standby at")
            await call_over(client, "state::set", {"scope": "s", "key": "k", "value": 3})
            await until(lambda: seen.values[-1:] == [3], "an event is lost")
            assert list(dict.fromkeys(seen.values)) == [1, 2, 3]
            # The client's own functions, and one provider of all of state.
            assert len({provider for provider, _ in engine.functions.values()}) == 2


async def test_where_names_have_to_differ_the_second_one_takes_another(redis: RedisServer) -> None:
    async with OldEngine(unique_names=True) as engine:
        with attached(engine.url, "--redis-url", redis.url) as first:
            await said(first, f"attached to {engine.url} as state: serving state::*")
            with attached(engine.url, "--redis-url", redis.url) as second:
                await said(second, "standby at")
                assert sorted(about["name"] for about in engine.about.values()) == ["state", "state-2"]
                first.kill()
                await said(second, f"attached to {engine.url} as state-2: serving state::*")


async def test_a_value_too_deep_for_the_engine_is_answered_with_an_error(
    engine: OldEngine, client: Client, redis: RedisServer
) -> None:
    deep = b"[" * 126 + b"]" * 126
    redis.client.hset("state:s", "deep", deep)
    with attached(engine.url, "--redis-url", redis.url) as process:
        await said(process, "attached to")
        assert await call_over(client, "state::get", {"scope": "s", "key": "deep"}) == json.loads(deep)
        with pytest.raises(FunctionError, match="127 levels") as refused:
            await call_over(client, "state::list", {"scope": "s"})
        assert refused.value.code == "serialization_error"


async def test_an_event_too_deep_for_the_engine_is_a_dead_letter(engine: OldEngine, client: Client, redis: RedisServer) -> None:
    seen = Seen()
    redis.client.hset("state:s", "k", b"[" * 126 + b"]" * 126)
    with attached(engine.url, "--redis-url", redis.url) as process:
        await said(process, "attached to")
        client.serving.register_function("handler", seen)
        await client.triggers.register("state", "handler", {"scope": "s"})
        with pytest.raises(FunctionError, match="was carried out"):
            await call_over(client, "state::set", {"scope": "s", "key": "k", "value": 1})
        await call_over(client, "state::set", {"scope": "s", "key": "k", "value": 2})
        await until(lambda: seen.values == [2], "the event behind a deep one")
        (letter,) = (await call_over(client, "iii-state::dead_list", {}))["dead"]
        assert "127 levels" in letter["error"]
        assert letter["attempts"] == 1


async def test_a_large_event_of_which_its_worker_goes_is_a_crash_like_any_other(engine: OldEngine, redis: RedisServer) -> None:
    called = 0

    def leave(data: Json, caller: Caller) -> Result[bytes | None]:
        nonlocal called
        called += 1
        worker.connection.close()
        return asyncio.get_running_loop().create_future()

    with attached(engine.url, "--redis-url", redis.url) as process:
        await said(process, "attached to")
        async with Client(engine.url, About("leaves"), reconnects=True) as worker, Client(engine.url) as client:
            worker.serving.register_function("handler", leave)
            retry = {"max_attempts": 2, "backoff_ms": 1}
            await worker.triggers.register("state", "handler", {"scope": "s", "retry": retry})
            await call_over(client, "state::set", {"scope": "s", "key": "k", "value": "x" * 1_200_000})
            async with asyncio.timeout(SOON):
                while not (dead := (await call_over(client, "iii-state::dead_list", {}))["dead"]):
                    await asyncio.sleep(0.05)
            assert called == 3
            assert "3 times, the last 2 with this event alone" in dead[0]["error"]


async def test_functions_that_another_worker_has_overwritten_come_back_when_it_leaves(
    engine: OldEngine, client: Client, redis: RedisServer
) -> None:
    with attached(engine.url, "--redis-url", redis.url) as process:
        await said(process, "attached to")
        async with Client(engine.url, About("usurper")) as usurper:
            for function_id in ("iii-state::dead_drop", "state::get"):  # which the engine lists first
                usurper.serving.register_function(function_id, Seen())
            await said(process, f"state::get at {engine.url} is served by")
            await said(process, "it has taken over functions of this one")
        await said(process, "has lost state::get, iii-state::dead_drop; registering")
        await call_over(client, "state::set", {"scope": "s", "key": "k", "value": 1})
        assert await call_over(client, "state::get", {"scope": "s", "key": "k"}) == 1


async def ends(client: Client, key: str) -> dict[str, Any]:
    """The dead letter of a key, once it is there."""
    async with asyncio.timeout(SOON):
        while True:
            for letter in (await call_over(client, "iii-state::dead_list", {}))["dead"]:
                if letter["key"] == key:
                    found: dict[str, Any] = letter
                    return found
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("code", "message", "attempts", "calls"),
    [
        ("invocation_stopped", "Invocation stopped", 1, 3),
        ("channel_send_failed", "closing", 1, 3),
        ("payload_too_large", "too much", 2, 2),
        ("function_not_found", "Function handler::inner not found", 2, 2),
        ("function_not_found", "Function handler not found in namespace other.", 2, 3),  # the first is believed, and looked up
    ],
)
async def test_a_handlers_own_error_ends_whatever_engine_words_it_uses(
    code: str, message: str, attempts: int, calls: int, engine: OldEngine, client: Client, redis: RedisServer
) -> None:
    called = 0

    def refuse(data: Json, caller: Caller) -> Result[bytes | None]:
        nonlocal called
        called += 1
        raise FunctionError(code, message)

    with attached(engine.url, "--redis-url", redis.url) as process:
        await said(process, "attached to")
        client.serving.register_function("handler", refuse)
        await client.triggers.register("state", "handler", {"scope": "s", "retry": {"max_attempts": 2, "backoff_ms": 1}})
        await call_over(client, "state::set", {"scope": "s", "key": "k", "value": 1})
        letter = await ends(client, "k")
        assert (letter["attempts"], called) == (attempts, calls)


async def test_a_function_that_is_not_there_is_waited_for_without_an_attempt(
    engine: OldEngine, client: Client, redis: RedisServer
) -> None:
    seen = Seen()
    with attached(engine.url, "--redis-url", redis.url) as process:
        await said(process, "attached to")
        await client.triggers.register("state", "handler", {"scope": "s", "retry": {"max_attempts": 1}})
        await call_over(client, "state::set", {"scope": "s", "key": "k", "value": 1})
        await asyncio.sleep(1.5)  # some looks at what the engine lists
        client.serving.register_function("handler", seen)
        await until(lambda: seen.values == [1], "an event is lost")
        assert (await call_over(client, "iii-state::dead_list", {}))["dead"] == []
