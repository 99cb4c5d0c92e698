"""The engine at the other end of a bridge: a connection that is kept up, and what is found out on it before calls are made."""

from __future__ import annotations

import asyncio
import logging
import secrets

import msgspec

from iii_state import values
from iii_state.adapters.bridge.remote.calls import RemoteCalls
from iii_state.adapters.bridge.remote.link import Link
from iii_state.adapters.bridge.remote.session import SESSION_OPEN, RemoteSession, SessionGone, session_error
from iii_state.client.about import About, bridge_name
from iii_state.client.address import EngineAddress
from iii_state.client.client import Client, Hooks
from iii_state.config import BridgeSettings
from iii_state.errors import Code, ConnectionLost, FunctionError, StoreError
from iii_state.tasks.background import Background
from iii_state.tasks.signal import Signal
from iii_state.wire.quiet_log import QuietLog

logger = logging.getLogger(__name__)
_quiet = QuietLog(logger, burst=3)

GREETING_AGAIN_SECONDS = 0.5
"""How long to wait before a remote that could not say where it leads is asked again."""

ROUTE = b'"iii-state::route"'

INFO = b'"engine::functions::info"'

FUNCTIONS = b'"engine::functions::list"'
"""What every engine tells its workers."""


class _Function(msgspec.Struct):
    function_id: str = ""
    id: str = ""


class _Functions(msgspec.Struct):
    functions: list[_Function]


class _About(msgspec.Struct):
    features: list[str] = []


class _Metadata(msgspec.Struct):
    iii_state: _About


class _Info(msgspec.Struct):
    """Of `state::set`."""

    metadata: _Metadata


_functions = msgspec.json.Decoder(_Functions)


def address_of(settings: BridgeSettings) -> EngineAddress:
    """Where a bridge leads to, and how it gets in there."""
    return EngineAddress(
        settings.bridge_url,
        settings.token,
        *(settings.token_file, settings.ca_file, settings.cert_file, settings.key_file),
    )


