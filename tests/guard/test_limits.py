"""What an engine takes on before it knows who comes: half-open connections, slow ones, many, and large messages."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from iii_state.engine import Engine
from iii_state.guard import Guard
from tests.support.http import UPGRADE, RawConnection, answer_to, connected
from tests.support.waiting import until

HANDSHAKE = f"GET / HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}\r\n"


def engine_with(**limits: int) -> Engine:
    return Engine(guard=Guard.of({"limits": limits}))


def unfinished(engine: Engine) -> Any:
    return engine.server._unfinished


async def test_a_slow_handshake_is_dropped() -> None:
    """Slowloris: a header now and then, so that there is always something going on."""
    async with engine_with() as engine:
        place = await engine.serve("127.0.0.1", 0)
        slow, silent = await connected(place), await connected(place)
        slow.writer.write(b"GET / HTTP/1.1\r\n")
        await until(lambda: len(unfinished(engine)) == 2)
        for second in range(20):
            if not slow.writer.is_closing():
                slow.writer.write(f"X-{second}: y\r\n".encode())
            await engine.server.tick(1)
            await asyncio.sleep(0)
        assert len(unfinished(engine)) == 0
        assert await slow.is_over()
        assert await silent.is_over()


async def test_a_thousand_half_open_connections_lock_nobody_out() -> None:
    async with engine_with(handshakes=50) as engine:
        place = await engine.serve("127.0.0.1", 0)
        half_open: list[RawConnection] = []
        for _ in range(20):
            half_open += await asyncio.gather(*(connected(place) for _ in range(50)))
            for each in half_open[-50:]:
                each.writer.write(b"GET / HT")
            assert (await answer_to(place)).status == 101
            assert len(unfinished(engine)) <= 50
        await asyncio.gather(*(each.is_over() for each in half_open[:900]))
        for each in half_open:
            each.close()


async def test_a_connection_that_goes_away_in_the_handshake_is_forgotten() -> None:
    async with engine_with() as engine:
        place = await engine.serve("127.0.0.1", 0)
        gone = await connected(place)
        await until(lambda: len(unfinished(engine)) == 1)
        gone.close()
        for _ in range(12):
            await engine.server.tick(1)
        assert len(unfinished(engine)) == 0


async def test_an_open_connection_is_no_handshake() -> None:
    async with engine_with(handshakes=1) as engine:
        place = await engine.serve("127.0.0.1", 0)
        opened = [await connected(place) for _ in range(1)]
        assert (await opened[0].answer(HANDSHAKE)).status == 101
        for _ in range(3):
            each = await connected(place)
            assert (await each.answer(HANDSHAKE)).status == 101
            opened.append(each)
        assert len(unfinished(engine)) == 0
        assert len(engine.server) == 4
        for each in opened:
            each.close()


async def test_more_connections_than_may_be_open_are_refused_until_one_goes() -> None:
    async with engine_with(connections=3) as engine:
        place = await engine.serve("127.0.0.1", 0)
        opened = [await connected(place) for _ in range(3)]
        for each in opened:
            assert (await each.answer(HANDSHAKE)).status == 101
        refused = await answer_to(place)
        assert (refused.status, refused.rest) == (503, b"too many connections are open\n")
        assert (await answer_to(place, target="/otel")).status == 503
        opened[0].close()
        await until(lambda: len(engine.server) == 2)
        last = await connected(place)
        assert (await last.answer(HANDSHAKE)).status == 101
        for each in (*opened, last):
            each.close()


async def test_connections_that_only_ask_for_pages_count_too() -> None:
    """They stay open between requests, and are in neither of the other numbers."""
    async with engine_with(connections=2, handshakes=1) as engine:
        place = await engine.serve("127.0.0.1", 0)
        request = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
        opened = []
        for _ in range(3):
            opened.append(await connected(place))
            assert (await opened[-1].answer(request)).status == 200
        last = await connected(place)
        assert (await last.answer(request)).status == 503
        assert await last.is_over()
        for each in (*opened, last):
            each.close()


def frame(payload: bytes, first: int = 0x81) -> bytes:
    return bytes([first, 0xFF]) + len(payload).to_bytes(8, "big") + bytes(4) + payload


def call_of(size: int) -> bytes:
    head = b'{"type":"invokefunction","invocation_id":"9b1c9a57-9d6e-4ad6-8b9c-0b6ba1f6a3c0","function_id":"none","data":"'
    return head + b"x" * (size - len(head) - 2) + b'"}'


@pytest.mark.parametrize("how", ["whole", "announced", "fragments"])
async def test_a_larger_message_ends_its_connection(how: str) -> None:
    async with engine_with(message_bytes=2000) as engine:
        place = await engine.serve("127.0.0.1", 0)
        fits = await connected(place)
        await fits.answer(HANDSHAKE)
        fits.writer.write(frame(call_of(2000)))
        async with asyncio.timeout(30):
            answer = await fits.reader.readuntil(b'"function_not_found"')
        assert b"9b1c9a57" in answer
        fits.close()
        over = await connected(place)
        await over.answer(HANDSHAKE)
        text = call_of(2001)
        over.writer.write(
            {
                "whole": frame(text),
                "announced": frame(text)[:14],  # its payload never comes: the length alone is enough
                "fragments": frame(text[:1000], 0x01) + frame(text[1000:1999], 0x00) + frame(text[1999:], 0x80),
            }[how]
        )
        async with asyncio.timeout(30):
            closed = await over.reader.readuntil((1009).to_bytes(2, "big") + b"messages of at most 2000 bytes are taken")
        assert json.dumps("function_not_found").encode() not in closed
        assert await over.is_over()


async def test_compression_is_never_agreed_on_so_that_nothing_small_becomes_large() -> None:
    async with engine_with() as engine:
        place = await engine.serve("127.0.0.1", 0)
        for extensions in ("permessage-deflate", "permessage-deflate; client_max_window_bits", "x-webkit-deflate-frame"):
            answer = await answer_to(place, f"Sec-WebSocket-Extensions: {extensions}")
            assert answer.status == 101
            assert "sec-websocket-extensions" not in answer.headers
        bomb = await connected(place)
        await bomb.answer(HANDSHAKE)
        bomb.writer.write(frame(b"\x78\x9c" * 100, 0xC1))
        async with asyncio.timeout(30):
            await bomb.reader.readuntil((1002).to_bytes(2, "big"))
        assert await bomb.is_over()


@pytest.mark.parametrize("size", [100_000, 10_000_000])
async def test_headers_that_never_end_are_refused(size: int) -> None:
    async with engine_with() as engine:
        place = await engine.serve("127.0.0.1", 0)
        for request in (b"GET /" + b"a" * size, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * size):
            connection = await connected(place)
            assert (await connection.answer(request)).status in (0, 400, 431)
            connection.close()
        assert (await answer_to(place)).status == 101


async def test_a_limit_that_is_changed_holds_from_then_on() -> None:
    async with engine_with() as engine:
        place = await engine.serve("127.0.0.1", 0)
        await engine.reload_guard(Guard.of({"limits": {"connections": 1}}).settings)
        first = await connected(place)
        assert (await first.answer(HANDSHAKE)).status == 101
        assert (await answer_to(place)).status == 503
        first.close()
