"""Events over Redis, from a write to its handler: how soon, how many, and beside how many subscriptions that get none.

An engine is measured in two forms: `in process`, a program that embeds it and handles the events itself; `at the socket`,
`iii-state serve` with a worker whose handlers answer at once. Beside them stands the least that Python can do over the same Redis
(`bare.py`).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count

from msgspec.structs import replace

from benchmarks import backlog, bare, jobs
from benchmarks.plan import Plan, Runs, client_us, p50_ms, p99_ms, rate, server_us, store_share, store_us
from benchmarks.processes import Host, Measurer, embedded_engine, engine_on_redis, load_client
from benchmarks.report import Report, Table, Target, bar, number
from iii_state.events import Subscription
from tests.support.redis.server import RedisServer

_SIZE = 1000
_IN_FLIGHT = 64
_INSIDE, _SOCKET = "in process", "at the socket"
_ONE_WAY, _ROUND = "PUBLISH to SUBSCRIBE", "PUBLISH to another process and back"
_BARE = "a stream's group, 64 at a time"
_EVENTS_PER_SECOND_OF_PLAN = 50_000


def latency(plan: Plan, report: Report, server: RedisServer) -> None:
    """One write at a time, on a machine that does nothing else: from just before the call to the handler."""
    found: defaultdict[str, Runs] = defaultdict(Runs)
    with ExitStack() as stack:
        load, inside = load_client(stack), embedded_engine(stack, server.url)
        host = stack.enter_context(engine_on_redis(server.url))
        stack.enter_context(bare.echo(server.url))
        for run in range(plan.runs):
            plan.progress(f"redis-latency: run {run + 1}")
            found[_ONE_WAY].add(bare.published(server.url, _SIZE, plan.seconds * 2, server.process.pid, by_other=False))
            found[_INSIDE].add(inside.measure(plan.events(None, 1, server.process.pid)))
            found[_ROUND].add(bare.published(server.url, _SIZE, plan.seconds * 2, server.process.pid, by_other=True))
            found[_SOCKET].add(load.measure(plan.events(host, 1, server.process.pid)))
    columns = ["from a write to its handler", "p50 ms", "p99 ms", f"of {_ONE_WAY}", "process µs", "Redis µs", ""]
    table = Table("One at a time, values of 1 KB", columns)
    report.tables.append(table)
    largest = max(runs.of(p50_ms) or 0.0 for runs in found.values())
    for name in (_ONE_WAY, _ROUND, _INSIDE, _SOCKET):
        runs = found[name]
        cpu = [runs.of(server_us), runs.of(store_us)]
        share = runs.share(found[_ONE_WAY], _p50)
        table.add(name, runs.of(p50_ms), runs.of(p99_ms), share, *cpu, bar(runs.of(p50_ms) or 0.0, largest))
        report.errors += runs.errors
    for name, limit in ((_INSIDE, _ONE_WAY), (_SOCKET, _ROUND)):
        figures = f"{number(found[name].of(p50_ms))} ms of {number(found[limit].of(p50_ms))} ms"
        got = found[name].share(found[limit], _p50)
        report.targets.append(Target(f"write to handler, {name}", 3, got, f"times {limit}", at_most=True, figures=figures))


def _p50(run: jobs.Measured) -> float:
    return run.p50 or 0.0


class _Backlogs:
    """Writes backlogs and has them handled."""

    def __init__(self, server: RedisServer, load: Measurer, inside: list[Measurer], hosts: list[Host]) -> None:
        self._server = server
        self._load = load
        self._inside = inside
        self._hosts = hosts
        self._numbers = count()

    def drain(self, where: str, engines: int, events: int, keys: int) -> jobs.Measured:
        """Have that many engines handle a backlog over so many keys."""
        scope = f"backlog-{next(self._numbers)}"
        subscription = Subscription(function_id=jobs.HANDLER, scope=scope)

        async def fill() -> None:
            async with backlog.adapter(self._server.url) as adapter:
                await backlog.given(adapter.queues.subscribe(subscription))
                await backlog.write(adapter, scope, (f"user:{number % keys:06d}" for number in range(events)), _SIZE)

        asyncio.run(fill())
        job = jobs.Drain(scope=scope, expected=events, store_pid=self._server.process.pid, shared=where == _INSIDE and engines > 1)
        if where == _INSIDE:
            for engine in self._inside[:engines]:
                engine.begin(job)
            measured = _together([engine.measured() for engine in self._inside[:engines]], events)
        else:
            hosts = self._hosts[:engines]
            urls, pids = [host.url for host in hosts], [host.pid for host in hosts]
            measured = self._load.measure(replace(job, urls=urls, pids=pids))
        self._server.client.unlink(f"state:{scope}")
        return measured


def _together(parts: list[jobs.Measured], expected: int) -> jobs.Measured:
    """Several engines' shares of one backlog, begun at the same time."""
    done = sum(part.done for part in parts)
    longest = max(parts, key=lambda part: part.seconds)
    return replace(longest, done=done, server_cpu=sum(part.server_cpu for part in parts), lost=expected - done)


