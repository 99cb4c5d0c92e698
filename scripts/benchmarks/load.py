"""The load client's process: takes jobs on stdin and answers each on stdout (`jobs.py`).

It runs beside the host, on another core if there is one, and reports its own CPU time, so that a reader sees which of
the two was busy. Before it counts, it reads an answer of the same kind in full; afterwards, the mean length of the
answers that it counted must be the length of that one.
"""

from __future__ import annotations

import asyncio
import time

import uvloop

from benchmarks import frames, handling, jobs
from benchmarks.callers import Caller, Worker
from benchmarks.clock import Clock
from benchmarks.sockets import Socket, connect

_RING_BYTES = 4_000_000
"""How large the values that are stored for one measurement may be, all together."""
_SLOW_SECONDS = 3.0
"""How long it may take until every caller has had one answer; a measurement of a slow host is that much longer."""
_FRAMES = 1024
"""Different calls of one measurement, over as many keys where values are small."""
_DELETES = 2000
"""Values that are deleted in one go."""


class Calls:
    """One measurement of calls, over several connections."""

    def __init__(self, job: jobs.Calls, callers: list[Caller]) -> None:
        self._job = job
        self._callers = callers
        n = len(callers)
        self._in_flight = [job.callers // n + (i < job.callers % n) for i in range(n)]
        self._scope = f"{frames.SCOPE}-list" if job.op == "list" else frames.SCOPE
        most = min(_DELETES, 128 * job.callers) if job.op == "delete" else _FRAMES
        keys = max(2, min(most, _RING_BYTES // job.size) // n)
        length = max(*self._in_flight, keys)
        if job.op == "delete":  # what is deleted has to be there
            keys = length
        self._stores = [frames.ring("set", job.size, keys, i, self._scope) for i in range(n)]
        rounds = 2 if job.op == "set" else 1
        self._rings = [frames.ring(job.op, job.size, length, i, self._scope, keys, rounds) for i in range(n)]
        self._lost = 0

    async def measure(self) -> jobs.Measured:
        """Make one call and read its answer, store what has to be there, then count."""
        expected = len(await self._one_call()) + 4
        for caller in self._callers[1:]:
            await caller.ask("state::get", f'{{"scope":"{self._scope}","key":"first:0"}}')
        if self._job.op != "list":
            await self._store()
        clock = Clock(self._job.pids, self._job.store_pid)
        done = await (self._deletes(clock) if self._job.op == "delete" else self._steadily(clock))
        mean = sum(caller.received_bytes for caller in self._callers) / max(sum(c.done for c in self._callers), 1)
        errors = sum(caller.errors for caller in self._callers)
        if not errors and not 0.9 < mean / expected < 1.1:
            raise ValueError(f"{self._job.op}: answers of {mean:.0f} bytes on average, where one has {expected}")
        times = [t for caller in self._callers for t in caller.times]
        return clock.measured(done, times, errors, self._lost)

    async def _one_call(self) -> bytes:
        caller, job = self._callers[0], self._job
        answer, where = b"", ""
        for number in range(frames.LIST_LENGTH if job.op == "list" else 2):
            where = f'"scope":"{self._scope}","key":"first:{number if job.op == "list" else 0}"'
            answer = await caller.ask("state::set", f'{{{where},"value":{frames.document(job.size)}}}')
        if job.op != "set":
            ops = ',"ops":[{"type":"increment","path":"visits","by":1}]' if job.op == "update" else ""
            answer = await caller.ask(f"state::{job.op}", f"{{{where}{ops}}}")
        return answer

    async def _steadily(self, clock: Clock) -> int:
        for caller, ring, n in zip(self._callers, self._rings, self._in_flight, strict=True):
            caller.start(ring, n)
        await asyncio.sleep(self._job.warmup)
        self._forget_times()
        before = sum(caller.done for caller in self._callers)
        clock.start()
        await asyncio.sleep(self._job.seconds)
        for _ in range(30):
            if sum(caller.done for caller in self._callers) - before >= self._job.callers:
                break
            await asyncio.sleep(_SLOW_SECONDS / 30)
        clock.stop()
        done = sum(caller.done for caller in self._callers) - before
        for caller in self._callers:
            self._lost += await caller.finished()
        return done

    async def _deletes(self, clock: Clock) -> int:
        """Delete what an untimed pass has set, again and again."""
        done = 0
        await self._once(self._rings)
        self._forget_times()
        until = time.perf_counter() + self._job.seconds
        while not done or time.perf_counter() < until:
            await self._store()
            clock.start()
            await self._once(self._rings)
            clock.stop()
            done += sum(caller.done for caller in self._callers)
        return done

    async def _store(self) -> None:
        """Set every value, more of them at once than is measured: this is not timed."""
        for caller, ring, n in zip(self._callers, self._stores, self._in_flight, strict=True):
            caller.start(ring, max(n, 16), len(ring), timed=False)
        await self._all_answered()

    async def _once(self, rings: list[frames.Ring]) -> None:
        for caller, ring, n in zip(self._callers, rings, self._in_flight, strict=True):
            caller.start(ring, n, len(ring))
        await self._all_answered()

    async def _all_answered(self) -> None:
        for caller in self._callers:
            self._lost += await caller.finished()

    def _forget_times(self) -> None:
        for caller in self._callers:
            caller.times.clear()


class Load:
    """Does the jobs, one after another, and keeps what they leave open."""

    def __init__(self) -> None:
        self._kept: list[Socket] = []

    async def do(self, job: jobs.Job) -> jobs.Answer:
        """Do one job."""
        match job:
            case jobs.Calls():
                return await self._calls(job)
            case jobs.Events():
                return await handling.events(job)
            case jobs.Drain():
                return await handling.drain(job)
            case jobs.HotKey():
                return await handling.hot_key(job)
            case jobs.Failover():
                return await handling.failover(job)
            case jobs.OpenIdle():
                return await self._open_idle(job)
            case jobs.RegisterTriggers():
                return await self._register_triggers(job)
            case jobs.Close():
                for socket in self._kept:
                    socket.transport.close()
                self._kept.clear()
                return jobs.Ready()

    async def _calls(self, job: jobs.Calls) -> jobs.Measured:
        callers: list[Caller] = []
        try:
            for number in range(min(job.connections, job.callers)):
                callers.append(await connect(job.urls[number % len(job.urls)], Caller))
            return await Calls(job, callers).measure()
        finally:
            for caller in callers:
                caller.transport.close()

    async def _open_idle(self, job: jobs.OpenIdle) -> jobs.Ready:
        while (wanted := job.connections - len(self._kept)) > 0:
            self._kept += await asyncio.gather(*(connect(job.url, Socket) for _ in range(min(wanted, 100))))
        return jobs.Ready()

    async def _register_triggers(self, job: jobs.RegisterTriggers) -> jobs.Ready:
        """A third in other scopes, a third for other keys of the scope in use, a third for a key of any scope."""
        worker = await connect(job.url, Worker)
        self._kept.append(worker)
        await worker.register("nobody-writes-here")
        for number in range(1, job.triggers):
            key = f'"key":"nobody-writes-this:{number}"'
            scope = (f'"scope":"other:{number}"', f'"scope":"{frames.SCOPE}",{key}', key)[number % 3]
            worker.trigger(number, f"{{{scope}}}")
        await worker.settle()
        return jobs.Ready()


if __name__ == "__main__":
    uvloop.run(jobs.serve(Load().do))
