"""A second connection, on which the doorbells of the hosted queues are heard."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable

from hiredis import ReplyError

from iii_state.adapters.redis.address import Address
from iii_state.adapters.redis.wire import Reply, Wire, explain, open_wire, pack
from iii_state.errors import StoreError

logger = logging.getLogger(__name__)

MAX_BACKOFF_SECONDS = 2.0
CHANNELS_AT_ONCE = 1000


class Bells:
    """Rings for channels that are listened to: on every message, and when listening has begun, also again after a break.

    `rang(channel, message)` may therefore be about nothing; what is published while the connection is down is made up for.
    """

    def __init__(self, address: Address, rang: Callable[[bytes, bytes], None], *, silence_seconds: float) -> None:
        self._address = address
        self._rang = rang
        self._silence = silence_seconds
        self._channels: set[bytes] = set()
        self._wire: Wire | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._trouble = ""

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

    def listen(self, channels: Iterable[bytes]) -> None:
        """Ring for these from now on."""
        new = [channel for channel in channels if channel not in self._channels]
        self._channels.update(new)
        self._tell(b"SUBSCRIBE", new)

    def ignore(self, channel: bytes) -> None:
        """Ring for this one no more."""
        if channel in self._channels:
            self._channels.discard(channel)
            self._tell(b"UNSUBSCRIBE", [channel])

    def _tell(self, word: bytes, channels: list[bytes]) -> None:
        if self._wire is not None:
            for start in range(0, len(channels), CHANNELS_AT_ONCE):
                self._wire.write(pack((word, *channels[start : start + CHANNELS_AT_ONCE])))

    def _received(self, replies: list[Reply]) -> None:
        for reply in replies:
            match reply:
                case [b"message" | b"subscribe", bytes(channel), message] if channel in self._channels:
                    self._rang(channel, message if isinstance(message, bytes) else b"")
                case ReplyError() as refusal:
                    logger.warning("no bells, events are found by the sweep only: %s", explain(self._address, str(refusal)))
                case _:
                    pass

    async def _keep(self) -> None:
        failures = 0
        while True:
            try:
                async with asyncio.timeout(self._silence):
                    wire = await open_wire(self._address, "iii-state:bells")
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
            self._tell(b"SUBSCRIBE", list(self._channels))
            await self._watch(wire)
            self._wire = None
            wire.abort()

    async def _watch(self, wire: Wire) -> None:
        """Returns when the connection is over, or has been silent for too long."""
        loop = asyncio.get_running_loop()
        while True:
            asked = loop.time()
            wire.write(pack((b"PING",)))
            done, _ = await asyncio.wait((wire.closed,), timeout=self._silence)
            if done or wire.heard < asked:
                return
