"""`iii-state stats` and `iii-state top`: what was counted, rates, and a live screen on a real terminal that a key ends."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from iii_state import Engine, StateModule
from iii_state.cli import main
from iii_state.cli.live import room_for
from iii_state.cli.sampling import Timing
from tests.support.engines.processes import free_port
from tests.support.redis.server import shared_server

COMMAND = [sys.executable, "-m", "iii_state"]
WIDTH, HEIGHT = 80, 24


class Running:
    """An engine in this process on a Redis, with a handler that fails for the value "bad", and one that is paused."""

    def __init__(self, engine: Engine, url: str, prefix: str) -> None:
        self.engine = engine
        self.url = url
        self.redis = ("--redis-url", shared_server().url, "--prefix", prefix)

    async def set(self, key: str, value: object) -> None:
        await self.engine.trigger({"function_id": "state::set", "payload": {"scope": "orders", "key": key, "value": value}})

    async def ask(self, *arguments: str) -> Result:
        result = await asyncio.to_thread(CliRunner().invoke, main, list(arguments))
        assert result.exit_code == 0, result.output
        return result


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    prefix = f"stats-{free_port()}"
    shared_server().client.flushdb()
    async with Engine() as engine:
        adapter = {"name": "redis", "config": {"redis_url": shared_server().url, "prefix": prefix}}
        await engine.add_module(StateModule({"adapter": adapter, "dispatch": {"max_attempts": 1}}))
        host, port = await engine.serve("127.0.0.1", 0)

        def handle(event: dict[str, Any]) -> None:
            if event["new_value"] == "bad":
                raise RuntimeError("cannot take it")

        engine.register_function("orders::changed", handle)
        engine.register_function("orders::paused", handle)
        for function_id in ("orders::changed", "orders::paused"):
            await engine.register_trigger({"type": "state", "function_id": function_id, "config": {"scope": "orders"}})
        await engine.trigger({"function_id": "iii-state::trigger_pause", "payload": {"function_id": "orders::paused"}})
        yield Running(engine, f"ws://{host}:{port}", prefix)


def tables(text: str) -> dict[str, dict[str, dict[str, str]]]:
    """By the name of a table and what stands first in a row."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    rows: dict[str, dict[str, str]] = {}
    head: list[str] = []
    for line in text.splitlines()[1:]:
        cells = line.split("\t")
        if len(cells) == 1:
            rows = found.setdefault(line, {})
            head = []
        elif not head:
            head = cells
        else:
            rows[cells[0]] = dict(zip(head, cells, strict=True))
    return found


async def until_dead(running: Running, count: int) -> None:
    async with asyncio.timeout(20):
        while (await running.engine.trigger({"function_id": "iii-state::dead_list", "payload": {}}))["total"] != count:
            await asyncio.sleep(0.01)


async def test_stats_tell_what_was_counted(running: Running) -> None:
    for number in range(20):
        await running.set(f"k{number}", number)
    await running.set("k", "bad")
    await until_dead(running, 1)
    printed = (await running.ask("stats", "--url", running.url)).stdout
    found = tables(printed)
    assert list(found) == ["Calls", "Triggers", "Engines"]
    assert found["Calls"]["state::set"]["CALLS"] == "21"
    assert found["Calls"]["state::set"]["P50"] != "-"
    changed, paused = found["Triggers"]["orders::changed"], found["Triggers"]["orders::paused"]
    assert (changed["HANDLED"], changed["FAILED"], changed["DEAD"], changed["STATE"]) == ("20", "1", "1", "-")
    assert (paused["WAITING"], paused["STATE"].startswith("paused ")) == ("21", True)
    assert len(found["Engines"]) == 1
    assert "21 waiting, 0 out, 1 dead letter, 2 triggers, 1 engine" in printed.splitlines()[0]
    whole = json.loads((await running.ask("stats", "--url", running.url, "--json")).stdout)
    assert set(whole) == {"triggers", "engines", "figures"}


