"""The event loop that tests run on: uvloop, which `serve` and `attach` use, and asyncio's own, too, where a test asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

LOOPS: dict[str, LoopFactory] = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "both_loops: run on uvloop, and on asyncio's own event loop, which programs embed this in")


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, LoopFactory]:
    return LOOPS if item.get_closest_marker("both_loops") else {"uvloop": LOOPS["uvloop"]}
