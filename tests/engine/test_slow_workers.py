"""Workers that read slowly, or not at all, seen from outside: nothing is lost, nobody who reads is dropped, memory is bounded."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest

from tests.support.engines.processes import EngineProcess, running_engine
from tests.support.engines.slow_worker import SlowWorker, slow_worker
from tests.support.redis.server import shared_server
from tests.support.slow import slow

MB = 1_000_000


@pytest.fixture(params=["kv", slow("redis")])
def engine(request: pytest.FixtureRequest) -> Iterator[EngineProcess]:
    config: dict[str, object] = {"dispatch": {"max_queue_bytes": 2**32}}
    if request.param == "redis":
        server = shared_server()
        server.empty(request.node.name)
        config["adapter"] = {"name": "redis", "config": {"redis_url": server.url}}
    with running_engine(config=config) as process:
        yield process


def peak_bytes(engine: EngineProcess) -> int:
    """The most memory that the process has had."""
    with open(f"/proc/{engine.process.pid}/status") as status:
        match = re.search(r"VmHWM:\s+(\d+) kB", status.read())
    assert match is not None
    return int(match[1]) * 1024


def dropped(engine: EngineProcess) -> list[str]:
    return [line for line in engine.stderr.text().splitlines() if "dropping the connection" in line]


async def write(writer: SlowWorker, count: int, size: int) -> None:
    for number in range(count):
        await writer.set(f"k{number}", "x" * size)


async def leave_waiting(engine: EngineProcess, functions: list[str], count: int, size: int) -> None:
    """Events that wait for functions whose worker is away."""
    async with slow_worker(engine.url) as worker:
        await worker.listen(functions)
    async with slow_worker(engine.url) as writer:
        await write(writer, count, size)


async def test_a_backlog_of_huge_events_is_handled_once_each(engine: EngineProcess) -> None:
    await leave_waiting(engine, ["f"], 10, 14 * MB)
    async with slow_worker(engine.url) as worker:
        await worker.listen(["f"])
        await worker.until(lambda: len(worker.handled) == 10)
        assert set(worker.handled.values()) == {1}
        assert worker.longest <= MB, "a large message comes in frames, between which a ping can be answered"
    assert not dropped(engine)


@pytest.mark.slow
async def test_a_backlog_of_large_events_is_handled_once_each_over_a_slow_link(engine: EngineProcess) -> None:
    await leave_waiting(engine, ["f"], 48, 2 * MB)
    async with slow_worker(engine.url, 30 * MB) as worker:
        await worker.listen(["f"])
        await worker.until(lambda: len(worker.handled) == 48)
        assert set(worker.handled.values()) == {1}
    assert not dropped(engine)


@pytest.mark.slow
async def test_three_hundred_functions_on_one_connection_all_get_on(engine: EngineProcess) -> None:
    functions = [f"f{number}" for number in range(300)]
    async with slow_worker(engine.url, 30 * MB) as worker, slow_worker(engine.url) as writer:
        await worker.listen(functions)
        await asyncio.gather(*(writer.set(f"k{number}", "x" * 20_000) for number in range(20)))
        await worker.until(lambda: len(worker.functions) == 300 or worker.is_dropped)
        assert max(worker.functions.values()) <= 20
        await worker.until(lambda: len(worker.handled) == 6000 or worker.is_dropped)
        assert set(worker.handled.values()) == {1}
    assert not dropped(engine)


async def test_a_call_does_not_wait_behind_a_backlog_of_events(engine: EngineProcess) -> None:
    await leave_waiting(engine, ["f"], 300, 60_000)
    async with slow_worker(engine.url, 2 * MB) as worker:
        await worker.listen(["f"])
        for _ in range(5):
            before = worker.handled.total()
            assert await worker.get("none") is None
            assert worker.handled.total() - before < 40, "of 64 that may be called at once"


@pytest.mark.slow
async def test_a_thousand_large_results_are_worked_out_as_they_are_read(engine: EngineProcess) -> None:
    async with slow_worker(engine.url, 100 * MB) as worker:
        await worker.set("k", "x" * MB)
        before = peak_bytes(engine)
        results = [worker.call("state::get", {"scope": "s", "key": "k"}) for _ in range(1000)]
        async with asyncio.timeout(60):
            outcomes = await asyncio.gather(*results)
        assert all(len(outcome["result"]) == MB for outcome in outcomes)
        assert peak_bytes(engine) - before < 300 * MB
    assert not dropped(engine)


async def test_calls_of_a_slow_worker_wait_for_it_and_the_callers_other_calls_do_not(engine: EngineProcess) -> None:
    async with slow_worker(engine.url, 20 * MB) as slow, slow_worker(engine.url) as caller:
        slow.send("registerfunction", id="g")
        await slow.get("none")
        before = peak_bytes(engine)
        calls = [caller.call("g", "x" * MB) for _ in range(12)]
        assert await caller.get("none") is None
        assert sum(call.done() for call in calls) < 12
        calls += [caller.call("g", "x" * MB) for _ in range(138)]
        async with asyncio.timeout(60):
            outcomes = await asyncio.gather(*calls)
        assert not any("error" in outcome for outcome in outcomes)
        assert peak_bytes(engine) - before < 100 * MB
    assert not dropped(engine)


async def test_a_worker_that_reads_nothing_does_not_keep_events_from_another_one_of_its_function(engine: EngineProcess) -> None:
    async with slow_worker(engine.url) as deaf, slow_worker(engine.url) as worker, slow_worker(engine.url) as writer:
        await deaf.listen(["f"])
        deaf.deafen()
        await worker.listen(["f"])
        await write(writer, 100, 300_000)
        # What fits into the deaf one's buffers and the operating system's it has got; all the rest goes to the other one.
        await worker.until(lambda: len(worker.handled) >= 60)


@pytest.mark.slow
async def test_workers_that_read_nothing_hold_little_and_are_dropped_with_their_number_in_the_log(engine: EngineProcess) -> None:
    async with AsyncExitStack() as stack:
        for number in range(20):
            worker = await stack.enter_async_context(slow_worker(engine.url))
            await worker.listen([f"f{number}"])
            worker.deafen()
        writer = await stack.enter_async_context(slow_worker(engine.url))
        before = peak_bytes(engine)
        await write(writer, 40, 400_000)
        assert peak_bytes(engine) - before < 140 * MB  # 16 MB are values, and twice 20 times as much would be events
        await asyncio.to_thread(engine.stderr.wait, lambda: len(dropped(engine)) == 20 or None, 60, "20 dropped")
        assert await writer.get("none") is None
    for line in dropped(engine):
        assert re.search(r"it has read nothing for \d+ s, and \d{5,} bytes wait for it", line)


@pytest.mark.slow
async def test_a_worker_that_reads_in_bursts_is_not_dropped(engine: EngineProcess) -> None:
    async with slow_worker(engine.url) as worker, slow_worker(engine.url) as writer:
        await worker.listen(["f"])
        worker.deafen()
        await write(writer, 30, MB)
        for _ in range(3):  # longer than it may read nothing, altogether
            await asyncio.sleep(9)
            before = worker.handled.total()
            worker.reading.set()
            await worker.until_called(before + 1)
            worker.deafen()
        worker.reading.set()
        await worker.until(lambda: len(worker.handled) == 30)
    assert not dropped(engine)


@pytest.mark.slow
async def test_slow_readers_of_large_results_keep_no_events_from_others_and_hold_a_bounded_amount(engine: EngineProcess) -> None:
    async with AsyncExitStack() as stack:
        writer = await stack.enter_async_context(slow_worker(engine.url))
        worker = await stack.enter_async_context(slow_worker(engine.url))
        await worker.listen(["f"])
        for number in range(4):
            await writer.set(f"k{number}", "x" * 14 * MB, "large")
        before = peak_bytes(engine)
        slow = [await stack.enter_async_context(slow_worker(engine.url, 100_000)) for _ in range(10)]
        results = []
        for reader in slow:
            results.append(reader.call("state::list", {"scope": "large"}))
            await writer.get("none")  # Redis answers in order: not more at once than it can give in time
        for number in range(20):
            await writer.set(f"k{number}", number)
            await worker.until_handled(number + 1)
        assert peak_bytes(engine) - before < 450 * MB  # of 10 times 56 MB
        assert not any(result.done() for result in results)
        for reader, result in zip(slow, results, strict=True):
            reader.rate = None
            outcome = await asyncio.wait_for(result, 60)
            assert "error" not in outcome, outcome
            assert [len(value) for value in outcome["result"]] == 4 * [14 * MB]
        assert peak_bytes(engine) - before < 450 * MB
    assert not dropped(engine)
