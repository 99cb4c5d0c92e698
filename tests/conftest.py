"""The event loop that tests run on: uvloop, which `serve` and `attach` use, and asyncio's own, too, where a test asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from tests.clock import Clock, compile_shim

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

LOOPS: dict[str, LoopFactory] = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "both_loops: run on uvloop, and on asyncio's own event loop, which programs embed this in")


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, LoopFactory]:
    return LOOPS if item.get_closest_marker("both_loops") else {"uvloop": LOOPS["uvloop"]}


@pytest.fixture(scope="session")
def clock_shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_shim(tmp_path_factory.mktemp("clock"))


@pytest.fixture
def clock(clock_shim: Path, tmp_path: Path) -> Clock:
    """A wall clock for processes that the test starts with its `environment`; it goes right until it is set."""
    return Clock(clock_shim, tmp_path / "clock-shift")
