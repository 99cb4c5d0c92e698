"""A module that keeps JSON texts in a dict: what the engine's tests call where the real state module is not the point."""

from __future__ import annotations

import asyncio
import json

import msgspec
from msgspec import Raw

from iii_state import values
from iii_state.errors import FunctionError
from iii_state.host import Caller, Host, Trigger
from iii_state.tasks.results import Result
from iii_state.values import Json


class Request(msgspec.Struct):
    scope: str
    key: str
    value: Raw = Raw(b"null")


_request = msgspec.json.Decoder(Request)


class DictModule:
    """`state::get` and `set` that answer at once, `slow::get` whose Future the test settles, and a trigger type `state`."""

    name = "dict"

    def __init__(self) -> None:
        self.values: dict[str, dict[str, bytes]] = {}
        self.triggers: dict[str, Trigger] = {}
        self.log: list[tuple[str, str]] = []
        self.slow: list[asyncio.Future[bytes | None]] = []
        self.registrations: list[asyncio.Future[None]] | None = None
        """Where a list, registering a trigger answers with a Future that the test settles."""
        self.failing: str | None = None
        self.stopped = False

    async def start(self, host: Host) -> None:
        self.host = host
        host.register_function("state::get", self.get, description="Get a value")
        host.register_function("state::set", self.set, metadata=lambda: b'{"m":1}')
        host.register_function("state::fail", self.fail)
        host.register_function("slow::get", self.slow_get)
        host.register_function("echo", self.echo)
        host.register_trigger_type("state", self, description="State trigger")

    async def stop(self) -> None:
        self.stopped = True

    async def health(self) -> str | None:
        return self.failing

    def get(self, data: Json, caller: Caller) -> bytes | None:
        request = _request.decode(data)
        scope = self.values.get(request.scope)
        return None if scope is None else scope.get(request.key)

    def set(self, data: Json, caller: Caller) -> bytes | None:
        request = _request.decode(data)
        scope = self.values.setdefault(request.scope, {})
        old = scope.get(request.key)
        new = scope[request.key] = bytes(request.value)
        for trigger in list(self.triggers.values()):
            answer = self.host.invoke(trigger.function_id, new, namespace=trigger.namespace, metadata=trigger.metadata)
            if isinstance(answer, asyncio.Future):
                answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        return b'{"old_value":%b,"new_value":%b}' % (old or b"null", new)

    def fail(self, data: Json, caller: Caller) -> bytes | None:
        if bytes(data) == b'"code"':
            raise FunctionError("MY_CODE", "as asked for")
        raise RuntimeError("boom")

    def slow_get(self, data: Json, caller: Caller) -> Result[bytes | None]:
        self.slow.append(asyncio.get_running_loop().create_future())
        return self.slow[-1]

    def echo(self, data: Json, caller: Caller) -> bytes | None:
        return values.encode({"data": json.loads(bytes(data)), "worker_id": caller.worker_id, "namespace": caller.namespace})

    def register(self, trigger: Trigger, replaces: Trigger | None = None) -> Result[None]:
        if replaces is not None:
            self.log.append(("replace", replaces.id))
            self.triggers.pop(replaces.id, None)
        if trigger.config == b'"bad"':
            raise FunctionError("trigger_registration_failed", "Failed to parse trigger config: expected an object")
        self.log.append(("register", trigger.id))
        if self.registrations is None:
            self.triggers[trigger.id] = trigger
            return None
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.registrations.append(future)
        future.add_done_callback(lambda _: self.triggers.update({trigger.id: trigger}))
        return future

    def unregister(self, trigger: Trigger, *, disconnected: bool) -> Result[None]:
        self.log.append(("disconnected" if disconnected else "unregister", trigger.id))
        self.triggers.pop(trigger.id, None)
        return None
