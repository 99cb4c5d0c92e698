"""What the tests of the page share: a browser, an engine in a process of its own, and workers that give it something to show."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import Browser

from tests.support.engines.processes import EngineProcess, running_engine
from tests.support.engines.raw_worker import Port
from tests.web.browser import Tab, base_of, chromium, tab


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent and "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@pytest.fixture
def engine() -> Iterator[EngineProcess]:
    with running_engine() as started:
        yield started


@pytest.fixture
async def port(engine: EngineProcess) -> AsyncIterator[Port]:
    """Connects workers to the engine."""
    async with aiohttp.ClientSession() as session:
        opened = Port(session, "127.0.0.1", engine.port)
        yield opened
        await opened.disconnect()


@pytest.fixture
async def opened(browser: Browser, engine: EngineProcess) -> AsyncIterator[Tab]:
    """A tab at the engine's page, not at any place yet."""
    async with tab(browser, base_of(engine.url)) as made:
        yield made
