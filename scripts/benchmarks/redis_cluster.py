"""What a Redis Cluster costs beside a single Redis, how far masters reach, and how long a failover takes.

Calls are made through `Engine.trigger`, over many scopes. Server time is what `INFO commandstats` counts, CPU is that of the
process with engine and callers; the single Redis and the cluster of one master take turns, and medians are shown. For the reach of
several masters each is held down to a tenth of a core (Debian's `cpulimit`), since they share the machine with the engines.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from itertools import count
from statistics import median
from typing import Any

import uvloop

from benchmarks import frames
from benchmarks.plan import Plan
from benchmarks.report import Report, Table, Target
from iii_state import Engine, StateModule
from iii_state.errors import FunctionError
from tests.support.redis.nodes import Node, Nodes
from tests.support.redis.server import RedisServer

_CALLERS = 64
_SCOPES = 256
_CALLS = 2000
_MASTERS = (1, 2, 3)
_PATIENCE_MS = 30_000
"""A master that is held down answers nothing most of the time, and less where others use the machine, too."""
_PERCENT = 10
_REACH_CALLERS = 256
_TIMEOUTS_MS = (1000, 2000, 5000)
_OPS = ("set", "update", "get", "event")


def cluster(plan: Plan) -> Report:
    """All of it."""
    report = Report("cluster", "A Redis Cluster")
    if not plan.ours or not shutil.which("redis-server"):
        report.skipped = "no redis-server on the PATH, or only the sketch was asked for"
        return report
    _costs(plan, report)
    if shutil.which("cpulimit"):
        _reach(plan, report)
    else:
        report.notes.append("no cpulimit on the PATH (Debian: apt-get install cpulimit): the reach of masters was not measured")
    _failover(plan, report)
    return report


# -- one master beside a single Redis


def _costs(plan: Plan, report: Report) -> None:
    found: dict[tuple[str, int, str], list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        nodes = Nodes(stack, shards=1, replicas=0)
        servers: dict[str, RedisServer] = {"single": stack.enter_context(RedisServer()), "cluster": nodes.shards[0][0]}

        async def measure() -> None:
            async with AsyncExitStack() as engines:
                opened = {name: await engines.enter_async_context(_engine_on(server.url)) for name, server in servers.items()}
                for size in plan.sizes:
                    for op in _OPS:
                        plan.progress(f"cluster: {op}, {size} bytes")
                        for run in range(plan.runs + 1):
                            for name, engine in opened.items():
                                told = await _round(engine, servers[name], op, size)
                                if run:  # the first is for warming up
                                    found.setdefault((op, size, name), []).append(told)

        uvloop.run(measure())
    columns = ["", "bytes", "Redis µs", "in a cluster", "times", "CPU µs", "in a cluster", "times"]
    table = Table(f"Calls through Engine.trigger, {_CALLERS} in flight: a cluster of one master beside a single Redis", columns)
    report.tables.append(table)
    worst = {"server": 0.0, "cpu": 0.0}
    for op in _OPS:
        for size in plan.sizes:
            (server, cpu), (server_there, cpu_there) = (
                tuple(median(each) for each in zip(*found[op, size, name], strict=True)) for name in servers
            )
            table.add(op, size, server, server_there, server_there / server, cpu, cpu_there, cpu_there / cpu)
            if op != "get":
                worst["server"] = max(worst["server"], server_there / server)
            worst["cpu"] = max(worst["cpu"], cpu_there / cpu)
    report.targets.append(Target("server time of a write, the worst", 1.05, worst["server"], "of a single Redis", at_most=True))
    report.targets.append(Target("CPU of the engine, the worst", 1.15, worst["cpu"], "of a single Redis", at_most=True))


@asynccontextmanager
async def _engine_on(url: str) -> AsyncIterator[Engine]:
    async with Engine() as engine:
        settings = {"redis_url": url, "call_timeout_ms": _PATIENCE_MS, "heartbeat_ttl_ms": _PATIENCE_MS}
        await engine.add_module(StateModule({"adapter": {"name": "redis", "config": settings}}))
        yield engine


async def _round(engine: Engine, server: RedisServer, op: str, size: int) -> tuple[float, float]:
    """Microseconds of Redis and of this process, for each call."""
    calls = _CALLS if size <= 10_000 else _CALLS // 10
    value = json.loads(frames.document(size))
    handled, all_handled = 0, asyncio.Event()
    if op == "event":

        def handler(event: Any) -> None:
            nonlocal handled
            handled += 1
            if handled == calls:
                all_handled.set()

        function = engine.register_function("bench::handler", handler)
        config = {"scope": "event-0"}
        trigger = await engine.register_trigger({"type": "state", "function_id": "bench::handler", "config": config})
    server.client.config_resetstat()
    numbers, began = count(), time.process_time()

    async def caller() -> None:
        while (number := next(numbers)) < calls:
            await engine.trigger(_request(op, number, value))

    await asyncio.gather(*(caller() for _ in range(_CALLERS)))
    if op == "event":
        async with asyncio.timeout(30):
            await all_handled.wait()
    used = (time.process_time() - began) / calls * 1e6
    told = server.client.info("commandstats")
    spent = sum(float(stats["usec"]) for command, stats in told.items() if _is_of_calls(command)) / calls
    if op == "event":
        await trigger.unregister()
        function.unregister()
    return spent, used


def _is_of_calls(command: str) -> bool:
    return command.startswith(("cmdstat_evalsha", "cmdstat_hget"))


def _request(op: str, number: int, value: Any) -> dict[str, Any]:
    key = f"user:{number % 500}"
    if op == "event":
        return {"function_id": "state::set", "payload": {"scope": "event-0", "key": f"{number}", "value": value}}
    scope = f"bench-{number % _SCOPES}"
    payload: dict[str, Any] = {"scope": scope, "key": key}
    if op == "set":
        payload["value"] = value
    elif op == "update":
        payload["ops"] = [{"type": "increment", "path": "visits", "by": 1}]
    return {"function_id": f"state::{op}", "payload": payload}


# -- how far masters reach


def _reach(plan: Plan, report: Report) -> None:
    rates: dict[int, dict[str, float]] = {}
    for masters in _MASTERS:
        plan.progress(f"cluster: {masters} masters")
        with ExitStack() as stack:
            nodes = Nodes(stack, shards=masters, replicas=0)
            with _held_down([shard[0] for shard in nodes.shards]):
                rates[masters] = uvloop.run(_rates(nodes.url, max(0.5, 2 * plan.seconds)))
    table = Table(
        f"Masters held down to {_PERCENT} % of a core, two engines, values of 100 bytes: updates, and writes with an event handled",
        ["masters", "updates/s", "of one", "events/s", "of one"],
    )
    report.tables.append(table)
    for masters, told in rates.items():
        updates, events = told["update"], told["event"]
        table.add(masters, updates, updates / rates[1]["update"], events, events / rates[1]["event"])
    for op in ("update", "event"):
        report.targets.append(Target(f"3 masters, {op}s", 2.6, rates[3][op] / rates[1][op], f"times the {op}s of one"))


@contextmanager
def _held_down(nodes: Sequence[Node]) -> Iterator[None]:
    limits = [
        subprocess.Popen(
            ["cpulimit", "--pid", str(node.process.pid), "--limit", str(_PERCENT)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for node in nodes
    ]
    try:
        yield
    finally:
        for limit in limits:
            limit.terminate()
            limit.wait()


async def _rates(url: str, seconds: float) -> dict[str, float]:
    """Calls a second of two engines together, after a quarter of the time that does not count."""
    found: dict[str, float] = {}
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(_engine_on(url)) for _ in range(2)]
        handled = count()
        for engine in engines:
            engine.register_function("bench::handler", lambda event: _note(handled))
            trigger = {"type": "state", "function_id": "bench::handler", "config": {"scope_prefix": "event-"}}
            await engine.register_trigger(trigger)
        for op in ("update", "event"):
            found[op] = await _rate(engines, op, seconds, handled)
    return found


def _note(handled: Iterator[int]) -> None:
    next(handled)


async def _rate(engines: Sequence[Engine], op: str, seconds: float, handled: Iterator[int]) -> float:
    loop = asyncio.get_running_loop()
    done, numbers, ends = 0, count(), loop.time() + 1.25 * seconds

    async def caller(engine: Engine) -> None:
        nonlocal done
        while loop.time() < ends:
            number = next(numbers)
            scope = f"{'event' if op == 'event' else 'bench'}-{number % 1024}"
            if op == "event":
                payload: dict[str, Any] = {"scope": scope, "key": f"{number % 64}", "value": {"visits": number}}
            else:
                payload = {"scope": scope, "key": "k", "ops": [{"type": "increment", "path": "visits", "by": 1}]}
            await engine.trigger({"function_id": "state::set" if op == "event" else "state::update", "payload": payload})
            done += 1

    async def counted() -> float:
        await asyncio.sleep(seconds / 4)
        before = next(handled) if op == "event" else done
        began = loop.time()
        await asyncio.sleep(seconds)
        return ((next(handled) - 1 if op == "event" else done) - before) / (loop.time() - began)

    async with asyncio.TaskGroup() as group:
        rate = group.create_task(counted())
        for number in range(_REACH_CALLERS):
            group.create_task(caller(engines[number % len(engines)]))
    return rate.result()


# -- when a master dies


def _failover(plan: Plan, report: Report) -> None:
    table = Table(
        "A master is killed: from SIGKILL to the next write there, with the replica that takes over",
        ["cluster-node-timeout ms", "ms"],
    )
    report.tables.append(table)
    for timeout_ms in _TIMEOUTS_MS if plan.runs > 1 else _TIMEOUTS_MS[:1]:
        plan.progress(f"cluster: failover, cluster-node-timeout {timeout_ms}")
        with ExitStack() as stack:
            nodes = Nodes(stack, shards=3, replicas=1)
            nodes.set_timeout(timeout_ms)
            table.add(timeout_ms, 1000 * uvloop.run(_until_written(nodes)))


async def _until_written(nodes: Nodes) -> float:
    loop = asyncio.get_running_loop()
    async with _engine_on(nodes.url) as engine:
        request = {"function_id": "state::set", "payload": {"scope": "bench", "key": "k", "value": 1}}
        await engine.trigger(request)
        owner = next(
            shard for shard in nodes.shards if any(b"bench" in key for key in nodes.master(shard).client.keys("*state:bench"))
        )
        await asyncio.sleep(1)  # the replica has it by then, and a heartbeat has gone by
        nodes.master(owner).kill()
        killed = loop.time()
        while True:
            try:
                await engine.trigger(request)
                return loop.time() - killed
            except FunctionError:
                if loop.time() - killed > 60:
                    raise
