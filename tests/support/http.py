"""Requests as they are written, byte by byte, and the head of the answer."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass

SECONDS = 30.0

UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@dataclass(frozen=True)
class Answer:
    """What came back; `rest` is what follows the head, as far as it came with it."""

    status: int
    headers: dict[str, str]
    rest: bytes


class RawConnection:
    """A connection on which any bytes can be sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def answer(self, request: str | bytes) -> Answer:
        """Send a request and wait for the head of its answer; status 0 where the connection ends without one."""
        request = request if isinstance(request, bytes) else request.encode("latin-1")
        self.writer.write(request)
        async with asyncio.timeout(SECONDS):
            try:
                head = await self.reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return Answer(0, {}, b"")
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
            rest = b""
            if "content-length" in headers and not request.startswith(b"HEAD "):
                rest = await self.reader.readexactly(int(headers["content-length"]))
        return Answer(int(first.split(" ")[1]), headers, rest)

    async def is_over(self) -> bool:
        """Wait until the other side has closed it."""
        async with asyncio.timeout(SECONDS):
            try:
                while await self.reader.read(65536):
                    pass
            except ConnectionError:
                pass
        return True

    def close(self) -> None:
        self.writer.transport.abort()


async def connected(place: tuple[str, int], tls: ssl.SSLContext | None = None, name: str = "localhost") -> RawConnection:
    """A connection, nothing sent yet."""
    async with asyncio.timeout(SECONDS):
        return RawConnection(*await asyncio.open_connection(*place, ssl=tls, server_hostname=name if tls else None))


async def answer_to(
    place: tuple[str, int], *lines: str, target: str = "/", host: str | None = "localhost", method: str = "GET"
) -> Answer:
    """The answer to one handshake with these header lines more, on a connection of its own."""
    connection = await connected(place)
    try:
        head = [f"{method} {target} HTTP/1.1", *([] if host is None else [f"Host: {host}"]), *lines]
        return await connection.answer("\r\n".join(head) + "\r\n" + UPGRADE + "\r\n")
    finally:
        connection.close()
