"""What is hurt: engines (and attached workers) in processes of their own before a store of each kind, and what connects them.

Everything that is killed comes back on the same port and the same data.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.engines.attached import AttachProcess
from tests.support.engines.processes import SERVE, EngineProcess, free_port, paused
from tests.support.redis.proxy import Proxy, proxy_to
from tests.support.redis.server import RedisServer

START_SECONDS = 60.0
REDIS_TIMES = {"heartbeat_ttl_ms": 1500, "call_timeout_ms": 2000}

Fault = Callable[[float], Awaitable[None]]
"""Hurts something, takes so many seconds in the middle of it, and heals it."""


@dataclass
class Arena:
    """`urls` are where clients connect; `faults` what can be done to it, by name."""

    urls: list[str] = field(default_factory=list)
    faults: dict[str, Fault] = field(default_factory=dict)


class Seat:
    """A process that comes back whenever it has been ended. `begin` starts it, and returns when it serves."""

    def __init__(self, begin: Callable[[], EngineProcess | AttachProcess]) -> None:
        self._begin = begin
        self.lock = asyncio.Lock()
        self.process: EngineProcess | AttachProcess

    async def start(self) -> None:
        """Start it; again and again, where its store is away."""
        give_up = time.monotonic() + START_SECONDS
        while True:
            try:
                self.process = await asyncio.to_thread(self._begin)
            except TimeoutError:
                if time.monotonic() > give_up:
                    raise
            else:
                return

    async def kill(self, seconds: float) -> None:
        """SIGKILL, and another one."""
        async with self.lock:
            await asyncio.to_thread(self.process.kill)
            await asyncio.sleep(seconds)
            await self.start()

    async def restart(self, seconds: float) -> None:
        """SIGTERM, a clean end, and another one."""
        async with self.lock:
            await asyncio.to_thread(self.process.stop)
            await asyncio.sleep(seconds)
            await self.start()

    async def stop(self, seconds: float) -> None:
        """SIGSTOP and SIGCONT."""
        async with self.lock:
            await paused(self.process.process, seconds)

    def close(self) -> None:
        """End it, whatever happens."""
        self.process.process.send_signal(signal.SIGCONT)
        self.process.kill()


class Builder:
    """Puts an arena together. What it starts ends with `stack`."""

    def __init__(self, stack: AsyncExitStack, serve: Sequence[str] = SERVE, environment: Mapping[str, str] | None = None) -> None:
        self._stack = stack
        self._serve = serve
        self._environment = environment
        self.arena = Arena()

    async def engine(self, name: str, arguments: Sequence[str], *, kills: bool, config: dict[str, Any] | None = None) -> int:
        """An engine with its faults; its port."""
        port = free_port()
        begin = partial(EngineProcess, arguments, port=port, config=config, environment=self._environment, serve=self._serve)
        await self._seat(name, begin, kills=kills)
        return port

    async def attached(self, name: str, url: str, config: dict[str, Any]) -> None:
        """An attached worker with its faults."""

        def begin() -> AttachProcess:
            process = AttachProcess(url, config=config)
            try:
                process.stderr.wait(lambda: _is_ready(process.stderr.text()), START_SECONDS, "it neither serves nor stands by")
            except TimeoutError:
                process.kill()
                raise
            return process

        await self._seat(name, begin, kills=True)

    async def _seat(self, name: str, begin: Callable[[], EngineProcess | AttachProcess], *, kills: bool) -> None:
        seat = Seat(begin)
        await seat.start()
        self._stack.callback(seat.close)
        self.arena.faults[f"stop {name}"] = seat.stop
        if kills:
            self.arena.faults[f"kill {name}"] = seat.kill
            self.arena.faults[f"restart {name}"] = seat.restart

    async def proxy(self, name: str, port: int) -> int:
        """A proxy with its faults; its port."""
        proxy = await self._stack.enter_async_context(proxy_to(port))
        self.arena.faults[f"cut {name}"] = partial(_cut, proxy)
        self.arena.faults[f"lose answers of {name}"] = partial(_lose_answers, proxy)
        self.arena.faults[f"let stragglers through to {name}"] = partial(_let_stragglers_through, proxy)
        return proxy.port

    async def clients_at(self, name: str, port: int) -> None:
        """Let clients reach an engine."""
        self.arena.urls.append(f"ws://127.0.0.1:{await self.proxy(name, port)}")

    async def redis(self) -> RedisServer:
        """A Redis that loses nothing when it is killed, with its faults."""
        redis = await asyncio.to_thread(RedisServer, "--appendonly", "yes", "--appendfsync", "always")
        self._stack.callback(redis.close)
        lock = asyncio.Lock()

        async def kill(seconds: float) -> None:
            async with lock:
                await asyncio.to_thread(redis.kill)
                await asyncio.sleep(seconds)
                await asyncio.to_thread(redis.start)

        async def stop(seconds: float) -> None:
            async with lock:
                await paused(redis.process, seconds)

        self.arena.faults |= {"kill redis": kill, "stop redis": stop}
        return redis


def _is_ready(text: str) -> bool | None:
    return ("attached to " in text or "standby at " in text) or None


async def _cut(proxy: Proxy, seconds: float) -> None:
    for _ in range(3):
        proxy.cut_all()
        await asyncio.sleep(seconds / 3)


async def _lose_answers(proxy: Proxy, seconds: float) -> None:
    proxy.loses_replies = True
    await asyncio.sleep(seconds)
    proxy.cut_all()
    proxy.loses_replies = False


async def _let_stragglers_through(proxy: Proxy, seconds: float) -> None:
    proxy.hold = True
    await asyncio.sleep(seconds)
    proxy.cut_all()
    proxy.hold = False
    await asyncio.sleep(seconds)
    await proxy.release()


# -- one of each adapter -----------------------------------------------------------------------------------------------


async def _kv_memory(build: Builder, _: Path) -> None:
    """What is killed loses everything: it is only cut off and stopped."""
    await build.clients_at("the engine", await build.engine("the engine", ["--adapter", "kv"], kills=False))


async def _kv_file(build: Builder, directory: Path) -> None:
    arguments = ["--file-path", str(directory / "store")]
    await build.clients_at("the engine", await build.engine("the engine", arguments, kills=True))


async def _redis(build: Builder, _: Path) -> None:
    redis = await build.redis()
    for number in range(2):
        url = f"redis://127.0.0.1:{await build.proxy(f'redis from engine {number}', redis.port)}"
        config = {"adapter": {"name": "redis", "config": {"redis_url": url, **REDIS_TIMES}}}
        await build.clients_at(f"engine {number}", await build.engine(f"engine {number}", [], kills=True, config=config))


async def _bridge(build: Builder, directory: Path) -> None:
    """Clients at the bridge, and at the engine whose state it is."""
    port = await build.engine("the remote engine", ["--file-path", str(directory / "store")], kills=True)
    between = await build.proxy("the remote engine from the bridge", port)
    config = {"adapter": {"name": "bridge", "config": {"bridge_url": f"ws://127.0.0.1:{between}", "call_timeout_ms": 2000}}}
    await build.clients_at("the bridge", await build.engine("the bridge", [], kills=True, config=config))
    await build.clients_at("the remote engine", port)


async def _attach(build: Builder, _: Path) -> None:
    """Two attached workers of one Redis at one engine: one serves, one stands by."""
    redis = await build.redis()
    port = await build.engine("the engine", ["--no-state"], kills=True)
    config = {"adapter": {"name": "redis", "config": {"redis_url": redis.url, **REDIS_TIMES}}}
    for number in range(2):
        between = await build.proxy(f"the engine from attached worker {number}", port)
        await build.attached(f"attached worker {number}", f"ws://127.0.0.1:{between}", config)
    await build.clients_at("the engine", port)


ADAPTERS: dict[str, Callable[[Builder, Path], Awaitable[None]]] = {
    "kv-memory": _kv_memory,
    "kv-file": _kv_file,
    "redis": _redis,
    "bridge": _bridge,
    "attach": _attach,
}


@asynccontextmanager
async def arena_of(adapter: str, directory: Path) -> AsyncIterator[Arena]:
    """An arena for the length of a block."""
    async with AsyncExitStack() as stack:
        build = Builder(stack)
        await ADAPTERS[adapter](build, directory)
        yield build.arena
