"""What the load client measures of events: workers at one host or at several, and writes that they handle."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from msgspec.structs import replace

from benchmarks import frames, jobs
from benchmarks.callers import Caller, Worker
from benchmarks.clock import Clock
from benchmarks.sockets import PATIENCE, Socket, connect

_SCOPE = "bench-events"
_LOOK_SECONDS = 0.005
_QUIET_SECONDS = 0.5
"""So long after the last event of a backlog that others handle, too, there are no more."""


_S = TypeVar("_S", bound=Socket)


@asynccontextmanager
async def _opened(url: str, kind: type[_S]) -> AsyncIterator[_S]:
    socket = await connect(url, kind)
    try:
        yield socket
    finally:
        socket.transport.close()


async def events(job: jobs.Events) -> jobs.Measured:
    """Writes on one connection, handled by a worker on another."""
    async with _opened(job.url, Worker) as worker, _opened(job.url, Caller) as writer:
        return await _Events(job, worker, writer).measure()


async def drained(handled: Callable[[], int], expected: int, clock: Clock, *, shared: bool = False) -> int:
    """Stop the clock at the last event of a backlog, which others may share, and return how many never came."""
    seen, mark = -1, clock.now()
    while (count := handled()) < expected:
        if count > seen:
            seen, mark = count, clock.now()
        elif time.perf_counter() - mark[0] > (_QUIET_SECONDS if shared and count else PATIENCE):
            break
        await asyncio.sleep(_LOOK_SECONDS)
    else:
        mark = clock.now()
    clock.stop(mark)
    return 0 if shared else expected - handled()


async def drain(job: jobs.Drain) -> jobs.Measured:
    """A backlog, handled by a worker at each host."""
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(_opened(url, Worker)) for url in job.urls]
        clock = Clock(job.pids, job.store_pid)
        await asyncio.gather(*(worker.register(job.scope) for worker in workers))
        clock.start()

        def handled() -> int:
            return sum(worker.handled for worker in workers)

        lost = await drained(handled, job.expected, clock, shared=job.shared)
        return clock.measured(handled(), [], 0, lost)


async def hot_key(job: jobs.HotKey) -> jobs.Measured:
    """Events of one key that wait, handled by a worker at the socket."""
    scope = f"hot-{time.time_ns()}"
    async with _opened(job.url, Worker) as worker, _opened(job.url, Caller) as writer:
        await worker.register(scope)
        clock = Clock([job.pid], job.store_pid)
        writer.start(frames.ring("set", job.size, 256, 0, scope, keys=1), 256, job.events, timed=False)
        lost = await writer.finished()
        clock.start()
        before = worker.handled
        lost += await drained(lambda: worker.handled, job.events, clock)
        return clock.measured(worker.handled - before, [], writer.errors, lost)


async def failover(job: jobs.Failover) -> jobs.Measured:
    """From the death of a host to the first and the last of its events at another."""
    scope = f"{_SCOPE}-{job.pid}"
    async with _opened(job.victim, Worker) as before, _opened(job.heir, Worker) as after, _opened(job.heir, Caller) as writer:
        before.answers = False
        await before.register(scope)
        await writer.ask("state::get", '{"scope":"none","key":"none"}')
        writer.start(frames.ring("set", 1000, job.events, 0, scope), job.events, job.events)
        lost = await writer.finished() + await before.missing(job.events)
        await after.register(scope)
        first = after.waiting = asyncio.get_running_loop().create_future()
        clock = Clock([])
        os.kill(job.pid, signal.SIGKILL)
        clock.start()
        killed = time.perf_counter()
        async with asyncio.timeout(job.patience):
            times = [await first - killed]
        lost += await after.missing(job.events)
        times.append(after.handled_at - killed)
        clock.stop()
        measured = clock.measured(after.handled, times, writer.errors, lost)
        return replace(measured, p50=times[0], p99=times[1])


class _Events:
    """One measurement of events: writes on one connection, handled by a worker on another."""

    def __init__(self, job: jobs.Events, worker: Worker, writer: Caller) -> None:
        self._job = job
        self._worker = worker
        self._writer = writer
        self._ring = frames.ring("set", job.size, max(256, job.in_flight), 0, _SCOPE)

    async def measure(self) -> jobs.Measured:
        """Register, then write."""
        await self._worker.register(_SCOPE)
        await self._writer.ask("state::get", '{"scope":"none","key":"none"}')
        return await (self._alone() if self._job.in_flight == 1 else self._steadily())

    async def _steadily(self) -> jobs.Measured:
        """As many events outstanding as the job says: each that is handled sends the next write."""
        worker, writer = self._worker, self._writer
        clock = Clock([self._job.pid], self._job.store_pid)
        worker.writer = writer
        writer.start(self._ring, self._job.in_flight, paced=True)
        await asyncio.sleep(self._job.warmup)
        before = worker.handled
        clock.start()
        await asyncio.sleep(self._job.seconds)
        clock.stop()
        done = worker.handled - before
        worker.writer = None
        lost = await writer.finished() + await worker.missing(writer.sent)
        return clock.measured(done, [], writer.errors, lost)

    async def _alone(self) -> jobs.Measured:
        """One write at a time: from just before it is sent to when the worker has read its event."""
        worker, writer = self._worker, self._writer
        warm = time.perf_counter() + self._job.warmup
        while time.perf_counter() < warm:
            await self._one()
        times: list[float] = []
        clock = Clock([self._job.pid], self._job.store_pid)
        clock.start()
        until = time.perf_counter() + self._job.seconds
        while not times or time.perf_counter() < until:
            times.append(await self._one())
        clock.stop()
        return clock.measured(len(times), times, writer.errors, max(0, await worker.missing(0)))

    async def _one(self) -> float:
        waiting: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._worker.waiting = waiting
        sent = time.perf_counter()
        self._writer.start(self._ring, 1, 1, timed=False)
        async with asyncio.timeout(10):
            read = await waiting
            await self._writer.finished()
        return read - sent
