"""What is hurt: engines, their stores, and workers at the engines. Everything comes back by itself. A seat is what can be hurt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

from iii_state import Engine, StateModule
from tests.support.engines.attached import AttachProcess
from tests.support.engines.processes import EngineProcess, free_port, paused
from tests.support.redis.proxy import Proxy, proxy_to
from tests.support.redis.server import RedisServer
from tests.support.sdk.workers import PYTHON_NEW, PYTHON_OLD
from tests.torture.clocks import clock_in, set_for_a_while
from tests.torture.journal import Journal
from tests.torture.meddling import damage
from tests.torture.nodes import PARTITIONS, HurtNodes
from tests.torture.plan import CALL_TIMEOUT_SECONDS, TTL_SECONDS, Plan, PlannedFault
from tests.torture.seats import OnLine, Running, Seat, WorkerSeat
from tests.torture.subscriptions import HANDLE, HANDLE_AWAY, HANDLE_OLD, SPECS

DISPATCH = {"max_queue_bytes": 8_000_000}
"""Few enough that a queue of large values is full when its worker is away."""

SUPERVISION_SECONDS = 0.5


def on_redis(url: str, *, foreign_writes: bool = False) -> dict[str, Any]:
    """The configuration of an engine on this Redis."""
    config: dict[str, Any] = {"redis_url": url, "foreign_writes": foreign_writes}
    config |= {"heartbeat_ttl_ms": int(TTL_SECONDS * 1000), "call_timeout_ms": int(CALL_TIMEOUT_SECONDS * 1000)}
    return {"adapter": {"name": "redis", "config": config}, "dispatch": DISPATCH}


def on_file(path: Path) -> dict[str, Any]:
    """The configuration of an engine on a file."""
    return {"adapter": {"name": "kv", "config": {"store_method": "file_based", "file_path": str(path)}}, "dispatch": DISPATCH}


def on_bridge(port: int) -> dict[str, Any]:
    """The configuration of an engine with a bridge to this port."""
    config = {"bridge_url": f"ws://127.0.0.1:{port}", "call_timeout_ms": int(CALL_TIMEOUT_SECONDS * 1000)}
    return {"adapter": {"name": "bridge", "config": config}, "dispatch": DISPATCH}


class Arena:
    """All of it, for the length of an `async with`. `journal` is told of every fault. With `replicated`, there is a replica of the
    Redis that can be failed over to, and the writes to a cluster do not wait for its replicas."""

    def __init__(self, plan: Plan, seed: int, directory: Path, journal: Journal, *, replicated: bool = False) -> None:
        self.plan = plan
        self.journal = journal
        self._seed = seed
        self._directory = directory
        self._stack = AsyncExitStack()
        self.replicated = replicated
        self.redis: RedisServer | None = None
        self.nodes: HurtNodes
        self.own: Engine | None = None
        self.processes: dict[str, list[Seat]] = {"engine": []}
        self.proxies: list[Proxy] = []
        """What connections pass that are hurt."""
        self.worker_urls: list[str] = []
        """Where workers find each engine."""
        self.writer_urls: list[str] = []
        """Where writers find each engine."""
        self.workers: list[WorkerSeat] = []
        self.sdk_writers: list[WorkerSeat] = []
        self._redis_lock = asyncio.Lock()
        self._clock_lock = asyncio.Lock()
        self.clock = clock_in(directory)
        """That of whoever keeps deadlines: Redis, or the engine with the file. In a cluster that of the engines: nodes that have
        voted by a clock which was ahead vote for nobody else until that time has come, which is Redis's own fault."""
        self._by_clock = self.clock.environment if self.clock else {}

    @property
    def engines(self) -> list[Seat]:
        """The engines to which workers and writers connect."""
        return self.processes["engine"]

    @property
    def seats(self) -> list[Seat]:
        """All processes of this project."""
        return [seat for seats in self.processes.values() for seat in seats]

    async def __aenter__(self) -> Self:
        try:
            await getattr(self, f"_start_{self.plan.adapter}")()
            await self._start_workers()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    # -- what there is

    async def _start_redis(self) -> None:
        """Three engines on one Redis, each through a proxy, and one in this process."""
        server = await self._redis_server()
        for number in range(self.plan.engines):
            await self._engine(number, on_redis((await self._proxy(server.port)).url, foreign_writes=True))
        await self._own_engine(on_redis((await self._proxy(server.port)).url, foreign_writes=True))

    async def _start_cluster(self) -> None:
        """Three engines on a Redis Cluster, and one in this process; each node is reached through a proxy."""
        self.nodes = await HurtNodes.start(self._stack)
        self.proxies += self.nodes.proxies
        config = on_redis(self.nodes.url, foreign_writes=True)
        config["adapter"]["config"] |= {"partitions": PARTITIONS, "wait_replicas": 0 if self.replicated else 1}
        for number in range(self.plan.engines):
            await self._engine(number, config)
        await self._own_engine(config)

    async def _start_kv(self) -> None:
        """An engine on a file (or several, each on its own), which workers reach through one proxy and writers through another."""
        for number in range(self.plan.engines):
            port = await self._engine(number, on_file(self._directory / f"store-{number}"), may_lose_broadcasts=False)
            for urls in (self.worker_urls, self.writer_urls):
                urls[number] = f"ws://127.0.0.1:{(await self._proxy(port)).port}"

    async def _start_bridge(self) -> None:
        """Two engines with bridges to one on a file, each through a proxy, and one in this process."""
        port = free_port()
        config = on_file(self._directory / "store")
        await self._seat("store", lambda heard: EngineProcess(config=config, port=port, environment=self._by_clock, on_line=heard))
        for number in range(self.plan.engines):
            await self._engine(number, on_bridge((await self._proxy(port)).port))
        await self._own_engine(on_bridge((await self._proxy(port)).port))

    async def _start_attach(self) -> None:
        """An engine without state, and two workers on one Redis that are attached to it, one of which serves."""
        server = await self._redis_server()
        engine = await self._engine(0, None)
        for number in range(self.plan.groups["attached"]):
            to_redis, to_engine = await self._proxy(server.port), await self._proxy(engine)
            config, url = on_redis(to_redis.url), f"ws://127.0.0.1:{to_engine.port}"

            def begin(heard: OnLine, url: str = url, config: dict[str, Any] = config) -> Running:
                return AttachProcess(url, config=config, on_line=heard)

            await self._seat("attached", begin, f"attached {number}", place=0)

    async def _redis_server(self) -> RedisServer:
        self.redis = server = await asyncio.to_thread(
            lambda: RedisServer("--appendonly", "yes", "--appendfsync", "always", environment=self._by_clock)
        )
        self._stack.callback(server.close)
        if self.replicated:
            self.link = await self._stack.enter_async_context(proxy_to(server.port))
            self.replica = await asyncio.to_thread(RedisServer, "--replicaof", "127.0.0.1", str(self.link.port))
            self._stack.callback(self.replica.close)
        return server

    async def _proxy(self, port: int) -> Proxy:
        proxy = await self._stack.enter_async_context(proxy_to(port))
        self.proxies.append(proxy)
        return proxy

    async def _engine(self, number: int, config: dict[str, Any] | None, *, may_lose_broadcasts: bool = True) -> int:
        """Its port."""
        port = free_port()
        arguments = ["--no-state"] if config is None else []
        environment = self._by_clock if self.plan.adapter in ("kv", "cluster") else {}
        await self._seat(
            "engine",
            lambda heard: EngineProcess(arguments, config=config, port=port, environment=environment, on_line=heard),
            f"engine {number}",
            place=number if may_lose_broadcasts else None,
        )
        self.worker_urls.append(f"ws://127.0.0.1:{port}")
        self.writer_urls.append(f"ws://127.0.0.1:{port}")
        return port

    async def _seat(self, group: str, begin: Callable[[OnLine], Running], name: str = "", place: int | None = None) -> None:
        name = name or group
        seat = Seat(name, begin, self.journal, self._directory / f"{name.replace(' ', '-')}.log", place)
        await seat.start()
        self._stack.callback(seat.close)
        self.processes.setdefault(group, []).append(seat)

    async def _own_engine(self, config: dict[str, Any]) -> None:
        self.own = await self._stack.enter_async_context(Engine())
        await self.own.add_module(StateModule(config))

    # -- workers

    async def _start_workers(self) -> None:
        for role, places in self.plan.workers.items():
            for number, place in enumerate(places):
                worker = self._worker(role, number, place)
                self.workers.append(worker)
                await self._start_worker(worker)
        last = self.plan.engines - 1
        self.sdk_writers = [self._worker("write", 0, min(1, last)), self._worker("write-old", 0, last)]
        supervisor = asyncio.create_task(self._replace_workers(), name="torture: supervisor of the workers")
        self._stack.callback(supervisor.cancel)

    def _worker(self, role: str, number: int, place: int) -> WorkerSeat:
        is_old = role in (HANDLE_OLD, "write-old")
        urls = self.writer_urls if role.startswith("write") else self.worker_urls
        words = (self.plan.adapter, str(self._seed))
        return WorkerSeat(PYTHON_OLD if is_old else PYTHON_NEW, urls[place], f"{role}", number, place, words, self._directory)

    async def _replace_workers(self) -> None:
        """One of the old SDK gives up for good when its engine dies while it connects, and some events kill the worker that handles
        them: a supervisor would start another."""
        looked = time.monotonic_ns()
        while True:
            await asyncio.sleep(SUPERVISION_SECONDS)
            for worker in self.workers:
                if not worker.lock.locked() and worker.process.process.poll() is not None:
                    name = worker.process.name
                    async with worker.lock:
                        await self._start_worker(worker)
                    self.journal.note(fault="worker died", target=name, begun=looked)
            looked = time.monotonic_ns() - int(SUPERVISION_SECONDS * 1e9)

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
        kind, seconds = self.plan.kinds[fault.kind], fault.seconds
        match kind.group, kind.verb:
            case "worker", _:
                workers = [worker for worker in self.workers if worker.role in (HANDLE, HANDLE_OLD)]
                worker = workers[fault.target]
                await self._note(fault, worker.lock, worker.kill(seconds))
            case "away", _:
                away = [worker for worker in self.workers if worker.role == HANDLE_AWAY]
                await self._note(fault, away[fault.target].lock, away[fault.target].kill(seconds))
            case "connection", verb:
                await self._note(fault, asyncio.Lock(), _break(verb, self.proxies[fault.target], seconds))
            case "redis", verb:
                await self._note(fault, self._redis_lock, self._hurt_redis(verb, seconds))
            case "node", verb:
                await self._note(fault, self._redis_lock, self.nodes.hurt(verb, fault.target, seconds))
            case "clock", verb:
                follows = self.plan.adapter not in ("redis", "cluster")  # there all engines together know better
                work = set_for_a_while(self.clock, verb, seconds, self.journal if follows else None)
                await self._note(fault, self._clock_lock, work)
            case "key", verb:
                hurt = next(spec for spec in SPECS[self.plan.adapter] if spec.is_damaged)
                work = asyncio.to_thread(self._damage, verb, fault.target, hurt.function_id)
                await self._note(fault, self._redis_lock, work)
            case group, "restart all":
                await asyncio.gather(*[self._note(fault, seat.lock, seat.restart(seconds)) for seat in self.processes[group]])
            case group, "kill two":
                seats = self.processes[group]

                async def kill_later() -> None:
                    await asyncio.sleep(seconds)
                    await self._note(fault, other.lock, other.kill(0))

                other = seats[(fault.target + 1) % len(seats)]
                first = seats[fault.target]
                await asyncio.gather(self._note(fault, first.lock, first.kill(seconds + 1)), kill_later())
            case group, verb:
                seat = self.processes[group][fault.target]
                do = {"kill": seat.kill, "stop": seat.stop, "restart": seat.restart}[verb]
                await self._note(fault, seat.lock, do(seconds))

    async def _note(self, fault: PlannedFault, lock: asyncio.Lock, work: Coroutine[Any, Any, object]) -> None:
        async with lock:
            begun = time.monotonic_ns()
            await work
        self.journal.note(fault=fault.kind, target=str(fault.target), begun=begun)

    def _damage(self, verb: str, target: int, function_id: str) -> None:
        if self.redis is None:
            self.nodes.damage(verb, target, function_id)
        else:
            damage(self.redis.client, verb, target, function_id)

    async def _hurt_redis(self, verb: str, seconds: float) -> None:
        assert self.redis is not None
        match verb:
            case "flush":
                await asyncio.to_thread(self.redis.client.script_flush)
            case "stop":
                await paused(self.redis.process, seconds)
            case _:
                await asyncio.to_thread(self.redis.stop if verb == "restart" else self.redis.kill)
                await asyncio.sleep(seconds)
                await asyncio.to_thread(self.redis.start)

    async def fail_over(self, seconds: float) -> None:
        """Let the replica fall behind for so long, kill the primary, and promote the replica: it has lost what came meanwhile."""
        assert self.redis is not None
        begun = time.monotonic_ns()
        self.link.mute = True
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self.redis.kill)
        for proxy in self.proxies:
            proxy.target = self.replica.port
        await asyncio.to_thread(self.replica.client.replicaof, "NO", "ONE")
        self.journal.note(fault="fail over", target="redis", begun=begun)


async def _break(verb: str, proxy: Proxy, seconds: float) -> None:
    match verb:
        case "cut":
            for _ in range(3):
                proxy.cut_all()
                await asyncio.sleep(seconds / 3)
        case "lose":
            proxy.loses_replies = True
            await asyncio.sleep(seconds)
            proxy.cut_all()
            proxy.loses_replies = False
        case "straggle":
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
