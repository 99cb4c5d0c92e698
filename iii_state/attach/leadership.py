"""Whether this process is the leader that serves its store at an engine, or a standby: found out, kept, and given up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from iii_state.adapters.base import Adapter
from iii_state.attach import conflicts, listing
from iii_state.attach.host import DEFAULT_PREFIX, AttachedHost
from iii_state.client.client import Client
from iii_state.errors import AttachRefused, ConnectionLost, FunctionError, StoreError
from iii_state.host import DEFAULT_NAMESPACE
from iii_state.tasks.background import first_of
from iii_state.tasks.results import result_of

logger = logging.getLogger(__name__)

CHECK_SECONDS = 0.5
"""Between two checks of a standby, and of a leader that sees whether it still may."""

CHECKS_PER_REVIEW = 10
"""So often, in checks, a leader sees whether the engine still knows all its functions."""

MEMBER_TTL_MS = 5000
"""A worker that has not been heard of for so long is not waited for: another one of the store may take its functions."""

SEEN_SECONDS = 2.0
"""For so long a new worker waits until the engine lists it."""


class Leadership:
    """Of the processes that are attached to the engine at `url` with the same store and prefix, the first in the store's succession
    is the leader; the others stand by. `say` is told in words when this one does either.
    """

    def __init__(self, host: AttachedHost, adapter: Adapter, url: str, say: Callable[[str], None]) -> None:
        self._host = host
        self._adapter = adapter
        self._url = url
        self._say = say
        self._said = ""
        self._warned = ""
        self._member = ""
        """The worker's id under which this process has entered the succession."""
        self._connections = 0
        self._is_connected = False
        self._was_rejected = False
        self._rejections = 0
        self._has_looked = False

    # --- what happens to the connection

    def connected(self) -> None:
        """There is a connection."""
        self._connections += 1
        self._is_connected = True

    def lost(self) -> None:
        """The connection is gone, and with it what the engine kept of this worker."""
        self._is_connected = False
        self._said = ""
        self._host.withdraw()
        self.leave()

    def rejected(self) -> None:
        """The engine has rejected a function, which belongs to another worker."""
        self._was_rejected = True

    def leave(self) -> None:
        """Leave the succession."""
        member, self._member = self._member, ""
        if member:
            answer = self._adapter.succession.leave(self._member_of(member))
            if isinstance(answer, asyncio.Future):
                answer.add_done_callback(lambda done: done.cancelled() or done.exception())

    # --- checks

    @property
    def has_stood(self) -> bool:
        """Whether it has been found out, on this connection, who leads."""
        return bool(self._said)

    @property
    def has_to_stand_by(self) -> bool:
        """Whether the next check is due at once."""
        return self._was_rejected and self._host.serves

    @property
    def pause_seconds(self) -> float:
        """Until the next check."""
        return CHECK_SECONDS * 2.0 ** min(self._rejections, 3)

    async def check(self, client: Client, number: int) -> None:
        """The check of this number on a connection: lead if no other worker does; as a leader, see whether that may go on.

        Raises `AttachRefused` where another store is served, or the engine's own state would be, the first time.
        """
        step = self._keep(client, thoroughly=number % CHECKS_PER_REVIEW == 0) if self._host.serves else self._try_to_lead(client)
        try:
            await first_of(step, self._stay_in_line())
        except ConnectionLost as error:
            logger.info("%s", error)
        except (StoreError, FunctionError) as error:
            self._warn(f"the store cannot be asked who serves {self._url}: {error}")

    async def _try_to_lead(self, client: Client) -> None:
        """Serve, if no other worker does, or say who does."""
        connection = self._connections
        conflict = await conflicts.ring(client, await result_of(self._adapter.route([])))
        if conflict is None:
            conflict = await conflicts.find(client, self._host, self._adapter.store)
        if conflict is not None:
            if not self._has_looked:
                raise AttachRefused(conflict)
            self._warn(conflict)
            return
        self._has_looked = True
        await self._until_listed(client)
        self._member = client.connection.worker_id or self._member
        if await self._is_behind(client):
            self._tell(f"standby at {self._url}: another worker of the same store serves {self._host.prefix}::*")
            return
        if connection != self._connections or not self._is_connected:
            return
        self._was_rejected = False
        self._host.offer_functions(client)
        await listing.functions(client)  # what the engine rejects it has said by then
        if self._may_serve():
            self._host.offer_types()
            await listing.types(client)  # as well, and it has handed over the triggers there are
        if self._may_serve():
            self._host.begin()
            self._warned = ""
            self._rejections = 0
            self._tell(f"attached to {self._url} as {client.about.name}: serving {self._host.prefix}::*")
        else:
            self._stand_by()

    def _may_serve(self) -> bool:
        return self._host.serves and not self._was_rejected

    def _stand_by(self) -> None:
        self._rejections += 1
        self._host.withdraw()
        self.leave()
        if self._is_connected:
            self._tell(f"standby at {self._url}: another worker keeps {self._host.prefix}::* for as long as it is there")

    async def _keep(self, client: Client, *, thoroughly: bool) -> None:
        """See whether this worker may still serve, and whether the engine still knows what it serves."""
        if self._was_rejected:
            self._stand_by()
            return
        if await self._is_behind(client):
            prefix = self._host.prefix
            logger.warning("another worker of the same store serves %s::* at %s; this one steps down", prefix, self._url)
            client.connection.close()  # with the connection everything goes that an engine keeps of a worker
            return
        self._host.renew_about()
        if thoroughly:
            await self._review(client)

    async def _review(self, client: Client) -> None:
        """Register again what the engine has lost; say so where another worker has taken it over."""
        listed = await listing.functions(client)
        if listed is None or not self._host.serves:
            return
        known = {row.function_id: row for row in listed if row.namespace == DEFAULT_NAMESPACE}
        ours = self._host.function_ids
        gone = [function_id for function_id in ours if function_id not in known]
        if gone and client.connection.is_greeted:
            logger.warning("the engine at %s has lost %s; registering them again", self._url, ", ".join(gone))
            self._host.register_functions(gone)
        there = [known[function_id] for function_id in ours if function_id in known]
        conflict = conflicts.among(there, client, self._host, self._adapter.store)
        if conflict is not None:
            self._warn(f"{conflict}; it has taken over functions of this one")
            return
        provided = await listing.types(client)
        if provided is None or not self._host.serves:
            return
        lost = [name for name in self._host.trigger_types if provided.get(name) not in ("", client.about.name)]
        if lost:
            by = "has lost" if all(name not in provided for name in lost) else "has given to another worker"
            logger.warning("the engine at %s %s the trigger type %s; providing it again", self._url, by, ", ".join(lost))
            self._host.renew_types(lost)
            await listing.types(client)  # what the engine hands over again it has handed over by then
            self._host.types_renewed(lost)

    # --- the succession

    async def _is_behind(self, client: Client) -> bool:
        """Enter the succession, and see whether an earlier worker of the same store and prefix is connected to this engine."""
        before = await result_of(self._adapter.succession.enter(self._member_of(self._member), MEMBER_TTL_MS))
        rivals = [worker_id for member in before if self._member_of(worker_id := member.rpartition(" ")[2]) == member]
        return bool(rivals) and await self._are_here(client, rivals)

    async def _stay_in_line(self) -> None:
        """Keep this worker's place for as long as a check lasts: a slow engine is no reason for another to take it."""
        while True:
            await asyncio.sleep(MEMBER_TTL_MS / 3000)
            if self._member:
                try:
                    await result_of(self._adapter.succession.enter(self._member_of(self._member), MEMBER_TTL_MS))
                except (StoreError, FunctionError) as error:
                    logger.info("the place in the succession could not be kept: %s", error)

    def _member_of(self, worker_id: str) -> str:
        """What a worker is called in the store's succession: those of another prefix have one of their own."""
        return worker_id if self._host.prefix == DEFAULT_PREFIX else f"{self._host.prefix} {worker_id}"

    async def _are_here(self, client: Client, worker_ids: Iterable[str]) -> bool:
        """Whether any of these workers is connected to this engine; others that share the store serve other engines."""
        listed = await listing.workers(client)
        return listed is None or any(worker_id in listed for worker_id in worker_ids)

    async def _until_listed(self, client: Client) -> None:
        """Wait until the engine lists this worker: one that enters later finds it there."""
        give_up = asyncio.get_running_loop().time() + SEEN_SECONDS
        while asyncio.get_running_loop().time() < give_up:
            listed = await listing.workers(client)
            if listed is None or client.connection.worker_id in listed:
                return
            await asyncio.sleep(0.05)

    # --- words

    def _tell(self, words: str) -> None:
        if words != self._said:
            self._said = words
            self._say(words)

    def _warn(self, words: str) -> None:
        if words != self._warned:
            self._warned = words
            logger.error("%s", words)
