"""An attached worker that is called with much and answers much: neither it nor its engine waits for ever for the other to read."""

from __future__ import annotations

import asyncio

from iii_state.client.about import About
from iii_state.client.client import Client
from tests.support.engines.attached import attached, said
from tests.support.engines.processes import running_engine

CALLS = 300
VALUE = b'"%b"' % (b"x" * 100_000)


async def test_many_large_calls_of_an_attached_worker_are_all_answered() -> None:
    with running_engine(["--no-state"]) as engine, attached(engine.url) as worker:
        await said(worker, "attached to")
        async with Client(engine.url, About("both-ways")) as client:
            body = b'{"scope":"s","key":"k%d","value":%b}'
            calls = [client.call("state::set", body % (number % 64, VALUE)) for number in range(CALLS)]
            async with asyncio.timeout(15):  # a connection on which nobody reads is dropped after 20
                results = await asyncio.gather(*calls)
            assert all(result is not None and result.startswith(b'{"old_value":') for result in results)
