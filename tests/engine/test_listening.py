"""The sockets that an engine listens on: what has been accepted is kept, whenever they are closed."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from iii_state.engine.listening import Listener, bind, resolve
from tests.support.loops import LOOPS


@pytest.mark.parametrize("loop", LOOPS)
def test_a_connection_that_was_just_accepted_outlives_the_end_of_the_listener(loop: str) -> None:
    async def accept_and_stop() -> None:
        class Stops(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = cast(asyncio.Transport, transport)
                stopping.append(asyncio.create_task(listener.stop()))  # runs before the one who accepts hears of it
                made.set_result(self)

        made: asyncio.Future[Stops] = asyncio.get_running_loop().create_future()
        stopping: list[asyncio.Task[None]] = []
        (bound,) = bind(await resolve("127.0.0.1", 0))
        listener = Listener(bound, Stops)
        listener.start(None)
        reader, writer = await asyncio.open_connection(*listener.address)
        async with asyncio.timeout(10):
            protocol = await made
            await asyncio.gather(*stopping)
            protocol.transport.write(b"here")
            assert await reader.readexactly(4) == b"here"
            protocol.transport.close()
        writer.close()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(accept_and_stop())
