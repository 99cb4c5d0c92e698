"""Redis's clock is set, or a Redis with another one takes its place, while engines run: nobody dies of that, nothing is thrown away
early, and nothing waits for longer than it was to wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from tests.adapters.redis.test_engines import TTL_MS, Cluster, Handler, by_key, until, write
from tests.clock import HOUR, Clock
from tests.engine.raw_worker import RawWorker
from tests.redis_server import RedisServer

STEPS = (HOUR, -HOUR, 600.0, -600.0)


class ClockCluster(Cluster):
    """Engines on a Redis whose clock can be set."""

    def __init__(self, stack: AsyncExitStack, session: aiohttp.ClientSession, server: RedisServer, clock: Clock) -> None:
        super().__init__(stack, session, server)
        self.clock = clock

    async def beats(self, times: int = 2) -> None:
        """Wait until every engine's heart has beaten so often."""
        for _ in range(times):
            before = self.server.client.hgetall("iii-state:engines")
            await until(
                lambda before=before: not set(before.items()) & set(self.server.client.hgetall("iii-state:engines").items())
            )


@pytest.fixture
async def cluster(clock: Clock) -> AsyncIterator[ClockCluster]:
    async with AsyncExitStack() as stack:
        server = stack.enter_context(RedisServer("--appendonly", "yes", environment=clock.environment))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield ClockCluster(stack, session, server, clock)


async def value(worker: RawWorker, key: str) -> Any:
    answer = await worker.call("state::get", {"scope": "s", "key": key})
    assert not answer.get("error"), answer
    return answer.get("result")


@pytest.mark.parametrize("step", STEPS)
async def test_no_engine_dies_and_no_queue_ends_because_the_clock_was_set(cluster: ClockCluster, step: float) -> None:
    one, two = await cluster.engine(), await cluster.engine()
    handler = await cluster.handler(one, retention_ms=300_000)
    await handler.leave()
    await cluster.hosted("f", 0)
    await write(await cluster.worker(two), 3, 2)
    await cluster.beats()
    ids = set(cluster.server.client.hkeys("iii-state:engines"))
    cluster.clock.set(step)
    await cluster.beats(4)
    assert set(cluster.server.client.hkeys("iii-state:engines")) == ids
    assert "taken for dead" not in one.stderr.text() + two.stderr.text()
    back = await cluster.handler(two)
    await until(lambda: len(back.calls) >= 6)
    assert by_key(back.calls) == {f"k{key}": [0, 1] for key in range(3)}


@pytest.mark.parametrize("step", STEPS)
async def test_an_engine_that_dies_as_the_clock_is_set_is_noticed(cluster: ClockCluster, step: float) -> None:
    one, two = await cluster.engine(), await cluster.engine()
    doomed = await cluster.handler(one, answers=0)
    await write(await cluster.worker(two), 3, 2)
    await until(lambda: len(doomed.calls) >= 3)
    await cluster.beats()
    await asyncio.to_thread(one.kill)
    cluster.clock.set(step)
    other = await cluster.handler(two)
    await until(lambda: len(other.calls) >= 6)
    assert by_key(other.calls) == {f"k{key}": [0, 1] for key in range(3)}


@pytest.mark.parametrize("step", STEPS)
async def test_an_attempt_waits_no_longer_than_planned_although_the_clock_was_set(cluster: ClockCluster, step: float) -> None:
    one = await cluster.engine()
    worker = await cluster.worker(one)
    await worker.send("registerfunction", id="f")
    config = {"retry": {"backoff_ms": 2000, "max_backoff_ms": 2000}}
    await worker.send("registertrigger", id="t", trigger_type="state", function_id="f", config=config)
    await worker.settled()
    await write(await cluster.worker(one), 1, 1)
    first = await worker.expect("invokefunction", function_id="f")
    await worker.answer(first, error={"code": "no", "message": "not now"})
    await until(lambda: cluster.server.client.zcard("iii-state:later"))
    cluster.clock.set(step)
    second = await worker.expect("invokefunction", function_id="f")
    assert second["metadata"]["iii_state"]["attempt"] == 2


@pytest.mark.parametrize("step", STEPS)
async def test_values_go_at_their_deadlines_although_the_clock_was_set(cluster: ClockCluster, step: float) -> None:
    one = await cluster.engine()
    handler = await cluster.handler(one)
    worker = await cluster.worker(one)
    for key, ttl_ms in (("short", 3000), ("long", 300_000)):
        await worker.call("state::set", {"scope": "s", "key": key, "value": 1, "ttl_ms": ttl_ms})
    await cluster.beats()
    cluster.clock.set(step)
    assert await value(worker, "long") == 1
    answer = await worker.call("state::update", {"scope": "s", "key": "long", "ops": [{"type": "increment", "by": 1}]})
    assert answer["result"] == {"old_value": 1, "new_value": 2}
    await until(lambda: by_key(handler.calls).get("short") == [1, None])
    await cluster.beats(4)
    assert await value(worker, "long") == 2
    assert by_key(handler.calls)["long"] == [1, 2]


@pytest.mark.parametrize("step", [HOUR, -HOUR])
async def test_a_redis_with_another_clock_takes_its_place(cluster: ClockCluster, step: float) -> None:
    """As a failover does: another server answers, with the same data and another clock."""
    one, two = await cluster.engine(), await cluster.engine()
    handler = await cluster.handler(one, scope="s")
    await handler.leave()
    await cluster.hosted("f", 0)
    worker = await cluster.worker(two)
    await write(worker, 3, 2)
    await worker.call("state::set", {"scope": "other", "key": "k", "value": 1, "ttl_ms": 300_000})
    await cluster.beats()
    cluster.server.stop()
    cluster.clock.set(step)
    cluster.server.start()
    await cluster.beats(4)
    back = await cluster.handler(two, scope="s")
    await until(lambda: len(back.calls) >= 6)
    assert by_key(back.calls) == {f"k{key}": [0, 1] for key in range(3)}
    answer = await worker.call("state::get", {"scope": "other", "key": "k"})
    assert answer.get("result") == 1


@pytest.mark.parametrize("step", [HOUR, -HOUR])
async def test_a_queue_outlives_a_restart_of_all_engines_while_the_clock_is_set(cluster: ClockCluster, step: float) -> None:
    one = await cluster.engine()
    handler = await cluster.handler(one)
    await handler.leave()
    await cluster.hosted("f", 0)
    await write(await cluster.worker(one), 3, 2)
    await asyncio.to_thread(one.kill)
    cluster.clock.set(step)
    two = await cluster.engine()
    await cluster.beats(4)
    back: Handler = await cluster.handler(two)
    await until(lambda: len(back.calls) >= 6)
    assert by_key(back.calls) == {f"k{key}": [0, 1] for key in range(3)}


async def test_registrations_do_not_wait_for_a_hold_of_before_the_clock_was_set(cluster: ClockCluster) -> None:
    one = await cluster.engine()
    await cluster.handler(one)
    cluster.server.client.set("iii-state:routes:hold", b"1", px=250)
    cluster.clock.set(-HOUR)
    await cluster.handler(one, "g")
    assert TTL_MS < 1000
