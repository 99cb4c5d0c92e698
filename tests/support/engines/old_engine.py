"""A likeness of the stock engines up to 0.22, as far as an external state worker notices: the last registration wins, in silence.

It rejects nothing, knows no namespaces and no `reattach`, lists functions in rows of the shape of 0.12, does not say why a trigger
is unregistered, runs each call in a task of its own, and drops results of null.

With `first_wins` it is as one of 0.23: the first owner of a function keeps it, and the second is told so; but a trigger type is
whose who registers it last, and nobody can give one back.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from typing import Any

from aiohttp import WSMsgType, web

Frame = dict[str, Any]


class OldEngine:
    """Use with `async with`; `url` is where it listens. With `unique_names` it rejects a second worker of a name, as since 0.23."""

    def __init__(self, *, unique_names: bool = False, first_wins: bool = False) -> None:
        self._unique_names = unique_names or first_wins
        self._first_wins = first_wins
        self.rejections = 0
        self.tells_who_provides = first_wins
        """Whether its list of trigger types names their providers."""
        self.functions: dict[str, tuple[str, Frame]] = {}
        """Function → worker, and its registration."""
        self.types: dict[str, str] = {}
        self.triggers: dict[str, tuple[str, Frame]] = {}
        self.workers: dict[str, web.WebSocketResponse] = {}
        self.about: dict[str, Frame] = {}
        self.calls: dict[str, tuple[str, str]] = {}
        """Open calls → who made them, who executes them."""
        self.watchers: dict[str, tuple[str, str]] = {}
        """Triggers of the engine's own type for workers that go → their workers and functions."""
        self.holds_lists: Callable[[], bool] = lambda: False
        """Whether it lets those wait who ask for a list."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> OldEngine:
        app = web.Application()
        app.router.add_get("/", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"ws://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        for socket in list(self.workers.values()):
            await socket.close()
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        worker = str(uuid.uuid4())
        self.workers[worker] = socket
        await socket.send_json({"type": "workerregistered", "worker_id": worker})
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await self._take(worker, json.loads(message.data))
        await self._gone(worker)
        return socket

    async def _gone(self, worker: str) -> None:
        del self.workers[worker]
        self.about.pop(worker, None)
        self.functions = {name: served for name, served in self.functions.items() if served[0] != worker}
        self.types = {name: provider for name, provider in self.types.items() if provider != worker}
        for call, (maker, executor) in list(self.calls.items()):
            if executor == worker:
                del self.calls[call]
                stopped = {"code": "invocation_stopped", "message": "Invocation stopped"}
                await self._send(maker, {"type": "invocationresult", "invocation_id": call, "function_id": "", "error": stopped})
        for trigger, (owner, registration) in list(self.triggers.items()):
            if owner == worker:
                await self._unbind(trigger, registration)
        self.watchers = {trigger: watching for trigger, watching in self.watchers.items() if watching[0] != worker}
        event = {"event": "worker_disconnected", "worker_id": worker}
        for watching, function in self.watchers.values():
            asked = {"type": "invokefunction", "invocation_id": str(uuid.uuid4()), "function_id": function, "data": event}
            await self._send(watching, asked)

    async def _reject_function(self, worker: str, function: str) -> None:
        self.rejections += 1
        rejected = {"type": "registrationrejected", "code": "FUNCTION_NAMESPACE_CONFLICT", "namespace": "default"}
        await self._send(worker, {**rejected, "function_id": function, "owner_worker_id": self.functions[function][0]})

    async def _reject(self, worker: str, name: str) -> None:
        rejected = {"type": "registrationrejected", "code": "WORKER_NAMESPACE_CONFLICT", "namespace": "default"}
        await self._send(worker, {**rejected, "worker_name": name, "owner_worker_id": ""})
        await self.workers[worker].close()

    async def _send(self, worker: str | None, frame: Frame) -> None:
        if worker in self.workers and not self.workers[worker].closed:
            await self.workers[worker].send_json(frame)

    async def _unbind(self, trigger: str, registration: Frame) -> None:
        del self.triggers[trigger]
        gone = {"type": "unregistertrigger", "id": trigger, "trigger_type": registration["trigger_type"]}
        await self._send(self.types.get(registration["trigger_type"]), gone)

    async def _take(self, worker: str, frame: Frame) -> None:
        match frame["type"]:
            case "registerfunction" if self._first_wins and self.functions.get(frame["id"], (worker,))[0] != worker:
                await self._reject_function(worker, frame["id"])
            case "registerfunction":
                self.functions[frame["id"]] = (worker, frame)
            case "unregisterfunction":
                if self.functions.get(frame["id"], ("", {}))[0] == worker:
                    del self.functions[frame["id"]]
            case "registertriggertype":
                self.types[frame["id"]] = worker
                for _, registration in list(self.triggers.values()):
                    if registration["trigger_type"] == frame["id"]:
                        await self._send(worker, registration)
            case "registertrigger" if frame["trigger_type"] == "engine::workers-available":
                self.watchers[frame["id"]] = (worker, frame["function_id"])
            case "registertrigger":
                self.triggers[frame["id"]] = (worker, frame)
                await self._send(self.types.get(frame["trigger_type"]), frame)
            case "unregistertrigger":
                if frame["id"] in self.triggers:
                    await self._unbind(frame["id"], self.triggers[frame["id"]][1])
            case "triggerregistrationresult":
                owner, _ = self.triggers.get(frame["id"], (None, None))
                if frame.get("error") and self.types.get(frame["trigger_type"]) == worker:
                    await self._send(owner, frame)
            case "invokefunction":
                task = asyncio.create_task(self._invoke(worker, frame))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case "invocationresult":
                maker, _ = self.calls.pop(frame["invocation_id"], (None, None))
                if frame.get("result") is None:
                    frame.pop("result", None)
                await self._send(maker, frame)

    async def _invoke(self, worker: str, frame: Frame) -> None:
        function = frame["function_id"]
        call = frame.get("invocation_id")
        answer: Frame = {"type": "invocationresult", "invocation_id": call, "function_id": function}
        served = self.functions.get(function)
        while function.endswith("::list") and self.holds_lists():
            await asyncio.sleep(0.01)
        if function == "engine::workers::register":
            name = frame["data"]["name"]
            if self._unique_names and name in [about["name"] for about in self.about.values()]:
                await self._reject(worker, name)
                return
            self.about[worker] = frame["data"]
            answer["result"] = {"success": True}
        elif function == "engine::workers::list":
            rows = [{"id": known, "name": about["name"], "functions": []} for known, about in self.about.items()]
            answer["result"] = {"workers": rows}
        elif function == "engine::functions::list":
            rows = [
                {
                    "function_id": name,
                    "description": registration.get("description"),
                    "request_format": None,
                    "response_format": None,
                    "metadata": registration.get("metadata"),
                }
                for name, (_, registration) in sorted(self.functions.items())
            ]
            answer["result"] = {"functions": rows}
        elif function == "engine::triggers::list" and self._first_wins:
            rows = [
                {"id": name, "namespace": "default", "worker_name": self.about.get(provider, {}).get("name"), "description": ""}
                for name, provider in self.types.items()
            ]
            answer["result"] = {"triggers": rows}
        elif function == "engine::trigger-types::list" and not self._first_wins:
            answer["result"] = {"trigger_types": [{"id": name, "description": ""} for name in self.types]}
        elif function == "engine::triggers::list":
            answer["result"] = {"triggers": [registration for _, registration in self.triggers.values()]}
        elif served is None:
            answer["error"] = {"code": "function_not_found", "message": f"Function {function} not found"}
        else:
            call = call or str(uuid.uuid4())
            data = frame.get("data")
            if isinstance(data, dict):
                data = dict(sorted({**data, "_caller_worker_id": worker}.items()))
            self.calls[call] = (worker, served[0])
            await self._send(served[0], {"type": "invokefunction", "invocation_id": call, "function_id": function, "data": data})
            return
        if call is not None:
            await self._send(worker, answer)
