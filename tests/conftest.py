"""What all tests share: the event loops that they run on, and a wall clock that they can shift."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.clock import Clock, compile_shim
from tests.support.loops import LOOPS, LoopFactory


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
