"""The workers that are connected: a table of them, what they tell of themselves, and the connection as they see it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

from iii_state.config import ServerLimits
from iii_state.engine.functions.function import Executor
from iii_state.engine.functions.registry import FunctionRegistry
from iii_state.engine.ledger import Ledger
from iii_state.engine.triggers.binding import TriggerOwner
from iii_state.engine.triggers.registry import TriggerRegistry
from iii_state.host import Caller, Trigger
from iii_state.rights import Identity
from iii_state.tasks.results import Result
from iii_state.wire.limits import DEFAULT, Share
from iii_state.wire.messages import WORKER_GONE
from iii_state.wire.peer import PeerConnection
from iii_state.wire.pending import PendingCalls


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


class ConnectedWorker(Executor, TriggerOwner, Protocol):
    """A worker as the other parts of the engine see it (`worker.Worker`): it serves functions, and has and provides triggers."""

    @property
    def link(self) -> PeerConnection: ...

    @property
    def reattach_token(self) -> str: ...

    @property
    def remote(self) -> str | None: ...

    @property
    def namespace(self) -> str: ...

    @property
    def caller(self) -> Caller: ...

    @property
    def description(self) -> Description: ...

    @property
    def connected_at_ms(self) -> int: ...

    @property
    def pending(self) -> PendingCalls: ...

    @property
    def function_ids(self) -> list[str]: ...

    def settle(self) -> None:
        """It belongs where it is, whatever it may say later."""
        ...

    def registers(self) -> None:
        """It has registered something: it is settled a while after the last of its registrations."""
        ...

    def provide(self, trigger: Trigger) -> None:
        """Hand over a trigger of a type that it provides."""
        ...

    def describe(self, description: Description) -> Result[None]:
        """Take what it tells of itself."""
        ...

    def is_sending(self, answer: asyncio.Future[bytes | None]) -> bool:
        """Whether a large call, of which this is the result, has not left in whole."""
        ...

    def sweep(self) -> None:
        """End calls that are overdue."""
        ...


class Workers:
    """The workers that are connected now, and what they share: functions, triggers, the engine's timeout."""

    def __init__(
        self,
        functions: FunctionRegistry,
        triggers: TriggerRegistry,
        call_timeout: float,
        ledger: Ledger,
        limits: Callable[[], ServerLimits] = lambda: DEFAULT,
    ) -> None:
        self.ledger = ledger
        self.limits = limits
        self._shares: dict[str, Share] = {}
        self.functions = functions
        self.triggers = triggers
        self.call_timeout = call_timeout
        self.engine_id = str(uuid.uuid4())
        self._workers: dict[str, ConnectedWorker] = {}
        self._watchers: list[Callable[[str, ConnectedWorker], None]] = []

    def __iter__(self) -> Iterator[ConnectedWorker]:
        return iter(list(self._workers.values()))

    def __len__(self) -> int:
        return len(self._workers)

    def get(self, worker_id: str) -> ConnectedWorker | None:
        """A worker by its id."""
        return self._workers.get(worker_id)

    def share(self, identity: Identity | None) -> Share | None:
        """What the connections of a token's name share, where its entry limits that; the newest entry's limits count."""
        if identity is None or identity.limits is None:
            return None
        share = self._shares.setdefault(identity.name, Share(identity.limits))
        share.limit(identity.limits)
        return share

    def add(self, worker: ConnectedWorker) -> None:
        """A worker has connected."""
        self._workers[worker.id] = worker
        self.changed("worker_connected", worker)

    def remove(self, worker: ConnectedWorker) -> None:
        """A worker is gone."""
        if self._workers.pop(worker.id, None) is not None:
            self.changed(WORKER_GONE, worker)

    def watch(self, changed: Callable[[str, ConnectedWorker], None]) -> Callable[[], None]:
        """Call `changed(event, worker)` when a worker comes, goes or describes itself, until what is returned is called."""
        self._watchers.append(changed)
        return lambda: self._watchers.remove(changed)

    def changed(self, event: str, worker: ConnectedWorker) -> None:
        """Tell the watchers."""
        for changed in list(self._watchers):
            changed(event, worker)

    def sweep(self) -> None:
        """End calls that are overdue."""
        for worker in self:
            worker.sweep()
