"""A second connection, on which is heard what is published: the doorbells of the hosted queues, and what Redis tells of keys."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable

from hiredis import ReplyError

from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.explain import explain
from iii_state.adapters.redis.connection.socket import Reply, Wire, open_wire
from iii_state.adapters.redis.scripts.packing import pack
from iii_state.errors import StoreError

logger = logging.getLogger(__name__)

MAX_BACKOFF_SECONDS = 2.0
CHANNELS_AT_ONCE = 1000

Heard = Callable[[bytes, bytes | None], None]
"""Takes a channel and a message; None when listening has begun, also again after a break, for what may have been missed."""


class Bells:
    """Hands over every message of the channels that are listened to, in the order in which Redis sends them.

    What is published while the connection is down is not heard, which whoever listens makes up for. `prepare` may talk to
    Redis on a new connection before anything is listened to on it.
    """

    def __init__(
        self, address: Address, *, silence_seconds: float, prepare: Callable[[Wire], Awaitable[None]] | None = None
    ) -> None:
        self._address = address
        self._silence = silence_seconds
        self._prepare = prepare
        self._channels: dict[bytes, Heard] = {}
        self._patterns: dict[bytes, Heard] = {}
        self._wire: Wire | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._trouble = ""
        self._was_refused = False

    def start(self) -> None:
        """Connect in the background, and stay connected."""
        self._keeper = asyncio.create_task(self._keep(), name="iii-state redis bells")

    async def stop(self) -> None:
        """Hear nothing more."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._wire is not None:
            self._wire.abort()
            await self._wire.closed

    def listen(self, channels: Iterable[bytes], heard: Heard) -> None:
        """Hand over what is published on these from now on."""
        new = [channel for channel in channels if channel not in self._channels]
        self._channels.update(dict.fromkeys(new, heard))
        self._tell(b"SUBSCRIBE", new)

    def listen_to_all(self, pattern: bytes, heard: Heard) -> None:
        """The same for all channels that match a pattern; `heard` takes None for the pattern, then the channels themselves."""
        self._patterns[pattern] = heard
        self._tell(b"PSUBSCRIBE", [pattern])

    def ignore(self, channel: bytes) -> None:
        """Hear this one no more."""
        if self._channels.pop(channel, None) is not None:
            self._tell(b"UNSUBSCRIBE", [channel])

    def _tell(self, word: bytes, channels: list[bytes]) -> None:
        if self._wire is not None:
            for start in range(0, len(channels), CHANNELS_AT_ONCE):
                self._wire.write(pack((word, *channels[start : start + CHANNELS_AT_ONCE])))

    def _tell_everything(self) -> None:
        # Redis refuses a SUBSCRIBE as a whole: what one listener may not hear is kept apart from what another may.
        channels: dict[Heard, list[bytes]] = {}
        for channel, heard in self._channels.items():
            channels.setdefault(heard, []).append(channel)
        for part in channels.values():
            self._tell(b"SUBSCRIBE", part)
        for pattern in self._patterns:
            self._tell(b"PSUBSCRIBE", [pattern])

    def _received(self, replies: list[Reply]) -> None:
        for reply in replies:
            match reply:
                case [b"message", bytes(channel), bytes(message)] if heard := self._channels.get(channel):
                    heard(channel, message)
                case [b"pmessage", bytes(pattern), bytes(channel), bytes(message)] if heard := self._patterns.get(pattern):
                    heard(channel, message)
                case [b"subscribe", bytes(channel), _] if heard := self._channels.get(channel):
                    heard(channel, None)
                case [b"psubscribe", bytes(pattern), _] if heard := self._patterns.get(pattern):
                    heard(pattern, None)
                case ReplyError() as refusal:
                    log = logger.debug if self._was_refused else logger.warning
                    self._was_refused = True
                    why = explain(self._address, str(refusal))
                    log("not everything may be heard, and what is missed is found later: %s (README: Permissions)", why)
                case _:
                    pass

    async def _keep(self) -> None:
        failures = 0
        while True:
            try:
                wire = await self._open()
            except (StoreError, TimeoutError) as error:
                if str(error) != self._trouble:
                    logger.info("no bells: %s; trying again", error or "no answer")
                self._trouble = str(error)
                await asyncio.sleep(min(MAX_BACKOFF_SECONDS, 0.05 * 2 ** min(failures, 10)) * random.uniform(0.5, 1))
                failures += 1
                continue
            failures, self._trouble = 0, ""
            wire.received = self._received
            self._wire = wire
            self._tell_everything()
            await self._watch(wire)
            self._wire = None
            wire.abort()

    async def _open(self) -> Wire:
        async with asyncio.timeout(self._silence):
            wire = await open_wire(self._address, "iii-state:bells")
        try:
            if self._prepare is not None:
                async with asyncio.timeout(self._silence):
                    await self._prepare(wire)
        except BaseException:
            wire.abort()
            raise
        return wire

    async def _watch(self, wire: Wire) -> None:
        """Returns when the connection is over, or has been silent for too long."""
        loop = asyncio.get_running_loop()
        while True:
            asked = loop.time()
            wire.write(pack((b"PING",)))
            done, _ = await asyncio.wait((wire.closed,), timeout=self._silence)
            if done or wire.heard < asked:
                return
