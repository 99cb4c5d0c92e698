"""What is hurt: a Redis, engines that reach it through proxies, and workers at the engines. Everything comes back by itself."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

from iii_state import Engine, StateModule
from tests.support.engines.processes import EngineProcess, Process, free_port
from tests.support.redis.proxy import Proxy, proxy_to
from tests.support.redis.server import RedisServer
from tests.support.sdk.workers import PYTHON_NEW, PYTHON_OLD, Sdk
from tests.torture.journal import Journal
from tests.torture.plan import CALL_TIMEOUT_SECONDS, ENGINES, NEW_WORKERS, OLD_WORKERS, ON_CONNECTIONS, TTL_SECONDS, PlannedFault
from tests.torture.workers import WorkerProcess

SIGNS_OF_TROUBLE = ("taken for dead", "is gone; its work", "no heartbeat", "connecting again", "asking again", "cannot connect")
"""What engines log when something happens to them; on a machine that is too busy that happens without being planned."""

START_SECONDS = 60.0


def adapter(url: str) -> dict[str, Any]:
    """The configuration of an engine on this Redis."""
    times = {"heartbeat_ttl_ms": int(TTL_SECONDS * 1000), "call_timeout_ms": int(CALL_TIMEOUT_SECONDS * 1000)}
    return {"adapter": {"name": "redis", "config": {"redis_url": url, **times}}}


class EngineSeat:
    """A port at which there is an engine, as long as nobody has killed it."""

    def __init__(self, number: int, proxy: Proxy, journal: Journal, log: Path) -> None:
        self.number = number
        self.proxy = proxy
        self.port = free_port()
        self.url = f"ws://127.0.0.1:{self.port}"
        self.lock = asyncio.Lock()
        """Held while something is done to it."""
        self.starts = 0
        self.tracebacks: list[str] = []
        self._journal = journal
        self._log = log.open("a", buffering=1)
        self.process: EngineProcess

    async def start(self) -> None:
        """Start it; again and again, where its Redis is away."""
        self.starts += 1
        give_up = time.monotonic() + START_SECONDS
        while True:
            try:
                self.process = await asyncio.to_thread(
                    EngineProcess, config=adapter(self.proxy.url), port=self.port, on_line=self._heard
                )
            except TimeoutError:
                if time.monotonic() > give_up:
                    raise
            else:
                return

    async def end(self, how: Callable[[EngineProcess], object]) -> None:
        """End its process. One that takes too long to stop cleanly is killed, which is just another fault."""
        with contextlib.suppress(TimeoutError):
            await asyncio.to_thread(how, self.process)
        self._journal.note(ended_engine=self.number)

    def _heard(self, line: str) -> None:
        now = time.monotonic_ns()
        self._log.write(f"{now} {line}")
        if any(sign in line for sign in SIGNS_OF_TROUBLE):
            self._journal.note(
                fault="noticed", target=f"engine {self.number}", begun=now - int(2e9 * TTL_SECONDS), what=line.strip()
            )
        if "Traceback" in line:
            self.tracebacks.append(f"engine {self.number} has logged an exception, see {self._log.name}")

    def close(self) -> None:
        """End it, whatever happens."""
        self.process.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self._log.close()


class WorkerSeat:
    """A worker at an engine; a new one begins whenever the one before has been killed."""

    def __init__(self, sdk: Sdk, engine: EngineSeat, role: str, name: str, seed: int, directory: Path) -> None:
        self.lock = asyncio.Lock()
        self._settings = (sdk, engine.url, role, engine.number, seed, directory)
        self._name = name
        self._starts = 0
        self.process: WorkerProcess

    async def start(self) -> None:
        """Start one."""
        sdk, url, role, place, seed, directory = self._settings
        self._starts += 1
        name = f"{self._name}-{self._starts}"
        self.process = await asyncio.to_thread(WorkerProcess, sdk, url, name, role, place, seed, directory)


class Arena:
    """All of it, for the length of an `async with`. `journal` is told of every fault. With `replicated`, there is a replica that
    can be failed over to."""

    def __init__(self, seed: int, directory: Path, journal: Journal, *, replicated: bool = False) -> None:
        self._seed = seed
        self._directory = directory
        self.journal = journal
        self._stack = AsyncExitStack()
        self._redis_lock = asyncio.Lock()
        self._replicated = replicated
        self.engines: list[EngineSeat] = []
        self.workers: list[WorkerSeat] = []
        self.sdk_writers: list[WorkerSeat] = []

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        stack = self._stack
        self.redis = await asyncio.to_thread(RedisServer, "--appendonly", "yes", "--appendfsync", "always")
        stack.callback(self.redis.close)
        if self._replicated:
            self.link = await stack.enter_async_context(proxy_to(self.redis.port))
            self.replica = await asyncio.to_thread(RedisServer, "--replicaof", "127.0.0.1", str(self.link.port))
            stack.callback(self.replica.close)
        for number in range(ENGINES):
            proxy = await stack.enter_async_context(proxy_to(self.redis.port))
            engine = EngineSeat(number, proxy, self.journal, self._directory / f"engine-{number}.log")
            await engine.start()
            stack.callback(engine.close)
            self.engines.append(engine)
        self.own_proxy = await stack.enter_async_context(proxy_to(self.redis.port))
        self.own = await stack.enter_async_context(Engine())
        await self.own.add_module(StateModule(adapter(self.own_proxy.url)))
        for sdk, places, role, into in (
            (PYTHON_NEW, NEW_WORKERS, "handle", self.workers),
            (PYTHON_OLD, OLD_WORKERS, "handle-old", self.workers),
            (PYTHON_NEW, (1,), "write", self.sdk_writers),
            (PYTHON_OLD, (2,), "write", self.sdk_writers),
        ):
            for place in places:
                worker = WorkerSeat(sdk, self.engines[place], role, f"{role}-{sdk.version}-{place}", self._seed, self._directory)
                into.append(worker)
                if role != "write":
                    await self._start_worker(worker)

        self._supervisor = asyncio.create_task(self._replace_workers(), name="torture: supervisor of the workers")
        stack.callback(self._supervisor.cancel)

    async def _replace_workers(self) -> None:
        """A worker of the old SDK gives up for good when its engine dies while it connects: a supervisor would start another."""
        while True:
            await asyncio.sleep(0.5)
            for worker in self.workers:
                if not worker.lock.locked() and worker.process.process.poll() is not None:
                    async with worker.lock:
                        await self._start_worker(worker)
                    self.journal.note(fault="worker gave up", target=worker.process.name, begun=time.monotonic_ns())

    async def _start_worker(self, worker: WorkerSeat) -> None:
        await worker.start()
        self._stack.callback(lambda: worker.process.kill())

    async def start_sdk_writers(self) -> None:
        """Let the writers on SDKs begin."""
        for writer in self.sdk_writers:
            await self._start_worker(writer)

    async def stop_sdk_writers(self) -> None:
        """Let them end."""
        await asyncio.gather(*[asyncio.to_thread(writer.process.finish) for writer in self.sdk_writers])

    # -- faults

    async def inflict(self, fault: PlannedFault) -> None:
        """Hurt something, and heal it; returns when it is as it was."""
        seconds = fault.seconds
        if fault.kind == "kill worker":
            worker = self.workers[fault.target]
            await self._note(fault, worker.lock, self._kill_worker(worker, seconds))
            return
        if fault.kind in ON_CONNECTIONS:
            await self._note(fault, asyncio.Lock(), self._break(fault.kind, self._proxies()[fault.target], seconds))
            return
        engine = self.engines[fault.target]
        match fault.kind:
            case "kill engine" | "kill engine for long":
                await self._note(fault, engine.lock, self._kill_engine(engine, seconds))
            case "restart engine":
                await self._note(fault, engine.lock, self._restart_engine(engine, seconds))
            case "restart all engines":
                restarts = [self._note(fault, each.lock, self._restart_engine(each, seconds)) for each in self.engines]
                await asyncio.gather(*restarts)
            case "stop engine" | "stop engine for long":
                await self._note(fault, engine.lock, self._stop(engine.process.process, seconds))
            case "kill the one that takes over":
                other = self.engines[(fault.target + 1) % ENGINES]

                async def kill_later() -> None:
                    await asyncio.sleep(seconds)
                    await self._note(fault, other.lock, self._kill_engine(other, 0))

                await asyncio.gather(self._note(fault, engine.lock, self._kill_engine(engine, seconds + 1)), kill_later())
            case "kill redis" | "kill redis for long" | "restart redis":
                end = self.redis.stop if fault.kind == "restart redis" else self.redis.kill
                await self._note(fault, self._redis_lock, self._restart_redis(end, seconds))
            case "stop redis":
                await self._note(fault, self._redis_lock, self._stop(self.redis.process, seconds))
            case "flush scripts":
                await self._note(fault, self._redis_lock, asyncio.to_thread(self.redis.client.script_flush))
            case kind:
                raise ValueError(f"no such fault: {kind}")

    async def _note(self, fault: PlannedFault, lock: asyncio.Lock, work: Coroutine[Any, Any, object]) -> None:
        async with lock:
            begun = time.monotonic_ns()
            await work
        self.journal.note(fault=fault.kind, target=str(fault.target), begun=begun)

    async def _kill_worker(self, worker: WorkerSeat, seconds: float) -> None:
        await asyncio.to_thread(worker.process.kill)
        await asyncio.sleep(seconds)
        await self._start_worker(worker)

    async def _kill_engine(self, engine: EngineSeat, seconds: float) -> None:
        await engine.end(EngineProcess.kill)
        await asyncio.sleep(seconds)
        await engine.start()

    async def _restart_engine(self, engine: EngineSeat, seconds: float) -> None:
        await engine.end(EngineProcess.stop)
        await asyncio.sleep(seconds)
        await engine.start()

    async def _stop(self, process: Process, seconds: float) -> None:
        process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            process.send_signal(signal.SIGCONT)

    async def _restart_redis(self, end: Callable[[], None], seconds: float) -> None:
        await asyncio.to_thread(end)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self.redis.start)

    async def fail_over(self, seconds: float) -> None:
        """Let the replica fall behind for so long, kill the primary, and promote the replica: it has lost what came meanwhile."""
        begun = time.monotonic_ns()
        self.link.mute = True
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self.redis.kill)
        for proxy in self._proxies():
            proxy.target = self.replica.port
        await asyncio.to_thread(self.replica.client.replicaof, "NO", "ONE")
        self.journal.note(fault="fail over", target="redis", begun=begun)

    def _proxies(self) -> list[Proxy]:
        """Between each engine and Redis; that of the engine in this process comes last."""
        return [*[engine.proxy for engine in self.engines], self.own_proxy]

    async def _break(self, kind: str, proxy: Proxy, seconds: float) -> None:
        match kind:
            case "cut connections":
                for _ in range(3):
                    proxy.cut_all()
                    await asyncio.sleep(seconds / 3)
            case "lose replies and cut":
                proxy.loses_replies = True
                await asyncio.sleep(seconds)
                proxy.cut_all()
                proxy.loses_replies = False
            case "cut and let stragglers through":
                proxy.hold = True
                await asyncio.sleep(seconds)
                proxy.cut_all()
                proxy.hold = False
                await asyncio.sleep(seconds)
                await proxy.release()
            case _:
                proxy.delay = 0.05
                await asyncio.sleep(seconds)
                proxy.delay = 0.0
