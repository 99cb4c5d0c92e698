"""Every adapter, opened on an empty store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from iii_state.adapters.base import Adapter
from iii_state.adapters.kv import KvAdapter
from iii_state.adapters.kv.deadlines import now_ms
from iii_state.adapters.redis import RedisAdapter
from iii_state.config import RedisSettings
from iii_state.events import QueueLimits
from tests.redis_server import fake_server, shared_server

Opener = Callable[[QueueLimits], Adapter]

ADAPTERS = ["kv-memory", "kv-file", "fakeredis", "redis"]


class Store:
    """An adapter under test: `await` works on every answer, and rung bells are counted.

    `elapse(ms)` brings deadlines nearer by so many milliseconds, without a word to the adapter.
    """

    def __init__(self, open_adapter: Opener, elapse: Callable[[int], None] = lambda ms: None) -> None:
        self._open = open_adapter
        self.elapse = elapse
        self.bells: list[str] = []
        self.adapter: Adapter

    async def start(self, limits: QueueLimits | None = None) -> None:
        self.adapter = self._open(limits or QueueLimits())
        await self.adapter.start(self.bells.append)

    async def rang(self, subscription_id: str) -> bool:
        return subscription_id in self.bells

    async def has_no_queue(self) -> bool:
        return not await self.queues()

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self.adapter, name)

        async def call(*arguments: Any, **named: Any) -> Any:
            answer = method(*arguments, **named)
            return await asyncio.wait_for(answer, 10) if asyncio.isfuture(answer) else answer

        return call


async def new_store(kind: str, directory: Path) -> Store:
    if kind.startswith("kv"):
        target = directory if kind == "kv-file" else None
        ahead = 0

        def go_ahead(ms: int) -> None:
            nonlocal ahead
            ahead += ms

        return Store(lambda limits: KvAdapter(target, limits=limits, clock=lambda: now_ms() + ahead), go_ahead)
    server = await asyncio.to_thread(fake_server if kind == "fakeredis" else shared_server)
    await asyncio.to_thread(server.empty, str(directory))
    return Store(lambda limits: RedisAdapter(RedisSettings(redis_url=server.url), limits=limits), server.elapse)


@asynccontextmanager
async def opened(kind: str, directory: Path, limits: QueueLimits | None = None) -> AsyncIterator[Store]:
    """A started store of a kind; `directory` is empty, or holds what an earlier one left."""
    store = await new_store(kind, directory)
    await store.start(limits)
    try:
        yield store
    finally:
        await store.adapter.stop()


@pytest.fixture(params=ADAPTERS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def store(kind: str, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(kind, tmp_path) as opened_store:
        yield opened_store
