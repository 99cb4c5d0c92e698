"""`iii-state history`, and `watch` with a change log, against real engine processes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_cli import iii_state
from tests.support.engines.processes import EngineProcess, Lines, free_port, running_engine
from tests.support.redis.server import shared_server

HISTORY = {"history": [{"scope": "orders"}, {"scope": "short", "max_length": 2}]}


@pytest.fixture
def engine() -> Iterator[EngineProcess]:
    with running_engine(config=HISTORY) as process:
        yield process


def run(engine: EngineProcess, *arguments: str) -> tuple[list[Any], str]:
    """What a command prints, line by line, and what it says."""
    done = iii_state(*arguments, url=engine.url)
    assert done.returncode == 0, done
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def position_in(said: str) -> str:
    found = re.search(r"^after: (\S+)$", said, re.MULTILINE)
    assert found, said
    return found[1]


class Watching:
    """`iii-state watch`, and what it prints."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "iii_state", "watch", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.out, self.err = Lines(self.process.stdout), Lines(self.process.stderr)

    def event(self, pattern: str) -> None:
        self.out.wait_for(re.compile(pattern), 20)

    def end(self) -> str:
        """Interrupt it; the position that it tells."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(10) == 0
        return self.err.wait_for(re.compile(r"^after: (\S+)$"), 10)[1]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def test_history_prints_every_change_and_goes_on_from_a_position(engine: EngineProcess) -> None:
    for number in range(3):
        iii_state("set", "orders", f"o{number % 2}", str(number), url=engine.url)
    changes, said = run(engine, "history", "orders")
    assert [(change["revision"], change["event"]["key"], change["event"]["new_value"]) for change in changes] == [
        (1, "o0", 0),
        (2, "o1", 1),
        (3, "o0", 2),
    ]
    assert set(changes[0]) == {"revision", "at_ms", "event"}
    iii_state("delete", "orders", "o1", url=engine.url)
    changes, said = run(engine, "history", "orders", "--after", position_in(said), "--json")
    assert [change["event"]["event_type"] for change in changes] == ["state:deleted"]
    assert [change["revision"] for change in run(engine, "history", "orders", "--key", "o1")[0]] == [2, 4]
    assert [change["revision"] for change in run(engine, "history", "orders", "--limit", "2")[0]] == [1, 2]


def test_history_says_why_there_is_none(engine: EngineProcess) -> None:
    done = iii_state("history", "unlogged", url=engine.url)
    assert done.returncode == 1
    assert "HISTORY_ERROR: Failed to read the change log: scope 'unlogged' has no change log" in done.stderr
    for number in range(4):
        iii_state("set", "short", "k", str(number), url=engine.url)
    position = position_in(run(engine, "history", "short")[1])
    done = iii_state("history", "short", "--after", position.replace(":4", ":1"), url=engine.url)
    assert done.returncode == 1
    assert "COMPACTED" in done.stderr


def test_watch_shows_what_is_there_and_then_every_change_and_goes_on_from_where_it_ended(engine: EngineProcess) -> None:
    iii_state("set", "orders", "there", "1", url=engine.url)
    watching = Watching("orders", "--initial", "--url", engine.url)
    try:
        watching.event('"key":"there"')
        iii_state("set", "orders", "new", "2", url=engine.url)
        watching.event('"key":"new"')
        position = watching.end()
    finally:
        watching.kill()
    iii_state("set", "orders", "later", "3", url=engine.url)
    watching = Watching("orders", "--after", position, "--url", engine.url)
    try:
        watching.event('"key":"later"')
        assert '"key":"new"' not in watching.out.text()
        watching.end()
    finally:
        watching.kill()


def test_watch_misses_nothing_while_the_engine_is_away(tmp_path: Path) -> None:
    port = free_port()
    config = {**HISTORY, "adapter": {"name": "kv", "config": {"store_method": "file_based", "file_path": str(tmp_path)}}}
    with running_engine(config=config, port=port) as engine:
        iii_state("set", "orders", "k", "0", url=engine.url)
        watching = Watching("orders", "--initial", "--url", engine.url)
        watching.event('"new_value":0')
    try:
        watching.err.wait_for(re.compile("waiting for the engine to come back"), 20)
        with running_engine(config=config) as engine:  # nobody watches at this port
            for number in range(1, 6):
                iii_state("set", "orders", "k", str(number), url=engine.url)
        with running_engine(config=config, port=port) as engine:
            iii_state("set", "orders", "k", "6", url=engine.url)
            watching.event('"new_value":6')
            watching.end()
    finally:
        watching.kill()
    values = [json.loads(line)["new_value"] for line in watching.out.text().splitlines()]
    assert values == list(range(7))


def test_what_a_watch_cannot_do_is_wrong_usage(engine: EngineProcess) -> None:
    for arguments in (("--initial",), ("orders", "--initial", "--after", "x:1")):
        done = iii_state("watch", *arguments, url=engine.url)
        assert done.returncode == 2


def test_watch_misses_nothing_while_its_engine_is_killed_and_another_takes_over(tmp_path: Path) -> None:
    server, port = shared_server(), free_port()
    server.empty(str(tmp_path))
    config = {**HISTORY, "adapter": {"name": "redis", "config": {"redis_url": server.url, "heartbeat_ttl_ms": 1000}}}
    with running_engine(config=config) as other:
        with running_engine(config=config, port=port) as engine:
            iii_state("set", "orders", "k", "0", url=engine.url)
            watching = Watching("orders", "--initial", "--url", engine.url)
            watching.event('"new_value":0')
            engine.kill()
            iii_state("set", "orders", "k", "1", url=other.url)
        try:
            watching.err.wait_for(re.compile("waiting for the engine to come back"), 20)
            iii_state("set", "orders", "k", "2", url=other.url)
            with running_engine(config=config, port=port):
                watching.event('"new_value":1')
                watching.event('"new_value":2')
                iii_state("set", "orders", "k", "3", url=other.url)
                watching.event('"new_value":3')
                watching.end()
        finally:
            watching.kill()
