"""What Redis tells of keys by itself: keyspace notifications. Some may get lost: each use of them has a slower, certain way."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable

from hiredis import ReplyError

from iii_state.adapters.redis.connection.carrier import Carrier, Reply
from iii_state.adapters.redis.scripts.packing import pack
from iii_state.adapters.redis.shared import Shared
from iii_state.errors import StoreError

logger = logging.getLogger(__name__)

SETTING = b"notify-keyspace-events"
ALL_CLASSES = "g$lshzxetd"
"""What `A` stands for in the setting."""

_CAUSED = {b"hset": "h", b"expire": "g", b"expired": "x"}
"""What is caused in a trial, and the class that each belongs to."""


class Notifications:
    """Hears what happens to keys, on the connection of `pubsub`; sees to it that Redis tells, as far as it lets itself be told."""

    def __init__(self, shared: Shared, *, classes: str = "Kx") -> None:
        self._address = shared.connection.address
        self._keys = shared.keys
        self._send = shared.connection.send
        self._pubsub = shared.pubsub
        self._needed = classes
        self._wakes: dict[bytes, Callable[[], None]] = {}
        self._warned = False
        shared.pubsub.prepare = self._prepare

    def channel(self, key: bytes) -> bytes:
        """The channel on which Redis tells of a key, or of the keys that a pattern matches."""
        return b"__keyspace@%d__:%b" % (self._address.db, key)

    def on_expiry(self, key: bytes, wake: Callable[[], None]) -> None:
        """Call `wake` when Redis has expired this key; also once when that can be heard, first or again, for what was missed."""
        channel = self.channel(key)
        self._wakes[channel] = wake
        self._pubsub.listen([channel], self._heard)

    def forget(self, key: bytes) -> None:
        """Call for this key no more."""
        channel = self.channel(key)
        if self._wakes.pop(channel, None) is not None:
            self._pubsub.ignore(channel)

    def _heard(self, channel: bytes, event: bytes | None) -> None:
        if event is None or event == b"expired":
            self._wakes[channel]()

    # -- seeing to it that Redis tells

    async def _prepare(self, socket: Carrier) -> None:
        """A restarted Redis may have forgotten the setting, so this is looked at on each connection."""
        (reply,) = await socket.ask((b"CONFIG", b"GET", SETTING))
        refusal = str(reply) if isinstance(reply, ReplyError) else ""
        if isinstance(reply, list) and len(reply) == 2:
            told = reply[1].decode().replace("A", ALL_CLASSES)
            missing = "".join(letter for letter in self._needed if letter not in told)
            if missing:
                (answer,) = await socket.ask((b"CONFIG", b"SET", SETTING, reply[1] + missing.encode()))
                refusal = str(answer) if isinstance(answer, ReplyError) else ""
                missing = missing if refusal else ""
        else:
            told, missing = "", await self._missing_in_trial(socket)
        if missing and not self._warned:
            self._warned = True
            setting = told + missing
            logger.warning(
                "Redis at %s does not tell what happens to keys, and iii-state may not have it do so (%s): %s. To have it told:  "
                "CONFIG SET notify-keyspace-events %s",
                *(socket.address, refusal or "CONFIG is not known there", self._without(), setting if told else self._needed),
            )

    def _without(self) -> str:
        found = "engines that die are noticed by looking only, a little later"
        return f"{found}; foreign writes are noticed at the start and after a reconnect only" if "h" in self._needed else found

    async def _missing_in_trial(self, socket: Carrier) -> str:
        """Where the setting cannot be read: the classes of events that are needed, if those of a key made for this do not come."""
        key = self._keys.session(b"trial:" + secrets.token_hex(6).encode())
        (refusal,) = await socket.ask((b"SUBSCRIBE", self.channel(key)))
        if isinstance(refusal, ReplyError):
            return ""  # listening will say so
        came: set[bytes] = set()
        ended = asyncio.Event()

        def received(replies: list[Reply]) -> None:
            for reply in replies:
                match reply:
                    case [b"message", _, bytes(event)]:
                        came.add(event)
                    case [b"pong", _]:
                        ended.set()
                    case _:
                        pass

        socket.received = received
        try:
            await self._send(b"HSET", key, b"x", b"1")
            await self._send(b"PEXPIRE", key, b"1")
            await asyncio.sleep(0.01)
            await self._send(b"EXISTS", key)
        except StoreError as error:
            logger.info("whether Redis tells what happens to keys is not known: %s", error)
            return ""
        socket.write(pack((b"PING",)))
        socket.write(pack((b"UNSUBSCRIBE", self.channel(key))))
        await ended.wait()
        expected = {event for event, letter in _CAUSED.items() if letter in self._needed}
        return "" if expected <= came else self._needed
