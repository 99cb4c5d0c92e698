"""Events whose handler's process dies of them: found out one by one, buried after some crashes alone, and nobody else's harm."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from iii_state.errors import FunctionError
from tests.support.engines.attached import attached, engine_without_state
from tests.support.engines.calls import call
from tests.support.engines.processes import EngineProcess, running_engine
from tests.support.redis.server import RedisServer
from tests.support.sdk.workers import PYTHON_NEW, installed
from tests.support.slow import slow
from tests.support.waiting import wait_until

SOON = 40.0
DISPATCH = {"concurrency": 64, "max_attempts": 3, "backoff_ms": 50, "max_backoff_ms": 200}
HEALTHY = 20

Told = tuple[str, str, int]
"""Key, value, crashes."""


class Supervised:
    """`supervised.py`, started again whenever its process has died; `told` is what it wrote, `deaths` how its processes ended."""

    def __init__(self, url: str, name: str, function: str, *trigger: str) -> None:
        script = Path(__file__).with_name("supervised.py")
        self._command = [str(PYTHON_NEW.directory / "bin" / "python"), str(script), url, name, function, *trigger]
        self.told: list[Told] = []
        self.deaths: list[int] = []
        self._stopped = False
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped:
            with subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            ) as process:
                self._process = process
                if self._stopped:
                    process.kill()
                assert process.stdout is not None
                for line in process.stdout:
                    key, value, crashes = line.split()
                    self.told.append((key, value, int(crashes)))
                self.deaths.append(process.wait())

    def handled(self) -> set[str]:
        return {key for key, _, _ in self.told}

    def stop(self) -> None:
        self._stopped = True
        if self._process is not None:
            self._process.kill()
        self._thread.join()


@contextlib.contextmanager
def supervised(url: str, name: str, function: str, *trigger: str) -> Iterator[Supervised]:
    installed(PYTHON_NEW)
    worker = Supervised(url, name, function, *trigger)
    try:
        yield worker
    finally:
        worker.stop()


class Place(NamedTuple):
    """Where workers connect, where an operator asks, and what the process that hands events out has logged."""

    url: str
    log: Callable[[], str]


def redis_url(stack: ExitStack) -> str:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    return stack.enter_context(RedisServer()).url


@pytest.fixture(params=["kv", "redis", *map(slow, ("kv-file", "bridge", "attached-kv"))])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        config: dict[str, Any] = {"dispatch": DISPATCH}
        if request.param == "attached-kv":
            url = stack.enter_context(engine_without_state("ours"))
            process = stack.enter_context(attached(url, config=config)).until_attached()
            yield Place(url, process.stderr.text)
            return
        if request.param == "kv-file":
            config["adapter"] = {"name": "kv", "config": {"store_method": "file_based", "file_path": str(tmp_path / "data")}}
        elif request.param == "redis":
            config["adapter"] = {"name": "redis", "config": {"redis_url": redis_url(stack)}}
        elif request.param == "bridge":
            remote = stack.enter_context(running_engine(config=config))
            config["adapter"] = {"name": "bridge", "config": {"bridge_url": remote.url}}
        engine = stack.enter_context(running_engine(config=config))
        yield Place(engine.url, engine.stderr.text)


def write(url: str, scope: str, key: str, value: str) -> None:
    call(url, "state::set", {"scope": scope, "key": key, "value": value})


def dead(url: str) -> list[dict[str, Any]]:
    with contextlib.suppress(FunctionError):
        letters: list[dict[str, Any]] = call(url, "iii-state::dead_list", {})["dead"]
        return letters
    return []


def registered(url: str, function: str) -> bool:
    with contextlib.suppress(FunctionError):
        rows = call(url, "iii-state::triggers", {})["triggers"]
        return any(row["function_id"].endswith(function) and row["hosts"] for row in rows)
    return False


def fill(url: str, scope: str, poison: str = "die") -> None:
    """An event that kills its worker, in the midst of healthy ones that take a moment."""
    for number in range(HEALTHY // 2):
        write(url, scope, f"before-{number}", "slow")
    write(url, scope, "poison", poison)
    for number in range(HEALTHY // 2):
        write(url, scope, f"after-{number}", "slow")


def test_an_event_that_kills_its_worker_is_found_and_buried_and_the_others_are_handled(place: Place) -> None:
    with supervised(place.url, "killed", "crash::on", "s") as worker:
        wait_until(lambda: registered(place.url, "crash::on"), place.log)
        fill(place.url, "s")
        wait_until(lambda: dead(place.url), place.log)
        (letter,) = dead(place.url)
        wait_until(lambda: len(worker.handled()) == HEALTHY + 1, lambda: f"{worker.told}\n{place.log()}")
        log = place.log()  # of before the worker is killed, which may be about to answer
    assert letter["key"] == "poison"
    assert letter["error"] == "worker_lost: its worker went away in mid-call 4 times, the last 3 with this event alone"
    crashes = [crashes for key, _, crashes in worker.told if key == "poison"]
    assert crashes == [0, 1, 2, 3]
    assert worker.deaths.count(17) == 4
    most = max(Counter(key for key in (key for key, _, _ in worker.told) if key != "poison").values())
    assert most <= 2, "an innocent one was counted again"
    assert len(re.findall(r"broke off .* in mid-call", log)) == 3, log
    assert len(re.findall(r"is a dead letter .*mid-call", log)) == 1, log


def test_the_later_events_of_its_key_wait_and_then_go_on(place: Place) -> None:
    with supervised(place.url, "killed", "crash::on", "s") as worker:
        wait_until(lambda: registered(place.url, "crash::on"), place.log)
        for value in ("die", "then", "last"):
            write(place.url, "s", "k", value)
        write(place.url, "s", "other", "slow")
        wait_until(lambda: ("k", "last", 0) in worker.told and "other" in worker.handled(), lambda: f"{worker.told}\n{place.log()}")
    values = [value for key, value, _ in worker.told if key == "k"]
    assert values == ["die"] * 4 + ["then", "last"]


def test_workers_that_are_stopped_in_mid_call_one_after_the_other_make_no_dead_letter(place: Place) -> None:
    with supervised(place.url, "stopped", "crash::on", "s", json.dumps({"max_attempts": 2, "backoff_ms": 50})) as worker:
        wait_until(lambda: registered(place.url, "crash::on"), place.log)
        for number in range(4):
            write(place.url, "s", f"held-{number}", "slow")
        write(place.url, "s", "leaves", "leave")  # a first crash costs nothing but a pause
        write(place.url, "s", "leaves", "slow")
        wait_until(lambda: len(worker.handled()) == 5, lambda: f"{worker.told}\n{place.log()}")
        wait_until(lambda: [t for t in worker.told if t[0] == "leaves" and t[2]], lambda: f"{worker.told}\n{place.log()}")
    assert worker.deaths[0] == 0


@pytest.mark.parametrize("kind", ["redis", slow("kv-file")])
def test_the_count_of_crashes_survives_the_engine(kind: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        adapter: dict[str, Any] = {"name": "kv", "config": {"store_method": "file_based", "file_path": str(tmp_path / "data")}}
        if kind == "redis":
            adapter = {"name": "redis", "config": {"redis_url": redis_url(stack), "heartbeat_ttl_ms": 500}}
        config = {"adapter": adapter, "dispatch": {**DISPATCH, "backoff_ms": 700, "max_backoff_ms": 700}}
        engine = EngineProcess(config=config)
        stack.callback(lambda: engine.kill())
        worker = stack.enter_context(supervised(engine.url, "killed", "crash::on", "s"))
        wait_until(lambda: registered(engine.url, "crash::on"), engine.stderr.text)
        write(engine.url, "s", "poison", "die")
        wait_until(lambda: ("poison", "die", 1) in worker.told, engine.stderr.text)
        wait_until(lambda: len(re.findall("broke off", engine.stderr.text())) == 2, engine.stderr.text)
        port = engine.port
        engine.kill()
        engine = EngineProcess(config=config, port=port)
        wait_until(lambda: dead(engine.url), lambda: f"{worker.told}\n{engine.stderr.text()}")
        (letter,) = dead(engine.url)
        assert "4 times" in letter["error"]
        assert [crashes for _, _, crashes in worker.told] == [0, 1, 2, 3]
