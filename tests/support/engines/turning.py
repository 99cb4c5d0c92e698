"""A client of several engines."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from iii_state.client.about import About
from iii_state.client.client import Client
from iii_state.errors import ConnectionLost


class TurningClient:
    """Calls functions of one engine after the other: where one cannot be reached, or does not answer, the next.

    `pause_seconds` is how long it waits after an engine that could not be reached.
    """

    def __init__(self, urls: Sequence[str], first: int, name: str, call_seconds: float, pause_seconds: float) -> None:
        self._urls = urls
        self._next = first
        self._name = name
        self._call_seconds = call_seconds
        self._pause_seconds = pause_seconds
        self._client: Client | None = None
        self._leaving: list[asyncio.Task[None]] = []

    async def connect(self) -> Client:
        """The connection there is, or another one."""
        while self._client is None:
            client = Client(self._urls[self._next % len(self._urls)], About(self._name), call_seconds=self._call_seconds)
            self._next += 1
            try:
                self._client = await client.__aenter__()
            except ConnectionLost:
                await asyncio.sleep(self._pause_seconds)
        return self._client

    def leave(self) -> None:
        """Turn to another engine. One that is stopped says no good-bye, so that is not waited for."""
        if self._client is not None:
            self._leaving.append(asyncio.create_task(self._client.__aexit__()))
            self._client = None

    async def close(self) -> None:
        """Call nothing more."""
        self.leave()
        await asyncio.gather(*self._leaving)
