"""A program with an engine of its own, whose state is in a Redis: does the jobs that are about events. A process of its own.

    python -m benchmarks.embedded REDIS_URL

Each job gets a new engine, on uvloop, as `iii-state serve` has it. CPU time is that of the whole process: the engine, the
handler, which does nothing, and the writer where the job has one.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import uvloop

from benchmarks import inprocess, jobs
from benchmarks.clock import Clock
from benchmarks.handling import drained

_AT_ONCE = 500


async def _host_idle(engine: Any, count: int) -> None:
    """Host subscriptions that get no events."""

    def nothing(event: Any) -> None:
        raise AssertionError("a trigger that must not match has matched")

    engine.register_function("bench::nothing", nothing)
    trigger = {"type": "state", "function_id": "bench::nothing"}
    scopes = [f"nobody-writes-here:{number}" for number in range(count)]
    for start in range(0, count, _AT_ONCE):
        part = scopes[start : start + _AT_ONCE]
        await asyncio.gather(*(engine.register_trigger({**trigger, "config": {"scope": scope}}) for scope in part))
        # Each new queue is looked at; calls are answered in their order, so that is over when this one is.
        await engine.trigger({"function_id": "state::get", "payload": {"scope": "none", "key": "none"}})


async def _drain(engine: Any, job: jobs.Drain) -> jobs.Measured:
    handled = 0

    def handle(event: Any) -> None:
        nonlocal handled
        handled += 1

    engine.register_function(jobs.HANDLER, handle)
    clock = Clock([os.getpid()], job.store_pid)
    await engine.register_trigger({"type": "state", "function_id": jobs.HANDLER, "config": {"scope": job.scope}})
    clock.start()
    lost = await drained(lambda: handled, job.expected, clock, shared=job.shared)
    return clock.measured(handled, [], 0, lost)


async def do(job: jobs.Job) -> jobs.Answer:
    """Do one job. Raises ValueError for one that needs a socket."""
    async with inprocess.engine("redis", redis_url=sys.argv[1]) as engine:
        match job:
            case jobs.Events():
                await _host_idle(engine, job.idle)
                return await inprocess.events(engine, job.size, job.in_flight, job.seconds, job.store_pid)
            case jobs.Drain():
                return await _drain(engine, job)
    raise ValueError(f"expected a job that an embedded engine can do, got {job}")


if __name__ == "__main__":
    uvloop.run(jobs.serve(do))
