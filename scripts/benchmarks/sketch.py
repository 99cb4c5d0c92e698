"""The least that a Python host can do, to measure ours against: a dict behind a WebSocket server, and no more.

It decodes the envelope with msgspec, leaves the value as raw text, joins the answer with %b, and writes the answers to
one read together. No timeouts, triggers, checks, limits or errors. `aiohttp` is the one that ours is compared with; the
others show what another way to drive the same socket is worth: `aiohttp-sync` answers inside the frame callback instead
of a coroutine, `picows` runs only where picows is installed, which nothing else here needs.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import sys
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
import uvloop
from aiohttp import WSMsgType, web
from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader


class Op(msgspec.Struct):
    """The `increment` of an update."""

    path: str
    by: int = 0


class Data(msgspec.Struct):
    """The payload of a call."""

    scope: str
    key: str
    value: msgspec.Raw = msgspec.Raw(b"null")
    ops: list[Op] = []


class Call(msgspec.Struct):
    """An `invokefunction` message, as far as it matters here."""

    function_id: str
    invocation_id: str
    data: Data


_decode = msgspec.json.Decoder(Call).decode
_store: dict[tuple[str, str], bytes] = {}


def answer(text: bytes) -> bytes:
    """The frame that answers a call: `get`, `set`, and an `update` that takes the document apart and puts it together again."""
    call = _decode(text)
    at = (call.data.scope, call.data.key)
    result = old = _store.get(at, b"null")
    if call.function_id != "state::get":
        new = old
        if call.function_id == "state::set":
            _store[at] = new = bytes(call.data.value)
        elif call.data.ops and (document := msgspec.json.decode(old)) is not None:
            for op in call.data.ops:
                document[op.path] = document.get(op.path, 0) + op.by
            _store[at] = new = msgspec.json.encode(document)
        result = b'{"old_value":%b,"new_value":%b}' % (old, new)
    text = b'{"type":"invocationresult","invocation_id":"%b","function_id":"%b","result":%b}' % (
        call.invocation_id.encode(),
        call.function_id.encode(),
        result,
    )
    n = len(text)
    if n < 126:
        return b"\x81%c%b" % (n, text)
    if n < 65536:
        return b"\x81\x7e%b%b" % (n.to_bytes(2, "big"), text)
    return b"\x81\x7f%b%b" % (n.to_bytes(8, "big"), text)


async def aiohttp_host(request: web.Request) -> web.StreamResponse:
    """Read through the response's queue; write when it is empty."""
    socket = web.WebSocketResponse(compress=False, max_msg_size=1 << 26, decode_text=False)
    await socket.prepare(request)
    queue, transport = socket._reader, request.transport
    assert queue is not None
    assert transport is not None
    answers: list[bytes] = []
    async for message in socket:
        answers.append(answer(message.data))
        while queue._buffer and queue._buffer[0][0].type is WSMsgType.TEXT:
            answers.append(answer((await queue.read()).data))
        transport.write(b"".join(answers))
        answers.clear()
    return socket


class _Frames(WebSocketDataQueue):
    """aiohttp's queue of messages, emptied by whoever feeds the parser."""

    def __init__(self, request: web.Request) -> None:
        super().__init__(request.protocol, 1 << 30, loop=asyncio.get_running_loop())
        self.texts: list[bytes] = []

    def feed_data(self, message: Any, size: int) -> None:
        if message.type is WSMsgType.TEXT:
            self.texts.append(message.data)


class _Parser:
    """Stands in for aiohttp's parser: answers what came in one read before it returns."""

    def __init__(self, request: web.Request) -> None:
        self._frames = _Frames(request)
        self._reader = WebSocketReader(self._frames, 1 << 26, compress=False, decode_text=False)
        self._transport = request.transport
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        outcome = self._reader.feed_data(data)
        if (texts := self._frames.texts) and self._transport:
            self._transport.write(b"".join([answer(text) for text in texts]))
            texts.clear()
        return outcome

    def feed_eof(self) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


class _SyncSocket(web.WebSocketResponse):
    def _post_start(self, request: web.BaseRequest, protocol: str | None, writer: Any) -> None:
        self._writer = writer
        assert isinstance(request, web.Request)
        self.parser = _Parser(request)
        request.protocol.set_parser(cast(WebSocketReader, self.parser))
        request.protocol.keep_alive(False)


async def aiohttp_sync_host(request: web.Request) -> web.StreamResponse:
    """Answer in the parser's callback; the coroutine only waits for the end."""
    socket = _SyncSocket(compress=False)
    await socket.prepare(request)
    await socket.parser.closed
    return socket


async def _serve_aiohttp(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> int:
    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port: int = runner.addresses[0][1]
    return port


async def _serve_picows() -> int:
    picows: Any = importlib.import_module("picows")

    class Listener(picows.WSListener):  # type: ignore[misc]
        def on_ws_connected(self, transport: Any) -> None:
            self.answers: list[bytes] = []

        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            if frame.msg_type == picows.WSMsgType.TEXT:
                self.answers.append(answer(frame.get_payload_as_memoryview()))
                if frame.last_in_buffer:
                    transport.underlying_transport.write(b"".join(self.answers))
                    self.answers.clear()
            else:
                transport.disconnect()

    server = await picows.ws_create_server(lambda request: Listener(), "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    return port


def kinds() -> list[str]:
    """The sketches that can run here; the first is the one that ours is compared with."""
    found = ["aiohttp", "aiohttp-sync"]
    if importlib.util.find_spec("picows"):
        found.append("picows")
    return found


async def serve(kind: str) -> None:
    """Serve until killed. Prints the address as the engine does."""
    if kind == "picows":
        port = await _serve_picows()
    else:
        port = await _serve_aiohttp({"aiohttp": aiohttp_host, "aiohttp-sync": aiohttp_sync_host}[kind])
    sys.stderr.write(f"listening on ws://127.0.0.1:{port}\n")
    sys.stderr.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
