"""A worker whose connection is read as slowly as a test says: so many bytes per second, in bursts, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

SECONDS = 60.0

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10
_CHUNK = 65536
_RECEIVED_BYTES = 128 * 1024


class SlowWorker:
    """One connection to an engine, read at `rate` bytes per second (None: as fast as can be) while `reading` is set.

    Calls that arrive are counted in `handled`, by the event's id if they have one, and answered with null. `is_dropped` says that
    the engine has ended the connection. `longest` is the largest part of a message that came in one frame.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rate: float | None) -> None:
        self.rate = rate
        self.reading = asyncio.Event()
        self.reading.set()
        self.handled: Counter[str] = Counter()
        self.functions: Counter[str] = Counter()
        self.order: list[Any] = []
        self.is_dropped = False
        self.longest = 0
        self._reader = reader
        self._writer = writer
        self._answers: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._changed = asyncio.Event()

    def send(self, type: str, **members: Any) -> None:
        """Send a message."""
        self._send(_TEXT, json.dumps({"type": type, **members}).encode())

    def _send(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        if size < 126:
            head = bytes((0x80 | opcode, 0x80 | size))
        elif size < 65536:
            head = bytes((0x80 | opcode, 0xFE)) + struct.pack(">H", size)
        else:
            head = bytes((0x80 | opcode, 0xFF)) + struct.pack(">Q", size)
        self._writer.write(head + b"\0\0\0\0" + payload)

    def call(self, function_id: str, data: Any) -> asyncio.Future[dict[str, Any]]:
        """Call a function; the Future is the whole outcome."""
        invocation_id = str(uuid.uuid4())
        answer = self._answers[invocation_id] = asyncio.get_running_loop().create_future()
        self.send("invokefunction", function_id=function_id, data=data, invocation_id=invocation_id)
        return answer

    async def result(self, function_id: str, data: Any) -> Any:
        """Call a function that does not fail, and wait for its result."""
        outcome = await asyncio.wait_for(self.call(function_id, data), SECONDS)
        assert "error" not in outcome, outcome
        return outcome.get("result")

    async def set(self, key: str, value: Any, scope: str = "s") -> None:
        await self.result("state::set", {"scope": scope, "key": key, "value": value})

    async def get(self, key: str, scope: str = "s") -> Any:
        return await self.result("state::get", {"scope": scope, "key": key})

    async def listen(self, functions: Sequence[str], scope: str = "s") -> None:
        """Serve functions, each with a trigger on a scope; returns when the engine has taken them."""
        for function in functions:
            self.send("registerfunction", id=function)
        for function in functions:
            self.send("registertrigger", id=str(uuid.uuid4()), trigger_type="state", function_id=function, config={"scope": scope})
        await self.get("nothing", "nothing")

    def deafen(self) -> None:
        """Read nothing more, of what has arrived in this process, too."""
        self.reading.clear()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait, bounded, until something holds that frames bring about."""
        async with asyncio.timeout(SECONDS):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    async def until_called(self, times: int) -> None:
        """Wait until its functions have been called so often, events that came again included."""
        await self.until(lambda: self.handled.total() >= times)

    async def until_handled(self, events: int) -> None:
        """Wait until it has handled so many different events."""
        await self.until(lambda: len(self.handled) >= events)

    async def run(self) -> None:
        parts: list[bytes] = []
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                first, size = await self._read(2)
                if size == 126:
                    size = int.from_bytes(await self._read(2), "big")
                elif size == 127:
                    size = int.from_bytes(await self._read(8), "big")
                payload = await self._read(size)
                opcode = first & 0x0F
                if opcode == _CLOSE:
                    break
                if opcode == _PING:
                    self._send(_PONG, payload)
                elif opcode < _CLOSE:
                    self.longest = max(self.longest, size)
                    parts.append(payload)
                    if first & 0x80:
                        self._take(json.loads(b"".join(parts)))
                        parts.clear()
                self._changed.set()
        self.is_dropped = True
        self._changed.set()

    async def _read(self, size: int) -> bytes:
        found = []
        while size:
            await self.reading.wait()
            part = await self._reader.read(min(size, _CHUNK))
            if not part:
                raise ConnectionError
            found.append(part)
            size -= len(part)
            if self.rate is not None:
                await asyncio.sleep(len(part) / self.rate)
        return b"".join(found)

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "invokefunction":
            self.functions[message["function_id"]] += 1
            mark = (message.get("metadata") or {}).get("iii_state", {})
            self.handled[mark.get("event_id", message["invocation_id"])] += 1
            self.order.append(message["data"])
            ids = {name: message[name] for name in ("invocation_id", "function_id")}
            self.send("invocationresult", **ids, result=None)
        elif message["type"] == "invocationresult":
            answer = self._answers.pop(message["invocation_id"], None)
            if answer is not None and not answer.done():
                answer.set_result(message)


async def connected(host: str, port: int) -> socket.socket:
    """A connection of which the operating system takes in little that has not been read."""
    link = socket.socket()
    link.setblocking(False)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVED_BYTES)
    await asyncio.get_running_loop().sock_connect(link, (host, port))
    return link


@asynccontextmanager
async def slow_worker(url: str, rate: float | None = None) -> AsyncIterator[SlowWorker]:
    """A worker for the length of a block."""
    host, port = url.removeprefix("ws://").split(":")
    reader, writer = await asyncio.open_connection(sock=await connected(host, int(port)), limit=_CHUNK)
    writer.write(HANDSHAKE)
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    worker = SlowWorker(reader, writer, rate)
    running = asyncio.create_task(worker.run())
    try:
        worker.send(
            "invokefunction",
            function_id="engine::workers::register",
            data={"runtime": "rust", "version": "0.25.0", "name": f"slow-{uuid.uuid4()}"},
            action={"type": "void"},
        )
        yield worker
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        writer.transport.abort()
