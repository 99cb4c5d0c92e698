"""How long events wait when the engine that has them is killed: from SIGKILL to their next delivery by another engine."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks import jobs
from benchmarks.plan import Plan, Runs, p50_ms, p99_ms
from benchmarks.processes import engine_on_redis, load_client
from benchmarks.report import Report, Table, Target, bar
from iii_state.config import RedisSettings
from tests.support.redis.server import RedisServer

_EVENTS = 64
_PATIENCE_SECONDS = 30.0
_SWEEP_MS = 500
"""That a takeover may come after the time to live."""


def failover(plan: Plan, report: Report, server: RedisServer) -> None:
    """Engines that are killed while a worker of theirs has events and does not answer."""
    ttl_ms = RedisSettings().heartbeat_ttl_ms
    runs = Runs()
    table = Table(f"{_EVENTS} events at a worker of an engine that is killed", ["run", "first ms", "last ms", ""])
    report.tables.append(table)
    with ExitStack() as stack:
        load = load_client(stack)
        heir = stack.enter_context(engine_on_redis(server.url))
        for number in range(plan.runs):
            plan.progress(f"redis-failover: run {number + 1}")
            with engine_on_redis(server.url) as victim:
                job = jobs.Failover(victim=victim.url, pid=victim.pid, heir=heir.url, events=_EVENTS, patience=_PATIENCE_SECONDS)
                measured = load.measure(job)
            runs.add(measured)
            first, last = p50_ms(measured), p99_ms(measured)
            table.add(number + 1, first, last, bar(first or 0.0, ttl_ms + _SWEEP_MS))
    report.errors += runs.errors
    latest = max(p50_ms(run) or 0.0 for run in runs.runs)
    report.targets.append(Target("first event at another engine", ttl_ms + _SWEEP_MS, latest, "ms after SIGKILL", at_most=True))
    report.notes.append(
        f"The latest of the runs counts. heartbeat_ttl_ms is {ttl_ms:,}; a heart has beaten within a third of that."
    )
