"""Events of one key, which are handled one after the other, beside what a host does at most that way: calls made one at a time."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack

from benchmarks import jobs
from benchmarks.plan import Plan, Runs, rate, server_us, store_us
from benchmarks.processes import engine_in_memory, engine_on_redis, load_client
from benchmarks.report import Report, Table, Target, bar, number
from tests.support.redis.server import RedisServer

_SIZES = (60, 1000)
_WANTED = {"kv": 0.5, "redis": 0.4}
_EVENTS_PER_SECOND_OF_PLAN = 20_000


def hot_key(plan: Plan, report: Report, server: RedisServer) -> None:
    """A backlog of one key, handled by a worker at the socket."""
    handled: defaultdict[tuple[str, int], Runs] = defaultdict(Runs)
    limit: defaultdict[tuple[str, int], Runs] = defaultdict(Runs)
    with ExitStack() as stack:
        load = load_client(stack)
        hosts = {"kv": stack.enter_context(engine_in_memory()), "redis": stack.enter_context(engine_on_redis(server.url))}
        for _ in range(plan.runs):
            for store, host in hosts.items():
                pid = server.process.pid if store == "redis" else None
                for size in _SIZES:
                    plan.progress(f"hot-key: {store}, {size} bytes")
                    many = int(plan.seconds * _EVENTS_PER_SECOND_OF_PLAN)
                    limit[store, size].add(load.measure(plan.calls(host, "get", size, 1, pid)))
                    handled[store, size].add(
                        load.measure(jobs.HotKey(url=host.url, pid=host.pid, store_pid=pid, size=size, events=many))
                    )
    columns = ["store", "bytes", "events/s", "gets/s, one at a time", "of them", "CPU µs", "Redis µs", ""]
    table = Table("A backlog of one key, handled by a worker at the socket", columns)
    report.tables.append(table)
    largest = max(runs.of(rate) or 0.0 for runs in limit.values())
    for (store, size), runs in handled.items():
        of = limit[store, size]
        share, cpu = runs.share(of, rate), [runs.of(server_us), runs.of(store_us)]
        table.add(store, size, runs.of(rate), of.of(rate), share, *cpu, bar(runs.of(rate) or 0.0, largest))
        told = f"{number(runs.of(rate))}/s of {number(of.of(rate))}/s"
        name = f"one key, {store}, {size:,} bytes"
        report.targets.append(Target(name, _WANTED[store], share, "of gets made one at a time", figures=told))
        report.errors += runs.errors + of.errors
