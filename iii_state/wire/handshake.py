"""How a WebSocket comes about: a server's answer to a handshake, a client's handshake with a server."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import ssl
from collections.abc import Callable, Mapping

import aiohttp
from aiohttp import web
from aiohttp.http import StreamWriter

from iii_state.errors import HandshakeRefused
from iii_state.wire.backlog import Backlog
from iii_state.wire.websocket import MessageReceiver, WebSocket

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class HandshakeError(web.HTTPBadRequest):
    """A request that asks for no WebSocket that is spoken here."""


async def accept(
    request: web.BaseRequest,
    connect: Callable[[WebSocket], MessageReceiver],
    backlog: Backlog,
    *,
    protocol: str | None = None,
) -> web.StreamResponse:
    """Answer a WebSocket handshake and serve the connection until it is gone. Raises `HandshakeError` for any other request.

    Compression is not agreed on. `protocol` is the sub-protocol that is. `backlog` counts what waits for all peers together.
    """
    headers = request.headers
    key = headers.get("Sec-WebSocket-Key", "")
    if (
        request.method != "GET"
        or "websocket" not in headers.get("Upgrade", "").lower()
        or "upgrade" not in headers.get("Connection", "").lower()
        or headers.get("Sec-WebSocket-Version", "") != "13"
        or len(key) != 24
    ):
        raise HandshakeError(text="A WebSocket (version 13) is served here.\n")
    response = web.StreamResponse(status=101)
    response.headers["Upgrade"] = "websocket"
    response.headers["Connection"] = "upgrade"
    response.headers["Sec-WebSocket-Accept"] = _accepted(key)
    if protocol is not None:
        response.headers["Sec-WebSocket-Protocol"] = protocol
    response.force_close()
    try:
        writer = await response.prepare(request)
    except ConnectionError:
        writer = None
    if writer is None or request.transport is None:
        return response  # whoever asked has gone: nothing to serve, and nothing to report
    socket = WebSocket(request.protocol, request.transport, writer, request.remote, masks=False, backlog=backlog)
    socket.start(connect(socket))
    request.protocol.set_parser(socket)  # type: ignore[arg-type]
    try:
        await socket.run()
    finally:
        if socket.is_open:
            socket.abort()
    return response


async def connect(
    session: aiohttp.ClientSession,
    url: str,
    headers: Mapping[str, str],
    receiver: Callable[[WebSocket], MessageReceiver],
    *,
    tls: ssl.SSLContext | None = None,
) -> tuple[WebSocket, aiohttp.ClientResponse]:
    """Shake hands with the server at `url` (`ws://`, or `wss://`, whose certificate `tls` checks).

    The response is to be kept for as long as the connection.

    Raises `HandshakeRefused`, or what aiohttp raises when there is no answer.
    """
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    asked = {
        **headers,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key,
    }
    unbounded = aiohttp.ClientTimeout(total=None)
    response = await session.get(
        url, headers=asked, timeout=unbounded, allow_redirects=False, read_until_eof=False, ssl=True if tls is None else tls
    )
    connection = response.connection
    accepted = response.headers.get("Sec-WebSocket-Accept", "")
    if response.status != 101 or accepted != _accepted(key) or connection is None or connection.protocol is None:
        response.close()
        raise HandshakeRefused(f"it answers with HTTP status {response.status}, not as a WebSocket", response.status)
    protocol, transport = connection.protocol, connection.transport
    if transport is None or transport.is_closing():
        response.close()
        raise HandshakeRefused("it closed the connection in the handshake")
    socket = WebSocket(protocol, transport, StreamWriter(protocol, asyncio.get_running_loop()), str(response.url.host), masks=True)
    socket.start(receiver(socket))
    protocol.set_parser(socket, None)
    return socket, response


def _accepted(key: str) -> str:
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()
