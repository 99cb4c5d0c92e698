"""A client's end of a WebSocket that sends any bytes, right or wrong, and reads what comes back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

SECONDS = 60.0
"""How long anything may take that has to happen. Only a failing run waits this long."""

_HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_NO_MASK = b"\x00\x00\x00\x00"


def frame(payload: bytes, first: int = 0x81, mask: bytes = _NO_MASK) -> bytes:
    """A frame of a client, masked; a mask of zeros, which is one as any other, costs nothing."""
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65536:
        head = bytes((first, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 0x80 | 127)) + size.to_bytes(8, "big")
    if mask != _NO_MASK and size:
        key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
        payload = (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")
    return head + mask + payload


class Connection:
    """One connection. Every text message of the server is handed to `receive`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, receive: Callable[[bytes], None]) -> None:
        self._writer = writer
        self._reader = reader
        self._receive = receive
        self._changed = asyncio.Event()
        self.close_code: int | None = None
        """Of the server's Close frame."""
        self.is_over = False
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, port: int, receive: Callable[[bytes], None]) -> Connection:
        """Shake hands."""
        async with asyncio.timeout(SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
            writer.write(_HANDSHAKE)
            head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise AssertionError(f"the handshake was refused: {head!r}")
        return cls(reader, writer, receive)

    async def send(self, text: bytes) -> None:
        """Send bytes as they are. What the server does not take any more is lost."""
        with contextlib.suppress(ConnectionError):
            if self._writer.transport.is_closing():
                return
            self._writer.write(text)
            await asyncio.wait_for(self._writer.drain(), SECONDS)

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until something holds that messages bring about. Raises AssertionError if it never does."""
        try:
            async with asyncio.timeout(SECONDS):
                while not holds():
                    self._changed.clear()
                    if self.is_over:
                        raise AssertionError(f"{what}: the connection has ended, with {self.close_code}")
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"{what}: not within {SECONDS:g} s") from None

    async def ended(self) -> None:
        """Wait until the server has closed the connection."""
        async with asyncio.timeout(SECONDS):
            await asyncio.wait((self._reading,))
            self._reading.result()

    async def close(self, *, reset: bool = False) -> None:
        """Close it, with a Close frame, or by a reset."""
        if reset:
            self._writer.transport.abort()
        else:
            await self.send(frame(b"\x03\xe8", 0x88))
            await self.ended()
        self._reading.cancel()
        await asyncio.wait((self._reading,))
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _read(self) -> None:
        unread = b""
        try:
            while chunk := await self._reader.read(2**18):
                unread = self._parse(unread + chunk if unread else chunk)
                self._changed.set()
        except ConnectionError:
            pass
        finally:
            self.is_over = True
            self._changed.set()

    def _parse(self, data: bytes) -> bytes:
        at, size = 0, len(data)
        while size - at >= 2:
            first, length, start = data[at], data[at + 1], at + 2
            if length == 126:
                length, start = int.from_bytes(data[start : start + 2], "big"), start + 2
            elif length == 127:
                length, start = int.from_bytes(data[start : start + 8], "big"), start + 8
            if size < start + length:
                break
            at = start + length
            if first == 0x81:
                self._receive(data[start:at])
            elif first == 0x88:
                self.close_code = int.from_bytes(data[start : start + 2], "big")
            elif first == 0x89:
                self._writer.write(frame(data[start:at], 0x8A))
            elif first != 0x8A:
                raise AssertionError(f"the server has sent a frame of the kind {first:#x}")
        return data[at:]
