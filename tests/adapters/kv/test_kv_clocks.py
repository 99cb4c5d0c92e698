"""Clocks that jump, under `iii-state serve` over kv: nothing waits for longer than was asked, nothing is thrown away early."""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.clock import HOUR, Clock
from tests.support.engines.processes import EngineProcess
from tests.support.engines.raw_worker import Frame, Port, RawWorker
from tests.support.slow import slow

SOON = 30.0
"""Far less than the hour by which clocks are set, and far more than anything here takes."""

RETRY = {"backoff_ms": 2000, "max_backoff_ms": 2000, "max_attempts": 10}


class Served:
    """An engine under a clock, and a worker at it whose function `seen` is called with every event."""

    def __init__(self, engine: EngineProcess, worker: RawWorker, session: aiohttp.ClientSession) -> None:
        self.engine = engine
        self.worker = worker
        self.session = session

    async def connect(self) -> RawWorker:
        return await Port(self.session, "127.0.0.1", self.engine.port).connect()

    async def subscribe(self, **config: Any) -> None:
        await self.worker.send("registerfunction", id="seen")
        config = {"retry": RETRY, **config}
        await self.worker.send("registertrigger", id="t", trigger_type="state", function_id="seen", config=config)

    async def event(self) -> tuple[Frame, str, Any, Any]:
        """The next event: its call, kind, key and new value."""
        async with asyncio.timeout(SOON):
            call = await self.worker.expect("invokefunction", function_id="seen")
        data = call["data"]
        return call, data["event_type"].removeprefix("state:"), data["key"], data["new_value"]

    async def set(self, key: str, value: Any = 1, **members: Any) -> None:
        outcome = await self.worker.call("state::set", {"scope": "s", "key": key, "value": value, **members})
        assert "error" not in outcome, outcome

    async def get(self, key: str) -> Any:
        return (await self.worker.call("state::get", {"scope": "s", "key": key})).get("result")

    async def queues(self) -> list[dict[str, Any]]:
        queues: list[dict[str, Any]] = (await self.worker.call("iii-state::triggers", {}))["result"]["triggers"]
        return queues

    async def until(self, holds: Callable[[], Any]) -> None:
        async with asyncio.timeout(SOON):
            while not await holds():
                await asyncio.sleep(0.02)


@asynccontextmanager
async def served(clock: Clock, directory: Path | None) -> AsyncIterator[Served]:
    """`iii-state serve` with a store in memory, or on file in a directory; stopped cleanly, or killed if the test fails."""
    config = {} if directory is None else {"store_method": "file_based", "file_path": str(directory)}
    engine = await asyncio.to_thread(
        EngineProcess, config={"adapter": {"name": "kv", "config": config}}, environment=clock.environment
    )
    try:
        async with aiohttp.ClientSession() as session:
            worker = await Port(session, "127.0.0.1", engine.port).connect()
            yield Served(engine, worker, session)
        if engine.process.poll() is None:
            assert await asyncio.to_thread(engine.stop) == 0
    finally:
        engine.kill()


async def test_a_store_of_which_a_deadline_passed_while_it_was_down_starts(clock: Clock, tmp_path: Path) -> None:
    async with served(clock, tmp_path) as engine:
        await engine.set("a", ttl_ms=1000)
        await engine.set("b", ttl_ms=600_000)
    clock.set(2)
    async with served(clock, tmp_path) as engine:
        assert (await engine.get("a"), await engine.get("b")) == (None, 1)
        await engine.set("c", ttl_ms=1)


@pytest.mark.parametrize("directory", [slow(False), True], ids=["memory", "file"])
async def test_sets_with_deadlines_in_flight_together_are_all_answered(clock: Clock, tmp_path: Path, directory: bool) -> None:
    async with served(clock, tmp_path if directory else None) as engine:
        for number in range(2000):
            data = {"scope": "s", "key": f"k{number}", "value": 1, "ttl_ms": 3_600_000 if number % 2 else 1}
            await engine.worker.send(
                "invokefunction", function_id="state::set", data=data, invocation_id=str(uuid.UUID(int=number))
            )
        outcomes = [await engine.worker.expect("invocationresult") for _ in range(2000)]
        assert [outcome["error"] for outcome in outcomes if "error" in outcome] == []


@pytest.mark.parametrize("is_killed", [slow(False), True], ids=["stopped", "killed"])
@pytest.mark.parametrize("shift", [-HOUR, HOUR], ids=["back", "ahead"])
async def test_a_retry_waits_no_longer_than_it_was_to_when_the_clock_is_set_while_the_engine_is_down(
    clock: Clock, tmp_path: Path, shift: float, is_killed: bool
) -> None:
    async with served(clock, tmp_path) as engine:
        await engine.subscribe()
        await engine.set("k", 1)
        await engine.set("k", 2)
        call, *event = await engine.event()
        assert event == ["created", "k", 1]
        await engine.worker.answer(call, error={"code": "NOT_YET", "message": "not yet"})

        async def is_planned() -> bool:
            return [queue["retrying"] for queue in await engine.queues()] == [1]

        await engine.until(is_planned)
        await engine.set("flush", 1)  # what is planned is in the file with this, at the latest
        if is_killed:
            engine.engine.kill()
    clock.set(shift)
    async with served(clock, tmp_path) as engine:
        await engine.subscribe()
        seen: list[list[Any]] = []
        while len(seen) < 2:
            call, *event = await engine.event()
            await engine.worker.answer(call, result=None)
            if event[1] == "k":
                seen.append(event)
        assert seen == [["created", "k", 1], ["updated", "k", 2]]


