"""The engine that is fuzzed: a process of `iii-state serve`, how much memory it takes, and what it has written."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from pathlib import Path
from typing import Any

from tests.fuzz.connection import SECONDS, Connection, frame
from tests.support.engines.processes import EngineProcess

CONFIG: dict[str, Any] = {
    "adapter": {"name": "kv", "config": {}},
    # What is registered and gone is forgotten soon, and what is never handled is not kept: memory is to be flat.
    "dispatch": {"retention_ms": 1000, "max_queue_length": 100, "on_full": "drop_oldest", "timeout_ms": 1000, "backoff_ms": 100},
}

_BAD_WORDS = ("Traceback", "could not be handled", "never retrieved", "never awaited", "Fatal")


def redis_config(url: str) -> dict[str, Any]:
    """The same over Redis."""
    return {**CONFIG, "adapter": {"name": "redis", "config": {"redis_url": url}}}


def resident_bytes(engine: EngineProcess) -> int:
    """How much memory the process has."""
    status = Path(f"/proc/{engine.process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))


def workers(engine: EngineProcess) -> int:
    """How many workers are connected."""
    with urllib.request.urlopen(f"http://127.0.0.1:{engine.port}/healthz", timeout=SECONDS) as answer:
        count: int = json.load(answer)["workers"]
    return count


def complaints(engine: EngineProcess) -> list[str]:
    """The lines of its log that none should be, whatever it was sent."""
    return [line for line in engine.stderr.text().splitlines() if any(word in line for word in _BAD_WORDS)]


async def emptied(engine: EngineProcess) -> None:
    """Delete all values, by calls on a connection of its own, and wait until every other connection is gone.

    Raises AssertionError if a call is not answered, or a connection stays.
    """
    async with asyncio.timeout(SECONDS):
        while await asyncio.to_thread(workers, engine):
            await asyncio.sleep(0.05)
    caller = Caller(engine.port)
    async with caller:
        groups = (await caller.call("state::list_groups", {}))["result"]["groups"]
        for scope in groups:
            keys = (await caller.call("state::list_keys", {"scope": scope}))["result"]["keys"]
            await asyncio.gather(*(caller.call("state::delete", {"scope": scope, "key": key}) for key in keys))
        assert (await caller.call("state::list_groups", {}))["result"]["groups"] == []


class Caller:
    """Calls functions on one connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: Connection
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._number = 0

    async def __aenter__(self) -> Caller:
        self._connection = await Connection.open(self._port, self._receive)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    def _receive(self, text: bytes) -> None:
        answer = json.loads(text)
        future = self._waiting.pop(answer.get("invocation_id", ""), None)
        if future is not None:
            future.set_result(answer)

    async def call(self, function_id: str, data: Any) -> dict[str, Any]:
        """The answer to a call, as its frame."""
        self._number += 1
        name = f"call-{self._number}"
        future = self._waiting[name] = asyncio.get_running_loop().create_future()
        message = {"type": "invokefunction", "function_id": function_id, "data": data, "invocation_id": name}
        await self._connection.send(frame(json.dumps(message).encode()))
        return await asyncio.wait_for(future, SECONDS)
