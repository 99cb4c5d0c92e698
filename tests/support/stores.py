"""Every adapter, opened on an empty store, and what tests do with one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from iii_state import values
from iii_state.adapters.base import Adapter
from iii_state.adapters.bridge import BridgeAdapter
from iii_state.adapters.kv import KvAdapter
from iii_state.adapters.redis import RedisAdapter
from iii_state.adapters.redis.cluster.adapter import ClusterAdapter
from iii_state.adapters.redis.opening import cluster_of
from iii_state.adapters.selection import KeySelection
from iii_state.adapters.wall_clock import now_ms
from iii_state.config import BridgeSettings, RedisSettings
from iii_state.engine import Engine
from iii_state.events import Delivery, Failure, QueueLimits, Subscription
from iii_state.history import NO_LOGS, LogRules
from iii_state.state.module import StateModule
from iii_state.tasks.results import result_of
from iii_state.values.ops import Plan, compile_text
from tests.support.redis.nodes import Nodes, shared_nodes
from tests.support.redis.server import binary, fake_server, shared_server

Opener = Callable[[QueueLimits], Adapter]

PARTITIONS = 16
"""Of a cluster: opening more takes longer."""

LIMIT = values.MAX_VALUE_BYTES
ALL = Subscription("all")
FAILED = Failure("invocation_failed", "boom")


class Store:
    """An adapter under test: `await` works on every answer, and rung bells are counted.

    `elapse(ms)` brings deadlines nearer by so many milliseconds, without a word to the adapter. What is ready comes by itself where
    it `is_remote`, and in parts where it `is_parted`.
    """

    def __init__(
        self,
        open_adapter: Opener,
        elapse: Callable[[int], None] = lambda ms: None,
        *,
        is_remote: bool = False,
        is_parted: bool = False,
    ) -> None:
        self._open = open_adapter
        self.elapse = elapse
        self.is_remote = is_remote
        self.is_parted = is_parted
        self.bells: list[str] = []
        self.ring: Callable[[str], None] = self.bells.append
        self.adapter: Adapter

    async def start(self, limits: QueueLimits | None = None) -> None:
        self.adapter = self._open(limits or QueueLimits())
        await self.adapter.start(lambda subscription_id: self.ring(subscription_id))

    async def subscribe(self, subscription: Subscription) -> None:
        """Host a subscription whose function and condition are there."""
        answer = self.adapter.queues.subscribe(subscription)
        if asyncio.isfuture(answer):
            await asyncio.wait_for(answer, 10)
        self.adapter.queues.offer(subscription.id, True)

    async def entries(self, scope: str, selection: KeySelection | None = None) -> list[tuple[str, bytes]]:
        """Keys and stored texts of a scope."""
        return (await asyncio.wait_for(result_of(self.adapter.values.entries(scope, selection)), 10)).rows

    def replaced(self, old: bytes | None) -> bytes | None:
        """What `set` and `update` answer for a value that was replaced: a remote engine does not tell a stored null from none."""
        return None if self.is_remote and old == b"null" else old

    async def taken(self, subscription_id: str, count: int, at_most: int = 100) -> list[Delivery]:
        """What is ready, which is `count` deliveries: at once, or, of a remote's, as soon as it has come."""
        found: list[Delivery] = await self.take(subscription_id, at_most)
        async with asyncio.timeout(10):
            while (self.is_remote or self.is_parted) and len(found) < count:
                await asyncio.sleep(0.002)
                found += await self.take(subscription_id, at_most - len(found))
        assert len(found) == count
        return found

    async def is_empty(self, subscription_id: str) -> bool:
        """Whether the queue of a subscription holds nothing."""
        stats = await self.stats()
        return not any(queue.waiting or queue.pending for queue in stats if queue.subscription.id == subscription_id)

    async def has_dead_letters(self) -> bool:
        return bool(await self.dead_letters())

    async def rang(self, subscription_id: str) -> bool:
        return subscription_id in self.bells

    async def has_no_queue(self) -> bool:
        return not await self.stats()

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        adapter = self.adapter
        parts: tuple[object, ...] = (
            adapter.values,
            adapter.sessions,
            adapter.queues,
            adapter.admin,
            adapter.succession,
            adapter.history,
            adapter,
        )
        method = next(getattr(part, name) for part in parts if hasattr(part, name))

        async def call(*arguments: Any, **named: Any) -> Any:
            return await asyncio.wait_for(result_of(method(*arguments, **named)), 10)

        return call


