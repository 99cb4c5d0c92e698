"""An attached worker that is called with much and answers much: neither it nor its engine waits for ever for the other to read."""

from __future__ import annotations

import asyncio

from iii_state import Engine
from iii_state.client.about import About
from iii_state.client.client import Client
from tests.support.engines.attached import attached, said
from tests.support.engines.processes import running_engine

CALLS = 300
SECONDS = 15
"""A connection on which nobody reads is dropped after 20."""


async def test_many_large_calls_of_an_attached_worker_are_all_answered() -> None:
    with running_engine(["--no-state"]) as engine, attached(engine.url) as worker:
        await said(worker, "attached to")
        async with Client(engine.url, About("both-ways")) as client:
            body = b'{"scope":"s","key":"k%d","value":"%b"}'
            calls = [client.call("state::set", body % (number % 64, b"x" * 100_000)) for number in range(CALLS)]
            async with asyncio.timeout(SECONDS):
                results = await asyncio.gather(*calls)
            assert all(result is not None and result.startswith(b'{"old_value":') for result in results)


async def test_so_are_those_of_the_program_that_embeds_the_engine() -> None:
    async with Engine() as engine:
        host, port = await engine.serve("127.0.0.1", 0)
        with attached(f"ws://{host}:{port}") as worker:
            await said(worker, "attached to")
            payloads = [{"scope": "s", "key": f"k{number % 64}", "value": "x" * 100_000} for number in range(CALLS)]
            calls = [engine.trigger({"function_id": "state::set", "payload": payload}) for payload in payloads]
            async with asyncio.timeout(SECONDS):
                results = await asyncio.gather(*calls)
            assert [result["new_value"] for result in results] == [payload["value"] for payload in payloads]
