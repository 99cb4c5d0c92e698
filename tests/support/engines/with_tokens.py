"""An engine that wants tokens, and workers that come with them: who may do what is the test's to say."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from iii_state.engine import Engine
from iii_state.guard import Guard
from iii_state.guard import tokens as made
from iii_state.state.module import StateModule
from tests.support.engines.raw_worker import Frame, Port, RawWorker

Entry = Mapping[str, Any]
"""What stands in a tokens file beside name and hash: `{"rights": {…}}`, say."""


class Tokens:
    """A tokens file, and the tokens that its entries stand for; an entry is known by its name."""

    def __init__(self, file: Path, entries: Mapping[str, Entry]) -> None:
        self.file = file
        self._tokens: dict[str, str] = {}
        self.write(entries)

    def write(self, entries: Mapping[str, Entry]) -> None:
        """Write the file; who was in it before keeps his token. A name counts up to its first blank: `ci 2` is another of `ci`."""
        rows = []
        for label, entry in entries.items():
            token = self._tokens.setdefault(label, made.make())
            rows.append({"name": label.split(" ")[0], "hash": made.hashed(token), **entry})
        written = self.file.with_suffix(".new")
        written.write_text(json.dumps({"tokens": rows}))
        written.replace(self.file)

    def of(self, label: str) -> str:
        """The token itself."""
        return self._tokens[label]


class GuardedPort(Port):
    """The port of an engine that wants tokens."""

    def __init__(self, session: aiohttp.ClientSession, host: str, port: int, tokens: Tokens) -> None:
        super().__init__(session, host, port)
        self.tokens = tokens

    async def join(self, label: str, **description: Any) -> RawWorker:
        """A worker with somebody's token, which has introduced itself."""
        headers = {"Authorization": f"Bearer {self.tokens.of(label)}"}
        socket = await self.session.ws_connect(f"{self.url}/", max_msg_size=0, headers=headers)
        worker = RawWorker(socket)
        self._workers.append(worker)
        worker.hello = await worker.next()
        await worker.call("engine::workers::register", {"name": label, "pid": 1, **description})
        return worker


class Guarded:
    """An engine with state, its tokens, and its port."""

    def __init__(self, engine: Engine, port: GuardedPort) -> None:
        self.engine = engine
        self.port = port
        self.tokens = port.tokens

    async def join(self, label: str, **description: Any) -> RawWorker:
        """See `GuardedPort.join`."""
        return await self.port.join(label, **description)

    async def give(self, entries: Mapping[str, Entry]) -> None:
        """Other rights, from now on."""
        self.tokens.write(entries)
        await self.engine.reload_guard()


@asynccontextmanager
async def guarded(
    file: Path, entries: Mapping[str, Entry], config: Mapping[str, Any] | None = None, *, with_state: bool = True
) -> AsyncIterator[Guarded]:
    """An engine with these tokens, in this process. `config` is that of its state module."""
    tokens = Tokens(file, entries)
    async with Engine(guard=Guard.of({"tokens_file": str(file), **(config or {}).get("server", {})})) as engine:
        if with_state:
            await engine.add_module(StateModule(config))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            port = GuardedPort(session, *await engine.serve("127.0.0.1", 0), tokens)
            yield Guarded(engine, port)
            await port.disconnect()


def code(frame: Frame) -> str | None:
    """The code of a call's error, None where it succeeded."""
    error = frame.get("error")
    return None if error is None else error["code"]


def limited(**rights: Any) -> Entry:
    """The entry of a token with these rights."""
    return {"rights": rights}
