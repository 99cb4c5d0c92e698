"""Calls to an engine whose state is elsewhere: through a bridge to another engine, and by an attached worker; 64 in flight."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

from msgspec.structs import replace

from benchmarks import processes
from benchmarks.plan import Plan, Runs, client_us, p50_ms, p99_ms, rate, server_us
from benchmarks.processes import Host, load_client
from benchmarks.report import Report, Table, Target, bar, number
from tests.support.redis.server import RedisServer

_OPS = ("get", "set", "update")
_IN_FLIGHT = 64
_SIZE = 100
_BRIDGE, _ATTACHED = 0.8, 0.5
"""Of the calls per second straight at the engine that has the store."""


def remote(plan: Plan, report: Report, stack: ExitStack) -> None:
    """The same store straight at its engine, through a bridge to that engine, and served by an attached worker."""
    load = load_client(stack)
    stores: dict[str, list[str]] = {"memory": ["--adapter", "kv"]}
    if shutil.which("redis-server"):
        stores["redis"] = ["--adapter", "redis", "--redis-url", stack.enter_context(RedisServer()).url]
    ways: dict[str, tuple[str, Host, list[int], float | None]] = {}
    """Of each name: the one it is compared with, where it is called, the processes at work, and what share is wanted."""

    def opened(host: AbstractContextManager[Host]) -> Host:
        return stack.enter_context(host)

    for store, arguments in stores.items():
        straight = opened(processes.engine(store, *arguments))
        ways[store] = (store, straight, [straight.pid], None)
        bridge = opened(processes.engine("bridge", "--adapter", "bridge", "--bridge-url", straight.url))
        ways[f"bridge to {store}"] = (store, bridge, [bridge.pid, straight.pid], _BRIDGE)
        bare = opened(processes.engine("without state", "--no-state"))
        worker = opened(processes.attached(bare.url, *arguments))
        ways[f"attached, {store}"] = (store, bare, [bare.pid, worker.pid], _ATTACHED)
    found: defaultdict[tuple[str, str], Runs] = defaultdict(Runs)
    for op in _OPS:
        for run in range(plan.runs):
            for name, (_, host, pids, _) in ways.items():
                plan.progress(f"remote: {op}, {name}, run {run + 1}")
                found[op, name].add(load.measure(replace(plan.calls(host, op, _SIZE, _IN_FLIGHT), pids=pids)))
    columns = ["op", "state", "calls/s", "of straight", "engines µs", "client µs", "p50 ms", "p99 ms", ""]
    table = Table(f"{_IN_FLIGHT} in flight, {_SIZE} bytes", columns)
    report.tables.append(table)
    figures: list[Callable[..., float | None]] = [server_us, client_us, p50_ms, p99_ms]
    largest = max(runs.of(rate) or 0.0 for runs in found.values())
    for (op, name), runs in found.items():
        straight_name, _, _, wanted = ways[name]
        share = runs.share(found[op, straight_name], rate)
        table.add(op, name, runs.of(rate), share, *(runs.of(figure) for figure in figures), bar(runs.of(rate) or 0.0, largest))
        report.errors += runs.errors
        if wanted is not None:
            told = f"{number(runs.of(rate))}/s of {number(found[op, straight_name].of(rate))}/s"
            report.targets.append(Target(f"{op}, {name}", wanted, share, "of straight", figures=told))
    report.notes.append("µs are of CPU per call, of both processes where a call passes two; all share the cores of this machine.")
