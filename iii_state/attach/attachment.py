"""The life of an attached state worker: its module, its connection under a name that is free, its turns as leader or standby."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from iii_state.attach import listing
from iii_state.attach.availability import Function
from iii_state.attach.host import DEFAULT_PREFIX, AttachedHost
from iii_state.attach.leadership import Leadership
from iii_state.client.about import About
from iii_state.client.address import EngineAddress
from iii_state.client.client import Client, Hooks
from iii_state.engine.probes import ProbeResult
from iii_state.errors import AttachRefused, Code, ConnectionLost, WorkerRejected
from iii_state.figures import Figure, gauge
from iii_state.state.module import StateModule
from iii_state.tasks.background import first_of
from iii_state.tasks.closing import in_turn
from iii_state.wire import messages

logger = logging.getLogger(__name__)

ATTACHED = gauge("attached", "1 for what an attached worker is now: leader, standby, or waiting for the engine.", "role")

MAX_NAMES = 100

CALL_SECONDS = 1e10
"""How long a handler may take is the dispatcher's to say."""


class Attachment:
    """A state module as a worker of the engine at `address`.

    Its functions and trigger type are registered under `prefix` in place of `state`. Of the processes that are attached to one
    engine with the same store one serves, the others stand by. `say` is told in words when this one does either. `name` is what the
    worker is called; where the engine insists that names differ, `name-2` and so on.
    """

    def __init__(
        self,
        module: StateModule,
        address: EngineAddress | str,
        *,
        prefix: str = DEFAULT_PREFIX,
        name: str = "state",
        say: Callable[[str], None],
    ) -> None:
        self._module = module
        self._address = EngineAddress(address) if isinstance(address, str) else address
        self._url = url = str(self._address)
        self._name = name
        self._host = AttachedHost(prefix, lambda: module.adapter.store)
        self._leadership = Leadership(self._host, module.adapter, url, say)
        self._client: Client | None = None
        self._connected = asyncio.Event()
        self._check_now = asyncio.Event()
        self._has_started = False
        self._stopping = False

    async def run(self, stopped: asyncio.Event) -> None:
        """Serve until `stopped`, then stop cleanly. Raises `AttachRefused`, and what the module's start raises."""
        await self._module.start(self._host)
        self._has_started = True
        try:
            await first_of(self._attach(), self._host.availability.poll(self._functions_there), stopped.wait())
        finally:
            self._stopping = True
            await in_turn(self._retire, self._module.stop, self._close_client)

    @property
    def _role(self) -> str:
        client = self._client
        is_connected = client is not None and client.connection.is_greeted
        return "leader" if self._host.serves else "standby" if is_connected else "waiting"

    async def health(self) -> ProbeResult:
        """Whether the store can be used, whatever the engine is."""
        wrong = await self._module.health() if self._has_started else "it is being started"
        return ProbeResult({} if wrong is None else {self._module.name: wrong}, {"role": self._role})

    async def readiness(self) -> ProbeResult:
        """A leader is ready when its module is; a standby when it could take over: it is connected, and has its store."""
        wrong = {}
        if self._stopping:
            wrong["worker"] = "it is being stopped"
        elif self._role == "waiting":
            wrong["engine"] = f"there is no connection to {self._url}"
        elif self._role == "standby" and not self._leadership.has_stood:
            wrong["worker"] = "it is finding out whether to lead or to stand by"
        if (reason := await self._module.readiness()) is not None:
            wrong[self._module.name] = reason
        return ProbeResult(wrong, {"role": self._role})

    async def figures(self) -> list[Figure]:
        """What its module has counted, and whether this process is the leader."""
        roles = [Figure(ATTACHED, int(self._role == each), (each,)) for each in ("leader", "standby", "waiting")]
        return [*roles, *await self._module.figures()]

    async def _retire(self) -> None:
        self._host.retire()  # another one can take over while handlers that run here may finish
        self._leadership.leave()

    async def _close_client(self) -> None:
        if self._client is not None:
            await self._client.__aexit__()

    async def _attach(self) -> None:
        """Connect under the first name that is free, and serve there; returns never, or raises why not."""
        for number in range(1, MAX_NAMES + 1):
            name = self._name if number == 1 else f"{self._name}-{number}"
            client = Client(
                self._address,
                About(name, "State: JSON values at a scope and a key, and triggers of their changes", exclusive=True),
                reconnects=True,
                call_seconds=CALL_SECONDS,
                hooks=Hooks(self._greet, self._lost, self._rejected),
            )
            self._client = await client.__aenter__()
            try:
                await first_of(self._take_turns(client), client.closed())
            except WorkerRejected as error:
                if error.code != Code.WORKER_NAMESPACE_CONFLICT:
                    raise AttachRefused(str(error)) from None
                logger.info("%s; trying another name", error)
            await client.__aexit__()
            self._client = None
        raise AttachRefused(f"the engine at {self._url} has workers called {self._name}, {self._name}-2 … {self._name}-{MAX_NAMES}")

    async def _greet(self) -> None:
        self._leadership.connected()
        self._connected.set()

    def _lost(self) -> None:
        if self._connected.is_set() and not self._stopping:
            logger.warning("the connection to %s was lost; triggers wait until it is there again", self._url)
        self._connected.clear()
        self._leadership.lost()
        self._check_now.set()

    def _rejected(self, message: messages.RegistrationRejected) -> None:
        self._leadership.rejected()
        self._check_now.set()

    async def _take_turns(self, client: Client) -> None:
        """On every connection: check, again and again, whether to serve or to stand by."""
        while True:
            await self._connected.wait()
            number = 0
            while self._connected.is_set():
                await self._leadership.check(client, number)
                number += 1
                self._check_now.clear()
                if self._leadership.has_to_stand_by:
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._leadership.pause_seconds):
                        await self._check_now.wait()

    async def _functions_there(self) -> dict[Function, str] | None:
        """The functions of the engine and their workers; None where it does not tell, nothing where there is no connection."""
        client = self._client
        if client is None or not client.connection.is_greeted:
            return {}
        try:
            listed = await listing.functions(client)
        except ConnectionLost:
            return {}
        return None if listed is None else {(row.namespace, row.function_id): row.worker_name for row in listed}
