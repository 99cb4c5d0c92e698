"""Calls per second through the shared connection, against what Redis does at most and against redis-py's own client.

Every measurement of one function calls the same: `values/update` with one increment of one member of a small object, `values/set`
with that object, the check of the routes and the record for retries included, or HGET. The clients:

- `redis-benchmark`: 50 connections with 16 calls in flight each (`-P 16`), C against Redis and nothing else;
- `ours`: the adapter, from that many callers in one process, on uvloop;
- `redis-py`: its asyncio client making the same calls from as many callers, on uvloop, with hiredis.

The three take turns within a run, so that a slow moment of the machine meets them all; shares are medians over the runs.
"""

from __future__ import annotations

import asyncio
import itertools
import resource
import subprocess
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from statistics import median
from typing import Any, NamedTuple

import msgspec
import redis.asyncio
import uvloop

from benchmarks.cpu import process_seconds
from benchmarks.delay import delayed
from benchmarks.plan import Plan
from benchmarks.redis_host import failed_calls
from benchmarks.report import Report, Table, Target, bar, number
from iii_state import values
from iii_state.adapters.redis import RedisAdapter
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.scripts.loader import script
from iii_state.adapters.redis.scripts.mutations import RequestId, mutation, plan_arguments, update_arguments
from iii_state.config import RedisSettings
from iii_state.values.ops import compile_text
from tests.support.redis.server import RedisServer

DOCUMENT = values.to_stored(b'{"name":"Ada Lovelace","tags":["a","b"],"visits":3}')
PLAN = compile_text(b'[{"type":"increment","path":"visits","by":1}]')
SCOPE, KEY = "bench", "key"
LIMIT = values.MAX_VALUE_BYTES
KEYS = Keys()
SESSION = b"benchmark"

CALLERS = (1, 16, 256)
DELAY_SECONDS = 0.001
OWN = {"update": update_arguments(plan_arguments(PLAN), LIMIT), "set": [DOCUMENT]}
_MOST = "redis-benchmark -P 16"
_REQUESTS = {"update": 60_000, "set": 80_000, "get": 300_000}
"""That redis-benchmark makes for every second that a measurement is to take."""


class Load(NamedTuple):
    """What is called, where, by how many callers, for how long; and the process of the Redis."""

    op: str
    url: str
    callers: int
    seconds: float
    redis_pid: int


class Counted(NamedTuple):
    """Calls per second, microseconds of CPU of the client and of Redis per call; and how many were made in all."""

    rate: float
    client_us: float
    redis_us: float
    calls: int


Call = Callable[[int], Awaitable[object]]
Client = Callable[[Load], Coroutine[None, None, Counted]]
Found = dict[tuple[str, int], list[Counted]]
"""Of each client and number of callers, one for every run."""


def command(op: str, slot: bytes, sequence: bytes) -> list[bytes]:
    """The call that all three make; slot and sequence number are given as they are to appear."""
    if op == "get":
        return [b"HGET", KEYS.values(SCOPE.encode()), KEY.encode()]
    call = mutation(KEYS, RequestId(SESSION, 1, 0, 0), 0, SCOPE.encode(), KEY.encode(), (), OWN[op])
    at = 1 + int(call[0])
    return [b"EVALSHA", script(f"values/{op}").sha1, *call[: at + 1], slot, sequence, *call[at + 3 :]]


async def count(load: Load, call: Call) -> Counted:
    """How many calls the callers make, each waiting for its answer; of the figures, a tenth of the time does not count."""
    done, end = 0, 0.0
    before = (0.0, 0.0, 0.0, 0)

    def now() -> tuple[float, float, float, int]:
        return time.perf_counter(), time.process_time(), process_seconds(load.redis_pid), done

    async def caller(number: int) -> None:
        nonlocal done
        while time.perf_counter() < end:
            await call(number)
            done += 1

    for length in (load.seconds / 10, load.seconds):
        before = now()
        end = time.perf_counter() + length
        await asyncio.gather(*map(caller, range(load.callers)))
    wall, client, redis_cpu, calls = (after - earlier for after, earlier in zip(now(), before, strict=True))
    return Counted(calls / wall, client / calls * 1e6, redis_cpu / calls * 1e6, done)


async def ours(load: Load) -> Counted:
    """Through the adapter."""
    adapter = RedisAdapter(RedisSettings(redis_url=load.url))
    await adapter.start(lambda subscription_id: None)
    make: dict[str, Callable[[], Any]] = {
        "update": lambda: adapter.values.update(SCOPE, KEY, PLAN, LIMIT),
        "set": lambda: adapter.values.set(SCOPE, KEY, DOCUMENT),
        "get": lambda: adapter.values.get(SCOPE, KEY),
    }
    ask = make[load.op]

    async def call(number: int) -> None:
        await ask()

    try:
        return await count(load, call)
    finally:
        await adapter.stop()


async def redis_py(load: Load) -> Counted:
    """Through redis-py's asyncio client, a connection per call in flight from its pool; all are open before the clock starts."""
    sequences = itertools.count(1)
    async with redis.asyncio.Redis.from_url(load.url, max_connections=load.callers, protocol=2) as client:
        pool = client.connection_pool
        for connection in await asyncio.gather(*(pool.get_connection() for _ in range(load.callers))):
            await pool.release(connection)

        async def call(number: int) -> None:
            words = command(load.op, b"%d" % number, b"%d" % next(sequences))
            await client.execute_command(*words)

        return await count(load, call)


