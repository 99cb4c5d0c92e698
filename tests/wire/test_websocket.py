"""The WebSocket itself, byte by byte: handshake, frames in pieces, control frames, what breaks the protocol, flow control."""

from __future__ import annotations

import asyncio
import json
import re
import struct
from collections.abc import AsyncIterator

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iii_state.config import ServerLimits, ServerSettings
from iii_state.engine import Engine
from iii_state.wire import frames
from iii_state.wire.peer import PeerConnection
from tests.support.engines.dict_module import DictModule
from tests.support.engines.raw_worker import Port, RawWorker
from tests.support.waiting import until

pytestmark = pytest.mark.both_loops  # transports differ in when they write and when they pause: both are to be served well

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)
TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


def frame(payload: bytes, opcode: int = TEXT, *, final: bool = True, mask: bytes | None = b"\x01\x02\x03\x04") -> bytes:
    size = len(payload)
    flag = 0x80 if mask else 0
    head = bytes([(0x80 if final else 0) | opcode])
    if size < 126:
        head += bytes([flag | size])
    elif size < 65536:
        head += bytes([flag | 126]) + struct.pack(">H", size)
    else:
        head += bytes([flag | 127]) + struct.pack(">Q", size)
    if mask is None:
        return head + payload
    masked = bytearray(payload)
    frames.unmask(mask, masked)
    return head + mask + bytes(masked)


def echo(data: object, invocation_id: str = "x") -> bytes:
    return json.dumps({"type": "invokefunction", "function_id": "echo", "data": data, "invocation_id": invocation_id}).encode()


