"""Fixtures: one engine per module, and on it one long-lived worker of each SDK that a module asks for."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import pytest

from tests.support.engines.attached import attached, engine_without_state
from tests.support.engines.processes import running_engine
from tests.support.redis.server import RedisServer
from tests.support.sdk.workers import SDKS, Sdk, Worker, installed, running_worker

WorkerOf = Callable[[Sdk], Worker]


@pytest.fixture(scope="module", params=SDKS, ids=lambda sdk: sdk.name)
def sdk(request: pytest.FixtureRequest) -> Sdk:
    """Every SDK in turn."""
    sdk: Sdk = request.param
    return installed(sdk)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module that says `ADAPTERS` runs once over each of them, any other over kv."""
    if "engine" in metafunc.fixturenames:
        metafunc.parametrize("engine", getattr(metafunc.module, "ADAPTERS", ["kv"]), indirect=True, scope="module")


class Reachable(Protocol):
    """An engine, as far as its workers are concerned."""

    @property
    def url(self) -> str: ...

    @property
    def is_stock(self) -> bool: ...


@dataclass(frozen=True)
class Attached:
    """An engine that has its state from `iii-state attach`."""

    url: str
    is_stock: bool


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest) -> Iterator[Reachable]:
    """An engine that all tests of a module share: scopes and function ids have to be the test's own (see `unique`).

    `bridge` is one with the state of another, over kv. `attached-…` is one without state of its own, to which `iii-state attach`
    brings it: this project's, or a stock one.
    """
    adapter = str(request.param)
    with ExitStack() as stack:
        arguments: list[str] = []
        if adapter in ("redis", "attached-ours", "attached-stock"):
            if shutil.which("redis-server") is None:
                pytest.skip("redis-server is not installed")
            arguments = ["--redis-url", stack.enter_context(RedisServer()).url]
        if adapter == "bridge":
            arguments = ["--bridge-url", stack.enter_context(running_engine()).url]
        if adapter.startswith("attached-"):
            url = stack.enter_context(engine_without_state(adapter.removeprefix("attached-")))
            stack.enter_context(attached(url, *arguments)).until_attached()
            yield Attached(url, is_stock=adapter == "attached-stock")
        else:
            yield stack.enter_context(running_engine(arguments))


@pytest.fixture(scope="module")
def worker_of(engine: Reachable) -> Iterator[WorkerOf]:
    """Gives the module's worker of an SDK, which is started when it is first asked for."""
    workers: dict[Sdk, Worker] = {}
    with ExitStack() as stack:

        def worker_of(sdk: Sdk) -> Worker:
            if sdk not in workers:
                name = f"shared-{sdk.name}"
                workers[sdk] = stack.enter_context(running_worker(installed(sdk), engine.url, name, behind_stock=engine.is_stock))
            return workers[sdk]

        yield worker_of


@pytest.fixture
def worker(sdk: Sdk, worker_of: WorkerOf) -> Worker:
    """The module's worker of the SDK whose turn it is."""
    return worker_of(sdk)


@pytest.fixture
def unique() -> str:
    """A name that no other test uses: for scopes, and as the beginning of function ids."""
    return uuid.uuid4().hex[:12]
