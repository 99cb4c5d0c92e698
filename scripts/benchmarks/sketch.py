"""The least that a Python host can do, to measure ours against: a dict behind a WebSocket server, and no more.

It decodes the envelope with msgspec, leaves the value as raw text, joins the answer with %b, and writes the answers to
one read together. No timeouts, triggers, checks, limits or errors.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec
import uvloop
from aiohttp import WSMsgType, web


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


async def host(request: web.Request) -> web.StreamResponse:
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


async def serve() -> None:
    """Serve until killed. Prints the address as the engine does."""
    app = web.Application()
    app.router.add_get("/", host)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sys.stderr.write(f"listening on ws://127.0.0.1:{runner.addresses[0][1]}\n")
    sys.stderr.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve())
