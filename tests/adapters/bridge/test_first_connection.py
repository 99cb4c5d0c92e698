"""Before its first connection a bridge does not know what its remote is: what depends on that waits, as every call does."""

from __future__ import annotations

import asyncio

import pytest

from iii_state import FunctionError
from tests.support.bridge.engines import bridge_to, running, stock
from tests.support.bridge.processes import Worker, engine
from tests.support.engines.processes import free_port
from tests.support.redis.server import RedisServer, shared_server
from tests.support.waiting import until


async def _arguments(kind: str) -> list[str]:
    if kind == "kv":
        return []
    server: RedisServer = await asyncio.to_thread(shared_server)
    await asyncio.to_thread(server.empty)
    return ["--redis-url", server.url]


@pytest.mark.parametrize("kind", ["kv", "redis"])
async def test_calls_with_and_without_deadlines_wait_for_the_first_connection(kind: str) -> None:
    port = free_port()
    arguments = await _arguments(kind)
    async with engine(["--bridge-url", f"ws://127.0.0.1:{port}"]) as bridge, Worker(bridge.url) as worker:
        update = [{"type": "set", "value": 1}]
        calls = [
            asyncio.ensure_future(call)
            for call in (
                worker.set(1, key="set"),
                worker.set(1, key="set with a deadline", ttl_ms=1500),
                worker("update", scope="s", key="update with a deadline", ops=update, ttl_ms=1500),
                worker("iii-state::triggers"),
                worker("iii-state::dead_list"),
            )
        ]
        await worker("engine::functions::list")  # they have been heard
        assert not any(call.done() for call in calls)
        async with engine(arguments, port=port) as store, Worker(store.url) as reader:
            await asyncio.gather(*calls)

            async def only_the_first_is_left() -> bool:
                return bool(await reader("list_keys", scope="s") == {"keys": ["set"]})

            await until(only_the_first_is_left)


async def test_a_remote_without_deadlines_is_sent_none() -> None:
    async with stock() as (worker, url), running(bridge_to(url)) as bridge:
        with pytest.raises(FunctionError, match="has no deadlines: ttl_ms would be ignored; nothing was changed"):
            await bridge("set", scope="s", key="k", value=1, ttl_ms=1000)
        assert await bridge("set", scope="s", key="k", value=2) == {"old_value": None, "new_value": 2}
        assert worker.calls == 1
