"""Updates per second through the shared connection, against what Redis does at most and against redis-py's own client.

    PYTHONPATH=.:scripts python -m benchmarks.redis_connection [--callers 1,16,256] [--seconds 2] [--runs 3] [--json FILE|-]

Starts a Redis of its own on a free port. Every measurement calls the same script, `update.lua`, with one increment of one member of
a small object, the check of the routes and the record for retries included:

- `redis-benchmark`: 50 connections with 16 calls in flight each (`-P 16`), C against Redis and nothing else;
- `ours`: `RedisAdapter.update` from that many callers in one process, on uvloop;
- `redis-py`: its asyncio client calling the same EVALSHA from as many callers, on uvloop, with hiredis.

The three take turns within a run, so that a slow moment of the machine meets them all; shares are medians over the runs.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

import msgspec
import redis.asyncio
import uvloop
from rich.console import Console

from benchmarks.report import Report, Table, Target, bar, show
from iii_state import values
from iii_state.adapters.redis import RedisAdapter
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.mutations import Ticket, mutation, plan_arguments, update_arguments
from iii_state.adapters.redis.scripts import script
from iii_state.config import RedisSettings
from iii_state.ops import OpRequest, compile_ops
from tests.redis_server import RedisServer

DOCUMENT = values.to_stored(b'{"name":"Ada Lovelace","tags":["a","b"],"visits":3}')
PLAN = compile_ops(msgspec.json.decode(b'[{"type":"increment","path":"visits","by":1}]', type=list[OpRequest]))
SCOPE, KEY = "bench", "key"
LIMIT = values.MAX_VALUE_BYTES
KEYS = Keys()
SESSION = b"benchmark"


def evalsha(slot: bytes, sequence: bytes) -> list[bytes]:
    """The call that all three make; slot and sequence number are given as they are to appear."""
    call = mutation(
        KEYS, Ticket(SESSION, 1, 0, 0), 0, SCOPE.encode(), KEY.encode(), (), update_arguments(plan_arguments(PLAN), LIMIT)
    )
    at = 1 + int(call[0])
    return [script("update").sha1, *call[: at + 1], slot, sequence, *call[at + 3 :]]


async def calls_per_second(callers: int, seconds: float, call: Callable[[int], Awaitable[object]]) -> float:
    """How many calls so many callers make in a second, each waiting for its answer; a tenth of the time does not count."""
    done, end = 0, 0.0

    async def caller(number: int) -> None:
        nonlocal done
        while time.perf_counter() < end:
            await call(number)
            done += 1

    for length in (seconds / 10, seconds):
        done = 0
        begun = time.perf_counter()
        end = begun + length
        await asyncio.gather(*map(caller, range(callers)))
    return done / (time.perf_counter() - begun)


async def ours(url: str, callers: int, seconds: float) -> float:
    """Through the adapter."""
    adapter = RedisAdapter(RedisSettings(redis_url=url))
    await adapter.start(lambda subscription_id: None)

    async def call(number: int) -> None:
        answer: Any = adapter.update(SCOPE, KEY, PLAN, LIMIT)
        await answer

    try:
        return await calls_per_second(callers, seconds, call)
    finally:
        await adapter.stop()


async def redis_py(url: str, callers: int, seconds: float) -> float:
    """Through redis-py's asyncio client, a connection per call in flight from its pool."""
    sequences = itertools.count(1)
    async with redis.asyncio.Redis.from_url(url, max_connections=callers, protocol=2) as client:

        async def call(number: int) -> None:
            words = evalsha(b"%d" % number, b"%d" % next(sequences))
            await client.execute_command("EVALSHA", *words)  # type: ignore[no-untyped-call]

        return await calls_per_second(callers, seconds, call)


def redis_benchmark(port: int, seconds: float) -> float:
    """With the tool that Redis brings. Each call takes a slot by lot, so that every one is applied and none is a retry."""
    command = [
        "redis-benchmark",
        "-p",
        str(port),
        "-P",
        "16",
        "-c",
        "50",
        "-n",
        str(int(60_000 * seconds)),
        "-r",
        "1000000000",
        "--csv",
    ]
    words = [word.decode() for word in evalsha(b"__rand_int__", b"1")]
    told = subprocess.run([*command, "EVALSHA", *words], capture_output=True, text=True, check=True).stdout
    return float(told.splitlines()[-1].rsplit('","')[1] if '","rps"' in told else told.rsplit(",", 1)[1].strip().strip('"'))


def prepare(server: RedisServer) -> None:
    """An empty database with the document and the session that `evalsha` speaks of."""
    server.client.flushall()
    server.client.hset(KEYS.values(SCOPE.encode()), KEY, DOCUMENT)
    server.client.hset(KEYS.session(SESSION), "epoch", "1")
    server.client.script_load(script("update").source)


def measure(callers: list[int], seconds: float, runs: int, progress: Callable[[str], None]) -> Report:
    """Everything, as a report."""
    report = Report("redis-connection", "Updates per second through one connection to Redis")
    found: dict[tuple[str, int], list[float]] = {}
    with RedisServer() as server:
        for number in range(runs):
            progress(f"run {number + 1}: redis-benchmark")
            prepare(server)
            found.setdefault(("redis-benchmark -P 16", 800), []).append(redis_benchmark(server.port, seconds))
            for count in callers:
                for name, client in (("ours", ours), ("redis-py", redis_py)):
                    progress(f"run {number + 1}: {name}, {count} callers")
                    prepare(server)
                    found.setdefault((name, count), []).append(uvloop.run(client(server.url, count, seconds)))
    most = found["redis-benchmark -P 16", 800]
    table = Table("One increment of a small object", ["client", "in flight", "updates/s", "of redis-benchmark", ""])
    largest = max(median(rates) for rates in found.values())
    for (name, count), rates in found.items():
        table.add(name, count, median(rates), share(rates, most), bar(median(rates), largest))
    report.tables.append(table)
    busiest = max(callers)
    fast, slow = found["ours", busiest], found["redis-py", busiest]
    report.targets.append(Target(f"{busiest} callers, against redis-benchmark", 0.9, share(fast, most), "of its rate"))
    report.targets.append(Target(f"{busiest} callers, against redis-py", 8, share(fast, slow), "times its rate"))
    return report


def share(rates: list[float], others: list[float]) -> float:
    """The median of the ratios, run by run."""
    return median(rate / other for rate, other in zip(rates, others, strict=True))


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", default="1,16,256")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", metavar="FILE|-")
    given = parser.parse_args()
    with Console(stderr=True).status("starting") as status:
        report = measure([int(count) for count in given.callers.split(",")], given.seconds, given.runs, status.update)
    if given.json == "-":
        json.dump(report.as_json(), sys.stdout)
        return
    show(Console(width=None if sys.stdout.isatty() else 120), report)
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(report.as_json(), file)


if __name__ == "__main__":
    main()
