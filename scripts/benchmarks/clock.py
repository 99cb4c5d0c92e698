"""What passes while something is measured: wall time, and CPU time of everybody who takes part."""

from __future__ import annotations

import time

from benchmarks import jobs
from benchmarks.cpu import process_seconds

Reading = tuple[float, float, float, float]


class Clock:
    """Wall time, CPU time of hosts, of this process and of a Redis, from `start` to `stop`, summed over several such spans."""

    def __init__(self, pids: list[int], store_pid: int | None = None) -> None:
        self._pids = pids
        self._store_pid = store_pid
        self._began = (0.0, 0.0, 0.0, 0.0)
        self.seconds = self.server_cpu = self.client_cpu = self.store_cpu = 0.0

    def now(self) -> Reading:
        """Wall time, and CPU times of the hosts, of this process and of Redis."""
        store = process_seconds(self._store_pid) if self._store_pid else 0.0
        return time.perf_counter(), sum(map(process_seconds, self._pids)), time.process_time(), store

    def start(self) -> None:
        """Begin a span."""
        self._began = self.now()

    def stop(self, at: Reading | None = None) -> None:
        """End a span: now, or when `at` was read."""
        wall, server, client, store = (now - before for now, before in zip(at or self.now(), self._began, strict=True))
        self.seconds += wall
        self.server_cpu += server
        self.client_cpu += client
        self.store_cpu += store

    def measured(self, done: int, times: list[float], errors: int, lost: int) -> jobs.Measured:
        """What came of it."""
        ordered = sorted(times)
        return jobs.Measured(
            done=done,
            seconds=self.seconds,
            server_cpu=self.server_cpu,
            client_cpu=self.client_cpu,
            store_cpu=self.store_cpu,
            p50=ordered[len(ordered) // 2] if ordered else None,
            p99=ordered[int(len(ordered) * 0.99)] if ordered else None,
            errors=errors,
            lost=lost,
        )
