"""Writers in this process: over an engine's socket, or through an engine of their own on the same Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Protocol

from iii_state import Engine, FunctionError
from iii_state.errors import ConnectionLost
from tests.support.engines.turning import TurningClient
from tests.torture.journal import Journal
from tests.torture.writes import Op, Source, outcome_of

CALL_SECONDS = 7.0
PAUSE_SECONDS = 0.1
"""Before an engine that could not be reached is tried again."""


class Caller(Protocol):
    """How a writer calls a function. Raises `FunctionError` or `ConnectionLost`."""

    async def call(self, function_id: str, payload: dict[str, Any]) -> Any:
        """Call it, and give its result."""
        ...

    async def close(self) -> None:
        """Call nothing more."""
        ...


class EmbeddedCaller:
    """Calls functions of an engine in this process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def call(self, function_id: str, payload: dict[str, Any]) -> Any:
        return await self._engine.trigger({"function_id": function_id, "payload": payload})

    async def close(self) -> None:
        """The engine is its owner's to close."""


class SocketCaller(TurningClient):
    """Calls functions of engines over their sockets."""

    def __init__(self, urls: Sequence[str], first: int, name: str) -> None:
        super().__init__(urls, first, name, CALL_SECONDS, PAUSE_SECONDS)

    async def call(self, function_id: str, payload: dict[str, Any]) -> Any:
        client = await self.connect()
        try:
            answer = await client.call(function_id, json.dumps(payload).encode())
        except FunctionError as error:
            if error.code == "TIMEOUT":
                self.leave()
            raise
        except ConnectionLost:
            self.leave()
            raise
        return None if answer is None else json.loads(answer)


async def write_once(op: Op, caller: Caller, journal: Journal) -> str:
    """Make one write, and note it before and after. Its outcome."""
    function_id, payload = op.call()
    for part in op.parts():
        journal.note(**part.note())
    try:
        result = await caller.call(function_id, payload)
    except FunctionError as error:
        outcome = outcome_of(error.code)
        for part in op.parts():
            journal.note(answered=part.id, outcome=outcome, error=f"{error.code}: {error.message}")
        return outcome
    except ConnectionLost as error:
        for part in op.parts():
            journal.note(answered=part.id, outcome="unknown", error=str(error))
        return "unknown"
    for part, values in zip(op.parts(), op.told(result), strict=True):
        journal.note(answered=part.id, outcome="ok", **values)
    return "ok"


async def write_until(stopped: asyncio.Event, source: Source, caller: Caller, journal: Journal) -> None:
    """Write, one call after the other."""
    try:
        while not stopped.is_set():
            await asyncio.sleep(source.pause())
            await write_once(source.next(), caller, journal)
    finally:
        await caller.close()
        journal.close()
