from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import aiohttp
import fakeredis
import pytest
import redis

from iii_state.adapters.redis import RedisAdapter
from iii_state.config import RedisSettings
from iii_state.events import QueueLimits
from tests.support.redis.adapters import Open
from tests.support.redis.cluster import Cluster
from tests.support.redis.nodes import PATIENT_MS, Nodes, cluster_nodes, shared_nodes
from tests.support.redis.proxy import Proxy, proxy_to
from tests.support.redis.server import KINDS, RedisServer, binary, shared_server
from tests.support.slow import slow


@pytest.fixture(scope="session")
def sockets() -> Iterator[dict[str, str]]:
    """Sockets of the real servers there are, by version; started once."""
    with ExitStack() as stack:
        found = {version: server for version in KINDS if (server := binary(version))}
        yield {version: stack.enter_context(RedisServer(executable=server)).socket for version, server in found.items()}


def connect(sockets: dict[str, str], version: str) -> redis.Redis:
    if version == "fake":
        return fakeredis.FakeRedis(server=fakeredis.FakeServer(), version=(7,))
    if version not in sockets:
        pytest.skip(f"no Redis {version} here")
    client = redis.Redis(unix_socket_path=sockets[version])
    client.flushall()
    return client


@pytest.fixture(params=["7", *map(slow, ("6.2", "valkey", "fake"))])
def client(sockets: dict[str, str], request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    """An empty Redis, of each kind there is."""
    with connect(sockets, request.param) as client:
        yield client


@pytest.fixture(params=["7", *map(slow, ("6.2", "valkey"))])
def real(sockets: dict[str, str], request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    """An empty real Redis, of each version there is."""
    with connect(sockets, request.param) as client:
        yield client


@pytest.fixture
def server() -> RedisServer:
    """The real server of this test session, empty."""
    server = shared_server()
    server.client.flushall()
    return server


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A server whose settings a test may change."""
    with RedisServer() as running_server:
        yield running_server


@pytest.fixture
def nodes() -> Nodes:
    """The Redis Cluster of this test session, three masters with a replica each: whole and empty."""
    nodes = shared_nodes()
    nodes.set_timeout(PATIENT_MS)
    nodes.revive()
    nodes.empty()
    return nodes


@pytest.fixture
def own_nodes() -> Iterator[Nodes]:
    """One whose settings a test may change, that it may grow, and that it may break."""
    with cluster_nodes() as running:
        yield running


@pytest.fixture
async def proxy(server: RedisServer) -> AsyncIterator[Proxy]:
    """A way to the server on which connections can be cut and held."""
    async with proxy_to(server.port) as running_proxy:
        yield running_proxy


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    server = shared_server()
    server.client.flushall()
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Cluster(stack, session, server)


@pytest.fixture
async def opened(server: RedisServer) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def open_adapter(
            url: str = server.url,
            limits: QueueLimits | None = None,
            bell: Callable[[str], None] = lambda subscription_id: None,
            **settings: Any,
        ) -> RedisAdapter:
            adapter = RedisAdapter(RedisSettings(redis_url=url, **settings), limits=limits)
            await adapter.start(bell)
            stack.push_async_callback(adapter.stop)
            return adapter

        yield open_adapter
