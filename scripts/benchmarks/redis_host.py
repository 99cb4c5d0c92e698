"""The benchmark's own Redis, on a free port, and the sections that are measured on one."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import redis

from benchmarks.plan import Plan
from benchmarks.processes import NotStarted
from benchmarks.report import Report
from iii_state.errors import StoreError
from tests.support.redis.server import RedisServer


def with_redis(name: str, title: str, measure: Callable[[Plan, Report, RedisServer], None]) -> Callable[[Plan], Report]:
    """A section whose `measure` gets an empty Redis of its own, gone at the end, and fills in the report.

    Calls that Redis answered with an error count as errors. The report says why where the section was skipped. The section
    raises RuntimeError where one of its own calls failed, or redis-benchmark is not there.
    """

    def section(plan: Plan) -> Report:
        report = Report(name, title)
        if not plan.ours:
            report.skipped = "only the sketch was asked for"
        elif not shutil.which("redis-server"):
            report.skipped = "no redis-server on the PATH (Debian and Ubuntu: apt-get install redis-server)"
        else:
            try:
                with RedisServer() as server:
                    measure(plan, report, server)
                    report.errors += failed_calls(server.client)
            except NotStarted as why:
                report.skipped = f"ours does not start: {(str(why).splitlines() or ['it said nothing'])[-1]}"
            except (redis.RedisError, StoreError, OSError) as failure:
                raise RuntimeError(f"{type(failure).__name__}: {failure}") from failure
        return report

    return section


def failed_calls(client: redis.Redis) -> int:
    """How many calls Redis answered with an error since its statistics were reset.

    Not counted are those by which a client introduces itself, where redis-py tries what older servers do not know, and those that
    make the group of a queue, which may have one.
    """
    told = client.info("commandstats")
    return sum(
        int(stats["rejected_calls"]) + int(stats["failed_calls"])
        for command, stats in told.items()
        if not command.startswith(("cmdstat_client", "cmdstat_hello", "cmdstat_xgroup"))
    )
