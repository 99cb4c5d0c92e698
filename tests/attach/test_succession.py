"""Several attached workers of one store at one stock engine (a likeness, see `old_engine`): one serves, with functions and types.

A stock engine of 0.23 keeps a function for its first owner, gives a trigger type to whoever registers it last, and never takes one
back: a worker that stands by must not have registered it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from iii_state.client.about import About
from iii_state.client.client import Client
from iii_state.errors import FunctionError
from tests.support.engines.attached import attached, said
from tests.support.engines.calls import SOON, Seen, call_over
from tests.support.engines.old_engine import OldEngine
from tests.support.engines.processes import running_engine
from tests.support.redis.server import RedisServer, shared_server
from tests.support.slow import slow
from tests.support.waiting import until

STORES = ["redis", *map(slow, ("bridge-kv", "bridge-redis", "bridge-bridge-kv"))]


@contextmanager
def remote(kind: str) -> Iterator[str]:
    """The address of an engine whose state is of a kind."""
    if kind.startswith("bridge-"):
        with remote(kind.removeprefix("bridge-")) as url, running_engine(["--bridge-url", url]) as engine:
            yield engine.url
    else:
        with running_engine([] if kind == "kv" else ["--redis-url", shared_server().url]) as engine:
            yield engine.url


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, redis: RedisServer) -> Iterator[tuple[str, str]]:
    """The options of `attach` for a store that several processes share."""
    if request.param == "redis":
        yield ("--redis-url", redis.url)
    else:
        with remote(request.param.removeprefix("bridge-")) as url:
            yield ("--bridge-url", url)


@pytest.fixture(params=["last-wins", "first-wins"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[OldEngine]:
    async with OldEngine(first_wins=request.param == "first-wins") as engine:
        yield engine


async def served(client: Client, function_id: str, payload: Any) -> None:
    """Call a function as soon as somebody serves it: where one hands over to another, nobody does for a moment."""
    async with asyncio.timeout(SOON):
        while True:
            try:
                await call_over(client, function_id, payload)
            except FunctionError as error:
                if error.code != "function_not_found":
                    raise
                await asyncio.sleep(0.01)
            else:
                return


async def new_triggers_fire(engine: OldEngine, client: Client, name: str) -> None:
    """A trigger that is registered now fires, and its provider is the one that has the functions."""
    seen = Seen()
    client.serving.register_function(name, seen)
    await client.triggers.register("state", name, {"scope": name})
    await served(client, "state::set", {"scope": name, "key": "k", "value": name})
    await until(lambda: seen.values == [name], f"the trigger {name} does not fire")
    assert engine.types["state"] == engine.functions["state::set"][0]


async def test_the_one_that_stands_by_takes_nothing_and_takes_over(engine: OldEngine, store: tuple[str, str]) -> None:
    with attached(engine.url, *store) as first:
        await said(first, "attached to")
        owner = engine.functions["state::set"][0]
        async with Client(engine.url, About("a-worker")) as client:
            with attached(engine.url, *store) as second:
                await said(second, "standby at")
                await new_triggers_fire(engine, client, "beside")
                assert engine.functions["state::set"][0] == engine.types["state"] == owner
                assert engine.rejections == 0, "who stands in line tries nothing"
            await new_triggers_fire(engine, client, "after")
            with attached(engine.url, *store) as third:
                await said(third, "standby at")
                first.kill()
                await said(third, "attached to")
                await new_triggers_fire(engine, client, "then")


@pytest.mark.parametrize("kind", ["redis", slow("bridge-kv")])
async def test_a_leader_that_sleeps_keeps_the_types_with_its_functions(kind: str, redis: RedisServer) -> None:
    with remote("kv") as url:
        store = ("--redis-url", redis.url) if kind == "redis" else ("--bridge-url", url)
        async with OldEngine(first_wins=True) as engine, Client(engine.url, About("a-worker")) as client:
            with attached(engine.url, *store) as first:
                await said(first, "attached to")
                owner = engine.functions["state::set"][0]
                with attached(engine.url, *store) as second:
                    await said(second, "standby at")
                    first.pause(True)
                    await until(lambda: engine.rejections > 0, "the second one never tries")
                    await said(second, "another worker keeps state::*")
                    assert engine.types["state"] == owner
                    first.pause(False)
                    # Whoever serves after that: the functions and the types are the same one's.
                    await new_triggers_fire(engine, client, "awake")
                await new_triggers_fire(engine, client, "alone")


async def test_a_place_is_kept_while_an_engine_is_slow_to_answer(redis: RedisServer) -> None:
    """Such an answer may take twice as long as a place lasts of which nothing is heard."""
    async with OldEngine() as engine:
        engine.holds_lists = lambda: "state::set" in engine.functions
        with attached(engine.url, "--redis-url", redis.url) as process:
            await until(lambda: "state::set" in engine.functions, "it offers no functions")
            places: set[bytes] = set()

            def was_renewed() -> bool:
                line = redis.client.hgetall("iii-state:line")
                assert isinstance(line, dict)
                places.update(place for name, place in line.items() if name != b"#")
                return len(places) > 2

            await until(was_renewed, "its place is not renewed")
            assert "state" not in engine.types, "it was renewed by the next check only"
            engine.holds_lists = lambda: False
            await said(process, "attached to")


@pytest.mark.parametrize("stays", [True, False])
async def test_a_trigger_type_that_is_lost_is_provided_again(engine: OldEngine, redis: RedisServer, stays: bool) -> None:
    with attached(engine.url, "--redis-url", redis.url) as process:
        await said(process, "attached to")
        async with Client(engine.url, About("a-worker")) as client:
            before, gone = Seen(), Seen()
            for name, seen in (("before", before), ("gone", gone)):
                client.serving.register_function(name, seen)
            await client.triggers.register("state", "before", {"scope": "s"})
            leaving = await client.triggers.register("state", "gone", {"scope": "s"})
            await until(lambda: len(engine.triggers) == 2, "no triggers")
            async with Client(engine.url, About("usurper")) as usurper:
                usurper.serving.register_trigger_type("state", _Deaf(), "another one")
                await usurper.call("engine::functions::list", b"{}")
                client.triggers.unregister(leaving, "state")  # which only the other one is told
                await until(lambda: len(engine.triggers) == 1, "the trigger is still there")
                if stays and engine.tells_who_provides:
                    await said(process, "has given to another worker the trigger type state; providing it again")
                    await new_triggers_fire(engine, client, "taken back")
            if not (stays and engine.tells_who_provides):
                await said(process, "has lost the trigger type state; providing it again")
                await new_triggers_fire(engine, client, "found")
            await call_over(client, "state::set", {"scope": "s", "key": "k", "value": "once"})
            await until(lambda: before.values == ["once"], "an event is lost")
            assert gone.values == []


class _Deaf:
    """A provider of trigger types that does nothing with them."""

    def register(self, *_: object, **__: object) -> None: ...

    def unregister(self, *_: object, **__: object) -> None: ...


async def test_a_write_of_the_first_moment_finds_the_triggers_that_were_there_before(engine: OldEngine, redis: RedisServer) -> None:
    seen = Seen()
    async with Client(engine.url, About("a-worker")) as client:
        client.serving.register_function("handler", seen)
        await client.triggers.register("state", "handler", {"scope": "s"})
        with attached(engine.url, "--redis-url", redis.url):
            await until(lambda: "state::set" in engine.functions, "nobody serves")
            await call_over(client, "state::set", {"scope": "s", "key": "k", "value": "first"})
            await until(lambda: seen.values == ["first"], "the event of the first write is lost")


@pytest.mark.parametrize("where", ["old", "ours"])
async def test_workers_with_different_prefixes_do_not_wait_for_each_other(
    engine: OldEngine, ours: str, store: tuple[str, str], where: str
) -> None:
    url = engine.url if where == "old" else ours
    shared = ("--prefix", "shared::state")
    with attached(url, *store) as first, attached(url, *store, *shared) as second, attached(url, *store, *shared) as third:
        await said(first, ": serving state::*")
        await until(lambda: "attached to" in second.stderr.text() + third.stderr.text(), "nobody serves the prefix")
        leader, standby = (second, third) if "attached to" in second.stderr.text() else (third, second)
        await said(standby, "standby at")
        async with Client(url, About("a-worker")) as client:
            await call_over(client, "state::set", {"scope": "s", "key": "k", "value": 1})
            assert await call_over(client, "shared::state::get", {"scope": "s", "key": "k"}) == 1
            leader.kill()
            await said(standby, "serving shared::state::*")
            assert await call_over(client, "shared::state::get", {"scope": "s", "key": "k"}) == 1
