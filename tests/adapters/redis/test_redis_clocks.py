"""Redis's clock is set, or a Redis with another one takes its place, while engines run: nobody dies of that, nothing is thrown away
early, and nothing waits for longer than it was to wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import aiohttp
import pytest
import redis

from iii_state.adapters.redis import RedisAdapter
from iii_state.adapters.redis.identity import told_time
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.scripts import engines
from iii_state.config import RedisSettings
from tests.support.clock import HOUR, Clock
from tests.support.engines.raw_worker import RawWorker
from tests.support.redis.adapters import adapter_on
from tests.support.redis.cluster import TTL_MS, Cluster, Handler, by_key, write
from tests.support.redis.script_engine import Engine
from tests.support.redis.server import RedisServer
from tests.support.slow import slow
from tests.support.waiting import answer_of, until

KEYS = Keys()
STEPS = (HOUR, -HOUR, *map(slow, (600.0, -600.0)))


class ClockCluster(Cluster):
    """Engines on a Redis whose clock can be set."""

    def __init__(self, stack: AsyncExitStack, session: aiohttp.ClientSession, server: RedisServer, clock: Clock) -> None:
        super().__init__(stack, session, server)
        self.clock = clock

    async def beats(self, times: int = 2) -> None:
        """Wait until every engine's heart has beaten so often."""
        for _ in range(times):
            before = self._beats()
            await until(partial(self._have_all_beaten_since, before))

    def _beats(self) -> set[tuple[bytes, bytes]]:
        return set(self.server.client.hgetall("iii-state:engines").items())

    def _have_all_beaten_since(self, before: set[tuple[bytes, bytes]]) -> bool:
        return not before & self._beats()


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
    await worker.call("engine::triggers::list", {})  # calls wait for registrations, pings do not
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


def offset_seconds(client: redis.Redis) -> int:
    """From Redis's clock to the time of the fleet, as the engines have it."""
    return round(int(client.hget("iii-state:clock", "offset") or 0) / 1000)


async def test_the_time_in_which_only_old_engines_ran_has_passed(cluster: ClockCluster) -> None:
    """An engine of version 0.1.0 is one by its heartbeat, and keeps no time."""
    client = cluster.server.client
    client.set("iii-state:engine:old", "host:1")
    client.hset("iii-state:engines", "old", 1795792618717)
    one = await cluster.engine()
    await asyncio.to_thread(one.stop)
    cluster.clock.set(600)
    await cluster.engine()
    last = client.hget("iii-state:clock", "last")
    await until(lambda: client.hget("iii-state:clock", "last") != last)
    assert abs(offset_seconds(client)) < 60


async def test_the_time_after_all_were_killed_has_passed(cluster: ClockCluster) -> None:
    client = cluster.server.client
    one, two = await cluster.engine(), await cluster.engine()
    for engine in (one, two):
        await asyncio.to_thread(engine.kill)
    for name in client.hkeys("iii-state:engines"):
        client.set(KEYS.engine(name), "left by a killed one")
    cluster.clock.set(600)
    await asyncio.gather(cluster.engine(), cluster.engine())
    await until(lambda: client.hlen("iii-state:engines") == 2)
    await cluster.beats()
    assert abs(offset_seconds(client)) < 60


async def test_an_engine_that_starts_as_the_clock_is_set_has_the_time_of_those_that_live(cluster: ClockCluster) -> None:
    one = await cluster.engine()
    worker = await cluster.worker(one)
    await worker.call("state::set", {"scope": "s", "key": "k", "value": 1, "ttl_ms": 300_000})
    await cluster.beats()
    cluster.clock.set(HOUR)
    two = await cluster.engine()
    await cluster.beats()
    assert await value(await cluster.worker(two), "k") == 1
    assert abs(offset_seconds(cluster.server.client) + HOUR) < 60


