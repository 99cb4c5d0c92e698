"""What `iii_state.wire` uses of aiohttp beyond its documents: one test each, which says what has changed and who uses it.

aiohttp does the HTTP part of a WebSocket; after the handshake the connection is handed to a parser of our own (`wire.websocket`).
No public way leads there, so pyproject.toml bounds the version (`<4`), and these tests look at what lies between the bounds.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import StreamWriter

from iii_state.wire import frames

VERSION = f"aiohttp {aiohttp.__version__}"


class Parser:
    """What is called of `wire.websocket.WebSocket`."""

    def __init__(self) -> None:
        self.heard: list[bytes | str] = []

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.heard.append(data)
        return False, b""

    def feed_eof(self) -> None:
        self.heard.append("end")


class Transport(asyncio.Transport):
    """A connection that keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.written = bytearray()
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def server_protocol() -> Any:
    async def never(request: web.BaseRequest) -> web.StreamResponse:
        raise AssertionError("no request was made")

    return web.Server(never)()


async def client_protocol() -> Any:
    return ResponseHandler(asyncio.get_running_loop())


@pytest.fixture(params=[server_protocol, client_protocol], ids=["server", "client"])
async def protocol(request: pytest.FixtureRequest) -> Any:
    return await request.param()


def hand_over(protocol: Any, parser: Parser) -> None:
    arguments = (parser,) if isinstance(protocol, web.RequestHandler) else (parser, None)
    try:
        protocol.set_parser(*arguments)
    except (AttributeError, TypeError) as error:
        pytest.fail(f"{VERSION}: {type(protocol).__name__}.set_parser is not what wire/handshake.py calls: {error}")


async def test_a_parser_gets_what_arrives_and_hears_of_the_end(protocol: Any) -> None:
    parser, transport = Parser(), Transport()
    protocol.connection_made(transport)
    hand_over(protocol, parser)
    protocol.data_received(b"one")
    protocol.data_received(b"two")
    protocol.connection_lost(None)
    assert parser.heard == [b"one", b"two", "end"], (
        f"{VERSION}: {type(protocol).__name__} no longer hands what arrives to the parser's feed_data and feed_eof, "
        "which wire/websocket.py is made of"
    )


async def test_a_protocol_tells_whether_the_peer_reads_and_is_there(protocol: Any) -> None:
    words = f"{VERSION}: {type(protocol).__name__}.{{}} is not what wire/websocket.py takes it for"
    protocol.connection_made(transport := Transport())
    assert getattr(protocol, "transport", None) is transport, words.format("transport")
    assert getattr(protocol, "writing_paused", None) is False, words.format("writing_paused")
    protocol.pause_writing()
    assert getattr(protocol, "writing_paused", None) is True, words.format("writing_paused")
    protocol.resume_writing()
    assert getattr(protocol, "writing_paused", None) is False, words.format("writing_paused")
    protocol.connection_lost(None)
    assert getattr(protocol, "transport", transport) is None, words.format("transport")


async def test_a_stream_writer_can_be_made_and_waits_until_the_peer_reads(protocol: Any) -> None:
    protocol.connection_made(Transport())
    try:
        writer = StreamWriter(protocol, asyncio.get_running_loop())
    except TypeError as error:
        pytest.fail(f"{VERSION}: aiohttp.http.StreamWriter is not made as wire/handshake.py makes it: {error}")
    protocol.pause_writing()
    waiting = asyncio.ensure_future(writer.drain())
    await asyncio.wait([waiting], timeout=0.05)
    assert not waiting.done(), f"{VERSION}: StreamWriter.drain() no longer waits, which wire/websocket.py paces itself with"
    protocol.resume_writing()
    await asyncio.wait_for(waiting, 10)


def test_the_compiled_masking_is_in_use() -> None:
    try:
        compiled = import_module("aiohttp._websocket.helpers").websocket_mask
    except (ImportError, AttributeError) as error:
        pytest.fail(f"{VERSION}: its function that masks frames has moved; wire/frames.py goes on with a slower one: {error}")
    data = bytearray(b"\x00\x01\x02\x03\x04")
    compiled(b"\x01\x02\x03\x04", data)
    assert data == b"\x01\x03\x01\x07\x05", f"{VERSION}: websocket_mask(mask, data) no longer masks in place"
    assert frames.mask_in_place is compiled
