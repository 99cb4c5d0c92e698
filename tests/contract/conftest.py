"""Every adapter, opened on an empty store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.loops import LOOPS, LoopFactory
from tests.support.slow import slow
from tests.support.stores import Store, opened

ADAPTERS = [
    "kv-memory",
    "kv-file",
    "redis",
    "cluster",
    "bridge-kv",
    *map(slow, ("fakeredis", "cluster-valkey", "bridge-redis", "bridge-bridge-kv")),
]

ON_BOTH_LOOPS = {"kv-memory", "kv-file", "redis"}
"""The others are made of these, and of sockets that `tests/wire/test_websocket.py` tries on both."""


def pytest_asyncio_loop_factories() -> dict[str, LoopFactory]:
    return LOOPS


@pytest.fixture(params=list(LOOPS.values()), ids=list(LOOPS))
def new_loop(request: pytest.FixtureRequest) -> LoopFactory:
    """For tests that run loops of their own."""
    factory: LoopFactory = request.param
    return factory


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out asyncio's own loop where it would only cost time; elsewhere it is a slow proof."""
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        on_asyncio = asyncio.new_event_loop in params.values()
        if on_asyncio:
            item.add_marker(pytest.mark.slow)
        only_uvloop = params.get("kind", "redis") not in ON_BOTH_LOOPS
        (left_out if only_uvloop and on_asyncio else kept).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(params=ADAPTERS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def store(kind: str, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(kind, tmp_path) as opened_store:
        yield opened_store