class RawSocket:
    """A TCP connection on which a WebSocket has been agreed on."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.is_final = True
        """Whether the last frame was the end of its message."""

    async def next(self) -> tuple[int, bytes]:
        async with asyncio.timeout(10):
            first, size = await self.reader.readexactly(2)
            assert not size & 0x80, "a server does not mask"
            if size == 126:
                (size,) = struct.unpack(">H", await self.reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack(">Q", await self.reader.readexactly(8))
            self.is_final = bool(first & 0x80)
            return first & 0x0F, await self.reader.readexactly(size)

    async def answer(self) -> dict[str, object]:
        payload = b""
        is_over = False
        while not is_over:
            opcode, part = await self.next()
            if opcode == PING:
                continue
            assert opcode == (CONTINUATION if payload else TEXT)
            payload += part
            is_over = self.is_final
        decoded = json.loads(payload)
        assert isinstance(decoded, dict)
        return decoded


@pytest.fixture
async def raw(port: Port) -> AsyncIterator[RawSocket]:
    reader, writer = await asyncio.open_connection(port.host, port.port)
    writer.write(HANDSHAKE)
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 101 " in head
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
    assert b"permessage-deflate" not in head
    socket = RawSocket(reader, writer)
    assert (await socket.answer())["type"] == "workerregistered"
    yield socket
    writer.close()


@given(payload=st.binary(max_size=200), mask=st.binary(min_size=4, max_size=4))
def test_the_spare_unmasking_agrees_with_the_compiled_one(payload: bytes, mask: bytes) -> None:
    fast, spare = bytearray(payload), bytearray(payload)
    frames.mask_in_place(mask, fast)
    frames.unmask(mask, spare)
    assert fast == spare


@pytest.mark.parametrize("size", [0, 1, 60, 61, 125, 126, 127, 65535, 65536, 300_000, 2_000_000])
async def test_messages_of_every_size_arrive_and_leave(raw: RawSocket, size: int) -> None:
    raw.writer.write(frame(echo("x" * size)))
    result = (await raw.answer())["result"]
    assert isinstance(result, dict)
    assert result["data"] == "x" * size


async def test_a_message_may_arrive_in_any_pieces(raw: RawSocket) -> None:
    for byte in frame(echo("ü" * 100)) + frame(echo(2), mask=b"\0\0\0\0"):
        raw.writer.write(bytes([byte]))
        await raw.writer.drain()
    assert "error" not in await raw.answer()
    assert "error" not in await raw.answer()


async def test_many_messages_in_one_piece_are_answered_in_order(raw: RawSocket) -> None:
    raw.writer.write(b"".join(frame(echo(number, str(number))) for number in range(500)))
    assert [(await raw.answer())["invocation_id"] for _ in range(500)] == [str(number) for number in range(500)]


async def test_a_fragmented_message_is_joined_and_control_frames_may_come_between(raw: RawSocket) -> None:
    message = echo("x" * 1000)
    raw.writer.write(frame(message[:10], final=False) + frame(b"?", PING) + frame(b"", CONTINUATION, final=False))
    assert await raw.next() == (PONG, b"?")
    raw.writer.write(frame(message[10:], CONTINUATION))
    assert "error" not in await raw.answer()


async def test_a_binary_message_is_read_as_text_and_telemetry_is_discarded(raw: RawSocket) -> None:
    for payload in (b"OTLP{}", b"MTRC\xff", b"LOGS", b"", b"  "):
        raw.writer.write(frame(payload, BINARY))
    raw.writer.write(frame(b"") + frame(b" \n") + frame(echo(1), BINARY))
    assert (await raw.answer())["invocation_id"] == "x"


async def test_a_close_frame_is_answered_and_ends_the_connection(raw: RawSocket, engine: Engine) -> None:
    raw.writer.write(frame(struct.pack(">H", 1000) + b"bye", CLOSE))
    assert await raw.next() == (CLOSE, struct.pack(">H", 1000))
    assert await raw.reader.read() == b""
    await until(lambda: len(engine.workers) == 0)


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        pytest.param(frame(b"{}", mask=None), 1002, id="not masked"),
        pytest.param(b"\xc1" + frame(b"{}")[1:], 1002, id="compressed"),
        pytest.param(frame(b"{}", 3), 1002, id="unknown opcode"),
        pytest.param(frame(b"{}", 11), 1002, id="unknown control opcode"),
        pytest.param(frame(b"{}", CONTINUATION), 1002, id="continues nothing"),
        pytest.param(frame(b"{}", PING, final=False), 1002, id="fragmented ping"),
        pytest.param(frame(b"x" * 126, PING), 1002, id="long ping"),
        pytest.param(frame(b"{", final=False) + frame(b"{}"), 1002, id="a message within a message"),
        pytest.param(b"\x81\xff" + struct.pack(">Q", 64 * 2**20 + 1) + b"\0\0\0\0", 1009, id="too large"),
        pytest.param(b"\x81\xff" + b"\xff" * 8 + b"\0\0\0\0", 1009, id="absurdly large"),
    ],
)
async def test_what_breaks_the_protocol_ends_the_connection_with_a_code(raw: RawSocket, broken: bytes, code: int) -> None:
    raw.writer.write(broken)
    opcode, payload = await raw.next()
    assert (opcode, struct.unpack(">H", payload[:2])[0]) == (CLOSE, code)


@pytest.mark.parametrize(
    "request_text",
    [
        HANDSHAKE.replace(b"Version: 13", b"Version: 8"),
        HANDSHAKE.replace(b"Upgrade: websocket", b"Upgrade: smoke"),
        HANDSHAKE.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"short"),
    ],
)
async def test_any_other_handshake_is_refused(port: Port, request_text: bytes) -> None:
    reader, writer = await asyncio.open_connection(port.host, port.port)
    writer.write(request_text)
    assert b" 400 " in await reader.readline()
    writer.close()


async def test_telemetry_is_taken_and_other_paths_are_not(port: Port) -> None:
    async with port.session.ws_connect(f"{port.url}/otel") as telemetry:
        await telemetry.send_bytes(b"OTLP{}")
        await telemetry.send_str("{}")
        await telemetry.ping()
        assert not telemetry.closed
    assert (await port.session.get(f"{port.url}/nothing")).status == 404


async def test_a_silent_peer_is_pinged_after_ten_seconds_and_dropped_after_twenty(raw: RawSocket, engine: Engine) -> None:
    tick = engine.server.tick
    await tick(9)
    await tick(1)
    assert await raw.next() == (PING, b"")
    raw.writer.write(frame(b"", PONG) + frame(b"?", PING))
    assert await raw.next() == (PONG, b"?")
    await tick(10)
    assert await raw.next() == (PING, b"")
    assert len(engine.workers) == 1
    await tick(10)
    assert len(engine.workers) == 0


async def test_pings_of_many_connections_let_others_have_their_turn(port: Port, engine: Engine) -> None:
    connections = [await port.session.ws_connect(f"{port.url}/", autoping=False) for _ in range(200)]
    ticking = asyncio.ensure_future(engine.server.tick(10))
    turns = 0
    while not ticking.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 5
    for connection in connections:
        while (message := await connection.receive()).type is not aiohttp.WSMsgType.PING:
            assert message.type is aiohttp.WSMsgType.TEXT
        await connection.close()


async def test_a_dead_half_is_probed_when_its_worker_comes_back(raw: RawSocket, worker: RawWorker, engine: Engine) -> None:
    raw.writer.write(frame(b'{"type":"registerfunction","id":"f"}') + frame(b"1", PING))
    assert await raw.next() == (PONG, b"1")
    await worker.send("registerfunction", id="f")
    await worker.settled()
    assert await raw.next() == (PING, b"")
    await engine.server.tick(5)
    assert len(engine.workers) == 1
    await worker.settled()


async def test_a_peer_that_sends_faster_than_it_reads_is_held_up_and_loses_nothing(
    raw: RawSocket, module: DictModule, engine: Engine
) -> None:
    module.values["s"] = {"k": b'"' + b"x" * 1_000_000 + b'"'}
    get = b'{"type":"invokefunction","function_id":"state::get","data":{"scope":"s","key":"k"},"invocation_id":"%d"}'
    raw.writer.write(b"".join(frame(get % number) for number in range(200)))
    (link,) = (worker.link for worker in engine.workers)
    for number in range(200):
        assert (await raw.answer())["invocation_id"] == str(number)
        assert link.unsent < 4_000_000
    raw.writer.write(frame(echo(1)))
    assert (await raw.answer())["invocation_id"] == "x"


async def test_a_ping_is_answered_while_a_large_message_is_on_its_way(raw: RawSocket) -> None:
    raw.writer.write(frame(echo("x" * 30_000_000)))
    opcode, _ = await raw.next()
    assert opcode == TEXT
    assert not raw.is_final
    raw.writer.write(frame(b"?", PING))
    while (found := await raw.next())[0] != PONG:
        assert not raw.is_final
    assert found[1] == b"?"


async def behind(raw: RawSocket, worker: RawWorker, engine: Engine) -> tuple[PeerConnection, int]:
    """The connection of a worker that serves `f` and has stopped reading, and how many calls of `f` have been made."""
    raw.writer.write(frame(b'{"type":"registerfunction","id":"f"}') + frame(b"1", PING))
    assert await raw.next() == (PONG, b"1")
    raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
    (link,) = (known.link for known in engine.workers if known.function_ids == ["f"])
    calls = steady = left = 0
    while steady < 5:  # what the operating system has room for has left
        if not link.is_behind:
            calls += 1
            assert calls < 100
            await worker.send("invokefunction", function_id="f", data="x" * 1_000_000, invocation_id=str(calls))
        await worker.settled()
        steady = steady + 1 if link.is_behind and link.left == left else 0
        left = link.left
    return link, calls


async def test_a_worker_that_reads_nothing_is_dropped_and_its_calls_have_stopped(
    raw: RawSocket, worker: RawWorker, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    link, calls = await behind(raw, worker, engine)
    await engine.server.tick(1)
    unsent = link.unsent
    for seconds in (10, 8):
        await engine.server.tick(seconds)
        assert len(engine.workers) == 2
        await worker.settled()
    await engine.server.tick(2)
    assert len(engine.workers) == 1
    (line,) = [record.getMessage() for record in caplog.records if "dropping" in record.getMessage()]
    found = re.search(r"it has read nothing for \d+ s, and (\d+) bytes wait for it", line)
    assert found is not None
    assert unsent <= int(found[1]) <= unsent + 100  # and pings
    codes = {(await worker.expect("invocationresult"))["error"]["code"] for _ in range(calls)}
    assert codes == {"invocation_stopped"}


async def test_a_worker_that_goes_on_reading_is_not_dropped_however_slowly(
    raw: RawSocket, worker: RawWorker, engine: Engine
) -> None:
    about = b'{"type":"invokefunction","function_id":"engine::workers::register","data":{"runtime":"rust"}}'
    raw.writer.write(frame(about) + frame(b'{"type":"registerfunction","id":"f"}') + frame(b"1", PING))
    assert await raw.next() == (PONG, b"1")
    await worker.send("invokefunction", function_id="f", data="x" * 40_000_000)
    await worker.settled()
    (link,) = (known.link for known in engine.workers if known.function_ids == ["f"])
    await engine.server.tick(1)
    for _ in range(4):
        await engine.server.tick(12)
        await worker.settled()
        assert len(engine.workers) == 2
        left = link.left
        while link.left == left:
            assert await raw.reader.read(65536)
    assert link.is_behind


async def test_calls_of_a_worker_that_is_behind_wait_and_then_are_all_made(
    raw: RawSocket, worker: RawWorker, other: RawWorker, engine: Engine
) -> None:
    link, calls = await behind(raw, worker, engine)
    unsent = link.unsent
    for number in range(10):
        await worker.send("invokefunction", function_id="f", data="y" * 1_000_000, invocation_id=f"late-{number}")
    await worker.settled()
    assert link.unsent == unsent, "what is called waits with its caller's call, and not with the connection"
    assert (await other.call("echo", 1))["result"]["data"] == 1
    assert (await worker.call("echo", 1))["result"]["data"] == 1
    raw.writer.transport.resume_reading()  # type: ignore[attr-defined]
    seen = [(await raw.answer())["data"] for _ in range(calls + 10)]
    assert [str(data)[0] for data in seen] == ["x"] * calls + ["y"] * 10


async def test_a_caller_is_read_again_when_the_worker_that_it_calls_has_read(
    raw: RawSocket, worker: RawWorker, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iii_state.engine.workers.invocations.MAX_DEFERRED_BYTES", 3_000_000)
    _, calls = await behind(raw, worker, engine)
    for number in range(10):
        await worker.send("invokefunction", function_id="f", data="y" * 1_000_000, invocation_id=f"late-{number}")
    await worker.send("ping")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(worker.socket.receive(), 0.3)
    raw.writer.transport.resume_reading()  # type: ignore[attr-defined]
    for _ in range(calls + 10):
        await raw.answer()
    await worker.expect("pong")


async def test_calls_that_wait_for_a_worker_that_goes_away_are_answered(raw: RawSocket, worker: RawWorker, engine: Engine) -> None:
    await behind(raw, worker, engine)
    await worker.send("invokefunction", function_id="f", data="y", invocation_id="late")
    await worker.settled()
    raw.writer.transport.abort()
    assert (await worker.expect("invocationresult", invocation_id="late"))["error"]["code"] == "function_not_found"


async def test_calls_pass_by_a_worker_that_is_behind_while_another_one_serves_the_function(
    raw: RawSocket, worker: RawWorker, other: RawWorker, engine: Engine
) -> None:
    await behind(raw, worker, engine)
    await worker.send("invokefunction", function_id="f", data="waits", invocation_id="early")
    await worker.settled()
    await other.send("registerfunction", id="f")
    for number in range(20):
        await worker.send("invokefunction", function_id="f", data=number, invocation_id=f"late-{number}")
    seen = [(await other.expect("invokefunction"))["data"] for _ in range(21)]
    assert seen == ["waits", *range(20)]


async def test_results_that_take_time_are_not_worked_out_all_at_once(raw: RawSocket, module: DictModule) -> None:
    slow = b'{"type":"invokefunction","function_id":"slow::get","data":1,"invocation_id":"s%d"}'
    raw.writer.write(b"".join(frame(slow % number) for number in range(1000)) + frame(b"1", PING))
    assert await raw.next() == (PONG, b"1")
    first = len(module.slow)
    assert first < 200, "nothing is known of the results yet"
    done = 0
    large = b'"%b"' % (b"x" * 1_000_000)
    while done < 1000:
        assert len(module.slow) > done
        if first < done <= 300:
            assert len(module.slow) <= done + 36, "a result is known to be of 1 MB"
        module.slow[done].set_result(large if done < 300 else b"1")
        done += 1
        assert (await raw.answer())["invocation_id"] == f"s{done - 1}"
    assert len(module.slow) == 1000


async def test_what_a_worker_has_asked_for_is_carried_out_though_it_is_gone(
    raw: RawSocket, module: DictModule, engine: Engine
) -> None:
    slow = b'{"type":"invokefunction","function_id":"slow::get","data":1,"action":{"type":"void"}}'
    raw.writer.write(frame(slow) * 1000 + frame(b"1", PING))
    assert await raw.next() == (PONG, b"1")
    raw.writer.transport.abort()
    await until(lambda: len(engine.workers) == 0)
    assert len(module.slow) == 1000
    for future in module.slow:
        future.set_result(None)


async def test_a_worker_with_very_many_open_calls_is_held_up_until_half_are_answered(
    engine: Engine, raw: RawSocket, module: DictModule
) -> None:
    await engine.reload_guard(ServerSettings(limits=ServerLimits(calls_in_flight=10)))
    slow = b'{"type":"invokefunction","function_id":"slow::get","data":1,"invocation_id":"s%d"}'
    raw.writer.write(b"".join(frame(slow % number) for number in range(15)))
    await until(lambda: len(module.slow) == 10)
    for future in module.slow[:5]:
        future.set_result(b"1")
    await until(lambda: len(module.slow) == 15)
    for future in module.slow[5:]:
        future.set_result(b"1")
    answered = {(await raw.answer())["invocation_id"] for _ in range(15)}
    assert answered == {f"s{number}" for number in range(15)}