async def test_of_a_redis_without_an_engine_in_between_what_waits_is_told(running: Running) -> None:
    await running.set("k", 1)
    found = tables((await running.ask("stats", *running.redis)).stdout)
    assert list(found) == ["Triggers", "Engines"]
    assert (found["Triggers"]["orders::paused"]["WAITING"], found["Triggers"]["orders::changed"]["HANDLED"]) == ("1", "-")


async def test_in_a_pipe_top_prints_rates_once(running: Running) -> None:
    async def write() -> None:
        number = 0
        while True:
            number += 1
            await running.set(f"k{number % 10}", number)

    writing = asyncio.create_task(write())
    try:
        printed = (await running.ask("top", "--url", running.url, "--interval", "0.5")).stdout
    finally:
        writing.cancel()
    found = tables(printed)
    assert float(found["Calls"]["state::set"]["CALLS/S"].replace(",", "")) > 0
    assert float(found["Triggers"]["orders::changed"]["HANDLED/S"].replace(",", "")) > 0
    assert "handled/s" in printed.splitlines()[0]


class Terminal:
    """`iii-state` on a terminal of 80 by 24, and what it draws."""

    def __init__(self, *arguments: str) -> None:
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
        environment = {**os.environ, "TERM": "xterm", "LANG": "C.UTF-8", "COLUMNS": str(WIDTH), "LINES": str(HEIGHT)}
        self.before = termios.tcgetattr(theirs)
        self.theirs = theirs
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        self.drawn = b""
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        while True:
            try:
                more = os.read(self.ours, 65536)
            except OSError:
                return
            if not more:
                return
            self.drawn += more

    async def shows(self, *texts: str) -> None:
        async with asyncio.timeout(30):
            while not all(text.encode() in self.drawn for text in texts):
                assert self.process.poll() is None, self.drawn.decode(errors="replace")
                await asyncio.sleep(0.02)

    def press(self, key: str) -> None:
        os.write(self.ours, key.encode())

    async def ends(self) -> int:
        return await asyncio.to_thread(self.process.wait, 20)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.theirs)
        os.close(self.ours)


@pytest.mark.parametrize("key", ["q", "\x03"])
async def test_a_live_screen_shows_what_happens_until_a_key_ends_it(running: Running, key: str) -> None:
    terminal = Terminal("top", "--url", running.url, "--interval", "0.3")
    try:
        await terminal.shows("q ends", "Triggers", "orders::changed", "orders::paused", "paused")
        await running.set("k", "bad")
        await terminal.shows("1 dead letter")
        terminal.press(key)
        assert await terminal.ends() == 0
        assert termios.tcgetattr(terminal.theirs) == terminal.before  # the terminal is as it was
        screens = terminal.drawn.decode().split("\x1b[H")
        lines = [line for screen in screens for line in screen.split("\r\n")]
        assert max(map(width_of, lines)) <= WIDTH
        assert max(screen.count("\n") for screen in screens) < HEIGHT
    finally:
        terminal.close()


def width_of(line: str) -> int:
    """How many columns a line takes, what sets colours left out."""
    return len(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line).rstrip())


async def test_an_engine_that_is_not_there_is_told_in_words() -> None:
    result = await asyncio.to_thread(CliRunner().invoke, main, ["top", "--url", f"ws://127.0.0.1:{free_port()}", "--once"])
    assert (result.exit_code, "no iii engine answers" in result.stderr) == (1, True), result.output


def test_room_is_shared_and_what_one_table_leaves_is_for_the_others() -> None:
    assert room_for([10, 2, 1], 9) == [6, 2, 1]
    assert room_for([1, 1], 20) == [1, 1]
    assert room_for([50, 50, 50], 2) == [1, 1, 1]


def test_a_quantile_is_what_the_buckets_tell() -> None:
    assert Timing([1.0, 2.0], [0, 0, 0]).quantile(0.5) is None
    assert Timing([1.0, 2.0], [2, 2, 0]).quantile(0.5) == 1.0
    assert Timing([1.0, 2.0], [0, 0, 4]).quantile(0.99) == 2.0
    assert Timing([1.0, 2.0], [5, 1, 0]).since(Timing([1.0, 2.0], [5, 0, 0])).quantile(0.5) == 1.5