@pytest.mark.parametrize("step", [HOUR, slow(-HOUR)])
@pytest.mark.parametrize("damage", ["removed", *map(slow, ("text", "both"))])
async def test_the_time_outlives_its_key(cluster: ClockCluster, step: float, damage: str) -> None:
    client = cluster.server.client
    one = await cluster.engine()
    worker = await cluster.worker(one)
    await worker.call("state::set", {"scope": "s", "key": "k", "value": 1, "ttl_ms": 300_000})
    cluster.clock.set(step)
    await cluster.beats()
    if damage == "removed":
        client.delete("iii-state:clock")
    else:
        client.hset("iii-state:clock", mapping={"offset": "abc", "until": "xyz"})
    if damage == "both":
        client.set("iii-state:clock:copy", "text")
    else:
        assert await value(worker, "k") == 1
        await worker.call("state::set", {"scope": "s", "key": "new", "value": 1, "ttl_ms": 300_000})
        await cluster.beats()
        assert await value(worker, "k") == await value(worker, "new") == 1
    await cluster.beats()
    assert abs(offset_seconds(client) + step) < 60


def joining(engine: bytes, ttl_ms: int = 3000, **more: Any) -> list[bytes]:
    return engines.join(KEYS, engine, b"host:1", ttl_ms, False, [], **more)


def stand_still(client: redis.Redis) -> bytes:
    """Have the time stand still since long ago; what Redis's clock was then."""
    last = client.time()[0] * 1000 - 60_000
    client.hset(KEYS.clock, mapping={"offset": -5, "last": last, "until": last + 4000})
    return b"%d" % last


def test_who_joins_while_the_time_stands_still_waits_for_a_heartbeat(client: redis.Redis) -> None:
    scripts = Engine(client)
    assert scripts.call("fleet/join", *joining(b"e1", 7000))[0] == b"OK"
    last = stand_still(client)
    for _ in range(2):
        assert scripts.call("fleet/join", *joining(b"e2")) == [b"STANDS", last, 7000]
        assert not client.hexists(KEYS.engines, b"e2")
    now_ms = client.time()[0] * 1000 + 1_000_000
    assert scripts.call("fleet/heartbeat", *engines.heartbeat(KEYS, b"e1", 7000, b"host:1", 1))[0] == b"OK"
    assert client.hget(KEYS.clock, "last") == last, "a heart that knows no time leaves it alone"
    assert scripts.call("fleet/heartbeat", *engines.heartbeat(KEYS, b"e1", 7000, b"host:1", 2, now_ms)) == [b"OK", now_ms]
    word, now = scripts.call("fleet/join", *joining(b"e2", stood=last))
    assert word == b"OK"
    assert 0 <= now - now_ms < 60_000


def test_who_has_waited_long_enough_takes_the_time_for_passed_and_spares_the_queues(client: redis.Redis) -> None:
    scripts = Engine(client)
    scripts.call("fleet/join", *joining(b"e1"))
    last = stand_still(client)
    client.zadd(KEYS.orphans, {"q": int(last) + 500})
    word, now = scripts.call("fleet/join", *joining(b"e2", stood=last))
    passed = now - (int(last) - 5)
    assert word == b"OK"
    assert 60_000 <= passed < 70_000
    assert client.zscore(KEYS.orphans, "q") == int(last) + 500 + passed


def test_who_knows_the_time_joins_at_once(client: redis.Redis) -> None:
    scripts = Engine(client)
    scripts.call("fleet/join", *joining(b"e1"))
    stand_still(client)
    assert scripts.call("fleet/join", *joining(b"e2", now_ms=1795792618717)) == [b"OK", 1795792618717]


def test_where_nothing_is_known_of_the_time_the_living_are_waited_for(client: redis.Redis) -> None:
    scripts = Engine(client)
    scripts.call("fleet/join", *joining(b"e1"))
    client.delete(KEYS.clock, KEYS.clock + b":copy")
    assert scripts.call("fleet/join", *joining(b"e2")) == [b"STANDS", b"unknown", 3000]
    assert scripts.call("fleet/join", *joining(b"e2", stood=b"unknown"))[0] == b"OK"


def test_the_time_goes_on_for_as_long_as_the_longest_living_engine_promises(client: redis.Redis) -> None:
    scripts = Engine(client)
    scripts.call("fleet/join", *joining(b"long", 60_000))
    scripts.call("fleet/join", *joining(b"short"))
    scripts.call("fleet/heartbeat", *engines.heartbeat(KEYS, b"short", 3000, b"host:1", 1))
    last, latest = (int(number or 0) for number in client.hmget(KEYS.clock, "last", "until"))
    assert latest - last == 61_000