@asynccontextmanager
async def engine_over(
    kind: str, directory: Path, limits: QueueLimits | None, history: LogRules = NO_LOGS
) -> AsyncIterator[tuple[str, Callable[[int], None]]]:
    """The address of an engine whose state is of a kind, and what brings its deadlines nearer."""
    bounds = {} if limits is None else msgspec.structs.asdict(limits)
    async with AsyncExitStack() as stack:
        elapse: Callable[[int], None]
        store: Adapter | None = None
        if kind.startswith("bridge-"):
            url, elapse = await stack.enter_async_context(engine_over(kind.removeprefix("bridge-"), directory, limits, history))
            adapter = {"name": "bridge", "config": {"bridge_url": url}}
        elif kind.startswith("cluster"):
            nodes = await asyncio.to_thread(nodes_of, kind)
            await asyncio.to_thread(nodes.empty, str(directory))
            adapter, elapse = {"name": "redis", "config": {"redis_url": nodes.url, "partitions": PARTITIONS}}, nodes.elapse
        elif kind == "kv":
            clock, elapse = _clock()
            adapter, store = {"name": "kv"}, KvAdapter(limits=limits, clock=clock, history=history)
        else:
            server = await asyncio.to_thread(shared_server)
            await asyncio.to_thread(server.empty, str(directory))
            adapter, elapse = {"name": "redis", "config": {"redis_url": server.url}}, server.elapse
        engine = await stack.enter_async_context(Engine())
        config: dict[str, Any] = {"adapter": adapter, "dispatch": bounds}
        if adapter["name"] != "bridge":
            config["history"] = msgspec.to_builtins(history.rules)
        await engine.add_module(StateModule(config, adapter=store))
        host, port = await engine.serve("127.0.0.1", 0)
        yield f"ws://{host}:{port}", elapse


def _clock() -> tuple[Callable[[], int], Callable[[int], None]]:
    """A clock of milliseconds, and what puts it forward."""
    ahead = 0

    def go_ahead(ms: int) -> None:
        nonlocal ahead
        ahead += ms

    return lambda: now_ms() + ahead, go_ahead


def nodes_of(kind: str) -> Nodes:
    """The cluster of a kind of stores: `cluster`, or `cluster-valkey`."""
    server = kind.removeprefix("cluster").removeprefix("-")
    executable = binary(server) if server else None
    if server and executable is None:
        pytest.skip(f"no {server} here")
    return shared_nodes(executable)


async def new_store(kind: str, directory: Path, history: LogRules = NO_LOGS) -> Store:
    if kind.startswith("kv"):
        target = directory if kind == "kv-file" else None
        clock, elapse = _clock()
        return Store(lambda limits: KvAdapter(target, limits=limits, clock=clock, history=history), elapse)
    if kind.startswith("cluster"):
        nodes = await asyncio.to_thread(nodes_of, kind)
        await asyncio.to_thread(nodes.empty, str(directory))
        parts = RedisSettings(redis_url=nodes.url, partitions=PARTITIONS)
        return Store(
            lambda limits: ClusterAdapter(parts, cluster_of(parts), limits=limits, history=history), nodes.elapse, is_parted=True
        )
    server = await asyncio.to_thread(fake_server if kind == "fakeredis" else shared_server)
    await asyncio.to_thread(server.empty, str(directory))
    settings = RedisSettings(redis_url=server.url)
    return Store(lambda limits: RedisAdapter(settings, limits=limits, history=history), server.elapse)


@asynccontextmanager
async def opened(
    kind: str, directory: Path, limits: QueueLimits | None = None, history: LogRules = NO_LOGS
) -> AsyncIterator[Store]:
    """A started store of a kind; `directory` is empty, or holds what an earlier one left."""
    async with AsyncExitStack() as stack:
        if kind.startswith("bridge-"):
            url, elapse = await stack.enter_async_context(engine_over(kind.removeprefix("bridge-"), directory, limits, history))
            settings = BridgeSettings(bridge_url=url)
            store = Store(lambda limits: BridgeAdapter(settings, limits=limits), elapse, is_remote=True)
        else:
            store = await new_store(kind, directory, history)
        await store.start(limits)
        stack.push_async_callback(lambda: store.adapter.stop())
        yield store


def plan(*ops: dict[str, Any]) -> Plan:
    return compile_text(values.encode(list(ops)))


def stored(value: Any) -> bytes:
    return values.to_stored(values.encode(value))


def seen(deliveries: list[Delivery]) -> list[tuple[str, str, str, bytes | None, bytes | None]]:
    return [(d.event.event_type.removeprefix("state:"), d.event.scope, d.event.key, d.event.old, d.event.new) for d in deliveries]


async def drain(store: Store, subscription: Subscription) -> list[Delivery]:
    """Take and acknowledge until nothing is left."""
    everything: list[Delivery] = []
    async with asyncio.timeout(10):
        while True:
            if taken := await store.take(subscription.id, 100):
                everything.extend(taken)
                await store.ack(taken)
            elif not (store.is_remote or store.is_parted) or await store.is_empty(subscription.id):
                return everything
            else:
                await asyncio.sleep(0.002)
