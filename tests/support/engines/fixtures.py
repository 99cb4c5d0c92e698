"""Fixtures: an engine in this process with a dict module, its port, and raw workers on it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from iii_state.engine import Engine
from tests.support.engines.dict_module import DictModule
from tests.support.engines.raw_worker import Port, RawWorker


@pytest.fixture
def module() -> DictModule:
    return DictModule()


@pytest.fixture
async def engine(module: DictModule) -> AsyncIterator[Engine]:
    async with Engine() as engine:
        await engine.add_module(module)
        yield engine


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


@pytest.fixture
async def port(engine: Engine, session: aiohttp.ClientSession) -> Port:
    return Port(session, *await engine.serve("127.0.0.1", 0))


@pytest.fixture
async def worker(port: Port) -> RawWorker:
    return await port.connect()


@pytest.fixture
async def other(port: Port) -> RawWorker:
    return await port.connect()