def events(plan: Plan, report: Report, server: RedisServer) -> None:
    """How many are handled and acknowledged: a backlog that was written before, and writes at the same time."""
    many = int(plan.seconds * _EVENTS_PER_SECOND_OF_PLAN)
    kinds = [(where, engines, "many keys") for where in (_INSIDE, _SOCKET) for engines in (1, 2)]
    kinds += [(where, 1, kind) for where in (_INSIDE, _SOCKET) for kind in ("one key", "written meanwhile")]
    found: defaultdict[tuple[str, int, str], Runs] = defaultdict(Runs)
    least = Runs()
    with ExitStack() as stack:
        load, inside = load_client(stack), [embedded_engine(stack, server.url) for _ in range(2)]
        hosts = [stack.enter_context(engine_on_redis(server.url)) for _ in range(2)]
        backlogs = _Backlogs(server, load, inside, hosts)
        for run in range(plan.runs):
            plan.progress(f"redis-events: {_BARE}, run {run + 1}")
            least.add(bare.consumed(server.url, _SIZE, many, server.process.pid))
            for kind in kinds:
                where, engines, what = kind
                plan.progress(f"redis-events: {where}, {engines}, {what}, run {run + 1}")
                if what == "written meanwhile":
                    asked, host = (inside[0], None) if where == _INSIDE else (load, hosts[0])
                    found[kind].add(asked.measure(plan.events(host, _IN_FLIGHT, server.process.pid)))
                elif what == "one key":
                    found[kind].add(backlogs.drain(where, engines, many // 10, 1))
                else:
                    found[kind].add(backlogs.drain(where, engines, many, many))
    columns = ["events", "handled", "engines", "events/s", "engines µs", "client µs", "Redis µs", "Redis, of a core", ""]
    table = Table("Events of 1 KB handled and acknowledged; backlogs, and writes with 64 outstanding", columns)
    report.tables.append(table)
    largest = max(runs.of(rate) or 0.0 for runs in (least, *found.values()))
    figures: list[Callable[[jobs.Measured], float]] = [rate, server_us, client_us, store_us, store_share]
    for (where, engines, what), runs in [((_BARE, 0, "bare"), least), *found.items()]:
        table.add(what, where, engines, *(runs.of(figure) for figure in figures), bar(runs.of(rate) or 0.0, largest))
        report.errors += runs.errors
    for where in (_INSIDE, _SOCKET):
        one, two = found[where, 1, "many keys"], found[where, 2, "many keys"]
        told = f"{number(one.share(least, rate))} of {_BARE}"
        report.targets.append(Target(f"a backlog, {where}", 15_000, one.of(rate), "events/s", figures=told))
        report.targets.append(Target(f"two engines, {where}", 1.0, two.share(one, rate), "times one"))
    report.notes.append(
        "An event that was written meanwhile has an old value, too. µs are of CPU, per event; in process there is no"
    )
    report.notes.append("client, and the engine's are of the handler (and of the writer), too.")


def subscriptions(plan: Plan, report: Report, server: RedisServer) -> None:
    """Events of one subscription beside others that an engine hosts and that get none."""
    counts = sorted({1, *(n for n in (100, 1000, 10_000) if n <= plan.many), plan.many})
    found: defaultdict[tuple[int, int], Runs] = defaultdict(Runs)
    with ExitStack() as stack:
        inside = embedded_engine(stack, server.url)
        for run in range(plan.runs):
            for hosted in counts:
                for in_flight in (1, _IN_FLIGHT):
                    plan.progress(f"redis-subscriptions: {hosted:,}, {in_flight} in flight, run {run + 1}")
                    server.client.flushall()  # nobody is connected; the subscriptions of the one before would wait for their engine
                    job = plan.events(None, in_flight, server.process.pid, hosted - 1)
                    found[hosted, in_flight].add(inside.measure(job))
    columns = ["subscriptions", "alone p50 ms", "p99 ms", "Redis µs", "64 in flight: events/s", "engine µs", "Redis µs", ""]
    table = Table("One of the subscriptions gets events, one engine in process", columns)
    report.tables.append(table)
    largest = max(runs.of(p50_ms) or 0.0 for runs in found.values())
    for hosted in counts:
        alone, busy = found[hosted, 1], found[hosted, _IN_FLIGHT]
        figures = [alone.of(p50_ms), alone.of(p99_ms), alone.of(store_us), busy.of(rate), busy.of(server_us), busy.of(store_us)]
        table.add(hosted, *figures, bar(alone.of(p50_ms) or 0.0, largest))
        report.errors += alone.errors + busy.errors
    most = max(counts)
    for name, in_flight, figure in (("latency", 1, _p50), ("Redis's time", _IN_FLIGHT, store_us)):
        got = found[most, in_flight].share(found[1, in_flight], figure)
        report.targets.append(Target(f"{name} beside {most - 1:,} others", 1.1, got, "of without", at_most=True))
