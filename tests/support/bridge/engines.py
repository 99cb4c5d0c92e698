"""Engines with bridges for tests, in this process, and a remote that knows nothing of this project."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from iii_state import Engine, StateModule
from iii_state.client.about import About
from iii_state.client.client import Client
from iii_state.errors import FunctionError
from iii_state.host import Caller, Trigger
from iii_state.state.module import StateModule as Module
from iii_state.tasks.results import Result
from iii_state.values import Json, decode, encode

SECONDS = 20.0

Config = dict[str, Any]


class State:
    """`state::*` of an engine in this process, and its triggers."""

    def __init__(self, engine: Engine, module: Module, url: str) -> None:
        self.engine = engine
        self.module = module
        self.url = url
        self.seen: list[dict[str, Any]] = []
        self.metadata: list[dict[str, Any]] = []

    async def __call__(self, function: str, **payload: Any) -> Any:
        call = self.engine.trigger({"function_id": function if "::" in function else f"state::{function}", "payload": payload})
        return await asyncio.wait_for(call, SECONDS)

    async def increment(self, key: str = "n") -> Any:
        return (await self("update", scope="s", key=key, ops=[{"type": "increment", "by": 1}]))["new_value"]

    async def watch(self, function_id: str = "watch", **config: Any) -> None:
        """Have a function called with events, which remembers them."""

        def remember(event: dict[str, Any], metadata: dict[str, Any]) -> None:
            self.seen.append(event)
            self.metadata.append(metadata)

        self.engine.register_function(function_id, remember)
        await self.engine.register_trigger({"type": "state", "function_id": function_id, "config": config})

    def values_seen(self) -> list[Any]:
        return [event["new_value"] for event in self.seen]


@asynccontextmanager
async def running(config: Config | None = None, port: int = 0) -> AsyncIterator[State]:
    """An engine with state; without a config, in memory."""
    async with Engine() as engine:
        module = StateModule(config)
        await engine.add_module(module)
        host, port = await engine.serve("127.0.0.1", port)
        yield State(engine, module, f"ws://{host}:{port}")


def bridge_to(url: str, **config: Any) -> Config:
    """The configuration of an engine with a bridge."""
    return {"adapter": {"name": "bridge", "config": {"bridge_url": url, **config}}}


class StockWorker:
    """An external state worker as a stock engine may have it: six functions and the trigger type, and nothing else of ours.

    What it is asked it counts; an event is fired once, and nobody looks at the answer.
    """

    def __init__(self, url: str) -> None:
        self.client = Client(url, About("state"))
        self.data: dict[tuple[str, str], Any] = {}
        self.calls = 0
        self._triggers: dict[str, Trigger] = {}

    async def __aenter__(self) -> StockWorker:
        await self.client.__aenter__()
        functions = {
            "set": self._set,
            "get": lambda request: self.data.get((request["scope"], request["key"])),
            "delete": lambda request: self._change(request, None),
            "update": self._update,
            "list": lambda request: [value for (scope, _), value in self.data.items() if scope == request["scope"]],
            "list_groups": lambda request: {"groups": sorted({scope for scope, _ in self.data})},
        }
        for name, function in functions.items():
            self.client.serving.register_function(f"state::{name}", self._served(function))
        self.client.serving.register_trigger_type("state", self, "State trigger")
        await self.client.call("engine::functions::list", b"{}")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.__aexit__()

    def _served(self, function: Callable[[dict[str, Any]], Any]) -> Callable[[Json, Caller], bytes | None]:
        def serve(data: Json, caller: Caller) -> bytes | None:
            self.calls += 1
            result = function(decode(data))
            return None if result is None else encode(result)

        return serve

    def _change(self, request: dict[str, Any], new: Any) -> Any:
        place = (request["scope"], request["key"])
        old = self.data.get(place)
        if new is None:
            self.data.pop(place, None)
        else:
            self.data[place] = new
        kind = "deleted" if new is None else "created" if old is None else "updated"
        event = {"type": "state", "event_type": f"state:{kind}", "scope": place[0], "key": place[1]}
        event |= {"old_value": old, "new_value": new}
        for trigger in self._triggers.values():
            wanted = decode(trigger.config or b"{}")
            if all(wanted.get(name) in (None, event[name]) for name in ("scope", "key")):
                self.client.call(trigger.function_id, encode(event)).add_done_callback(lambda done: done.exception())
        return old

    def _set(self, request: dict[str, Any]) -> Any:
        return {"old_value": self._change(request, request["value"]), "new_value": request["value"]}

    def _update(self, request: dict[str, Any]) -> Any:
        if any(op["type"] != "increment" for op in request["ops"]):
            raise FunctionError("UPDATE_ERROR", "this worker can only increment")
        old = self.data.get((request["scope"], request["key"]))
        new = (old or 0) + sum(op["by"] for op in request["ops"])
        self._change(request, new)
        errors = [{"op_index": 0, "code": "increment.odd", "message": "odd", "doc_url": "https://iii.dev/odd"}] if new % 2 else []
        return {"old_value": old, "new_value": new, **({"errors": errors} if errors else {})}

    def register(self, trigger: Trigger, replaces: Trigger | None = None) -> Result[None]:
        self._triggers[trigger.id] = trigger
        return None

    def unregister(self, trigger: Trigger, *, disconnected: bool) -> Result[None]:
        self._triggers.pop(trigger.id, None)
        return None


@asynccontextmanager
async def stock() -> AsyncIterator[tuple[StockWorker, str]]:
    """An engine whose state is an external worker's, and its address."""
    async with Engine() as engine:
        host, port = await engine.serve("127.0.0.1", 0)
        url = f"ws://{host}:{port}"
        async with StockWorker(url) as worker:
            yield worker, url
