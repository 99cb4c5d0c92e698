"""A connection that is lost while it is greeted: it is made again, and nothing is reported as forgotten."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
from typing import Any

from iii_state.client.client import Client, Hooks
from tests.support.waiting import until


async def accept_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Shake hands, read what comes first, and go away."""
    head = await reader.readuntil(b"\r\n\r\n")
    key = head.lower().partition(b"sec-websocket-key:")[2]
    key = head[len(head) - len(key) :].partition(b"\r\n")[0].strip()
    accepted = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: "
        + accepted
        + b"\r\n\r\n"
    )
    await reader.read(1)
    writer.close()


async def test_a_greeting_whose_call_was_on_its_way_is_not_forgotten() -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
    server = await asyncio.start_server(accept_and_close, "127.0.0.1", 0)
    greeted = 0

    async def greet() -> None:
        nonlocal greeted
        greeted += 1
        outcome: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        client.send(outcome, b'"who::are::you"', b"{}")
        await outcome

    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    client = Client(url, reconnects=True, hooks=Hooks(greet=greet))
    async with server, client:
        await until(lambda: greeted >= 3)
    gc.collect()
    assert reported == []
