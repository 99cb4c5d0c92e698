"""A WebSocket connection of the load client: hand-made frames, whole messages."""

from __future__ import annotations

import asyncio
import time
from typing import TypeVar, cast
from urllib.parse import urlsplit

from benchmarks import frames

PATIENCE = 10.0
"""Seconds that an answer may take before it counts as lost."""
TEXT, _CLOSE, _PING = 0x81, 0x88, 0x89


class Socket(asyncio.Protocol):
    """One WebSocket connection to a host. Every text message of it goes to `message`, whole."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._partial = b""
        self._upgraded = False
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.closed = False
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=1 << 30)
        self.transport.write(
            f"GET / HTTP/1.1\r\nHost: {self._host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(f"the host closed the connection: {exc}"))

    def data_received(self, data: bytes) -> None:
        if not self._upgraded:
            data = self._shake_hands(data)
        if data:
            self.read(data)

    def _shake_hands(self, data: bytes) -> bytes:
        head, separator, rest = (self._partial + data).partition(b"\r\n\r\n")
        if not separator:
            self._partial = head
            return b""
        self._partial = b""
        if head.startswith(b"HTTP/1.1 101"):
            self._upgraded = True
            self.opened.set_result(None)
        else:
            self.opened.set_exception(ConnectionError(f"no WebSocket here: {head[:60]!r}"))
        return rest

    def read(self, data: bytes) -> None:
        """Take whole frames from what has come."""
        data = self._partial + data
        at = 0
        while (span := payload_span(data, at)) and span[1] <= len(data):
            start, end = span
            if data[at] == TEXT:
                self.message(data[start:end])
            else:
                self.control(data[at], data[start:end])
            at = end
        self._partial = data[at:]

    def message(self, text: bytes) -> None:
        """A text message has come."""
        self.messages.put_nowait(text)

    def control(self, first: int, payload: bytes) -> None:
        """Answer a ping, close on a close."""
        if first == _PING:
            self.transport.write(bytes((0x8A, 0x80 | len(payload))) + b"\0\0\0\0" + payload)
        elif first == _CLOSE:
            self.transport.close()

    async def ask(self, function: str, data: str) -> bytes:
        """Make one call, and return its answer. Raises ValueError where it is an error, TimeoutError without one."""
        invocation_id = f"ffffffff-0000-4000-8000-{time.perf_counter_ns() & 0xFFFFFFFFFFFF:012x}"
        self.send(frames.call(function, data, invocation_id))
        async with asyncio.timeout(PATIENCE):
            while not frames.is_result(answer := await self.messages.get(), invocation_id):
                pass
        return answer

    def send(self, text: bytes) -> None:
        """Send one text message. Raises ConnectionError where the host has closed."""
        if self.transport.is_closing():
            raise ConnectionError("the host has closed the connection")
        self.transport.write(frames.client_frame(text))


def payload_span(data: bytes, at: int) -> tuple[int, int] | None:
    """Where the payload of the frame at `at` begins and ends, or None where its header is not complete."""
    have = len(data) - at
    if have < 2:
        return None
    n = data[at + 1]
    if n < 126:
        return at + 2, at + 2 + n
    size = 2 if n == 126 else 8
    if have < 2 + size:
        return None
    start = at + 2 + size
    return start, start + int.from_bytes(data[at + 2 : start], "big")


_S = TypeVar("_S", bound=Socket)


async def connect(url: str, kind: type[_S]) -> _S:
    """Open a WebSocket. Raises OSError where nobody listens, TimeoutError where nobody answers."""
    parts = urlsplit(url)
    if parts.hostname is None or parts.port is None:
        raise ValueError(f"expected ws://HOST:PORT, got {url!r}")
    host, port = parts.hostname, parts.port
    _, socket = await asyncio.get_running_loop().create_connection(lambda: kind(f"{host}:{port}"), host, port)
    async with asyncio.timeout(PATIENCE):
        await socket.opened
    return socket
