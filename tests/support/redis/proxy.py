"""A proxy in front of a Redis that breaks connections on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from iii_state.adapters.redis.scripts.loader import PLAIN


class Pair:
    """One connection through the proxy. `held` is what has been read from the client and not been passed on."""

    def __init__(
        self, client: asyncio.StreamWriter, redis_reader: asyncio.StreamReader, redis: asyncio.StreamWriter, reply_bytes: int | None
    ) -> None:
        self.client = client
        self.redis_reader = redis_reader
        self.redis = redis
        self.held = bytearray()
        self.reply_bytes = reply_bytes
        """How many bytes of replies still get through before the connection is cut; None for all."""
        self.is_cut = False
        self.loses_replies = False
        """Whether its requests get through and its replies do not."""
        self.active_at = time.monotonic()
        """When something came through last."""


class Proxy:
    """Passes connections on to a port of this machine.

    `hold` keeps back what clients send. `mute` keeps back replies as well: whoever connects gets no answer. `delay` is how many
    seconds everything takes, each way. With `loses_replies`, requests get through and replies do not.
    `reply_bytes()` tells of each new connection after how many bytes of replies it is cut, None for never.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.hold = False
        self.mute = False
        self.delay = 0.0
        self.loses_replies = False
        self.reply_bytes: Callable[[], int | None] = lambda: None
        self.pairs: list[Pair] = []
        self.cuts = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def held_bytes(self) -> int:
        return sum(len(pair.held) for pair in self.pairs)

    def calls_held(self) -> int:
        """How many mutations are kept back; whole ones or parts."""
        return sum(map(_mutations, self.pairs))

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            redis_reader, redis = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        pair = Pair(writer, redis_reader, redis, self.reply_bytes())
        self.pairs.append(pair)
        for work in (self._requests(reader, pair), self._replies(pair)):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _requests(self, reader: asyncio.StreamReader, pair: Pair) -> None:
        with contextlib.suppress(ConnectionError, RuntimeError):  # uvloop's word for: it has been closed meanwhile
            while data := await reader.read(65536):
                pair.active_at = time.monotonic()
                if self.delay:
                    await asyncio.sleep(self.delay)
                if self.hold:
                    pair.held += data
                elif not self.mute:
                    pair.redis.write(data)
        if not pair.held:
            self.cut(pair)

    async def _replies(self, pair: Pair) -> None:
        with contextlib.suppress(ConnectionError, RuntimeError):  # uvloop's word for: it has been closed meanwhile
            while data := await pair.redis_reader.read(65536):
                pair.active_at = time.monotonic()
                if self.delay:
                    await asyncio.sleep(self.delay)
                if pair.reply_bytes is not None and len(data) > pair.reply_bytes:
                    pair.client.write(data[: pair.reply_bytes])
                    await pair.client.drain()
                    self.cut(pair)
                    return
                if pair.reply_bytes is not None:
                    pair.reply_bytes -= len(data)
                if not self.mute and not self.loses_replies and not pair.loses_replies and not pair.is_cut:
                    pair.client.write(data)
        self.cut(pair)

    def cut(self, pair: Pair) -> None:
        """Close both ends; the client's at once."""
        if not pair.is_cut:
            self.cuts += 1
            pair.is_cut = True
            pair.client.close()
            if not pair.held:
                pair.redis.close()

    def cut_all(self) -> None:
        """Close the clients' ends of everything, and the other ends of what holds nothing back."""
        for pair in self.pairs:
            self.cut(pair)

    def cut_idle(self, seconds: float) -> None:
        """Close those through which nothing has come for so long."""
        for pair in self.pairs:
            if time.monotonic() - pair.active_at > seconds:
                self.cut(pair)

    async def release(self) -> None:
        """Pass on what connections that are cut have held back; returns when Redis has executed it, or has gone."""
        for pair in self.pairs:
            if pair.is_cut and pair.held and not pair.redis.is_closing():
                pair.redis.write(bytes(pair.held))
                pair.held.clear()
                try:
                    pair.redis.write_eof()
                except OSError:
                    pair.redis.transport.abort()
        async with asyncio.timeout(20):
            while any(not pair.redis_reader.at_eof() for pair in self.pairs if pair.is_cut and not pair.redis.is_closing()):
                await asyncio.sleep(0.005)


@asynccontextmanager
async def proxy_to(port: int) -> AsyncIterator[Proxy]:
    """A proxy for the length of a block."""
    proxy = Proxy(port)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        tasks = list(proxy._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for pair in proxy.pairs:
            pair.client.transport.abort()
            pair.redis.transport.abort()


def _mutations(pair: Pair) -> int:
    """How many calls of scripts a client has sent that are kept back; of `values/change_many`, how many changes that makes."""
    count = 0
    for call in bytes(pair.held).split(b"$7\r\nEVALSHA\r\n")[1:]:
        words = call.split(b"\r\n")[1::2]
        behind_keys = 2 + int(words[1]) if words[0] == PLAIN.of("values/change_many").sha1 and len(words) > 1 else len(words)
        count += int(words[behind_keys + 2]) if behind_keys + 2 < len(words) else 1
    return count
