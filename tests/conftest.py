"""What all tests share: the event loops that they run on, and a wall clock that they can shift."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import is_hypothesis_test

from tests.support.clock import Clock, compile_shim
from tests.support.loops import LOOPS, LoopFactory
from tests.support.redis.server import DEFAULT, KINDS, default_binary


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run everything, the slow proofs too")
    parser.addoption("--redis", metavar="SERVER", help=f"run the tests at this server: {', '.join(KINDS)}, or the path of one")


def pytest_configure(config: pytest.Config) -> None:
    if server := config.getoption("--redis"):
        os.environ[DEFAULT] = server
        default_binary()
    config.addinivalue_line("markers", "slow: run with --slow only (see tests/support/slow.py)")
    config.addinivalue_line("markers", "untraced: not run under coverage, which costs too much or nests too deep there")
    config.addinivalue_line("markers", "both_loops: run on uvloop, and on asyncio's own event loop, which programs embed this in")


TAKE_MINUTES = ("torture", "upgrade", "powercut", "fuzz", "linearizability")
"""Folders that come first among the slow tests, so that nothing waits for them in the end."""


TAKE_LONG = (
    *("test_cli", "test_repair", "test_resuming", "test_redis_clocks", "test_kv_clocks", "test_connection", "test_hot_settings"),
    *("test_conditions", "test_readme", "test_succession", "test_pairs", "test_cli_texts", "test_restarts", "test_following"),
)
"""Files of more than 25 s, most of it waiting, which come first among the other tests for the same reason."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Coverage makes a test of many made-up examples take twice as long, and the examples reach no lines that the others do not."""
    if is_hypothesis_test(getattr(item, "obj", None)):
        item.add_marker("untraced")


@pytest.hookimpl(trylast=True)  # conftests of folders mark more tests
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [] if config.getoption("--slow") else ["slow"]
    left_out += ["untraced"] if config.getoption("--cov", None) else []
    deselected = [item for item in items if any(map(item.get_closest_marker, left_out))]
    items[:] = [item for item in items if not any(map(item.get_closest_marker, left_out))]
    config.hook.pytest_deselected(items=deselected)
    if config.getoption("--slow"):
        items.sort(key=lambda item: item.path.parent.name not in TAKE_MINUTES)
    else:
        items.sort(key=lambda item: item.path.stem not in TAKE_LONG)


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, LoopFactory]:
    return LOOPS if item.get_closest_marker("both_loops") else {"uvloop": LOOPS["uvloop"]}


@pytest.fixture(scope="session")
def clock_shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_shim(tmp_path_factory.mktemp("clock"))


@pytest.fixture
def clock(clock_shim: Path, tmp_path: Path) -> Clock:
    """A wall clock for processes that the test starts with its `environment`; it goes right until it is set."""
    return Clock(clock_shim, tmp_path / "clock-shift")
