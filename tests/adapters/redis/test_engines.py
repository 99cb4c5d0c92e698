"""Two engine processes on one Redis, with workers at both: they behave as one, whatever happens to either."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any, cast

import aiohttp
import pytest

from tests.support.engines.processes import EngineProcess
from tests.support.engines.raw_worker import Port, RawWorker
from tests.support.redis.server import RedisServer, shared_server

SECONDS = 30.0
TTL_MS = 800
RETRY = {"backoff_ms": 10, "max_backoff_ms": 10}


async def until(holds: Callable[[], object]) -> None:
    """Wait for a condition, bounded."""
    async with asyncio.timeout(SECONDS):
        while not holds():
            await asyncio.sleep(0.005)


class Handler:
    """A worker that serves one function. While it does not answer, what it was called with stays open."""

    def __init__(self, worker: RawWorker, function_id: str) -> None:
        self.worker = worker
        self.function_id = function_id
        self.calls: list[dict[str, Any]] = []
        self.received: list[dict[str, Any]] = []
        self.answered: list[dict[str, Any]] = []
        self.answers: int | None = None
        """How many calls it still answers, None for all."""
        self._task = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        async for message in self.worker.socket:
            frame = message.json()
            if frame["type"] == "invokefunction" and frame["function_id"] == self.function_id:
                self.calls.append(frame)
                self.received.append(frame)
                if self.answers is None or self.answers > 0:
                    self.answers = None if self.answers is None else self.answers - 1
                    await self.worker.answer(frame, result=None)
                    self.answered.append(frame)

    def open(self) -> list[dict[str, Any]]:
        """The calls of this worker that it has not answered."""
        return [frame for frame in self.received if frame not in self.answered]

    def news(self) -> list[Any]:
        """The new values it has been called with."""
        return [frame["data"]["new_value"] for frame in self.calls]

    async def leave(self) -> None:
        """Close the connection."""
        self._task.cancel()
        await self.worker.socket.close()


class Cluster:
    """Engines on one Redis."""

    def __init__(self, stack: AsyncExitStack, session: aiohttp.ClientSession, server: RedisServer) -> None:
        self.server = server
        self._stack = stack
        self._session = session

    async def engine(self) -> EngineProcess:
        """Start an engine."""
        adapter = {"name": "redis", "config": {"redis_url": self.server.url, "heartbeat_ttl_ms": TTL_MS}}
        config = {"adapter": adapter, "dispatch": {"concurrency": 4, "prefetch": 4}}
        engine = await asyncio.to_thread(EngineProcess, config=config)
        self._stack.callback(engine.kill)
        return engine

    async def worker(self, engine: EngineProcess) -> RawWorker:
        """Connect to an engine."""
        return await Port(self._session, "127.0.0.1", engine.port).connect()

    async def handler(self, engine: EngineProcess, function_id: str = "f", answers: int | None = None, **config: Any) -> Handler:
        """A worker at an engine, whose function has a trigger; returns when that is registered."""
        worker = await self.worker(engine)
        await worker.send("registerfunction", id=function_id)
        config = {"retry": RETRY, **config}
        await worker.send("registertrigger", id=f"t-{function_id}", trigger_type="state", function_id=function_id, config=config)
        assert await worker.settled() == []
        await until(lambda: self.server.client.hlen("iii-state:routes") and self._hosts(function_id) >= 1)
        handler = Handler(worker, function_id)
        handler.answers = answers
        return handler

    def _hosts(self, function_id: str) -> int:
        hosts = 0
        for name in self.server.client.keys("iii-state:sub:*"):
            fields = cast("dict[bytes, bytes]", self.server.client.hgetall(name))
            if b'"%b"' % function_id.encode() in fields[b"settings"]:
                hosts += sum(field.startswith(b"at:") for field in fields)
        return hosts

    async def hosted(self, function_id: str, count: int) -> None:
        """Wait until so many engines host a function's trigger."""
        await until(lambda: self._hosts(function_id) == count)

    def keys(self, *patterns: str) -> list[bytes]:
        """The keys in Redis that match."""
        return [cast(bytes, key) for pattern in patterns for key in self.server.client.keys(pattern)]


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    server = shared_server()
    server.client.flushall()
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Cluster(stack, session, server)


async def write(worker: RawWorker, keys: int, count: int, first: int = 0) -> None:
    """Writes `count` numbers to each of the keys, one call after the other."""
    for number in range(first, first + count):
        for key in range(keys):
            answer = await worker.call("state::set", {"scope": "s", "key": f"k{key}", "value": number})
            assert "error" not in answer or answer["error"] is None, answer


