"""Engine processes on one Redis, with workers at them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, cast

import aiohttp

from tests.support.engines.processes import EngineProcess
from tests.support.engines.raw_worker import Frame, Port, RawWorker
from tests.support.redis.server import RedisServer
from tests.support.waiting import until

TTL_MS = 800
RETRY = {"backoff_ms": 10, "max_backoff_ms": 10}


class Handler:
    """A worker that serves one function. While it does not answer, what it was called with stays open.

    Args:
        worker: whose function it is.
        function_id: of the function.
        came: frames that the worker has read already, calls of the function among them.
        answers: how many calls it answers, None for all.
    """

    def __init__(self, worker: RawWorker, function_id: str, came: Sequence[Frame] = (), answers: int | None = None) -> None:
        self.worker = worker
        self.function_id = function_id
        self.calls: list[Frame] = []
        self.received: list[Frame] = []
        self.answered: list[Frame] = []
        self.answers = answers
        """How many calls it still answers, None for all."""
        self._task = asyncio.create_task(self._serve(came))

    async def _serve(self, came: Sequence[Frame]) -> None:
        for frame in came:
            await self._handle(frame)
        async for message in self.worker.socket:
            await self._handle(message.json())

    def is_called_by(self, frame: Frame) -> bool:
        """Whether a frame is a call of this function."""
        return (frame["type"], frame["function_id"]) == ("invokefunction", self.function_id)

    async def _handle(self, frame: Frame) -> None:
        if self.is_called_by(frame):
            self.calls.append(frame)
            self.received.append(frame)
            if self.answers is None or self.answers > 0:
                self.answers = None if self.answers is None else self.answers - 1
                await self.worker.answer(frame, result=None)
                self.answered.append(frame)

    def open(self) -> list[Frame]:
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
        # Where the queue held something (deadlines that have passed, say), calls can come before the ping is answered.
        handler = Handler(worker, function_id, came := await worker.settled(), answers)
        assert all(map(handler.is_called_by, came)), came
        await until(lambda: self.server.client.hlen("iii-state:routes") and self._hosts(function_id) >= 1)
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


async def write(worker: RawWorker, keys: int, count: int, first: int = 0) -> None:
    """Writes `count` numbers to each of the keys, one call after the other."""
    for number in range(first, first + count):
        for key in range(keys):
            answer = await worker.call("state::set", {"scope": "s", "key": f"k{key}", "value": number})
            assert "error" not in answer or answer["error"] is None, answer


def by_key(frames: list[Frame]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for frame in frames:
        found.setdefault(frame["data"]["key"], []).append(frame["data"]["new_value"])
    return found
