"""A worker that has a namespace, which the Python SDK tells the engine behind its registrations: what waits for it is not lost."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engines.attached import attached
from tests.support.engines.processes import EngineProcess, free_port, running_engine, running_relay
from tests.support.redis.server import RedisServer
from tests.support.sdk.workers import PYTHON_NEW, SOON, installed, running_worker
from tests.support.waiting import wait_until

NAMESPACE = {"III_NAMESPACE": "b"}
EVENTS = 30


@pytest.fixture(params=["file", "redis"])
def arguments(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[str]]:
    """Of an engine whose store outlives it."""
    if request.param == "file":
        yield ["--file-path", str(tmp_path / "store")]
        return
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with RedisServer() as server:
        yield ["--redis-url", server.url]


def test_events_outlive_a_kill_of_the_engine(arguments: list[str], unique: str) -> None:
    port = free_port()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(running_engine(arguments, port=port))
        worker = stack.enter_context(running_worker(installed(PYTHON_NEW), first.url, unique, NAMESPACE))
        writer = stack.enter_context(running_worker(PYTHON_NEW, first.url, f"{unique}-writer"))
        worker.register_function("f", "hold")
        worker.register_trigger("f", {"scope": unique, "concurrency": 3})
        for number in range(EVENTS):
            writer.call("state::set", {"scope": unique, "key": f"k{number}", "value": number})
        worker.wait_for_calls("f", 3)
        first.kill()
        stack.enter_context(running_engine(arguments, port=port))

        def all_handled() -> bool:
            with contextlib.suppress(AssertionError):
                worker.release("f")
            return sorted(call.payload["new_value"] for call in worker.calls("f")[3:]) == list(range(EVENTS))

        wait_until(all_handled, "events were lost", 3 * SOON)


def test_events_outlive_a_cut_connection(arguments: list[str], unique: str) -> None:
    with running_engine(arguments) as engine:
        cut_off_and_come_back(engine, unique)


def test_events_outlive_one_at_an_engine_with_attached_state(tmp_path: Path, unique: str) -> None:
    with running_engine(["--no-state"]) as engine, attached(engine.url, "--file-path", str(tmp_path / "store")) as state:
        state.until_attached()
        cut_off_and_come_back(engine, unique)


def cut_off_and_come_back(engine: EngineProcess, unique: str) -> None:
    """Cut a worker's connection with one event at its handler and four waiting, and see all of them handled in their order."""
    with (
        running_relay(engine.port) as relay,
        running_worker(installed(PYTHON_NEW), relay.url, unique, NAMESPACE) as worker,
        running_worker(PYTHON_NEW, engine.url, f"{unique}-writer") as writer,
    ):
        worker.register_function("f", "hold")
        worker.register_trigger("f", {"scope": unique})
        connection = worker.info()["worker_id"]
        for number in range(5):
            writer.call("state::set", {"scope": unique, "key": "k", "value": number})
        worker.wait_for_calls("f", 1)
        relay.cut_clients_off()
        wait_until(lambda: worker.info()["worker_id"] != connection, f"{worker} did not come back", SOON)
        for count in range(2, 7):
            worker.wait_for_calls("f", count)
            worker.release("f")
        assert [call.payload["new_value"] for call in worker.calls("f")] == [0, 0, 1, 2, 3, 4]
