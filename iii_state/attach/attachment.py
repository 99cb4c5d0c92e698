"""The life of an attached state worker: it looks who serves state at the engine, waits or serves, steps down, comes back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from iii_state.adapters.base import Adapter
from iii_state.attach import survey
from iii_state.attach.host import DEFAULT_PREFIX, AttachedHost
from iii_state.attach.presence import Function
from iii_state.client.about import About
from iii_state.client.client import Client, Hooks
from iii_state.errors import AttachRefused, Code, ConnectionLost, FunctionError, StoreError, WorkerRejected
from iii_state.host import DEFAULT_NAMESPACE
from iii_state.state.module import StateModule
from iii_state.tasks.closing import in_turn
from iii_state.tasks.results import answered
from iii_state.wire import messages

logger = logging.getLogger(__name__)

BUILT_IN = "iii-state"
"""What a stock engine calls its own state worker."""

MAX_NAMES = 100
BEAT_SECONDS = 0.5
"""Between two looks of a worker that waits, and of one that serves at whether it still may."""

BEATS_PER_SURVEY = 10
"""So often, in beats, one that serves looks whether the engine still knows all its functions."""

LINE_MS = 5000
"""A worker that has not been heard of for so long is not waited for: another one of the store may take its functions."""

SEEN_SECONDS = 2.0
"""For so long a new worker waits until the engine lists it."""

CALL_SECONDS = 1e10
"""How long a handler may take is the dispatcher's to say."""


