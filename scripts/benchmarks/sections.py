"""The sections of the benchmark. To add one, write a function like these and name it in `SECTIONS`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack

from benchmarks import (
    clients,
    hot_key,
    jobs,
    long_list,
    processes,
    redis_cluster,
    redis_connection,
    redis_events,
    redis_failover,
    redis_memory,
    redis_scripts,
    redis_sockets,
    redis_triggers,
    remote,
)
from benchmarks.cpu import resident_bytes
from benchmarks.inprocess import Line, Settings
from benchmarks.plan import Plan, Runs, client_us, p50_ms, p99_ms, rate, server_us
from benchmarks.processes import Host, load_client
from benchmarks.redis_host import with_redis
from benchmarks.report import Report, Table, Target, number

_SKETCH_OPS = ("get", "set", "update")
_SMALL = 100
_EVENTS_IN_FLIGHT = 64


_NOT_WANTED = "only the sketch was asked for"


def _start(report: Report, stack: ExitStack, plan: Plan, hosts: Sequence[Callable[[], AbstractContextManager[Host]]]) -> list[Host]:
    """Start ours in several forms; none, and a reason in the report, where that is not wanted or not possible."""
    if not plan.ours:
        report.skipped = _NOT_WANTED
        return []
    try:
        return [stack.enter_context(host()) for host in hosts]
    except processes.NotStarted as why:
        report.skipped = _not_started(why)
        return []


def _with_ours(name: str, title: str, measure: Callable[[Plan, Report, ExitStack], None]) -> Callable[[Plan], Report]:
    """A section whose `measure` starts ours on a stack; skipped, with the reason, where that is not wanted or not possible."""

    def section(plan: Plan) -> Report:
        report = Report(name, title)
        if not plan.ours:
            report.skipped = _NOT_WANTED
            return report
        try:
            with ExitStack() as stack:
                measure(plan, report, stack)
        except processes.NotStarted as why:
            report.skipped = _not_started(why)
        return report

    return section


def _not_started(why: processes.NotStarted) -> str:
    return f"ours does not start: {(str(why).splitlines() or ['it said nothing'])[-1]}"


def socket(plan: Plan) -> Report:
    """Every function through the socket, beside the sketch."""
    report = Report("socket", "Calls through the socket")
    found: defaultdict[tuple[str, int, int, str], Runs] = defaultdict(Runs)
    with ExitStack() as stack:
        load = load_client(stack)
        hosts = [stack.enter_context(processes.sketch())]
        hosts += _start(report, stack, plan, [processes.engine_in_memory, processes.engine_on_file])
        for op in plan.ops:
            for size in plan.sizes:
                for callers in plan.callers:
                    plan.progress(f"socket: {op}, {size} bytes, {callers} callers")
                    for _ in range(plan.runs):
                        for host in hosts:
                            if op in _SKETCH_OPS or host is not hosts[0]:
                                measured = load.measure(plan.calls(host, op, size, callers))
                                found[op, size, callers, host.name].add(measured)
    table: Table | None = None
    for (op, size, callers, name), runs in found.items():
        if table is None or not table.title.startswith(f"state::{op},"):
            columns = [
                "bytes",
                "callers",
                "host",
                "calls/s",
                "of sketch",
                "CPU µs",
                "client µs",
                "p50 ms",
                "p99 ms",
            ]
            table = Table(f"state::{op}, through the socket", columns)
            report.tables.append(table)
        beside = found.get((op, size, callers, "sketch"))
        share = runs.share(beside, rate) if beside and beside is not runs else None
        table.add(
            size,
            callers,
            name,
            runs.of(rate),
            share,
            runs.of(server_us),
            runs.of(client_us),
            runs.of(p50_ms),
            runs.of(p99_ms),
        )
        report.errors += runs.errors
    if len(hosts) > 1:
        least, memory, on_file = (host.name for host in hosts)
        for op, wanted in (("set", 0.55), ("get", 0.6), ("update", 0.45)):
            _compare(
                report,
                f"{op}, {plan.busy} in flight, in memory",
                wanted,
                "of the sketch's calls/s",
                found.get((op, _SMALL, plan.busy, memory)),
                found.get((op, _SMALL, plan.busy, least)),
            )
        _compare(
            report,
            f"set, {plan.busy} in flight, on file",
            0.5,
            "of in memory",
            found.get(("set", _SMALL, plan.busy, on_file)),
            found.get(("set", _SMALL, plan.busy, memory)),
        )
    return report


def _compare(report: Report, name: str, wanted: float, unit: str, ours: Runs | None, other: Runs | None) -> None:
    """A target that is a share of another rate."""
    got, figures = None, ""
    if ours and other:
        got = ours.share(other, rate)
        figures = f"{number(ours.of(rate))}/s of {number(other.of(rate))}/s; CPU {_us(ours)} against {_us(other)}"
    report.targets.append(Target(name, wanted, got, unit, figures=figures))


def _us(runs: Runs) -> str:
    return f"{number(runs.of(server_us))} µs"


def in_process(plan: Plan) -> Report:
    """Every function, called as a Python program calls it."""
    report = Report("in-process", "Calls in process")
    if not plan.ours:
        report.skipped = "only the sketch was asked for"
        return report
    found: defaultdict[tuple[str, int, int, str], Runs] = defaultdict(Runs)
    for _ in range(plan.runs):
        for store in ("in_memory", "file_based"):
            for size in plan.sizes:
                plan.progress(f"in process: {store}, {size} bytes")
                lines = _in_process(
                    report,
                    Settings(store=store, ops=list(plan.ops), sizes=[size], callers=plan.callers, seconds=plan.seconds / 2),
                )
                for line in lines:
                    found[line.op, line.size, line.callers, store].add(line.measured)
            if report.skipped:
                return report
    columns = ["op", "bytes", "callers", "store", "calls/s", "CPU µs", "p50 ms", "p99 ms"]
    table = Table("In process, values as Python objects", columns)
    for op in plan.ops:
        for (name, size, callers, store), runs in found.items():
            if name == op:
                table.add(op, size, callers, store, runs.of(rate), runs.of(server_us), runs.of(p50_ms), runs.of(p99_ms))
                report.errors += runs.errors
    report.tables.append(table)
    for op, wanted in (("get", 250_000), ("update", 120_000)):
        measured = found.get((op, _SMALL, plan.busy, "in_memory"))
        got, figures = None, ""
        if measured:
            cpu = measured.of(server_us) or float("nan")
            got = measured.of(rate)
            figures = f"CPU {number(cpu)} µs: {number(1e6 / cpu)}/s if it had a core to itself"
        report.targets.append(Target(f"{op} in process", wanted, got, "calls/s", figures=figures))
    return report


def _in_process(report: Report, settings: Settings) -> list[Line]:
    try:
        return processes.in_process(settings)
    except processes.NotStarted as why:
        report.skipped = f"ours does not start: {(str(why).splitlines() or ['it said nothing'])[-1]}"
        return []


def events(plan: Plan) -> Report:
    """From a write to its handler, through the socket and in process."""
    report = Report("events", "Events")
    found: defaultdict[tuple[str, str], Runs] = defaultdict(Runs)
    with ExitStack() as stack:
        hosts = _start(report, stack, plan, [processes.engine_in_memory, processes.engine_on_file])
        if not hosts:
            return report
        load = load_client(stack)
        for _ in range(plan.runs):
            for host in hosts:
                plan.progress(f"events: {host.name}")
                found[host.name, "in flight"].add(load.measure(plan.events(host, _EVENTS_IN_FLIGHT)))
                found[host.name, "alone"].add(load.measure(plan.events(host, 1)))
    for _ in range(plan.runs):
        for store, name in (("in_memory", "in process, memory"), ("file_based", "in process, file")):
            plan.progress(f"events: {name}")
            settings = Settings(store=store, ops=[], sizes=[], callers=[], seconds=plan.seconds, events=True)
            for line in _in_process(report, settings):
                found[name, "alone" if line.callers == 1 else "in flight"].add(line.measured)
    table = Table(
        f"Events of 1 KB handled and acknowledged, {_EVENTS_IN_FLIGHT} outstanding, and one at a time",
        ["host", "events/s", "CPU µs", "client µs", "alone, p50 ms", "alone, p99 ms"],
    )
    for name in dict.fromkeys(name for name, _ in found):
        many, one = found[name, "in flight"], found[name, "alone"]
        table.add(name, many.of(rate), many.of(server_us), many.of(client_us), one.of(p50_ms), one.of(p99_ms))
        report.errors += many.errors + one.errors
    report.tables.append(table)
    memory, inside = hosts[0].name, "in process, memory"
    report.targets += [
        Target("events through the socket", 20_000, found[memory, "in flight"].of(rate), "events/s"),
        Target("write to handler, through the socket", 0.25, found[memory, "alone"].of(p50_ms), "ms at p50", at_most=True),
        Target("write to handler, in process", 0.1, found[inside, "alone"].of(p50_ms), "ms at p50", at_most=True),
    ]
    return report


def idle(plan: Plan) -> Report:
    """What connections that say nothing, and triggers that match nothing, cost a call."""
    report = Report("idle", f"{plan.many:,} idle connections, {plan.many:,} triggers that do not match")
    found: defaultdict[tuple[str, str], Runs] = defaultdict(Runs)
    kinds = ("nothing", "nothing, again", "idle connections", "triggers")
    memory: dict[str, float] = {}
    with ExitStack() as stack:
        hosts = _start(report, stack, plan, [processes.engine_in_memory] * len(kinds))
        if not hosts:
            return report
        load = load_client(stack)
        asked: list[tuple[Host, str, jobs.OpenIdle | jobs.RegisterTriggers]] = [
            (hosts[2], kinds[2], jobs.OpenIdle(url=hosts[2].url, connections=plan.many)),
            (hosts[3], kinds[3], jobs.RegisterTriggers(url=hosts[3].url, triggers=plan.many)),
        ]
        for host, kind, job in asked:
            plan.progress(f"idle: {plan.many:,} {kind}")
            before = resident_bytes(host.pid)
            load.do(job)
            memory[kind] = (resident_bytes(host.pid) - before) / plan.many / 1024
        for op in ("get", "set"):
            plan.progress(f"idle: {op}")
            for _ in range(2 * plan.runs):
                for kind, host in zip(kinds, hosts, strict=True):
                    found[kind, op].add(load.measure(plan.calls(host, op, _SMALL, plan.busy)))
        load.do(jobs.Close())
    columns = ["beside the calls", "op", "calls/s", "CPU µs", "of nothing's CPU", "p99 ms", "KB each"]
    table = Table(f"{plan.busy} callers, {_SMALL} bytes", columns)
    for (kind, op), runs in found.items():
        cpu = runs.share(found["nothing", op], server_us)
        table.add(kind, op, runs.of(rate), runs.of(server_us), cpu, runs.of(p99_ms), memory.get(kind))
        report.errors += runs.errors
        if kind in memory:
            report.targets.append(Target(f"{op} beside {plan.many:,} {kind}", 1.05, cpu, "of the CPU without", at_most=True))
    report.tables.append(table)
    report.notes.append("'nothing, again' is a second host like the first: how far two equal ones differ in this run.")
    return report


SECTIONS: dict[str, Callable[[Plan], Report]] = {
    "socket": socket,
    "in-process": in_process,
    "events": events,
    "idle": idle,
    "clients": clients.clients,
    "remote": _with_ours("remote", "Calls to an engine whose state is elsewhere", remote.remote),
    "long-list": _with_ours("long-list", "Others beside a list of a large scope", long_list.long_list),
    "redis-scripts": with_redis("redis-scripts", "Server time of the scripts in Redis", redis_scripts.scripts),
    "redis-calls": with_redis("redis-calls", "Calls through one connection to Redis", redis_connection.calls),
    "redis-far": with_redis("redis-far", "The same on a Redis that is far away", redis_connection.far),
    "redis-memory": with_redis("redis-memory", "Memory of values in Redis", redis_memory.memory),
    "redis-socket": with_redis("redis-socket", "Calls through the socket, values in Redis", redis_sockets.socket),
    "redis-engines": with_redis("redis-engines", "Several engines on one Redis", redis_sockets.engines),
    "redis-latency": with_redis("redis-latency", "From a write to its handler, over Redis", redis_events.latency),
    "redis-events": with_redis("redis-events", "Events over Redis", redis_events.events),
    "hot-key": with_redis("hot-key", "Events of one key, which are handled one after the other", hot_key.hot_key),
    "redis-subscriptions": with_redis("redis-subscriptions", "Events beside idle subscriptions", redis_events.subscriptions),
    "redis-triggers": with_redis("redis-triggers", "Server time that triggers add to a write", redis_triggers.triggers),
    "redis-failover": with_redis("redis-failover", "An engine that is killed", redis_failover.failover),
    "cluster": redis_cluster.cluster,
    "redis-backlog": with_redis("redis-backlog", "Memory of events that wait in Redis", redis_triggers.backlogs),
}
