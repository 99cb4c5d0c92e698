"""The connections to the nodes of a Redis Cluster: one to each, which the partitions there share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

from hiredis import ReplyError

from iii_state.adapters.redis.connection.address import Address, Place
from iii_state.adapters.redis.connection.carrier import Carrier
from iii_state.adapters.redis.connection.cluster.channel import SharedSocket
from iii_state.adapters.redis.connection.explain import explain
from iii_state.adapters.redis.connection.socket import Socket, open_server
from iii_state.adapters.redis.scripts.loader import PLAIN
from iii_state.errors import StoreError
from iii_state.tasks.background import Background

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 10.0
"""What has not been said for so long is said again."""


class NodeSockets:
    """Connections that are opened when they are first asked for. `look` is called when one is quiet, or over: another node may
    have taken its place."""

    def __init__(self, address: Address, *, timeout: float, look: Callable[[], None]) -> None:
        self.address = address
        self.scripts = PLAIN
        """Loaded once over each connection."""
        self.prepare: Callable[[Carrier], Awaitable[None]] = _nothing_to_prepare
        """Awaited on each new connection, before any partition's calls are sent over it."""
        self._timeout = timeout
        self._look = look
        self._open: dict[Place, SharedSocket] = {}
        self._opening: dict[Place, asyncio.Task[SharedSocket]] = {}
        self._alone: set[Socket] = set()
        self._lost: dict[tuple[int, str], list[int]] = {}
        """What has been lost in this turn of the event loop: the calls of each partition, by level and reason."""
        self._failed: dict[str, float] = {}
        """Why connections could not be opened, and when that was said."""
        self._background = Background()

    async def stop(self) -> None:
        """Close everything."""
        await self._background.stop()
        for node in tuple(self._open.values()):
            node.end("this engine has been stopped")
            await node.socket.closed
        self._open.clear()

    def live(self) -> list[SharedSocket]:
        """Those that there are and that answer."""
        return [node for node in self._open.values() if not node.is_over and not node.is_quiet]

    def any_is_quiet(self) -> bool:
        """Whether one owes replies, and has been quiet for a moment."""
        return any(node.is_quiet for node in self._open.values())

    async def node(self, place: Place, name: str) -> SharedSocket:
        """The connection to a node, opened once for all who ask; `name` is what `CLIENT LIST` shows. Raises `StoreError`."""
        node = self._open.get(place)
        if node is not None and not node.is_over:
            return node
        opening = self._opening.get(place)
        if opening is None:
            opening = self._opening[place] = self._background.call(self._connect(place, name))
            opening.add_done_callback(lambda done: self._opened(place, done))
        await asyncio.wait((opening,))
        if opening.cancelled():
            raise StoreError(f"Redis at {self.address.at(*place)} is no master of the Redis Cluster any more")
        return opening.result()

    async def alone(self, place: Place, name: str) -> Socket:
        """A connection to a node that nothing else shares. The caller bounds the time. Raises `StoreError` in words."""
        socket = await open_server(self.address.at(*place), name)
        self._alone.add(socket)
        socket.closed.add_done_callback(lambda _: self._alone.discard(socket))
        return socket

    def _opened(self, place: Place, opening: asyncio.Task[SharedSocket]) -> None:
        del self._opening[place]
        if not opening.cancelled() and opening.exception() is None:
            self._open[place] = opening.result()

    async def _connect(self, place: Place, name: str) -> SharedSocket:
        address = self.address.at(*place)
        try:
            async with asyncio.timeout(self._timeout):
                socket = await open_server(address, name)
                try:
                    for reply in await socket.ask(*self.scripts.load_commands()):
                        if isinstance(reply, ReplyError):
                            raise StoreError(explain(address, str(reply)))
                    socket.has_scripts = True
                    await self.prepare(socket)
                except BaseException:
                    socket.abort()
                    raise
        except TimeoutError:
            hint = "; does it speak TLS on this port?" if address.tls is not None else ""
            raise StoreError(f"Redis at {address} has not answered within {self._timeout * 1000:.0f} ms{hint}") from None
        return SharedSocket(socket, silence_seconds=self._timeout / 2, quiet=self._look)

    # -- the log

    def log_lost(self, level: int, reason: str, calls: int) -> None:
        """A partition has lost its connection, with so many calls on it. Those of one turn that say the same are one line."""
        if not self._lost:
            asyncio.get_running_loop().call_soon(self._log_lost)
        self._lost.setdefault((level, reason), []).append(calls)

    def _log_lost(self) -> None:
        lost, self._lost = self._lost, {}
        for (level, reason), calls in lost.items():
            about = "%s; %d calls of %d partitions were on it; connecting again"
            logger.log(level, about, reason, sum(calls), len(calls))

    def log_failed(self, reason: str) -> None:
        """A partition could not connect. What was said just now is not said again."""
        now = asyncio.get_running_loop().time()
        self._failed = {words: at for words, at in self._failed.items() if now - at < AGAIN_SECONDS}
        if reason not in self._failed:
            logger.warning("%s; trying again", reason)
        self._failed[reason] = now

    # -- which are needed

    def keep(self, masters: Collection[Place]) -> None:
        """End the connections to all others: they are no masters any more."""
        for place in [place for place in self._opening if place not in masters]:
            self._opening[place].cancel()
        for place, node in list(self._open.items()):
            if place not in masters and not node.is_over:
                reason = f"Redis at {node.address} is no master of the Redis Cluster any more"
                logger.warning(reason)
                node.end(reason)
            if node.is_over:
                del self._open[place]
        for socket in tuple(self._alone):
            if socket.address.place not in masters:
                socket.leave(f"Redis at {socket.address} is no master of the Redis Cluster any more")


async def _nothing_to_prepare(carrier: Carrier) -> None:
    """Nothing has to be known of a node."""
