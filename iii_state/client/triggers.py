"""The triggers that a worker of ours has registered: on the connection there is and on every later one."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterator
from typing import Any

from msgspec import Raw

from iii_state import values
from iii_state.client.calls import ClientCalls
from iii_state.client.connection import ClientConnection
from iii_state.errors import FunctionError
from iii_state.values import Json
from iii_state.wire import messages
from iii_state.wire.messages import ABSENT

log = logging.getLogger(__name__)


class Triggers:
    """What is registered, and what was let go of which it is not certain that the engine has heard."""

    def __init__(self, connection: ClientConnection, calls: ClientCalls) -> None:
        self._connection = connection
        self._calls = calls
        self._registrations: dict[str, bytes] = {}
        self._refused: dict[str, asyncio.Future[None]] = {}
        self._departing: dict[str, tuple[bytes, bytes]] = {}
        """What says once more that a trigger was let go, as long as it is not certain that the engine has heard it."""
        self._confirms = False

    async def register(self, trigger_type: str, function_id: str, config: Any, *, metadata: Json | None = None) -> str:
        """Register a trigger, and wait until the engine has it; returns its id. Raises `FunctionError` if it is refused."""
        trigger_id = str(uuid.uuid4())
        self.keep(trigger_id, trigger_type, function_id, config, metadata=metadata)
        try:
            await self.taken(trigger_id)
        except BaseException:
            self.unregister(trigger_id, trigger_type)
            raise
        return trigger_id

    def keep(self, trigger_id: str, trigger_type: str, function_id: str, config: Any, *, metadata: Json | None = None) -> None:
        """Register a trigger on the connection there is and on every later one; one of the same id is replaced."""
        message = messages.RegisterTrigger(
            trigger_id, trigger_type, function_id, Raw(values.encode(config)), ABSENT if metadata is None else Raw(metadata)
        )
        self._registrations[trigger_id] = messages.encode(message)
        self._connection.tell(self._registrations[trigger_id])

    async def taken(self, trigger_id: str) -> None:
        """Wait until the engine has a trigger that was registered just before this.

        Raises `FunctionError` if it is refused, or, with the code of a call that was given up, if the engine does not say.
        """
        refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._refused[trigger_id] = refused
        departing = list(self._departing)
        try:
            # Frames of one connection are handled in order and success is silent, so an answer to anything later is the sign.
            await self._calls.call("engine::triggers::list", b"{}")
            self._have_departed(departing)
            if refused.done():
                refused.result()
        finally:
            if self._refused.get(trigger_id) is refused:
                del self._refused[trigger_id]

    def unregister(self, trigger_id: str, trigger_type: str) -> None:
        """Let a trigger go. Where the connection comes again, the engine hears of it, though there be none now."""
        registration = self._registrations.pop(trigger_id, None)
        if registration is None:
            return
        unregistration = messages.encode(messages.UnregisterTrigger(trigger_id, trigger_type))
        self._connection.tell(unregistration)
        if self._connection.reconnects:
            self._departing[trigger_id] = (registration, unregistration)
            if not self._confirms:
                self._confirms = True
                asyncio.get_running_loop().call_soon(self.confirm_departures)

    def forget(self, trigger_id: str) -> None:
        """Say no more of a trigger that the engine has refused: what it keeps of an earlier one of the same stays."""
        self._registrations.pop(trigger_id, None)

    def departures(self) -> Iterator[bytes]:
        """The frames that let triggers go once more: an engine that lost the connection takes their workers for being away only."""
        for frames in self._departing.values():
            yield from frames

    def registrations(self) -> Iterator[bytes]:
        """The frames that register all of them."""
        yield from self._registrations.values()

    def confirm_departures(self) -> None:
        """See, by the answer to a call behind them, that the engine has heard of the triggers that were let go."""
        self._confirms = False
        if self._connection.socket is None or not self._departing:
            return
        departing = list(self._departing)

        def confirmed(answer: asyncio.Future[bytes | None]) -> None:
            if not answer.cancelled() and answer.exception() is None:
                self._have_departed(departing)

        self._calls.call("engine::triggers::list", b"{}", ahead=True).add_done_callback(confirmed)

    def _have_departed(self, trigger_ids: list[str]) -> None:
        for trigger_id in trigger_ids:
            self._departing.pop(trigger_id, None)

    def refused(self, trigger_id: str, error: FunctionError) -> None:
        """The engine has refused a trigger."""
        waiting = self._refused.get(trigger_id)
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)
        else:
            log.warning("%s refuses the trigger %s: %s", self._connection.url, trigger_id, error)
