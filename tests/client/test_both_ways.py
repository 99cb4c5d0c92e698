"""A client that sends much and is sent much: it reads whatever waits to be sent, or both ends would wait for each other."""

from __future__ import annotations

import asyncio

from iii_state.client.about import About
from iii_state.client.client import Client
from tests.support.engines.processes import running_engine

CALLS = 400
VALUE = b'"%b"' % (b"x" * 40_000)


async def test_many_large_calls_with_large_results_are_all_answered() -> None:
    with running_engine() as engine:
        async with Client(engine.url, About("both-ways")) as client:
            for _ in range(3):
                body = b'{"scope":"s","key":"k%d","value":%b}'
                calls = [client.call("state::set", body % (number % 64, VALUE)) for number in range(CALLS)]
                async with asyncio.timeout(15):  # a connection on which nobody reads is dropped after 20
                    results = await asyncio.gather(*calls)
                assert all(result is not None and result.startswith(b'{"old_value":') for result in results)