class Remote:
    """One remote engine; `start` first. `id` names this bridge among those that a call passes."""

    def __init__(self, settings: BridgeSettings) -> None:
        self.id = secrets.token_hex(8)
        address = address_of(settings)
        self.url = str(address)
        self._timeout = settings.call_timeout_ms / 1000
        self.client = Client(
            address,
            About(bridge_name(self.id), "State of another engine, over a bridge"),  # stock engines want unique names
            reconnects=True,
            call_seconds=self._timeout,
            hooks=Hooks(greet=self._greet, lost=self._lost),
        )
        self.link = Link(self.url, self.client)
        self.call = RemoteCalls(
            self.link,
            timeout=self._timeout,
            max_in_flight=settings.max_in_flight,
            renew=self._renew_session,
            look_again=self._look_again,
        )
        self.connected = Signal()
        """Emitted on every new connection, once it is known what the remote is."""
        self.lost = Signal()
        """Emitted when a connection is gone."""
        self._known = asyncio.Event()
        """Set as soon as it is known what the remote is."""
        self._tasks = Background()
        self._renewal: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to connect. Returns when there is a connection, or the first attempt has failed, which is logged.

        Raises `StoreError` where the remote leads back here.
        """
        self._outlook: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.call.start()
        await self.client.__aenter__()
        tried = self._tasks.call(self.client.has_tried.wait())
        await asyncio.wait((tried, self._outlook), timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED)
        tried.cancel()
        ring = self.link.ring
        if ring is not None:
            await self.stop()
            raise StoreError(ring)
        if self.link.trouble is not None:  # what it is has been logged
            logger.warning("calls wait for the engine at %s, for %g s each", self.url, self._timeout)

    async def stop(self) -> None:
        """Close the connection; what is still open fails."""
        self.link.is_ready = False
        self.call.stop()
        await self._tasks.stop()
        await self.client.__aexit__()
        self.call.fail_all(f"the bridge to {self.url} is being closed; ")

    async def is_ours(self) -> bool:
        """Whether the remote is of this project; waits for the first connection, as calls do. Raises `StoreError`."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._known.wait()
        except TimeoutError:
            raise StoreError(f"{self.link.trouble}; given up after {self._timeout * 1000:.0f} ms: nothing was read") from None
        return self.link.is_ours

    # -- greeting

    async def _greet(self) -> None:
        """On a new connection: learn what the remote is, and that it does not lead back here; then make calls again."""
        link = self.link
        last_said = ""
        while True:
            try:
                await self._look_ahead()
                await self._open_session()
                break
            except FunctionError as error:
                link.ring = f"a bridge must not lead back to itself: {error.message}" if error.code == Code.BRIDGE_RING else None
                link.obstacle = f"the engine at {self.url} cannot be used: {error}"
                if (said := link.ring or link.obstacle) != last_said:
                    logger.error("%s", said)
                last_said = said
            if not self._outlook.done():
                self._outlook.set_result(None)
            await asyncio.sleep(GREETING_AGAIN_SECONDS)
        link.ring = link.obstacle = None
        self._known.set()
        self.connected.emit()
        self._go_on()
        if not self._outlook.done():
            self._outlook.set_result(None)

    def _lost(self) -> None:
        self.link.is_ready = False
        self.link.ring = self.link.obstacle = None
        self.lost.emit()

    def _go_on(self) -> None:
        self.link.is_ready = True
        self.call.go_on()

    async def _look_ahead(self) -> None:
        try:
            await self.link.ask(ROUTE, b'{"visited":["%b"]}' % self.id.encode())
            self.link.is_ours = True
        except FunctionError as error:
            if error.code != Code.FUNCTION_NOT_FOUND:
                raise
            self.link.is_ours = False

        link = self.link
        link.features = await self._features() if link.is_ours else frozenset()

    async def _features(self) -> frozenset[str]:
        """What the remote announces that it can do. Raises `FunctionError` or `ConnectionLost`."""
        try:
            about = values.decode(await self.link.ask(INFO, b'{"function_id":"state::set"}') or b"null")
        except FunctionError as error:
            if error.code not in (Code.NOT_FOUND, Code.FUNCTION_NOT_FOUND, Code.FORBIDDEN):
                raise
            return frozenset()
        try:
            return frozenset(msgspec.convert(about, _Info).metadata.iii_state.features)
        except msgspec.ValidationError:
            return frozenset()

    def _look_again(self) -> None:
        """The worker that serves the state to the remote may have been replaced by a newer one."""
        if self._looking is None or self._looking.done():
            self._looking = self._tasks.start(self._look_for_features(), f"iii-state bridge to {self.url}: features")

    async def _look_for_features(self) -> None:
        try:
            self.link.features = await self._features()
        except (FunctionError, ConnectionLost) as error:
            logger.info("what %s can do is not known: %s", self.url, error)

    # -- the session by which the remote recognises what this bridge calls again

    async def _open_session(self) -> None:
        """Go on with the session, or begin another one; none where the remote has none."""
        link = self.link
        if not link.is_ours:
            link.session, link.why_unrecognised = None, "it does not recognise calls that are made again"
            return
        for session in (link.session, RemoteSession()):
            if session is not None:
                try:
                    link.store = await session.open(link.ask)
                    link.session = session
                    return
                except SessionGone as gone:
                    link.session, link.store, link.why_unrecognised = None, None, str(gone)

    def _renew_session(self) -> None:
        if self._renewal is None or self._renewal.done():
            self._renewal = self._tasks.start(self._renew(), f"iii-state bridge to {self.url}: session")

    async def _renew(self) -> None:
        while not self.link.is_ready:
            try:
                await self._open_session()
            except ConnectionLost:  # the next connection begins with a session
                return
            except FunctionError as error:
                _quiet.warning("no session could be opened at %s: %s; trying again", self.url, error, ids={"url": self.url})
                await asyncio.sleep(GREETING_AGAIN_SECONDS)
            else:
                self._go_on()

    # -- what is asked of the remote as such

    async def open_session(self, session: str, previous_epoch: int, epoch: int) -> None:
        """Open a session there for a caller of this engine. Raises `FunctionError`."""
        if self.link.trouble is not None:
            raise FunctionError(Code.BRIDGE_CUT_OFF, self.link.trouble)
        if self.link.session is None:
            raise FunctionError(Code.NOT_RETRY_SAFE, f"the engine at {self.url} does not recognise calls that are made again")
        argument = {"session": session, "epoch": epoch, "previous_epoch": previous_epoch}
        try:
            await self.link.ask(SESSION_OPEN, values.encode(argument))
        except ConnectionLost as error:
            raise FunctionError(Code.BRIDGE_CUT_OFF, str(error)) from None
        except FunctionError as error:
            raise session_error(error) from None

    @property
    def keeps_functions_for_one(self) -> bool:
        """Whether the store is this project's, and the engine that serves it a stock one, which gives a function to one worker."""
        return self.link.is_ready and self.link.is_ours and not self.client.connection.hears_fates

    async def functions(self) -> set[str] | None:
        """The ids of the functions there, None where it does not tell."""
        try:
            found = _functions.decode(await self.link.ask(FUNCTIONS, b'{"include_internal":true}') or b"null")
        except (FunctionError, ConnectionLost, msgspec.MsgspecError):
            return None
        return {function.function_id or function.id for function in found.functions}

    async def route(self, visited: list[str]) -> list[str]:
        """The bridges that a call passes from here on, those passed already first. Raises `FunctionError` where that is a ring."""
        if self.id in visited:
            raise FunctionError(
                Code.BRIDGE_RING, f"the bridge to {self.url} is reached through itself, over {len(visited)} bridges"
            )
        visited = [*visited, self.id]
        try:
            result = await self.link.ask(ROUTE, values.encode({"visited": visited}))
        except ConnectionLost as error:
            raise FunctionError(Code.BRIDGE_CUT_OFF, str(error)) from None
        except FunctionError as error:
            if error.code == Code.FUNCTION_NOT_FOUND:
                return visited
            raise
        found = values.decode(result or b"{}")
        return list(found.get("visited", visited)) if isinstance(found, dict) else visited
