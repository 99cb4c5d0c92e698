"""Calls as this project's client makes them, and a handler that keeps what it is called with."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import uvloop

from iii_state.client.client import Client
from iii_state.host import Caller
from iii_state.tasks.results import Result
from iii_state.values import Json

SOON = 15.0


def call(url: str, function_id: str, payload: Any) -> Any:
    """Call a function as this project's client does. Raises `FunctionError`; bytes are a payload's JSON text."""

    async def action() -> bytes | None:
        async with Client(url) as client:
            data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
            return await client.call(function_id, data)

    answer = uvloop.run(asyncio.wait_for(action(), SOON))
    return None if answer is None else json.loads(answer)


async def call_over(client: Client, function_id: str, payload: Any) -> Any:
    """Call a function over a client that is connected."""
    async with asyncio.timeout(SOON):
        answer = await client.call(function_id, json.dumps(payload).encode())
    return None if answer is None else json.loads(answer)


class Seen:
    """A handler that keeps what it is called with."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def __call__(self, data: Json, caller: Caller) -> Result[bytes | None]:
        self.values.append(json.loads(bytes(data))["new_value"])
        return None
