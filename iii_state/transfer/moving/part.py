"""One part of a store in Redis, read and written without being an engine there: a partition, or all of a single Redis."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from hiredis import ReplyError

from iii_state.adapters.redis.connection.carrier import Carrier, PrimaryServer, Reply
from iii_state.adapters.redis.connection.explain import explain
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.scripts.packing import pack
from iii_state.errors import StoreError

ANSWER_SECONDS = 60.0
"""So long Redis may take for what is asked at once."""

AT_ONCE = 500
"""So many commands are sent at once, or so many bytes."""
BYTES_AT_ONCE = 4_000_000

NAME = "iii-state:move"


class Part:
    """A part with its keys. Calls may overlap: replies come in the order of the calls.

    Args:
        number: among the parts of its store.
        primary: opens the connection, and is asked for it once.
    """

    def __init__(self, number: int, keys: Keys, primary: PrimaryServer) -> None:
        self.number = number
        self.keys = keys
        self._primary = primary
        self._carrier: Carrier | None = None
        self._asked: deque[asyncio.Future[Reply]] = deque()

    async def open(self) -> None:
        """Connect. Raises `StoreError` in words."""
        async with asyncio.timeout(ANSWER_SECONDS):
            self._carrier = carrier = await self._primary.open(NAME)
        carrier.received, carrier.lost = self._received, self._lost

    async def close(self) -> None:
        """Close the connection."""
        if self._carrier is not None:
            self._carrier.abort()
            await self._carrier.closed

    async def ask(self, *words: bytes) -> Any:
        """Send one command, and give its reply. Raises `StoreError`."""
        (reply,) = await self.all([words])
        return reply

    async def all(self, commands: Sequence[Sequence[bytes]]) -> list[Any]:
        """Send commands, and give their replies. Raises `StoreError` for the first that is refused; the others were sent, too."""
        replies: list[Any] = []
        start = 0
        while start < len(commands):
            end, size = start, 0
            while end < len(commands) and end - start < AT_ONCE and size < BYTES_AT_ONCE:
                size += sum(map(len, commands[end]))
                end += 1
            replies += await self._send(commands[start:end])
            start = end
        return replies

    async def _send(self, commands: Sequence[Sequence[bytes]]) -> list[Reply]:
        carrier, loop = self._carrier, asyncio.get_running_loop()
        if carrier is None or carrier.closed.done():
            raise StoreError("the connection is closed" if carrier is None else carrier.trouble)
        asked: list[asyncio.Future[Reply]] = [loop.create_future() for _ in commands]
        self._asked.extend(asked)
        carrier.write(b"".join([pack(tuple(command)) for command in commands]), len(commands))
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                replies = await asyncio.gather(*asked)
        except TimeoutError:
            raise StoreError(f"Redis at {carrier.address} has not answered within {ANSWER_SECONDS:.0f} s") from None
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise StoreError(explain(carrier.address, str(reply)))
        return replies

    def _received(self, replies: list[Reply]) -> None:
        for reply in replies:
            answer = self._asked.popleft()
            if not answer.done():
                answer.set_result(reply)

    def _lost(self) -> None:
        trouble = self._carrier.trouble if self._carrier is not None else ""
        for answer in self._asked:
            if not answer.done():
                answer.set_exception(StoreError(trouble))
        self._asked.clear()