class Attachment:
    """A state module as a worker of the engine at `url`.

    Its functions and trigger type are registered under `prefix` in place of `state`. Of the processes that are attached to one
    engine with the same store one serves, the others stand by. `say` is told in words when this one does either. `name` is what the
    worker is called; where the engine insists that names differ, `name-2` and so on.
    """

    def __init__(
        self, module: StateModule, url: str, *, prefix: str = DEFAULT_PREFIX, name: str = "state", say: Callable[[str], None]
    ) -> None:
        self._module = module
        self._adapter: Adapter = module.adapter
        self._url = url
        self._prefix = prefix
        self._name = name
        self._say = say
        self._said = ""
        self._host = AttachedHost(prefix, lambda: self._adapter.store)
        self._client: Client | None = None
        self._connections = 0
        self._connected = asyncio.Event()
        self._look_now = asyncio.Event()
        self._place = ""
        """The id under which this process stands in line."""
        self._stopping = False
        self._was_rejected = False
        self._rejections = 0
        self._has_looked = False
        self._warned = ""

    async def run(self, stopped: asyncio.Event) -> None:
        """Serve until `stopped`, then stop cleanly. Raises `AttachRefused`, and what the module's start raises."""
        await self._module.start(self._host)
        try:
            serving = asyncio.create_task(self._attach(), name="iii-state attach")
            presence = asyncio.create_task(self._host.presence.look(self._functions_there), name="iii-state presence")
            stop = asyncio.create_task(stopped.wait())
            await _first_of(serving, presence, stop)
        finally:
            self._stopping = True
            await in_turn(self._retire, self._module.stop, self._close_client)

    async def _retire(self) -> None:
        self._host.retire()  # another one can take over while handlers that run here may finish
        self._step_out()

    async def _close_client(self) -> None:
        if self._client is not None:
            await self._client.__aexit__()

    # --- connections

    async def _attach(self) -> None:
        for number in range(1, MAX_NAMES + 1):
            client = Client(
                self._url,
                About(
                    self._name if number == 1 else f"{self._name}-{number}",
                    "State: JSON values at a scope and a key, and triggers of their changes",
                    exclusive=True,
                ),
                reconnects=True,
                call_seconds=CALL_SECONDS,
                hooks=Hooks(self._greet, self._lost, self._rejected),
            )
            self._client = await client.__aenter__()
            try:
                sessions = asyncio.create_task(self._sessions(client), name="iii-state attach: sessions")
                over = asyncio.create_task(client.closed())
                await _first_of(sessions, over)
            except WorkerRejected as error:
                if error.code != Code.WORKER_NAMESPACE_CONFLICT:
                    raise AttachRefused(str(error)) from None
                logger.info("%s; trying another name", error)
            await client.__aexit__()
            self._client = None
        raise AttachRefused(f"the engine at {self._url} has workers called {self._name}, {self._name}-2 … {self._name}-{MAX_NAMES}")

    async def _greet(self) -> None:
        self._connections += 1
        self._connected.set()

    def _lost(self) -> None:
        if self._connected.is_set() and not self._stopping:
            logger.warning("the connection to %s was lost; triggers wait until it is there again", self._url)
        self._connected.clear()
        self._said = ""
        self._host.withdraw()
        self._step_out()
        self._look_now.set()

    def _rejected(self, message: messages.RegistrationRejected) -> None:
        self._was_rejected = True
        self._look_now.set()

    async def _sessions(self, client: Client) -> None:
        while True:
            await self._connected.wait()
            beats = 0
            while self._connected.is_set():
                try:
                    if self._host.serves:
                        await self._keep(client, thoroughly=beats % BEATS_PER_SURVEY == 0)
                    else:
                        await self._offer(client)
                except ConnectionLost as error:
                    logger.info("%s", error)
                except (StoreError, FunctionError) as error:
                    self._warn(f"the store cannot be asked who serves {self._url}: {error}")
                beats += 1
                self._look_now.clear()
                if self._was_rejected and self._host.serves:
                    continue
                try:
                    async with asyncio.timeout(BEAT_SECONDS * 2 ** min(self._rejections, 3)):
                        await self._look_now.wait()
                except TimeoutError:
                    pass

    # --- waiting

    async def _offer(self, client: Client) -> None:
        """Serve, if nobody else does, or say who does."""
        connection = self._connections
        taken = _taken(self._prefix, self._url, await self._foreign(client))
        if taken is not None:
            if not self._has_looked:
                raise AttachRefused(taken)
            self._warn(taken)
            return
        self._has_looked = True
        await self._until_seen(client)
        self._place = client.connection.worker_id or self._place
        if await self._is_behind(client):
            self._tell(f"standby at {self._url}: another worker of the same store serves {self._prefix}::*")
            return
        if connection != self._connections or not self._connected.is_set():
            return
        self._was_rejected = False
        self._host.offer_functions(client)
        await survey.functions(client)  # what the engine rejects it has said by then
        if self._may_serve():
            self._host.offer_types()
            await survey.types(client)  # as well, and it has handed over the triggers there are
        if self._may_serve():
            self._host.begin()
            self._warned = ""
            self._rejections = 0
            self._tell(f"attached to {self._url} as {client.about.name}: serving {self._prefix}::*")
        else:
            self._stand_by()

    def _may_serve(self) -> bool:
        return self._host.serves and not self._was_rejected

    async def _is_behind(self, client: Client) -> bool:
        """Line up, and see whether an earlier worker of the same store and prefix is connected to this engine."""
        before = await answered(self._adapter.succession.enter(self._in_line(self._place), LINE_MS))
        rivals = [worker_id for place in before if self._in_line(worker_id := place.rpartition(" ")[2]) == place]
        return bool(rivals) and await self._are_here(client, rivals)

    def _in_line(self, worker_id: str) -> str:
        """What a worker is called in the store's line: those of another prefix stand in a line of their own."""
        return worker_id if self._prefix == DEFAULT_PREFIX else f"{self._prefix} {worker_id}"

    async def _until_seen(self, client: Client) -> None:
        """Wait until the engine lists this worker: who lines up later finds it there."""
        give_up = asyncio.get_running_loop().time() + SEEN_SECONDS
        while asyncio.get_running_loop().time() < give_up:
            listed = await survey.workers(client)
            if listed is None or client.connection.worker_id in listed:
                return
            await asyncio.sleep(0.05)

    async def _foreign(self, client: Client) -> list[survey.Row]:
        """Who serves what would be served here, and from another store."""
        listed = {row.function_id: row for row in await survey.functions(client) or () if row.namespace == DEFAULT_NAMESPACE}
        rows = [listed[function_id] for function_id in self._host.function_ids if function_id in listed]
        foreign = self._of_others(rows)
        if not foreign and not rows and self._prefix == DEFAULT_PREFIX:
            names = await survey.workers(client) or {}
            if BUILT_IN in names or BUILT_IN in names.values():
                return [survey.Row(DEFAULT_NAMESPACE, "state::set", None, BUILT_IN)]
        return foreign

    def _of_others(self, rows: list[survey.Row]) -> list[survey.Row]:
        """The functions that are served from another store; one that does not say from which is like its worker's `set`."""
        own_set = self._host.name_of("state::set")
        stores = {row.worker_name: row.store for row in rows if row.function_id == own_set and row.worker_name}
        return [row for row in rows if (row.store or stores.get(row.worker_name)) != (self._adapter.store or "")]

    async def _are_here(self, client: Client, worker_ids: Iterable[str]) -> bool:
        """Whether any of these workers is connected to this engine; others that share the store serve other engines."""
        listed = await survey.workers(client)
        return listed is None or any(worker_id in listed for worker_id in worker_ids)

    # --- serving

    async def _keep(self, client: Client, *, thoroughly: bool) -> None:
        """See whether this worker may still serve, and whether the engine still knows what it serves."""
        if self._was_rejected:
            self._stand_by()
            return
        if await self._is_behind(client):
            logger.warning("another worker of the same store serves %s::* at %s; this one steps down", self._prefix, self._url)
            client.connection.close()  # with the connection everything goes that an engine keeps of a worker
            return
        if not thoroughly:
            return
        listed = await survey.functions(client)
        if listed is None or not self._host.serves:
            return
        known = {row.function_id: row for row in listed if row.namespace == DEFAULT_NAMESPACE}
        ours = self._host.function_ids
        gone = [function_id for function_id in ours if function_id not in known]
        if gone and client.connection.is_greeted:
            logger.warning("the engine at %s has lost %s; registering them again", self._url, ", ".join(gone))
            self._host.register_functions(gone)
        taken = _taken(
            self._prefix, self._url, self._of_others([known[function_id] for function_id in ours if function_id in known])
        )
        if taken is not None:
            self._warn(f"{taken}; it has taken over functions of this one")
            return
        provided = await survey.types(client)
        if provided is None or not self._host.serves:
            return
        lost = [name for name in self._host.trigger_types if provided.get(name) not in ("", client.about.name)]
        if lost:
            by = "has lost" if all(name not in provided for name in lost) else "has given to another worker"
            logger.warning("the engine at %s %s the trigger type %s; providing it again", self._url, by, ", ".join(lost))
            self._host.renew_types(lost)
            await survey.types(client)  # what the engine hands over again it has handed over by then
            self._host.types_renewed(lost)

    def _stand_by(self) -> None:
        self._rejections += 1
        self._host.withdraw()
        self._step_out()
        if self._connected.is_set():
            self._tell(f"standby at {self._url}: another worker keeps {self._prefix}::* for as long as it is there")

    def _step_out(self) -> None:
        place, self._place = self._place, ""
        if place:
            answer = self._adapter.succession.leave(self._in_line(place))
            if isinstance(answer, asyncio.Future):
                answer.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _functions_there(self) -> dict[Function, str] | None:
        client = self._client
        if client is None or not client.connection.is_greeted:
            return {}
        try:
            listed = await survey.functions(client)
        except ConnectionLost:
            return {}
        return None if listed is None else {(row.namespace, row.function_id): row.worker_name for row in listed}

    # --- words

    def _tell(self, words: str) -> None:
        if words != self._said:
            self._said = words
            self._say(words)

    def _warn(self, words: str) -> None:
        if words != self._warned:
            self._warned = words
            logger.error("%s", words)


def _taken(prefix: str, url: str, foreign: list[survey.Row]) -> str | None:
    """In words that others serve what would be served here; None where they do not."""
    if not foreign:
        return None
    row = foreign[0]  # in the order in which our own are registered: that of `set`, if it is one of them
    who = f"worker {row.worker_name}" if row.worker_name else "another provider"
    where = "from another store" if row.store is not None else "which is not iii-state"
    advice = "stop it (a stock engine's own state: leave iii-state out of its configuration)"
    beside = ", or attach beside it with --prefix shared::state" if prefix == DEFAULT_PREFIX else ", or give another --prefix"
    return f"{row.function_id} at {url} is served by {who}, {where}: {advice}{beside}"


async def _first_of(*tasks: asyncio.Task[None] | asyncio.Task[bool]) -> None:
    """Wait for the first of these, end the others, and raise what it raised."""
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
