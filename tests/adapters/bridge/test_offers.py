"""Bridges to one store that register the same trigger: events come to those whose function and condition are there, and at once."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from tests.support.bridge.processes import REMOTES, Worker, engine, remote
from tests.support.engines.attached import AttachProcess, attached
from tests.support.waiting import until

EVENTS = 100


@pytest.fixture(params=REMOTES)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.mark.parametrize("missing", ["handler", "condition"])
async def test_a_bridge_without_the_function_takes_no_events_from_one_that_has_it(kind: str, missing: str) -> None:
    async with (
        remote(kind) as store,
        engine(["--bridge-url", store.url]) as first,
        engine(["--bridge-url", store.url]) as second,
        Worker(first.url) as able,
        Worker(second.url) as unable,
    ):
        await _one_handles_all(able, unable, missing)
        assert {mark["attempt"] for mark in able.metadata} == {1}
        # As soon as the other one has the function, it takes its part.
        unable.serve(missing)
        await until(lambda: _gets_events(able, unable))


async def _one_handles_all(able: Worker, unable: Worker, missing: str) -> None:
    served = {"handler", "condition"}
    for worker, functions in ((able, served), (unable, served - {missing})):
        for function_id in functions:
            worker.serve(function_id)
        await worker.on("handler", condition_function_id="condition")
    able.seen.clear()
    for number in range(EVENTS):
        await unable.set(number, key=str(number))
    # Within the 20 s that `until` waits for: an event that is held by who cannot handle it comes back after 30.
    await until(lambda: set(able.values()) == set(range(EVENTS)))
    await until(lambda: _is_empty(unable))


async def _is_empty(worker: Worker) -> bool:
    return all(row["waiting"] + row["pending"] == 0 for row in await worker.rows())


async def _gets_events(able: Worker, other: Worker) -> bool:
    seen = len(other.seen)
    await able.set(0, key=str(len(able.seen)))
    return len(other.seen) > seen


async def test_events_of_a_function_that_goes_go_to_the_other_bridge_and_count_no_attempt(kind: str) -> None:
    async with (
        remote(kind) as store,
        engine(["--bridge-url", store.url]) as first,
        engine(["--bridge-url", store.url]) as second,
        Worker(first.url) as stays,
        Worker(second.url) as keeper,
    ):
        await keeper.on("handler", retry={"max_attempts": 1})
        stays.serve("handler")
        await stays.on("handler", retry={"max_attempts": 1})
        async with Worker(second.url) as leaves:
            leaves.serve("handler", lambda event: asyncio.get_running_loop().create_future())
            writes = asyncio.gather(*(stays.set(number, key=str(number)) for number in range(EVENTS)))
            await until(lambda: len(leaves.seen) > 5)
        await writes
        await until(lambda: set(stays.values()) == set(range(EVENTS)))
        assert {mark["attempt"] for mark in stays.metadata} == {1}
        assert (await stays("iii-state::dead_list"))["dead"] == []


async def test_attached_workers_with_bridges_leave_events_to_who_has_the_function() -> None:
    async with remote("kv") as store, engine(["--no-state"]) as first, engine(["--no-state"]) as second, AsyncExitStack() as stack:
        for host in (first, second):
            process: AttachProcess = stack.enter_context(attached(host.url, "--bridge-url", store.url))
            await asyncio.to_thread(process.until_attached)
        able = await stack.enter_async_context(Worker(first.url))
        unable = await stack.enter_async_context(Worker(second.url))
        await _one_handles_all(able, unable, "handler")
