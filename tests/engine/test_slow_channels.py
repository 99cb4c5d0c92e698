"""Channels: frames of one worker on their way to another that reads more slowly."""

from __future__ import annotations

import asyncio

import aiohttp

from tests.support.engines.raw_worker import Port, RawWorker

FRAME = b"x" * 65536
FRAMES = 2000
"""Twice what may wait for a peer that does not read."""


async def open_ends(port: Port, worker: RawWorker) -> tuple[aiohttp.ClientWebSocketResponse, aiohttp.ClientWebSocketResponse]:
    end = (await worker.call("engine::channels::create", {}))["result"]["writer"]
    url = f"{port.url}/ws/channels/{end['channel_id']}?key={end['access_key']}"
    reader = await port.session.ws_connect(f"{url}&dir=read")
    return reader, await port.session.ws_connect(f"{url}&dir=write")


def transport_of(socket: aiohttp.ClientWebSocketResponse) -> asyncio.Transport:
    transport = None if socket._conn is None else socket._conn.transport
    assert transport is not None
    return transport


async def write(writer: aiohttp.ClientWebSocketResponse) -> None:
    for _ in range(FRAMES):
        await writer.send_bytes(FRAME)
    await writer.close()


async def test_a_writer_waits_for_a_slow_reader_and_nothing_is_lost(port: Port, worker: RawWorker) -> None:
    reader, writer = await open_ends(port, worker)
    transport = transport_of(reader)
    transport.pause_reading()
    writing = asyncio.create_task(write(writer))
    assert await asyncio.wait([writing], timeout=1) == (set(), {writing})
    transport.resume_reading()
    received = 0
    async with asyncio.timeout(20):
        async for message in reader:
            assert message.data == FRAME
            received += 1
        await writing
    assert received == FRAMES


async def test_a_writer_that_waits_is_told_when_its_reader_goes(port: Port, worker: RawWorker) -> None:
    reader, writer = await open_ends(port, worker)
    transport = transport_of(reader)
    transport.pause_reading()
    writing = asyncio.create_task(write(writer))
    assert await asyncio.wait([writing], timeout=1) == (set(), {writing})
    transport.abort()
    async with asyncio.timeout(10):
        message = await writer.receive()
        await asyncio.wait([writing])
    assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
    writing.exception()
