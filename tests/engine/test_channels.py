"""Channels: what one end writes, the other reads, whichever comes first."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from iii_state.engine import Engine
from tests.support.engines.raw_worker import Port, RawWorker
from tests.support.waiting import until


async def ends(worker: RawWorker, **wanted: object) -> tuple[str, str]:
    """Paths of the writing and of the reading end."""
    made = (await worker.call("engine::channels::create", wanted))["result"]
    assert made["writer"]["channel_id"] == made["reader"]["channel_id"]
    paths = [f"/ws/channels/{end['channel_id']}?key={end['access_key']}&dir={end['direction']}" for end in made.values()]
    return paths[0], paths[1]


@pytest.mark.parametrize("reader_first", [True, False])
async def test_frames_pass_in_order_and_the_reader_is_closed_after_the_writer(
    worker: RawWorker, port: Port, reader_first: bool
) -> None:
    write, read = await ends(worker, buffer_size=None)
    reader = await port.session.ws_connect(port.url + read) if reader_first else None
    async with port.session.ws_connect(port.url + write) as writer:
        await writer.send_str("text")
        await writer.send_bytes(b"\xff\x00")
    if reader is None:
        reader = await port.session.ws_connect(port.url + read)
    received = [(await reader.receive(10)) for _ in range(3)]
    assert [(message.type, message.data) for message in received[:2]] == [
        (aiohttp.WSMsgType.TEXT, "text"),
        (aiohttp.WSMsgType.BINARY, b"\xff\x00"),
    ]
    assert received[2].type is aiohttp.WSMsgType.CLOSE


async def test_a_writer_waits_while_the_buffer_is_full(worker: RawWorker, port: Port, engine: Engine) -> None:
    write, read = await ends(worker, buffer_size=2)
    writer = await port.session.ws_connect(port.url + write)
    for number in range(50):
        await writer.send_str(str(number))
    await worker.settled()
    (channel,) = engine.server.channels
    await until(lambda: channel.buffered == 2)
    reader = await port.session.ws_connect(port.url + read)
    assert [(await reader.receive(10)).data for _ in range(50)] == [str(number) for number in range(50)]
    await reader.close()
    assert (await writer.receive(10)).type is aiohttp.WSMsgType.CLOSE


async def test_a_writer_waits_while_the_buffer_holds_enough_bytes(worker: RawWorker, port: Port, engine: Engine) -> None:
    write, read = await ends(worker, buffer_size=1000)
    writer = await port.session.ws_connect(port.url + write)
    writing = asyncio.create_task(_write_large(writer))
    (channel,) = engine.server.channels
    await until(lambda: channel.buffered > 10)
    await worker.settled()
    assert channel.buffered == 11
    reader = await port.session.ws_connect(port.url + read)
    assert [len((await reader.receive(10)).data) for _ in range(100)] == [100_000] * 100
    await writing


async def _write_large(writer: aiohttp.ClientWebSocketResponse) -> None:
    for _ in range(100):
        await writer.send_str("x" * 100_000)


async def test_a_second_writer_or_reader_is_closed_at_once(worker: RawWorker, port: Port) -> None:
    for path in await ends(worker):
        first = await port.session.ws_connect(port.url + path)
        second = await port.session.ws_connect(port.url + path)
        assert (await second.receive(10)).type is aiohttp.WSMsgType.CLOSE
        assert not first.closed


async def test_a_channel_that_nobody_joins_expires_and_strangers_are_refused(worker: RawWorker, port: Port, engine: Engine) -> None:
    write, _ = await ends(worker)
    for wrong in (write.replace("key=", "key=x"), "/ws/channels/x?key=y&dir=read", write.replace("dir=write", "dir=both")):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await port.session.ws_connect(port.url + wrong)
        assert refused.value.status == 404
    engine.server.channels.tick(301)
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await port.session.ws_connect(port.url + write)
    assert (await worker.call("engine::channels::create", {"buffer_size": "x"}))["error"]["code"] == "deserialization_error"
