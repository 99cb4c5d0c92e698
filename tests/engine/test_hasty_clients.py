"""A client that goes away in the middle of its handshake: nothing is served, nothing is reported as an error."""

from __future__ import annotations

import signal
import socket
import struct

import pytest

from iii_state.client.client import Client
from tests.support.engines.processes import running_engine

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.mark.parametrize("resets", [False, True], ids=["closes", "resets"])
async def test_a_client_that_has_gone_before_it_is_answered_is_no_error(resets: bool) -> None:
    with running_engine() as engine:
        engine.process.send_signal(signal.SIGSTOP)  # so that they have gone when it reads what they asked for
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", engine.port)) as hasty:
                hasty.sendall(HANDSHAKE)
                if resets:
                    hasty.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        engine.process.send_signal(signal.SIGCONT)
        async with Client(engine.url) as client:
            await client.call("state::list_groups", b"{}")  # connections are taken in order: those before have been answered
        assert engine.stop() == 0
        assert "ERROR" not in engine.stderr.text()