def redis_benchmark(op: str, server: RedisServer, seconds: float) -> Counted:
    """With the tool that Redis brings. Each call takes a slot by lot, so that hardly one is taken for a retry."""
    requests = int(_REQUESTS[op] * seconds)
    load = ["-P", "16", "-c", "50", "-n", str(requests), "-r", "2000000000", "--csv"]
    words = [word.decode() for word in command(op, b"__rand_int__", b"1")]
    before = _children_seconds(), process_seconds(server.process.pid)
    told = subprocess.run(["redis-benchmark", "-p", str(server.port), *load, *words], capture_output=True, text=True, check=False)
    lines = told.stdout.splitlines()
    if told.returncode or len(lines) < 2:
        raise RuntimeError(f"redis-benchmark: {(told.stderr or told.stdout)[-500:]}")
    figures = lines[-1].rsplit('","', lines[0].count(","))  # the first column is what was called, which may hold anything
    after = _children_seconds(), process_seconds(server.process.pid)
    client_us, redis_us = ((now - earlier) / requests * 1e6 for now, earlier in zip(after, before, strict=True))
    return Counted(float(figures[1]), client_us, redis_us, requests)


def _children_seconds() -> float:
    """CPU seconds of the processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Measurement:
    """Measures clients on one Redis, and looks at what they left there."""

    def __init__(self, report: Report, server: RedisServer, seconds: float) -> None:
        self._report = report
        self._server = server
        self._seconds = seconds

    def most(self, op: str) -> Counted:
        """What redis-benchmark reaches."""
        self._prepare()
        counted = redis_benchmark(op, self._server, self._seconds)
        self._check(op, counted.calls - counted.calls // 1000)
        return counted

    def client(self, client: Client, op: str, callers: int, port: int | None = None) -> Counted:
        """What a client reaches, through another port than Redis's own if one is given."""
        self._prepare()
        url = f"redis://127.0.0.1:{port or self._server.port}"
        counted = uvloop.run(client(Load(op, url, callers, self._seconds, self._server.process.pid)))
        self._check(op, counted.calls)
        return counted

    def _prepare(self) -> None:
        """An empty database with the document and the session that `command` speaks of."""
        client = self._server.client
        client.flushall()
        client.hset(KEYS.values(SCOPE.encode()), KEY, DOCUMENT)
        client.hset(KEYS.session(SESSION), "epoch", "1")
        for op in OWN:
            client.script_load(script(f"values/{op}").source)
        client.config_resetstat()

    def _check(self, op: str, calls: int) -> None:
        """Count the errors among the answers, and the updates that have not counted one up."""
        client = self._server.client
        self._report.errors += failed_calls(client)
        if op == "update":
            stored: Any = client.hget(KEYS.values(SCOPE.encode()), KEY)
            self._report.errors += max(0, calls - (msgspec.json.decode(stored)["visits"] - 3))


def calls(plan: Plan, report: Report, server: RedisServer) -> None:
    """Updates, and likewise sets and gets, beside redis-benchmark and redis-py."""
    measurement = Measurement(report, server, plan.seconds * 2.5)
    for op in ("update", "set", "get"):
        found: Found = defaultdict(list)
        for run in range(plan.runs):
            plan.progress(f"redis-calls: {op}, run {run + 1}")
            found[_MOST, 800].append(measurement.most(op))
            for callers in CALLERS:
                for name, client in (("ours", ours), ("redis-py", redis_py)):
                    found[name, callers].append(measurement.client(client, op, callers))
        _tabulate(report, f"{op} of a small object", found, _MOST, 800)
        busiest = max(CALLERS)
        for other, wanted, by in ((_MOST, 0.9, 800), ("redis-py", 8, busiest)):
            _compare(report, f"{op}, {busiest} callers, beside {other}", wanted, found["ours", busiest], found[other, by])
    report.notes.append(
        "µs are of CPU, per call. A client and Redis are as fast as the slower of the two where each has a core to itself."
    )


def far(plan: Plan, report: Report, server: RedisServer) -> None:
    """Updates on a Redis that is a millisecond away in each direction."""
    measurement = Measurement(report, server, plan.seconds * 2.5)
    found: Found = defaultdict(list)
    with delayed(server.port, DELAY_SECONDS) as port:
        for run in range(plan.runs):
            for callers in CALLERS:
                for name, client in (("ours", ours), ("redis-py", redis_py)):
                    plan.progress(f"redis-far: {name}, {callers} callers, run {run + 1}")
                    found[name, callers].append(measurement.client(client, "update", callers, port))
    _tabulate(report, f"update of a small object, {DELAY_SECONDS * 1e3:.0f} ms away each way", found, "ours", 1)
    busiest = max(CALLERS)
    _compare(report, f"update, {busiest} callers, beside one call at a time", 100, found["ours", busiest], found["ours", 1])


def _tabulate(report: Report, title: str, found: Found, beside: str, callers: int) -> None:
    heading = f"of {beside}" if callers > 1 else "of one call at a time"
    table = Table(title, ["client", "in flight", "calls/s", heading, "client µs", "Redis µs", ""])
    largest = max(map(_rate, found.values()))
    for (name, in_flight), runs in found.items():
        client_us, redis_us = median(run.client_us for run in runs), median(run.redis_us for run in runs)
        share = _share(runs, found[beside, callers])
        table.add(name, in_flight, _rate(runs), share, client_us, redis_us, bar(_rate(runs), largest))
    report.tables.append(table)


def _compare(report: Report, name: str, wanted: float, ours: list[Counted], other: list[Counted]) -> None:
    figures = f"{number(_rate(ours))}/s of {number(_rate(other))}/s"
    report.targets.append(Target(name, wanted, _share(ours, other), "times its rate", figures=figures))


def _rate(runs: list[Counted]) -> float:
    return median(run.rate for run in runs)


def _share(runs: list[Counted], others: list[Counted]) -> float:
    """The median of the ratios, run by run."""
    return median(run.rate / other.rate for run, other in zip(runs, others, strict=True))
