"""A second connection, for Pub/Sub: the wake-ups of the hosted queues, and keyspace notifications."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Protocol

from hiredis import ReplyError

from iii_state.adapters.redis.connection.carrier import Carrier, Reply
from iii_state.adapters.redis.connection.explain import explain, redirection_of
from iii_state.adapters.redis.scripts.packing import pack
from iii_state.errors import StoreError
from iii_state.tasks.background import Background
from iii_state.tasks.reconnect import Backoff, Reconnecting
from iii_state.tasks.signal import Signal

logger = logging.getLogger(__name__)

BACKOFF_SECONDS = 0.05
MAX_BACKOFF_SECONDS = 2.0
CHANNELS_AT_ONCE = 1000

UNHEARD_SECONDS = 0.2
"""What a node of a cluster has refused is asked for again so much later, unless it is listened to elsewhere by then: a node may
take over a slot after another one has said that it has."""

Heard = Callable[[bytes, bytes | None], None]
"""Takes a channel and a message; None when listening has begun, also again after a break, for what may have been missed."""


class Listens(Protocol):
    """What listens at a Redis (`PubSub`), or at the node that serves a slot of a cluster (`SlotPubSub`)."""

    prepare: Callable[[Carrier], Awaitable[None]] | None
    """May talk to Redis on a new connection before anything is listened to on it."""

    def start(self) -> None:
        """Connect in the background, and stay connected."""

    async def stop(self) -> None:
        """Hear nothing more."""

    def hurry(self) -> None:
        """Connect at once, where this waits to connect again."""

    def listen(self, channels: Iterable[bytes], heard: Heard) -> None:
        """Hand over what is published on these from now on."""

    def listen_to_all(self, pattern: bytes, heard: Heard) -> None:
        """The same for all channels that match a pattern; `heard` takes None for the pattern, then the channels themselves."""

    def ignore(self, channel: bytes) -> None:
        """Hear this one no more."""


class PubSub:
    """Hands over every message of the channels that are listened to, in the order in which Redis sends them.

    What is published while the connection is down is not heard, which each listener makes up for. `prepare` may talk to
    Redis on a new connection before anything is listened to on it.

    Args:
        open_as: opens a connection that is shown under a name.
        silence_seconds: a connection that has been silent for so long is replaced.
        name: that of the connection.
    """

    def __init__(
        self, open_as: Callable[[str], Awaitable[Carrier]], *, silence_seconds: float, name: str = "iii-state:bells"
    ) -> None:
        self.prepare: Callable[[Carrier], Awaitable[None]] | None = None
        self.unheard = Signal()
        """Emitted when a node of a cluster says that it serves the slot of a channel no more."""
        self._open_as = open_as
        self._name = name
        self._silence = silence_seconds
        self._channels: dict[bytes, Heard] = {}
        self._sharded: set[bytes] = set()
        """Those of the channels that lie in a slot of a cluster."""
        self._patterns: dict[bytes, Heard] = {}
        self._socket: Carrier | None = None
        self._reconnecting = Reconnecting(
            self._keep_one, Backoff(BACKOFF_SECONDS, MAX_BACKOFF_SECONDS, at_once=True), failed=self._failed
        )
        self._background = Background()
        self._was_refused = False
        self._again: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Connect in the background, and stay connected."""
        self._background.start(self._reconnecting.run(), "iii-state redis pubsub")

    def hurry(self) -> None:
        """Connect at once, where this waits to connect again."""
        self._reconnecting.hurry()

    async def stop(self) -> None:
        """Hear nothing more."""
        if self._again is not None:
            self._again.cancel()
        await self._background.stop()
        if self._socket is not None:
            self._socket.abort()
            await self._socket.closed

    def listen(self, channels: Iterable[bytes], heard: Heard, *, sharded: bool = False) -> None:
        """Hand over what is published on these from now on; `sharded` ones are of one slot of a cluster."""
        new = [channel for channel in channels if channel not in self._channels]
        self._channels.update(dict.fromkeys(new, heard))
        if sharded:
            self._sharded.update(new)
        self._tell(b"SSUBSCRIBE" if sharded else b"SUBSCRIBE", new)

    def listen_to_all(self, pattern: bytes, heard: Heard) -> None:
        """The same for all channels that match a pattern; `heard` takes None for the pattern, then the channels themselves."""
        self._patterns[pattern] = heard
        self._tell(b"PSUBSCRIBE", [pattern])

    def ignore(self, channel: bytes) -> None:
        """Hear this one no more."""
        if self._channels.pop(channel, None) is not None:
            self._tell(b"SUNSUBSCRIBE" if channel in self._sharded else b"UNSUBSCRIBE", [channel])
            self._sharded.discard(channel)

    def ignore_all(self, pattern: bytes) -> None:
        """Hear what matches a pattern no more."""
        if self._patterns.pop(pattern, None) is not None:
            self._tell(b"PUNSUBSCRIBE", [pattern])

    def _tell(self, word: bytes, channels: list[bytes]) -> None:
        if self._socket is not None:
            for start in range(0, len(channels), CHANNELS_AT_ONCE):
                self._socket.write(pack((word, *channels[start : start + CHANNELS_AT_ONCE])))

    def _tell_channels(self, *, sharded: bool) -> None:
        # Redis refuses a SUBSCRIBE as a whole: what one listener may not hear is kept apart from what another may.
        channels: dict[Heard, list[bytes]] = {}
        for channel, heard in self._channels.items():
            if (channel in self._sharded) == sharded:
                channels.setdefault(heard, []).append(channel)
        for part in channels.values():
            self._tell(b"SSUBSCRIBE" if sharded else b"SUBSCRIBE", part)

    def _refused_shard(self) -> None:
        """The node serves a slot no more, or not yet."""
        self.unheard.emit()
        if self._again is None:
            self._again = asyncio.get_running_loop().call_later(UNHEARD_SECONDS, self._ask_again)

    def _ask_again(self) -> None:
        self._again = None
        self._tell_channels(sharded=True)

    def _tell_everything(self) -> None:
        for sharded in (False, True):
            self._tell_channels(sharded=sharded)
        for pattern in self._patterns:
            self._tell(b"PSUBSCRIBE", [pattern])

    def _received(self, socket: Carrier, replies: list[Reply]) -> None:
        for reply in replies:
            match reply:
                case [b"message" | b"smessage", bytes(channel), bytes(message)] if heard := self._channels.get(channel):
                    heard(channel, message)
                case [b"pmessage", bytes(pattern), bytes(channel), bytes(message)] if heard := self._patterns.get(pattern):
                    heard(channel, message)
                case [b"subscribe" | b"ssubscribe", bytes(channel), _] if heard := self._channels.get(channel):
                    heard(channel, None)
                case [b"psubscribe", bytes(pattern), _] if heard := self._patterns.get(pattern):
                    heard(pattern, None)
                case [b"sunsubscribe", bytes(channel), _] if channel in self._sharded:
                    self._refused_shard()
                case ReplyError() as refusal if redirection_of(str(refusal)):
                    self._refused_shard()
                case ReplyError() as refusal:
                    log = logger.debug if self._was_refused else logger.warning
                    self._was_refused = True
                    why = explain(socket.address, str(refusal))
                    log("not everything may be heard, and what is missed is found later: %s (README: Permissions)", why)
                case _:
                    pass

    async def _keep_one(self) -> None:
        socket = await self._open()
        self._reconnecting.worked()
        socket.received = partial(self._received, socket)
        self._socket = socket
        self._tell_everything()
        await self._watch(socket)
        self._socket = None
        socket.abort()

    def _failed(self, error: Exception, is_news: bool) -> None:
        if not isinstance(error, StoreError | TimeoutError):
            logger.error("nothing that is published is heard; trying again", exc_info=error)
        elif is_news:
            logger.info("nothing that is published is heard: %s; trying again", error or "no answer")

    async def _open(self) -> Carrier:
        async with asyncio.timeout(self._silence):
            socket = await self._open_as(self._name)
        try:
            if self.prepare is not None:
                async with asyncio.timeout(self._silence):
                    await self.prepare(socket)
        except BaseException:
            socket.abort()
            raise
        return socket

    async def _watch(self, socket: Carrier) -> None:
        """Returns when the connection is over, or has been silent for too long."""
        loop = asyncio.get_running_loop()
        while True:
            asked = loop.time()
            socket.write(pack((b"PING",)))
            done, _ = await asyncio.wait((socket.closed,), timeout=self._silence)
            if done or socket.heard < asked:
                return
