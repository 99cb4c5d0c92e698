"""The workers that are connected: a table of them, what they tell of themselves, and the connection as they see it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec

from iii_state.engine.registry import Functions
from iii_state.engine.triggers import Triggers

if TYPE_CHECKING:
    from iii_state.engine.worker import Worker


WORKER_GONE = "worker_disconnected"
"""The event of `engine::workers-available` that says that a worker's connection has ended."""


class Workers:
    """The workers that are connected now, and what they share: functions, triggers, the engine's timeout."""

    def __init__(self, functions: Functions, triggers: Triggers, call_timeout: float) -> None:
        self.functions = functions
        self.triggers = triggers
        self.call_timeout = call_timeout
        self.engine_id = str(uuid.uuid4())
        self._workers: dict[str, Worker] = {}
        self._watchers: list[Callable[[str, str], None]] = []

    def __iter__(self) -> Iterator[Worker]:
        return iter(list(self._workers.values()))

    def __len__(self) -> int:
        return len(self._workers)

    def get(self, worker_id: str) -> Worker | None:
        """A worker by its id."""
        return self._workers.get(worker_id)

    def add(self, worker: Worker) -> None:
        """A worker has connected."""
        self._workers[worker.id] = worker
        self.changed("worker_connected", worker.id)

    def remove(self, worker: Worker) -> None:
        """A worker is gone."""
        if self._workers.pop(worker.id, None) is not None:
            self.changed(WORKER_GONE, worker.id)

    def watch(self, changed: Callable[[str, str], None]) -> Callable[[], None]:
        """Call `changed(event, worker_id)` when a worker comes, goes or describes itself, until what is returned is called."""
        self._watchers.append(changed)
        return lambda: self._watchers.remove(changed)

    def changed(self, event: str, worker_id: str) -> None:
        """Tell the watchers."""
        for changed in list(self._watchers):
            changed(event, worker_id)

    def sweep(self) -> None:
        """End calls that are overdue."""
        for worker in self:
            worker.sweep()


class Description(msgspec.Struct):
    """What a worker tells of itself with `engine::workers::register`."""

    name: str | None = None
    runtime: str | None = None
    version: str | None = None
    os: str | None = None
    pid: int | None = None
    isolation: str | None = None
    description: str | None = None
    namespace: str | None = None
    features: list[str] | None = None
