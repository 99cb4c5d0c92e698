"""A backup that is made under traffic, as the page `running` says, and restored after everything has been killed.

What comes back is one moment of what was written; and of what was written until then no event is lost: it was handled before, or
comes after the restore, in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from iii_state.client.about import About
from iii_state.client.client import Client
from tests.support.engines.processes import EngineProcess, running_engine
from tests.support.engines.raw_worker import Frame, RawWorker
from tests.support.redis.server import RedisServer
from tests.support.waiting import until

KEYS = 4


class Traffic:
    """A writer of 1, 2, 3 … to the keys in turn, and a worker that handles what comes of it."""

    def __init__(self, client: Client, worker: RawWorker) -> None:
        self._client = client
        self._worker = worker
        self.written = 0
        self.handled: list[int] = []
        """The numbers whose handlers have returned."""
        self.free = asyncio.Event()
        self.free.set()
        """Whether handlers return."""
        self._answering: set[asyncio.Task[None]] = set()

    async def write(self) -> None:
        """Write until cancelled."""
        for number in itertools.count(1):
            request = {"scope": "s", "key": f"k{number % KEYS}", "value": number}
            await self._client.call("state::set", json.dumps(request).encode())
            self.written = number

    async def handle(self) -> None:
        """Handle until cancelled."""
        while True:
            call = await self._worker.expect("invokefunction", function_id="f")
            task = asyncio.create_task(self._answer(call))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _answer(self, call: Frame) -> None:
        await self.free.wait()
        self.handled.append(call["data"]["new_value"])
        await self._worker.answer(call, result=None)

    async def values(self) -> dict[str, int]:
        """What is stored."""
        keys = [f"k{number}" for number in range(KEYS)]
        found = json.loads(await self._client.call("state::get_many", json.dumps({"scope": "s", "keys": keys}).encode()) or b"")
        return {key: row["value"] for key, row in zip(keys, found["values"], strict=True)}

    async def is_idle(self) -> bool:
        (row,) = json.loads(await self._client.call("iii-state::triggers", b"{}") or b"")["triggers"]
        return not (row["waiting"] or row["pending"] or row["retrying"])


@asynccontextmanager
async def traffic_at(engine: EngineProcess) -> AsyncIterator[Traffic]:
    """A client and a worker of an engine; the worker has its trigger."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(engine.url) as socket,
        Client(engine.url, About("a writer"), call_seconds=30) as client,
    ):
        worker = RawWorker(socket)
        worker.hello = await worker.next()
        await worker.send("registerfunction", id="f")
        await worker.send("registertrigger", id="t", trigger_type="state", function_id="f", config={"scope": "s"})
        traffic = Traffic(client, worker)
        await until(lambda: _is_hosted(client))
        handling = asyncio.create_task(traffic.handle())
        try:
            yield traffic
        finally:
            handling.cancel()
            for task in (handling, *traffic._answering):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, ConnectionError, aiohttp.ClientError, TimeoutError, TypeError):
                    await task


async def _is_hosted(client: Client) -> bool:
    rows = json.loads(await client.call("iii-state::triggers", b"{}") or b"")["triggers"]
    return any(row["function_id"] == "f" and row["hosts"] for row in rows)


@asynccontextmanager
async def written(traffic: Traffic) -> AsyncIterator[None]:
    """Traffic for the length of a block: some events have been handled, and many wait."""
    writing = asyncio.create_task(traffic.write())
    try:
        await until(lambda: len(traffic.handled) > 100)
        traffic.free.clear()
        before = traffic.written
        await until(lambda: traffic.written > before + 200)
        yield
        await until(lambda: traffic.written > before + 400)
    finally:
        writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writing


async def check(engine: EngineProcess, handled_before: list[int], written_before: int) -> None:
    """What a restored store has is one moment, and all events up to it come."""
    async with traffic_at(engine) as traffic:
        values = await traffic.values()
        last = max(values.values())
        assert values == {f"k{number % KEYS}": number for number in range(last - KEYS + 1, last + 1)}, "one moment"
        assert 300 < last < written_before, "written before the backup was, and not all that was written"
        await until(traffic.is_idle)
        again = traffic.handled
        assert set(range(1, last + 1)) <= {*handled_before, *again}, "an event is lost"
        assert set(again) <= set(range(1, last + 1)), "an event of a write that is not there"
        assert len(again) > 100, "what waited has come"
        for key in range(KEYS):
            of_key = list(dict.fromkeys(number for number in again if number % KEYS == key))
            assert of_key == sorted(of_key)
            assert of_key[-1] == values[f"k{key}"]


async def test_a_kv_store_is_restored_from_a_backup_that_was_made_while_it_was_written(tmp_path: Path) -> None:
    store = tmp_path / "store"
    arguments = ["--file-path", str(store)]
    with running_engine(arguments) as engine:
        async with traffic_at(engine) as traffic:
            async with written(traffic):
                command = [sys.executable, "-m", "iii_state", "backup", "nightly", "--url", engine.url]
                done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
                assert done.returncode == 0, done.stderr
            before, count = list(traffic.handled), traffic.written
        engine.kill()
    copy = store / "backups" / "nightly"
    for name in ("state.sqlite3", "state.sqlite3-wal", "state.sqlite3-shm"):
        (store / name).unlink(missing_ok=True)
    copy.rename(store / "state.sqlite3")
    with running_engine(arguments) as engine:
        await check(engine, before, count)


async def test_redis_is_restored_from_a_snapshot_that_was_made_while_it_was_written(tmp_path: Path) -> None:
    with RedisServer() as redis, running_engine(["--redis-url", redis.url]) as engine:
        async with traffic_at(engine) as traffic:
            async with written(traffic):
                redis.client.bgsave()
                await until(lambda: not redis.client.info("persistence")["rdb_bgsave_in_progress"])
            before, count = list(traffic.handled), traffic.written
        engine.kill()
        shutil.copy(redis.folder / "dump.rdb", tmp_path / "dump.rdb")
        redis.kill()
    with RedisServer("--dir", str(tmp_path)) as again, running_engine(["--redis-url", again.url]) as engine:
        await check(engine, before, count)
