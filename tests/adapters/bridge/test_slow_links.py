"""A bridge over a slow link: calls get through while events do, and more is not sent than the remote reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.bridge.engines import State, bridge_to, running
from tests.support.engines.slow_worker import connected
from tests.support.waiting import until

RATE = 4_000_000


@asynccontextmanager
async def slow_link(url: str, rate: float = RATE) -> AsyncIterator[str]:
    """An address at which an engine is reached with so many bytes per second each way."""
    host, port = url.removeprefix("ws://").split(":")
    tasks: set[asyncio.Task[None]] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while part := await reader.read(16384):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(len(part) / rate)
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(sock=await connected(host, int(port)), limit=16384)
        tasks.add(asyncio.create_task(pass_on(reader, back)))
        tasks.add(asyncio.create_task(pass_on(there, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=16384)
    try:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_calls_get_through_while_there_are_more_events_than_the_link_takes() -> None:
    async with running() as remote, slow_link(remote.url) as url, running(bridge_to(url)) as bridge:
        await bridge.watch(scope="s")
        await bridge("get", scope="s", key="none")
        await asyncio.gather(*(remote("set", scope="s", key=f"k{number}", value="x" * 100_000) for number in range(200)))
        for _ in range(5):
            before = len(bridge.seen)
            assert await bridge("get", scope="s", key="none") is None
            assert len(bridge.seen) - before < 40, "of 64 that may be called at once"
        await until(lambda: len(bridge.seen) == 200)


async def test_writes_leave_as_the_remote_reads_and_none_is_lost() -> None:
    async with running() as remote, slow_link(remote.url) as url, running(bridge_to(url, call_timeout_ms=60_000)) as bridge:

        async def write(number: int) -> None:
            await asyncio.wait_for(_set(bridge, number), 60)

        link = bridge.module.adapter._remote.client.connection  # type: ignore[attr-defined]
        await bridge("get", scope="s", key="none")
        writing = asyncio.gather(*(write(number) for number in range(30)))
        most = 0
        while not writing.done():
            most = max(most, link.socket.unsent)
            await asyncio.sleep(0.01)
        await writing
        assert most < 3_000_000, "of 15 MB"
        assert len((await remote("list_keys", scope="s"))["keys"]) == 30


async def _set(bridge: State, number: int) -> None:
    payload = {"scope": "s", "key": f"k{number}", "value": "x" * 500_000}
    await bridge.engine.trigger({"function_id": "state::set", "payload": payload})
