"""The primary of a Redis: opens connections to it, and has them left at once when another server becomes it.

Behind Sentinels it is asked for at each connect, and every Sentinel is listened to: what they publish when a replica has been
promoted ends the connections to the server that was the primary, and the pauses before the next ones. A tenth of a second before a
replica is told that it is the primary, they say so: connections end then already, since what the old one is sent from there on is
lost, also where it works (`SENTINEL FAILOVER`).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from iii_state.adapters.redis.connection.address import Address, Place
from iii_state.adapters.redis.connection.carrier import Carrier
from iii_state.adapters.redis.connection.explain import explain
from iii_state.adapters.redis.connection.pubsub import PubSub
from iii_state.adapters.redis.connection.sentinel import find_primary
from iii_state.adapters.redis.connection.socket import open_server
from iii_state.errors import StoreError
from iii_state.tasks.background import Background, stop_tasks
from iii_state.tasks.signal import Signal

logger = logging.getLogger(__name__)

SILENCE_SECONDS = 2.0
"""A Sentinel that has been silent for so long is connected to again."""

SWITCHED, PROMOTED = b"+switch-master", b"+promoted-slave"
PROMOTING, NOT_PROMOTED = b"+failover-state-send-slaveof-noone", b"-failover-abort-slave-timeout"


class Primary:
    """The server at an address, whichever that is at the moment. Without Sentinels this is the address, and nothing is watched."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.moved = Signal()
        """Emitted when another server has become the primary, or may have, and the connections to the one before are ending."""
        self._place: Place | None = None
        """Where it is, as far as is known."""
        self._ended_for = ""
        """Why connections were ended last."""
        self._sockets: set[Carrier] = set()
        self._opening: set[asyncio.Task[Carrier]] = set()
        self._watches: list[PubSub] = []
        self._background = Background()

    @property
    def is_moving(self) -> bool:
        """A single Redis does not refuse what belongs elsewhere."""
        return False

    def start(self) -> None:
        """Listen to the Sentinels."""
        for sentinel in self.address.sentinels:
            watch = PubSub(Primary(sentinel).open, silence_seconds=SILENCE_SECONDS, name="iii-state:sentinel")
            watch.listen((SWITCHED, PROMOTED, PROMOTING, NOT_PROMOTED), self._heard)
            watch.start()
            self._watches.append(watch)

    async def stop(self) -> None:
        """Listen no more. Connections stay."""
        await asyncio.gather(*(watch.stop() for watch in self._watches))
        await self._background.stop()

    async def open(self, name: str) -> Carrier:
        """Connect to it; `name` is what `CLIENT LIST` shows. The caller bounds the time. Raises `StoreError` in words."""
        if not self.address.sentinels:
            return self._kept(await open_server(self.address, name))
        opening = asyncio.create_task(self._open(name))
        self._opening.add(opening)
        try:
            await asyncio.wait((opening,))
        except BaseException:
            await stop_tasks((opening,))
            if not opening.cancelled() and opening.exception() is None:
                opening.result().abort()
            raise
        finally:
            self._opening.discard(opening)
        if opening.cancelled():
            raise StoreError(self._ended_for)
        return opening.result()

    async def open_alone(self, place: Place, name: str) -> Carrier:
        """The same: no connection is shared."""
        return await self.open(name)

    async def _open(self, name: str) -> Carrier:
        found = await find_primary(self.address)
        self._is_at(found.place, asyncio.current_task())
        return self._kept(await open_server(found, name))

    def _kept(self, socket: Carrier) -> Carrier:
        self._sockets.add(socket)
        socket.closed.add_done_callback(lambda _: self._sockets.discard(socket))
        return socket

    # -- when it moves

    def log_lost(self, level: int, reason: str, calls: int) -> None:
        """Say that a connection is over, with so many calls on it."""
        logger.log(level, "%s; %d calls were on it; connecting again", reason, calls)

    def log_failed(self, reason: str) -> None:
        """Say why there is none."""
        logger.warning("%s; trying again", reason)

    def leave(self, found_by: Carrier, refusal: str) -> None:
        """A server is no primary any more, as an error reply says that came over a connection which its owner replaces: leave it
        with all others, too. Where a name stands for the primary, it may lead to another server by now."""
        self._end(self._sockets - {found_by}, explain(found_by.address, refusal))

    def _heard(self, channel: bytes, message: bytes | None) -> None:
        if message is None:  # whatever was published before is made up for
            self._background.start(self._look(), "iii-state look at the Sentinels")
            return
        words = message.decode("utf-8", "replace").split(" ")
        match words:
            case [name, _, _, host, port] if channel == SWITCHED and name == self.address.name and port.isdigit():
                self._is_at((host, int(port)))
            case ["slave", _, host, port, "@", name, *_] if channel == PROMOTED and name == self.address.name and port.isdigit():
                self._is_at((host, int(port)))
            case ["slave", _, _, _, "@", name, *_] if channel == PROMOTING and name == self.address.name:
                self._end(self._sockets, f"the Sentinels of {name} have a replica promoted at this moment")
            case ["master", name, *_] if channel == NOT_PROMOTED and name == self.address.name:
                self.moved.emit()
            case _:
                pass  # of another Redis

    async def _look(self) -> None:
        try:
            found = await find_primary(self.address)
        except StoreError as error:
            logger.info("where the primary is cannot be seen: %s", error)
        else:
            self._is_at(found.place)

    def _is_at(self, place: Place, found_by: asyncio.Task[Any] | None = None) -> None:
        """The primary is there; an opening that has found it goes on."""
        elsewhere = {socket for socket in self._sockets if socket.address.place != place}
        known, self._place = self._place, place
        if known is None or (known == place and not elsewhere):
            return
        reason = (
            f"the Sentinels of {self.address.name} have made another server the primary: it is at {self.address.at(*place)} now"
        )
        if known != place:
            logger.warning(reason)
        self._end(elsewhere, reason, found_by)

    def _end(self, sockets: set[Carrier], reason: str, found_by: asyncio.Task[Any] | None = None) -> None:
        self._ended_for = reason
        for opening in self._opening:
            if opening is not found_by:
                opening.cancel()
        for socket in tuple(sockets):
            socket.leave(reason)
        self.moved.emit()
