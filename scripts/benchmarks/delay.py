"""A proxy that holds everything back for a while, as a network does. A process of its own.

    python -m benchmarks.delay PORT SECONDS

Prints the port that it listens on. It waits with `select`, whose time is exact to some 50 µs; epoll's is a millisecond.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from benchmarks.processes import ENVIRONMENT


class _Side(asyncio.Protocol):
    """One end of a connection through the proxy; what is read here is written at the other end, later."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._held: deque[tuple[float, bytes]] = deque()
        self.other: _Side | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        opened = cast(asyncio.Transport, transport)
        opened.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.set_write_buffer_limits(high=1 << 30)
        self.transport = opened

    def data_received(self, data: bytes) -> None:
        self._held.append((self._loop.time() + self._seconds, data))
        if len(self._held) == 1:
            self._loop.call_later(self._seconds, self._pass_on)

    def _pass_on(self) -> None:
        now = self._loop.time()
        due = []
        while self._held and self._held[0][0] <= now:
            due.append(self._held.popleft()[1])
        if self.other and not self.other.transport.is_closing():
            self.other.transport.write(b"".join(due))
        if self._held:
            self._loop.call_at(self._held[0][0], self._pass_on)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other:
            self.other.transport.close()


class _Front(_Side):
    """The end that a client has connected to."""

    def __init__(self, seconds: float, port: int) -> None:
        super().__init__(seconds)
        self._port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.pause_reading()
        self._opening = self._loop.create_task(self._open())

    async def _open(self) -> None:
        back = _Side(self._seconds)
        back.other = self
        try:
            await self._loop.create_connection(lambda: back, "127.0.0.1", self._port)
        except OSError:
            self.transport.close()
            return
        self.other = back
        self.transport.resume_reading()


async def serve(port: int, seconds: float) -> None:
    """Stand in front of a port until killed."""
    server = await asyncio.get_running_loop().create_server(lambda: _Front(seconds, port), "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


@contextmanager
def delayed(port: int, seconds: float) -> Iterator[int]:
    """Run the proxy in front of a port until the end of the block; the port to connect to instead."""
    arguments = [sys.executable, "-m", "benchmarks.delay", str(port), str(seconds)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=ENVIRONMENT) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError("the proxy has not started")
            yield int(line)
        finally:
            process.kill()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(serve(int(sys.argv[1]), float(sys.argv[2])))
