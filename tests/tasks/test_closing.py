"""What is stopped ends, wholly and within bounds, and what cannot be used (again) says so at once."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from iii_state import ConfigError, Engine, StateModule, StoreError
from iii_state.client.client import Client
from iii_state.engine import engine as engine_module
from iii_state.errors import ConnectionLost
from iii_state.host import Host
from iii_state.tasks.closing import Stopping
from tests.support.redis.server import RedisServer, shared_server
from tests.support.stores import engine_over

SOON = 20.0


@pytest.fixture(params=["kv-file", "redis", "bridge"])
async def config(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[dict[str, Any]]:
    """The configuration of a state module whose store outlives it."""
    if request.param == "kv-file":
        yield {"adapter": {"name": "kv", "config": {"store_method": "file_based", "file_path": str(tmp_path / "store")}}}
    elif request.param == "redis":
        server = shared_server()
        server.empty()
        yield {"adapter": {"name": "redis", "config": {"redis_url": server.url}}}
    else:
        async with engine_over("kv", tmp_path, None) as (url, _):
            yield {"adapter": {"name": "bridge", "config": {"bridge_url": url}}}


class Watched:
    """The tasks and threads of a store that are there beside those there were."""

    def __init__(self) -> None:
        self._tasks = asyncio.all_tasks()
        self._threads = set(threading.enumerate())

    async def nothing_is_left(self) -> None:
        async with asyncio.timeout(SOON):
            while left := self._left():
                await asyncio.sleep(0.01)
                assert left is not None

    def _left(self) -> list[str]:
        threads = [thread.name for thread in set(threading.enumerate()) - self._threads if "sqlite" in thread.name]
        return threads + [task.get_name() for task in asyncio.all_tasks() - self._tasks if "iii" in task.get_name()]


class Broken:
    """A module whose stop raises."""

    name = "broken"

    def __init__(self, error: BaseException) -> None:
        self.error = error

    async def start(self, host: Host) -> None:
        pass

    async def stop(self) -> None:
        raise self.error

    async def health(self) -> str | None:
        return None


async def set_value(engine: Engine, value: Any) -> None:
    await engine.trigger({"function_id": "state::set", "payload": {"scope": "s", "key": "k", "value": value}})


async def works(config: dict[str, Any]) -> None:
    """Whether another module can have the store, and reads and writes it."""
    async with Engine() as engine:
        await engine.add_module(StateModule(config))
        await set_value(engine, 1)
        assert await engine.trigger({"function_id": "state::get", "payload": {"scope": "s", "key": "k"}}) == 1


async def test_a_stop_that_was_cut_off_goes_on_and_is_waited_for(config: dict[str, Any]) -> None:
    before = Watched()
    running, release = asyncio.Event(), asyncio.Event()

    async def hold(event: Any) -> None:
        running.set()
        await release.wait()

    engine = await Engine().__aenter__()
    await engine.add_module(StateModule(config))
    engine.register_function("hold", hold)
    await engine.register_trigger({"type": "state", "function_id": "hold"})
    await set_value(engine, 1)
    await asyncio.wait_for(running.wait(), SOON)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.stop(), 0.02)
    release.set()
    await asyncio.wait_for(engine.stop(), SOON)
    await before.nothing_is_left()
    await works(config)


@pytest.mark.parametrize("what", ["module", "adapter"])
async def test_so_do_a_modules_and_an_adapters(config: dict[str, Any], what: str) -> None:
    before = Watched()
    module = StateModule(config)
    async with Engine() as engine:
        await engine.add_module(module)
        await set_value(engine, 1)
        stop = module.stop if what == "module" else module.adapter.stop
        cut_off = asyncio.create_task(stop())
        await asyncio.sleep(0)
        cut_off.cancel()
        await asyncio.wait([cut_off])
        await asyncio.wait_for(stop(), SOON)
    await before.nothing_is_left()
    await works(config)


async def test_a_module_that_could_not_be_started_in_time_leaves_nothing_behind(config: dict[str, Any]) -> None:
    before = Watched()
    async with Engine() as engine:
        for turns in range(12):
            adding = asyncio.create_task(engine.add_module(StateModule(config)))
            for _ in range(turns):
                await asyncio.sleep(0)
            was_under_way = adding.cancel()  # a file may have been opened by then
            await asyncio.wait([adding])
            assert adding.cancelled() == was_under_way
            if not was_under_way:
                break
    await before.nothing_is_left()
    await works(config)


async def test_a_client_that_is_closed_twice_is_closed() -> None:
    before = Watched()
    async with Engine() as engine:
        host, port = await engine.serve("127.0.0.1", 0)
        client = Client(f"ws://{host}:{port}", reconnects=True)
        with pytest.raises(RuntimeError, match="async with"):
            client.call("echo", b"1")
        await client.__aenter__()
        open_call = client.call("engine::nothing::like::this", b"1")
        cut_off = asyncio.create_task(client.__aexit__())
        await asyncio.sleep(0)
        cut_off.cancel()
        await client.__aexit__()
        for call in (open_call, client.call("echo", b"1")):
            with pytest.raises(ConnectionLost):
                await asyncio.wait_for(call, SOON)
        with pytest.raises(RuntimeError, match="another one"):
            await client.__aenter__()
    await before.nothing_is_left()


async def test_a_function_that_passes_over_its_cancellation_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine_module, "_FUNCTIONS_SECONDS", 0.1)
    done = asyncio.Event()

    async def stubborn(event: Any) -> None:
        while not done.is_set():
            try:
                await done.wait()
            except asyncio.CancelledError:
                continue

    engine = await Engine().__aenter__()
    engine.register_function("stubborn", stubborn)
    await engine.trigger({"function_id": "stubborn", "action": {"type": "void"}})
    await asyncio.sleep(0)
    await asyncio.wait_for(engine.stop(), SOON)
    assert "1 Python functions go on" in caplog.text
    done.set()


@pytest.mark.parametrize("error", [RuntimeError("boom"), asyncio.CancelledError(), SystemExit(3)], ids=["error", "cancel", "exit"])
async def test_a_module_that_fails_to_stop_spares_the_others(config: dict[str, Any], error: BaseException) -> None:
    before = Watched()
    async with Engine() as engine:
        await engine.add_module(StateModule(config))
        await engine.add_module(Broken(error))
        await set_value(engine, 1)
    await before.nothing_is_left()
    await works(config)


async def test_an_engine_that_is_stopped_by_the_end_of_its_loop_closes_its_store(config: dict[str, Any]) -> None:
    before = Watched()
    engine = await Engine().__aenter__()
    await engine.add_module(StateModule(config))
    running = asyncio.Event()

    async def hold(event: Any) -> None:
        running.set()
        await asyncio.sleep(3600)

    engine.register_function("hold", hold)
    await engine.register_trigger({"type": "state", "function_id": "hold"})
    await set_value(engine, 1)
    await asyncio.wait_for(running.wait(), SOON)
    stopping = engine._stopping.begin()
    await asyncio.sleep(0.01)
    stopping.cancel()  # what `asyncio.run` does with what is left
    await asyncio.wait([stopping], timeout=SOON)
    assert stopping.cancelled()
    await before.nothing_is_left()
    await works(config)


async def test_a_handler_may_stop_its_own_engine(config: dict[str, Any]) -> None:
    before = Watched()
    handled: list[Any] = []

    async def stop(event: Any) -> None:
        await engine.stop()
        handled.append(event["new_value"])

    engine = await Engine().__aenter__()
    await engine.add_module(StateModule(config))
    engine.register_function("stop", stop)
    await engine.register_trigger({"type": "state", "function_id": "stop"})
    await set_value(engine, 1)
    async with asyncio.timeout(SOON):
        while not handled:
            await asyncio.sleep(0.01)
        await engine.stop()
    await before.nothing_is_left()
    await works(config)


@pytest.mark.parametrize("call_timeout_ms", [1000, 5000], ids=["calls have failed", "calls are open"])
async def test_a_stop_while_redis_is_away_is_short_and_says_little(caplog: pytest.LogCaptureFixture, call_timeout_ms: int) -> None:
    caplog.set_level(logging.WARNING)
    started, release = [], asyncio.Event()

    async def hold(event: Any) -> None:
        started.append(event["key"])
        await release.wait()
        raise RuntimeError("boom")

    with RedisServer() as server:
        engine = await Engine().__aenter__()
        settings = {"redis_url": server.url, "call_timeout_ms": call_timeout_ms}
        await engine.add_module(StateModule({"adapter": {"name": "redis", "config": settings}}))
        engine.register_function("hold", hold)
        await engine.register_trigger({"type": "state", "function_id": "hold"})
        for number in range(50):
            payload = {"scope": "s", "key": str(number), "value": 1}
            await engine.trigger({"function_id": "state::set", "payload": payload})
        async with asyncio.timeout(SOON):
            while len(started) < 50:
                await asyncio.sleep(0.01)
    release.set()
    await asyncio.sleep(0)
    async with asyncio.timeout(SOON / 2):
        await engine.stop()
    assert re.search("50 acknowledgements could not be written before stopping: .*Redis", caplog.text)
    assert len(caplog.records) < 30


async def test_a_module_is_added_once(config: dict[str, Any]) -> None:
    before = Watched()
    module, second, seen = StateModule(config), StateModule(), asyncio.Event()
    async with Engine() as engine:
        await engine.add_module(module)
        engine.register_function("seen", lambda event: seen.set())
        await engine.register_trigger({"type": "state", "function_id": "seen"})
        with pytest.raises(ConfigError, match="already"):
            await engine.add_module(module)
        for other in (second, StateModule(config)):
            with pytest.raises((ValueError, StoreError), match=r"built in|in use"):
                await engine.add_module(other)
        await set_value(engine, 1)
        await asyncio.wait_for(seen.wait(), SOON)
    await before.nothing_is_left()
    async with Engine() as engine:
        for used in (module, second):
            with pytest.raises(ConfigError, match="make another one"):
                await engine.add_module(used)
            with pytest.raises(StoreError, match="make another one"):
                await engine.add_module(StateModule(adapter=used.adapter))
    await works(config)


async def test_an_engine_is_used_between_its_start_and_its_stop() -> None:
    engine = Engine()
    await engine.stop()

    async def refuses(words: str) -> None:
        for use in (
            lambda: engine.add_module(StateModule()),
            lambda: engine.serve("127.0.0.1", 0),
            lambda: engine.register_trigger({"type": "state", "function_id": "f"}),
            lambda: engine.trigger({"function_id": "f"}),
        ):
            with pytest.raises(RuntimeError, match=words):
                await use()
        with pytest.raises(RuntimeError, match=words):
            engine.register_function("f", print)

    await refuses("inside `async with")
    async with engine:
        engine.register_function("f", lambda event: 1)
        assert await engine.trigger({"function_id": "f"}) == 1
    await refuses(r"inside `async with|has been stopped")
    with pytest.raises(RuntimeError, match="another one"):
        await engine.__aenter__()


async def test_whoever_waits_for_a_stop_hears_what_it_raised() -> None:
    async def fail() -> None:
        raise OSError("the disk is gone")

    stopping = Stopping(fail)
    for _ in range(2):
        with pytest.raises(OSError, match="the disk is gone"):
            await stopping()
