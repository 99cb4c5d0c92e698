"""`iii-state watch` with `--after` or `--initial`: what the change log of a scope tells, across restarts of the engine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import click

from iii_state.access import WATCH_FUNCTIONS
from iii_state.cli.calls import engine_at
from iii_state.cli.log_source import LogSource
from iii_state.client.about import About
from iii_state.client.address import shown
from iii_state.client.client import Client
from iii_state.client.following import Following
from iii_state.errors import ConnectionLost
from iii_state.host import Caller
from iii_state.values import Json

PAUSE_SECONDS = 0.5
"""Between two attempts to connect to an engine that has gone away."""


@dataclass
class LogWatch:
    """Shows what is read of a scope, or of one of its keys, until `stop`. Each event wakes it up (`following.Woken`)."""

    url: str
    place: tuple[str, str | None]
    log: Following
    show: Callable[[Json], None]
    stop: asyncio.Event
    function_id: str = field(default_factory=lambda: f"{WATCH_FUNCTIONS}{uuid.uuid4()}")
    _told: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, words: str) -> None:
        """Show; `words` are said once it has begun. Raises what reading raises, `ConnectionLost` only where it has never begun."""
        stopped = asyncio.create_task(self.stop.wait())
        is_away = False
        try:
            while not self.stop.is_set():
                try:
                    await self._connected(stopped, "watching again" if is_away else words)
                except ConnectionLost:
                    if not self.log.has_begun:
                        raise
                    if not is_away:
                        click.echo(f"the connection to {shown(self.url)} was lost; waiting for the engine to come back", err=True)
                    is_away = True
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self.stop.wait(), PAUSE_SECONDS)
        finally:
            stopped.cancel()
            if self.log.has_begun and self.log.position is not None:
                click.secho(f"after: {self.log.position}", dim=True, err=True)

    async def _connected(self, stopped: asyncio.Task[Any], words: str) -> None:
        """Show until this connection is over, or `stop`."""
        async with Client(engine_at(self.url), About(f"iii-state-watch:{os.getpid()}")) as client:
            reading, lost = asyncio.create_task(self._read(client, words)), asyncio.create_task(client.closed())
            try:
                await asyncio.wait({stopped, lost, reading}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                reading.cancel()
                lost.cancel()
                ends = await asyncio.gather(reading, lost, return_exceptions=True)
            for end in ends:
                if isinstance(end, Exception) and not self.stop.is_set():
                    raise end

    async def _read(self, client: Client, words: str) -> None:
        scope, key = self.place
        source = LogSource(client, scope, key)
        config = {"scope": scope, **({} if key is None else {"key": key}), "retention_ms": 0, "concurrency": 1}
        client.serving.register_function(self.function_id, self._hear)
        await client.triggers.register("state", self.function_id, config)
        await self.log.begin(source)
        if words:
            click.secho(words, dim=True, err=True)
        while (seen := await self.log.next(source, self)) is not None:
            self.show(seen.event)

    # -- what says that there is something to read

    def _hear(self, event: Json, caller: Caller) -> None:
        self._told.set()

    @property
    def is_over(self) -> bool:
        """Whether nothing more is wanted."""
        return self.stop.is_set()

    def clear(self) -> None:
        """What has been said is seen to now."""
        self._told.clear()

    async def wait(self) -> None:
        """Until something is said."""
        await self._told.wait()
