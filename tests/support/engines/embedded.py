"""Fixtures: engines in this process over each adapter, and what programs that embed one use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from iii_state import Engine, State, StateModule
from tests.support.redis.server import shared_server

HISTORY = [{"scope": "ledger"}, {"scope": "short", "max_length": 5}]
"""The scopes that have a change log."""

KINDS = ["kv-memory", "kv-file", "redis", "bridge-kv"]


@asynccontextmanager
async def engine_over(kind: str, directory: Path, dispatch: dict[str, Any] | None = None) -> AsyncIterator[Engine]:
    """An engine over a store of a kind: over an empty one, or on file over the one that is there."""
    async with AsyncExitStack() as stack:
        config: dict[str, Any] = {}
        if kind == "kv-file":
            config = {"adapter": {"name": "kv", "config": {"store_method": "file_based", "file_path": str(directory / "data")}}}
        elif kind == "redis":
            server = await asyncio.to_thread(shared_server)
            await asyncio.to_thread(server.empty, str(directory))
            config = {"adapter": {"name": "redis", "config": {"redis_url": server.url}}}
        elif kind.startswith("bridge-"):
            remote = await stack.enter_async_context(engine_over(kind.removeprefix("bridge-"), directory))
            host, port = await remote.serve("127.0.0.1", 0)
            config = {"adapter": {"name": "bridge", "config": {"bridge_url": f"ws://{host}:{port}"}}}
        if not kind.startswith("bridge-"):
            config["history"] = HISTORY
        engine = await stack.enter_async_context(Engine())
        await engine.add_module(StateModule({**config, "dispatch": dispatch or {}}))
        yield engine


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def embedded(kind: str, tmp_path: Path) -> AsyncIterator[Engine]:
    async with engine_over(kind, tmp_path) as running:
        yield running


@pytest.fixture
def state(embedded: Engine) -> State:
    return State(embedded)


@pytest.fixture
async def kv_engine(tmp_path: Path) -> AsyncIterator[Engine]:
    """For what is alike whatever keeps the values."""
    async with engine_over("kv-memory", tmp_path) as running:
        yield running


@pytest.fixture
def kv(kv_engine: Engine) -> State:
    return State(kv_engine)
