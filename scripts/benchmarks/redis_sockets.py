"""Calls through the socket to engines that share a Redis: one beside the sketch, and several beside one."""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import replace

from benchmarks import processes
from benchmarks.plan import Plan, Runs, client_us, p50_ms, p99_ms, rate, server_us, store_share, store_us
from benchmarks.processes import load_client
from benchmarks.report import Report, Table, Target, bar, number
from tests.support.redis.server import RedisServer

_IN_FLIGHT = 64
_SIZE = 100
_WANTED = {"set": 0.25, "get": 0.3, "update": 0.22}
_FULL = 0.9
"""Of a core; more than that, and Redis is what is full."""


def socket(plan: Plan, report: Report, server: RedisServer) -> None:
    """Set, get and update with 64 calls in flight, beside the sketch."""
    found: defaultdict[tuple[str, str], Runs] = defaultdict(Runs)
    with ExitStack() as stack:
        load = load_client(stack)
        hosts = [stack.enter_context(processes.sketch()), stack.enter_context(processes.engine_on_redis(server.url))]
        for op in _WANTED:
            plan.progress(f"redis-socket: {op}")
            for _ in range(plan.runs):
                for host in hosts:
                    job = plan.calls(host, op, _SIZE, _IN_FLIGHT, None if host is hosts[0] else server.process.pid)
                    found[op, host.name].add(load.measure(job))
    columns = ["op", "host", "calls/s", "of sketch", "CPU µs", "Redis µs", "client µs", "p50 ms", "p99 ms", ""]
    table = Table(f"{_IN_FLIGHT} calls in flight, {_SIZE} bytes", columns)
    report.tables.append(table)
    least, ours = (host.name for host in hosts)
    largest = max(runs.of(rate) or 0.0 for runs in found.values())
    for (op, name), runs in found.items():
        share = runs.share(found[op, least], rate)
        figures = [runs.of(figure) for figure in (server_us, store_us, client_us, p50_ms, p99_ms)]
        table.add(op, name, runs.of(rate), share, *figures, bar(runs.of(rate) or 0.0, largest))
        report.errors += runs.errors
        if name == ours:
            told = f"{number(runs.of(rate))}/s of {number(found[op, least].of(rate))}/s"
            report.targets.append(
                Target(f"{op}, {_IN_FLIGHT} in flight", _WANTED[op], share, "of the sketch's calls/s", figures=told)
            )


def engines(plan: Plan, report: Report, server: RedisServer) -> None:
    """One engine, two, and more where there are cores for them, until Redis is full."""
    most = max(2, min(8, (os.cpu_count() or 2) // 2))
    long = replace(plan, seconds=plan.seconds * 2)
    found: defaultdict[tuple[str, int], Runs] = defaultdict(Runs)
    with ExitStack() as stack:
        load = load_client(stack)
        hosts = [stack.enter_context(processes.engine_on_redis(server.url)) for _ in range(most)]
        for op in _WANTED:
            for run in range(plan.runs):
                for count in range(1, most + 1):
                    plan.progress(f"redis-engines: {op}, {count}, run {run + 1}")
                    shared = replace(long, connections=max(plan.connections, 2 * count))
                    job = shared.calls(hosts[:count], op, _SIZE, _IN_FLIGHT * count, server.process.pid)
                    found[op, count].add(load.measure(job))
    columns = ["op", "engines", "calls/s", "of one", "Redis, of a core", "Redis µs", "engines µs", "client µs", ""]
    table = Table(f"Engines on one Redis, {_IN_FLIGHT} calls in flight for each, {_SIZE} bytes", columns)
    report.tables.append(table)
    largest = max(runs.of(rate) or 0.0 for runs in found.values())
    for (op, count), runs in found.items():
        figures = [runs.of(figure) for figure in (store_share, store_us, server_us, client_us)]
        table.add(op, count, runs.of(rate), runs.share(found[op, 1], rate), *figures, bar(runs.of(rate) or 0.0, largest))
        report.errors += runs.errors
    busiest = max(runs.of(store_share) or 0.0 for runs in found.values())
    full = "Redis is what is full" if busiest >= _FULL else "Redis is not what is full here"
    report.notes.append(
        f"{full}: it used {busiest:.0%} of a core at most. "
        f"{most} engines, the load client and Redis share {os.cpu_count()} cores, each would like one of its own."
    )
