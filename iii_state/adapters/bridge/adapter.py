"""The bridge adapter: values, sessions and events of a remote engine, by its own functions and its trigger type `state`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from iii_state.adapters.bridge.admin import BridgeAdmin
from iii_state.adapters.bridge.history import BridgeHistory
from iii_state.adapters.bridge.queues import BridgeQueues
from iii_state.adapters.bridge.remote.remote import Remote
from iii_state.adapters.bridge.sessions import BridgeSessions
from iii_state.adapters.bridge.succession import BridgeSuccession
from iii_state.adapters.bridge.values import BridgeValues
from iii_state.adapters.figures import STORE_UP
from iii_state.adapters.local_dead_letters import DeadLetters
from iii_state.adapters.wakeup import WakeUp
from iii_state.adapters.wall_clock import now_ms
from iii_state.config import BridgeSettings
from iii_state.errors import FunctionError
from iii_state.events import DispatchLimits, QueueLimits
from iii_state.figures import Figure
from iii_state.tasks.background import Background
from iii_state.tasks.closing import Stopping
from iii_state.tasks.results import Result
from iii_state.tasks.starting import Starting

HEALTH_SECONDS = 2.0


class BridgeAdapter:
    """Uses the state of the engine at `bridge_url`."""

    name = "bridge"

    def __init__(
        self, settings: BridgeSettings, *, limits: QueueLimits | None = None, dispatch: DispatchLimits | None = None
    ) -> None:
        limits, dispatch = limits or QueueLimits(), dispatch or DispatchLimits()
        self._remote = Remote(settings)
        self._tasks = Background()
        self._wake_up = WakeUp()
        self._dead_letters = dead_letters = DeadLetters(limits, now_ms)
        self.values = BridgeValues(self._remote, self._tasks)
        self.sessions = BridgeSessions(self._remote, self._tasks)
        self.history = BridgeHistory(self._remote, self._tasks)
        self.queues = BridgeQueues(self._remote, limits, dispatch, self._wake_up, dead_letters)
        self.admin = BridgeAdmin(self._remote, self.queues, dead_letters)
        self.succession = BridgeSuccession(self._remote, self._tasks)
        self._starting = Starting("bridge adapter")
        self._stopping = Stopping(self._stop)

    @property
    def store(self) -> str | None:
        return self._remote.link.store

    async def start(self, wake: Callable[[str], None]) -> None:
        self._starting.check()
        self._starting.has_begun = True
        self._wake_up.begin(wake)
        try:
            await self._remote.start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        await self._stopping()

    async def _stop(self) -> None:
        await self._tasks.stop()
        self._dead_letters.close()
        await self.queues.close()
        await self._remote.stop()

    def absence(self) -> str | None:
        return None

    async def health(self) -> str | None:
        trouble = self._remote.link.trouble
        if trouble is not None:
            return f"cut off: {trouble}"
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                await self._remote.route([])
        except TimeoutError:
            return f"the engine at {self._remote.url} has not answered for {HEALTH_SECONDS:g} s"
        except FunctionError as error:
            return str(error)
        return None

    def figures(self) -> Iterator[Figure]:
        yield Figure(STORE_UP, int(self._remote.link.trouble is None), (self.name,))

    def tells_of_queues(self) -> bool:
        """Its queues are its own, under the names of its functions; the remote knows them by others."""
        return self._remote.link.trouble is None

    def has(self, feature: str) -> bool:
        return feature in self._remote.link.features

    def route(self, visited: list[str]) -> Result[list[str]]:
        return self._tasks.call(self._remote.route(visited))
