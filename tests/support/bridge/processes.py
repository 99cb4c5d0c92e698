"""Engines in processes of their own, with and without bridges, and workers that are connected to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from iii_state.client.client import Client
from iii_state.values import Json, decode
from tests.support.engines.processes import SERVE, EngineProcess
from tests.support.redis.proxy import Proxy, proxy_to
from tests.support.redis.server import shared_server
from tests.support.slow import slow

SECONDS = 20.0

REMOTES = ["kv", *map(slow, ("redis", "bridge-kv"))]
"""What a remote may store in."""


@asynccontextmanager
async def engine(arguments: Sequence[str] = (), *, serve: Sequence[str] = SERVE, **options: Any) -> AsyncIterator[EngineProcess]:
    """An engine in a process of its own for the length of a block."""
    process = await asyncio.to_thread(lambda: EngineProcess(arguments, serve=serve, **options))
    try:
        yield process
    finally:
        await asyncio.to_thread(process.kill)


@asynccontextmanager
async def remote(kind: str, config: dict[str, Any] | None = None) -> AsyncIterator[EngineProcess]:
    """An engine whose state is of a kind."""
    async with AsyncExitStack() as stack:
        arguments: list[str] = []
        if kind.startswith("bridge-"):
            inner = await stack.enter_async_context(remote(kind.removeprefix("bridge-"), config))
            arguments = ["--bridge-url", inner.url]
        elif kind == "redis":
            server = await asyncio.to_thread(shared_server)
            await asyncio.to_thread(server.empty)
            arguments = ["--redis-url", server.url]
        yield await stack.enter_async_context(engine(arguments, config=config))


@asynccontextmanager
async def bridged(kind: str, config: dict[str, Any] | None = None) -> AsyncIterator[tuple[EngineProcess, Proxy, Worker, Worker]]:
    """An engine whose state is of a kind, a proxy to it, a worker there, and one at an engine with a bridge through the proxy."""
    async with (
        remote(kind, config) as store,
        proxy_to(store.port) as proxy,
        engine(["--bridge-url", f"ws://127.0.0.1:{proxy.port}"]) as bridge,
        Worker(store.url) as writer,
        Worker(bridge.url) as worker,
    ):
        yield store, proxy, writer, worker


class Worker:
    """A worker of an engine, which remembers the events that it is called with."""

    def __init__(self, url: str) -> None:
        self.client = Client(url)
        self.seen: list[dict[str, Any]] = []
        self.metadata: list[dict[str, Any]] = []

    async def __aenter__(self) -> Worker:
        await self.client.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.__aexit__()

    async def __call__(self, function: str, **payload: Any) -> Any:
        """Call a function, of `state::` where it does not say."""
        function_id = function if "::" in function else f"state::{function}"
        answer = await asyncio.wait_for(self.client.call(function_id, json.dumps(payload).encode()), SECONDS)
        return None if answer is None else json.loads(answer)

    async def set(self, value: Any, key: str = "k", scope: str = "s", **more: Any) -> Any:
        return await self("set", scope=scope, key=key, value=value, **more)

    def serve(self, function_id: str, result: Callable[[dict[str, Any]], Any] = lambda event: None) -> None:
        """Serve a handler or a condition, which is told no metadata and not remembered; it returns what `result` does."""

        def handle(data: Json, metadata: Json | None) -> Any:
            event = decode(data)
            assert isinstance(event, dict)
            told = decode(metadata or b"{}")
            assert isinstance(told, dict)
            if "iii_state" in told:
                self.seen.append(event)
                self.metadata.append(told["iii_state"])
            made = result(event)
            return made if made is None or isinstance(made, asyncio.Future) else json.dumps(made).encode()

        self.client.serving.register_listener(function_id, handle, "a handler")

    def serve_slowly(self, function_id: str) -> list[asyncio.Future[Any]]:
        """Serve a handler whose calls go on until the outcomes of those that have begun are set."""
        outcomes: list[asyncio.Future[Any]] = []

        def begin(event: dict[str, Any]) -> asyncio.Future[Any]:
            outcomes.append(asyncio.get_running_loop().create_future())
            return outcomes[-1]

        self.serve(function_id, begin)
        return outcomes

    async def on(self, function_id: str, **config: Any) -> str:
        """Have a function called with events of scope s; the trigger's id."""
        return await self.client.triggers.register("state", function_id, {"scope": "s", **config})

    def values(self) -> list[Any]:
        return [event["new_value"] for event in self.seen]

    async def rows_here(self) -> list[dict[str, Any]]:
        """The triggers of this worker's engine, itself: what was said before has been heard then."""
        rows: list[dict[str, Any]] = (await self("engine::registered-triggers::list"))["registered_triggers"]
        return rows

    async def rows(self) -> list[dict[str, Any]]:
        """The subscriptions of this worker's engine."""
        rows: list[dict[str, Any]] = (await self("iii-state::triggers"))["triggers"]
        return rows