async def test_an_old_engine_is_not_the_one_that_looks_at_what_nobody_hosts(cluster: ClockCluster) -> None:
    client = cluster.server.client
    client.set("iii-state:engine:0", "host:1")
    client.hset("iii-state:engines", "0", 1795792618717)
    one = await cluster.engine()
    await (await cluster.handler(one, retention_ms=300_000)).leave()
    await cluster.hosted("f", 0)
    (queue,) = [name for name in client.hkeys("iii-state:routes") if not name.startswith(b":")]
    client.rpush(f"iii-state:wait:{queue.decode()}:1:sk", "write", "s", "k", "created", "", "1")
    await until(lambda: client.xlen(f"iii-state:q:{queue.decode()}"))


async def test_an_engine_whose_name_is_no_text_is_taken_over(cluster: ClockCluster) -> None:
    one = await cluster.engine()
    cluster.server.client.hset("iii-state:engines", b"\xff", b"300 1")
    await until(lambda: "\ufffd is gone" in one.stderr.text())
    await until(lambda: not cluster.server.client.exists("iii-state:fenced"))
    assert "Traceback" not in one.stderr.text()


async def test_a_lifetime_that_begins_while_nobody_tells_the_time_is_no_shorter(clock: Clock) -> None:
    with RedisServer(environment=clock.environment) as server:
        async with adapter_on(server.url, heartbeat_ttl_ms=60_000) as adapter:
            engine = adapter._shared.engine
            await answer_of(adapter.values.set("s", "before", b"1", ttl_ms=100_000))
            await adapter._heartbeat.stop()
            stood_at = engine.own_now_ms()
            assert stood_at is not None
            clock.set(HOUR)
            await until(lambda: (engine.own_now_ms() or 0) > stood_at + 300)
            began = engine.own_now_ms()
            assert began is not None
            await answer_of(adapter.values.set("s", "k", b"1", ttl_ms=100_000))
            until_ms = server.client.zscore("iii-state:deadlines:s", "k")
            assert began + 100_000 <= until_ms < began + HOUR * 1000


async def test_the_living_are_waited_for_from_when_redis_answers(clock: Clock) -> None:
    """Who starts while the time stands still, as Redis is away, cannot hear of those that live before it has come back."""
    ttl_ms = 1500
    with RedisServer(environment=clock.environment) as server:
        async with adapter_on(server.url, heartbeat_ttl_ms=ttl_ms) as one:
            await one._heartbeat.stop()
            clock.set(HOUR)
            two = RedisAdapter(RedisSettings(redis_url=server.url, heartbeat_ttl_ms=ttl_ms))
            run, answers = two._heartbeat._run, list[bytes]()

            async def slowly(name: str, call: Any) -> Any:
                reply = await run(name, call)
                if answers.count(b"STANDS") == 1:
                    await asyncio.sleep(1.2 * ttl_ms / 1000)
                answers.append(reply[0])
                return reply

            two._heartbeat._run = slowly  # type: ignore[assignment]
            starting = asyncio.create_task(two.start(lambda _: None))
            try:
                await until(lambda: answers.count(b"STANDS") >= 4 or starting.done())
                one._heartbeat.start()
                await starting
                assert abs((two._shared.engine.own_now_ms() or 0) - (one._shared.engine.own_now_ms() or 0)) < 60_000
            finally:
                await asyncio.wait([starting])
                await two.stop()


@pytest.mark.parametrize(
    ("own", "told", "took", "expected"),
    [(None, 50, 9, 50), (55, 50, 9, 55), (40, 50, 9, 50), (70, 50, 9, 59), (70, 50, 0, 50)],
    ids=["none", "within", "behind", "ahead", "exact"],
)
def test_an_own_time_is_kept_within_what_an_answer_tells(own: int | None, told: int, took: int, expected: int) -> None:
    assert told_time(own, told, took) == expected
