"""A worker made of frames, the same for engines of all versions, whose handlers write, and fail now and then."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
import uuid
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp

CALL_SECONDS = 10.0
PAUSE_SECONDS = 0.05

Frame = dict[str, Any]

SCOPE, ECHO, ASIDE = "upgrade", "upgrade echo", "upgrade aside"
ONE_KEY = "k0"

RETRY = {"max_attempts": 20, "backoff_ms": 20, "max_backoff_ms": 200}

TRIGGERS: dict[str, dict[str, Any]] = {
    "upgrade::all": {"scope": SCOPE, "retry": RETRY},
    "upgrade::key": {"scope": SCOPE, "key": ONE_KEY, "retry": RETRY},
    "upgrade::some": {"scope": SCOPE, "condition_function_id": "upgrade::is_wanted"},
    "upgrade::echo": {"scope": ECHO},
    "upgrade::aside": {"scope": ASIDE},
}
"""Function → its trigger's config."""


def is_wanted(event: Frame) -> bool:
    """The condition of `upgrade::some`."""
    return zlib.crc32(json.dumps(event["new_value"]).encode()) % 3 > 0


@dataclass
class Handled:
    """One call of a handler."""

    function_id: str
    event: Frame
    event_id: str
    attempt: int
    engine: str
    version: str
    begun: int
    done: int | None = None
    """When it was over, and its answer on the way; None where it failed."""


@dataclass
class Journal:
    """What all workers together were called with."""

    handled: list[Handled] = field(default_factory=list)
    free: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while `upgrade::echo` goes on; else its calls wait, and events behind them."""
    tries: Counter[str] = field(default_factory=Counter)
    """Event → how often its handler tried to write."""
    traces: int = 0
    """How many deliveries had a `traceparent`, which writes within them were given, too."""

    def of(self, function_id: str) -> list[Handled]:
        """The calls of one handler, in order."""
        return [each for each in self.handled if each.function_id == function_id]


class Worker:
    """Serves all handlers at one engine, whichever process is there; use with `async with`."""

    def __init__(self, name: str, url: str, version: Any, journal: Journal) -> None:
        self.name = name
        self._url = url
        self._version = version
        """Tells the version of what delivers, empty where it is just being replaced."""
        self._journal = journal
        self._ids = {function_id: str(uuid.uuid4()) for function_id in TRIGGERS}
        self._calls: dict[str, asyncio.Future[Frame]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._chance = random.Random(name)
        self.registered = asyncio.Event()
        """Set while its triggers are registered."""

    async def __aenter__(self) -> Worker:
        self._session = aiohttp.ClientSession()
        self._running = asyncio.create_task(self._run(), name=f"worker {self.name}")
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (self._running, *self._tasks):
            task.cancel()
        await asyncio.gather(self._running, *self._tasks, return_exceptions=True)
        await self._session.close()

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                async with self._session.ws_connect(self._url, max_msg_size=0) as socket:
                    await self._live(socket)
            self.registered.clear()
            for call in self._calls.values():
                if not call.done():
                    call.set_exception(ConnectionError("the engine has gone"))
            await asyncio.sleep(PAUSE_SECONDS)

    async def _live(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        about = {"runtime": "python", "version": "0.25.0", "name": self.name, "os": "", "pid": 1}
        registering = self._start(self._register(about))
        async for message in socket:
            frame = json.loads(message.data)
            if frame["type"] == "invokefunction":
                self._start(self._serve(frame, self._version()))
            elif frame["type"] == "invocationresult":
                call = self._calls.pop(frame["invocation_id"], None)
                if call is not None and not call.done():
                    call.set_result(frame)
            elif frame["type"] == "triggerregistrationresult" and frame.get("error"):
                raise AssertionError(f"{self.name}: {frame}")
        registering.cancel()

    def _start(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _register(self, about: Frame) -> None:
        await self.call("engine::workers::register", about)
        for function_id in (*TRIGGERS, "upgrade::is_wanted"):
            await self._send({"type": "registerfunction", "id": function_id})
        for function_id, config in TRIGGERS.items():
            registration = {"trigger_type": "state", "function_id": function_id, "config": config}
            await self._send({"type": "registertrigger", "id": self._ids[function_id], **registration})
        # Where state is an attached worker's, what was sent before this call is not there before its answer, but soon after.
        while len(await self._own_rows()) < len(TRIGGERS):
            await asyncio.sleep(PAUSE_SECONDS)
        self.registered.set()

    async def _own_rows(self) -> set[str]:
        """Which handlers have a subscription in the store."""
        answer = await self.call("iii-state::triggers", {})
        rows = [] if answer.get("error") else answer["result"]["triggers"]
        return {row["function_id"] for row in rows if row["hosts"]} & TRIGGERS.keys()

    async def call(self, function_id: str, data: Frame, **members: Any) -> Frame:
        """Call a function; the frame of its answer."""
        invocation_id = str(uuid.uuid4())
        answer = self._calls[invocation_id] = asyncio.get_running_loop().create_future()
        try:
            await self._send(
                {"type": "invokefunction", "function_id": function_id, "data": data, "invocation_id": invocation_id, **members}
            )
            async with asyncio.timeout(CALL_SECONDS):
                frame: Frame = await answer
                return frame
        finally:
            self._calls.pop(invocation_id, None)

    async def _send(self, frame: Frame) -> None:
        await self._socket.send_str(json.dumps(frame))

    async def _serve(self, frame: Frame, version: str) -> None:
        members = {"type": "invocationresult", "invocation_id": frame["invocation_id"], "function_id": frame["function_id"]}
        with contextlib.suppress(ConnectionError, aiohttp.ClientError, TimeoutError):
            if frame["function_id"] == "upgrade::is_wanted":
                await self._send({**members, "result": is_wanted(frame["data"])})
            elif await self._handle(frame, version):
                await self._send({**members, "result": {}})
            else:
                await self._send({**members, "error": {"code": "invocation_failed", "message": "this handler fails now and then"}})

    async def _handle(self, frame: Frame, version: str) -> bool:
        """Be called with an event by an engine of a version; whether that went well."""
        told = frame["metadata"]["iii_state"]
        handled = Handled(
            frame["function_id"], frame["data"], told["event_id"], told["attempt"], self.name, version, time.monotonic_ns()
        )
        self._journal.handled.append(handled)
        await asyncio.sleep(self._chance.uniform(0, 0.01))
        if handled.function_id == "upgrade::key" and handled.attempt == 1 and zlib.crc32(handled.event_id.encode()) % 5 == 0:
            return False
        if handled.function_id == "upgrade::all" and not await self._write_within(frame, handled):
            return False
        if handled.function_id == "upgrade::echo":
            await self._journal.free.wait()
        handled.done = time.monotonic_ns()
        return True

    async def _write_within(self, frame: Frame, handled: Handled) -> bool:
        """Write a key that another handler watches, as a part of this delivery, with its trace as SDKs do; whether it went well."""
        trace = {name: frame[name] for name in ("traceparent", "baggage") if frame.get(name)}
        self._journal.traces += bool(trace)
        ops = [
            {"type": "set", "path": "w", "value": handled.event_id},
            {"type": "increment", "path": "n", "by": 1},
        ]
        request = {"scope": ECHO, "key": handled.event["key"], "ops": ops}
        self._journal.tries[handled.event_id] += 1
        answer = await self.call("state::update", request, **trace)
        return not answer.get("error")