def by_key(frames: list[dict[str, Any]]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for frame in frames:
        found.setdefault(frame["data"]["key"], []).append(frame["data"]["new_value"])
    return found


async def test_a_write_through_one_engine_runs_the_handler_once_where_it_is(cluster: Cluster) -> None:
    one, two = await cluster.engine(), await cluster.engine()
    handler = await cluster.handler(one)
    writer = await cluster.worker(two)
    await write(writer, 3, 20)
    await until(lambda: len(handler.calls) >= 60)
    assert by_key(handler.calls) == {f"k{key}": list(range(20)) for key in range(3)}
    await until(lambda: not cluster.keys("iii-state:wait:*", "iii-state:busy:*"))


async def test_the_same_trigger_at_two_engines_is_one_and_in_order(cluster: Cluster) -> None:
    one, two = await cluster.engine(), await cluster.engine()
    handlers = [await cluster.handler(one), await cluster.handler(two)]
    await cluster.hosted("f", 2)
    order: list[dict[str, Any]] = []
    for handler in handlers:
        handler.calls = order
    await write(await cluster.worker(one), 3, 30)
    await until(lambda: len(order) >= 90)
    assert by_key(order) == {f"k{key}": list(range(30)) for key in range(3)}


async def test_a_broadcast_reaches_every_engine(cluster: Cluster) -> None:
    one, two = await cluster.engine(), await cluster.engine()
    handlers = [await cluster.handler(engine, delivery="broadcast") for engine in (one, two)]
    await cluster.hosted("f", 2)
    await write(await cluster.worker(one), 1, 5)
    await until(lambda: all(len(handler.calls) >= 5 for handler in handlers))
    assert [handler.news() for handler in handlers] == [[0, 1, 2, 3, 4]] * 2
    await asyncio.to_thread(two.stop)
    await until(lambda: len(cluster.keys("iii-state:sub:*")) == 1)


async def test_what_a_killed_engine_held_is_handled_by_the_other_in_order(cluster: Cluster) -> None:
    one, two = await cluster.engine(), await cluster.engine()
    doomed = await cluster.handler(one, answers=7)
    writer = await cluster.worker(two)
    await write(writer, 5, 4)
    await until(lambda: len(doomed.calls) >= 11)
    await asyncio.to_thread(one.kill)
    other = await cluster.handler(two)
    await write(writer, 5, 4, first=4)
    await until(lambda: sum(map(len, by_key(other.calls).values())) >= 40 - 7)
    await until(lambda: not cluster.keys("iii-state:wait:*"))
    done = by_key(doomed.answered)
    for key, news in by_key(other.calls).items():
        begun = len(done.get(key, []))
        assert news == list(range(news[0], 8))
        assert news[0] in (begun, begun - 1)  # the last answer may not have been acknowledged
    assert max(frame["metadata"]["iii_state"]["fence"] for frame in other.calls) == 1
    for key in by_key(other.calls):  # what was ready and had not been taken by the dead engine may have come before the takeover
        fences = [frame["metadata"]["iii_state"]["fence"] for frame in other.calls if frame["data"]["key"] == key]
        assert fences == sorted(fences)
    await until(lambda: cluster.server.client.hlen("iii-state:engines") == 1)
    await until(lambda: not cluster.keys("iii-state:fenced", "iii-state:wait:*"))


async def test_an_engine_that_was_stopped_begins_afresh(cluster: Cluster) -> None:
    one, two = await cluster.engine(), await cluster.engine()
    slow = await cluster.handler(one, answers=0)
    writer = await cluster.worker(two)
    await write(writer, 2, 2)
    await until(lambda: len(slow.calls) >= 2)
    one.process.send_signal(signal.SIGSTOP)
    try:
        other = await cluster.handler(two)
        await until(lambda: len(other.calls) >= 4)
        await cluster.hosted("f", 1)
    finally:
        one.process.send_signal(signal.SIGCONT)
    for frame in slow.calls:
        await slow.worker.answer(frame, result=None)
    slow.answers = None
    await cluster.hosted("f", 2)
    await until(lambda: "begins afresh" in one.stderr.text())
    await other.leave()
    await cluster.hosted("f", 1)
    before = len(slow.calls)
    await write(writer, 2, 2, first=2)
    await until(lambda: len(slow.calls) >= before + 4)
    assert by_key(slow.calls[before:]) == {"k0": [2, 3], "k1": [2, 3]}
    assert by_key(other.calls) == {"k0": [0, 1], "k1": [0, 1]}


async def test_a_worker_that_leaves_finds_what_was_written_when_it_comes_back_at_another_engine(cluster: Cluster) -> None:
    one, two = await cluster.engine(), await cluster.engine()
    handler = await cluster.handler(one)
    await handler.leave()
    await cluster.hosted("f", 0)
    await write(await cluster.worker(one), 2, 5)
    back = await cluster.handler(two)
    await until(lambda: len(back.calls) >= 10)
    assert by_key(back.calls) == {"k0": [0, 1, 2, 3, 4], "k1": [0, 1, 2, 3, 4]}
    assert handler.calls == []


async def test_unregistering_removes_the_queue_with_all_it_holds(cluster: Cluster) -> None:
    one, two = await cluster.engine(), await cluster.engine()
    handler = await cluster.handler(one, answers=0)
    writer = await cluster.worker(two)
    await write(writer, 3, 5)
    await handler.worker.send("unregistertrigger", id="t-f", trigger_type="state")
    await until(lambda: not cluster.keys("iii-state:q:*", "iii-state:busy:*", "iii-state:wait:*", "iii-state:sub:*"))
    await write(writer, 1, 1)
    assert cluster.keys("iii-state:q:*") == []


@pytest.mark.parametrize("gracefully", [True, False])
async def test_a_restart_of_all_engines_loses_nothing(cluster: Cluster, gracefully: bool) -> None:
    engines = [await cluster.engine(), await cluster.engine()]
    handlers = [await cluster.handler(engine, answers=3) for engine in engines]
    await write(await cluster.worker(engines[0]), 5, 6)
    await until(lambda: any(len(handler.answered) == 3 for handler in handlers))  # then it may hold all lanes
    if gracefully:
        for handler in handlers:
            await handler.leave()
    for engine in engines:
        await asyncio.to_thread(engine.stop if gracefully else engine.kill)
    after = await cluster.handler(await cluster.engine())
    await cluster.engine()
    await until(lambda: len(by_key(after.calls)) == 5 and all(news[-1] == 5 for news in by_key(after.calls).values()))
    done = by_key(handlers[0].answered + handlers[1].answered)
    for key, news in by_key(after.calls).items():
        assert news == list(range(news[0], 6))
        assert news[0] <= len(done.get(key, []))