@pytest.mark.parametrize("directory", [slow(False), True], ids=["memory", "file"])
async def test_a_retry_waits_no_longer_than_it_was_to_when_the_clock_is_set_while_the_engine_runs(
    clock: Clock, tmp_path: Path, directory: bool
) -> None:
    async with served(clock, tmp_path if directory else None) as engine:
        await engine.subscribe()
        for shift in (-HOUR, HOUR):
            await engine.set("k", shift)
            call, *_ = await engine.event()
            clock.set(shift)
            await engine.worker.answer(call, error={"code": "NOT_YET", "message": "not yet"})
            call, *event = await engine.event()
            assert event[2] == shift
            await engine.worker.answer(call, result=None)


@pytest.mark.parametrize("is_killed", [slow(False), True], ids=["stopped", "killed"])
async def test_a_value_stays_no_longer_than_its_time_when_the_clock_is_set_back(
    clock: Clock, tmp_path: Path, is_killed: bool
) -> None:
    async with served(clock, tmp_path) as engine:
        await engine.set("running", ttl_ms=1500)
        clock.set(-HOUR)
        await engine.until(lambda: gone(engine, "running"))
        await engine.set("down", ttl_ms=3000)
        await engine.set("later", ttl_ms=600_000)
        if is_killed:
            engine.engine.kill()
    clock.set(-2 * HOUR)
    async with served(clock, tmp_path) as engine:
        await engine.until(lambda: gone(engine, "down"))
        assert await engine.get("later") == 1


async def gone(engine: Served, key: str) -> bool:
    return await engine.get(key) is None


@pytest.mark.parametrize("directory", [slow(False), True], ids=["memory", "file"])
async def test_a_value_goes_with_its_event_at_once_when_the_clock_is_set_ahead(
    clock: Clock, tmp_path: Path, directory: bool
) -> None:
    async with served(clock, tmp_path if directory else None) as engine:
        await engine.subscribe()
        await engine.set("k", ttl_ms=1_800_000)
        await engine.set("always")
        for _ in range(2):
            call, *_ = await engine.event()
            await engine.worker.answer(call, result=None)
        clock.set(HOUR)
        assert await engine.get("k") is None
        call, *event = await engine.event()
        assert event == ["deleted", "k", None]
        await engine.worker.answer(call, result=None)
        assert await engine.get("always") == 1
        clock.set(0)
        await engine.set("again", ttl_ms=1000)
        await engine.until(lambda: gone(engine, "again"))


@pytest.mark.parametrize("shift", [-HOUR, HOUR], ids=["back", "ahead"])
@pytest.mark.parametrize("is_down", [False, True], ids=["running", "restarted"])
async def test_a_queue_outlives_a_clock_that_is_set(clock: Clock, tmp_path: Path, shift: float, is_down: bool) -> None:
    async with served(clock, tmp_path) as engine:
        await engine.subscribe(retention_ms=60_000)
        await engine.set("first")
        call, *_ = await engine.event()
        await engine.worker.answer(call, result=None)
        await engine.worker.socket.close()
        engine.worker = await engine.connect()
        await engine.set("k")
        clock.set(shift)
        if not is_down:
            await engine.set("flush")
            assert [queue["waiting"] for queue in await engine.queues()] == [2]
    if is_down:
        async with served(clock, tmp_path) as engine:
            assert [queue["waiting"] for queue in await engine.queues()] == [1]
            await engine.subscribe()
            _, *event = await engine.event()
            assert event == ["created", "k", 1]


async def test_a_stopped_engine_throws_nothing_away_for_the_time_in_which_it_could_not_be_asked(
    clock: Clock, tmp_path: Path
) -> None:
    """As on a machine that sleeps: nothing runs for a while, and the wall clock is ahead then."""
    async with served(clock, tmp_path) as engine:
        await engine.subscribe(retention_ms=2000)
        await engine.set("first")
        call, *_ = await engine.event()
        await engine.worker.answer(call, result=None)
        other = await engine.connect()
        await engine.worker.socket.close()
        engine.worker = other
        await engine.set("k")
        await engine.set("short", ttl_ms=600_000)
        engine.engine.process.send_signal(signal.SIGSTOP)
        slept = time.monotonic()
        while time.monotonic() - slept < 4:  # longer than the retention, and than a timer is late on a busy machine
            await asyncio.sleep(0.1)
        clock.set(HOUR)
        await engine.worker.send("registerfunction", id="seen")
        config = {"retry": RETRY, "retention_ms": 2000}
        await engine.worker.send("registertrigger", id="t", trigger_type="state", function_id="seen", config=config)
        engine.engine.process.send_signal(signal.SIGCONT)
        assert await engine.get("short") is None
        call, *event = await engine.event()
        assert event == ["created", "k", 1]
        await engine.worker.answer(call, result=None)
