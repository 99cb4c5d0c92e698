"""Fixtures: a Redis that is emptied for each test, engines without state, and workers of the official SDKs on them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.support.engines.attached import engine_without_state
from tests.support.redis.server import RedisServer, shared_server
from tests.support.sdk.workers import Sdk, Worker, installed, running_worker

WorkerAt = Callable[..., Worker]


@pytest.fixture
def redis() -> RedisServer:
    """A real Redis with nothing in it."""
    server = shared_server()
    server.empty()
    return server


@pytest.fixture(params=["ours", "stock"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """An engine without state: this project's, and a stock one where there is one."""
    with engine_without_state(request.param) as url:
        yield url


@pytest.fixture
def ours() -> Iterator[str]:
    """This project's engine without state."""
    with engine_without_state("ours") as url:
        yield url


@pytest.fixture
def unique() -> str:
    """A name that no other test uses."""
    return uuid.uuid4().hex[:12]


@pytest.fixture
def worker_at() -> Iterator[WorkerAt]:
    """Starts workers: of an SDK, at an engine's URL; killed at the end."""
    with ExitStack() as stack:

        def worker_at(sdk: Sdk, url: str) -> Worker:
            return stack.enter_context(running_worker(installed(sdk), url, f"test-{uuid.uuid4().hex[:8]}"))

        yield worker_at
