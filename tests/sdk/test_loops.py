"""Loops through handlers in the official SDKs are seen: by the trace that these carry on, or by what their workers write."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sdk.conftest import Reachable
from tests.support.engines.processes import EngineProcess
from tests.support.sdk.workers import NODE_NEW, NODE_OLD, PYTHON_NEW, PYTHON_OLD, Sdk, Worker, installed, running_worker
from tests.support.slow import slow
from tests.support.waiting import wait_until

ADAPTERS = ["kv", *map(slow, ("redis", "bridge", "attached-ours", "attached-stock"))]

CARRIES_ON = [
    *((PYTHON_NEW, "false"), (PYTHON_NEW, "true"), (NODE_NEW, "true")),
    *map(slow, ((PYTHON_OLD, "false"), (PYTHON_OLD, "true"), (NODE_OLD, "true"))),
]
"""SDKs with their telemetry off and on that carry a trace on: the Python one always does."""


def begin_loop(worker: Worker, scope: str) -> None:
    """Have a worker write what it watches."""
    increment = {"scope": scope, "key": "k", "ops": [{"type": "increment", "path": "n", "by": 1}]}
    worker.register_function(f"{scope}::counts", "call", request={"function_id": "state::update", "payload": increment})
    worker.register_trigger(f"{scope}::counts", {"scope": scope})
    worker.call("state::update", increment)


def row_of(worker: Worker, function_id: str) -> dict[str, Any]:
    rows = worker.call("iii-state::triggers", {})["triggers"]
    (row,) = (row for row in rows if row["function_id"] == function_id)
    assert isinstance(row, dict)
    return row


@pytest.mark.parametrize("carrying", CARRIES_ON, ids=lambda carrying: f"{carrying[0].name}-{carrying[1]}")
def test_a_handler_that_writes_what_it_watches_is_looping(engine: Reachable, unique: str, carrying: tuple[Sdk, str]) -> None:
    sdk, telemetry = carrying
    environment = {"OTEL_ENABLED": telemetry}
    with running_worker(installed(sdk), engine.url, unique, environment, behind_stock=engine.is_stock) as worker:
        begin_loop(worker, unique)
        wait_until(lambda: row_of(worker, f"{unique}::counts").get("looping"), "it does not count as looping")
        worker.unregister_trigger(f"{unique}::counts")
        if isinstance(engine, EngineProcess):
            said = engine.stderr.text()
            assert f"through {unique}::counts (scope '{unique}', key 'k')" in said
            assert "perhaps a loop" not in said


def test_a_worker_that_carries_nothing_on_is_warned_of_as_a_guess(engine: Reachable, unique: str) -> None:
    if not isinstance(engine, EngineProcess):
        pytest.skip("an engine to which state is attached knows which worker it calls, and the state does not")
    with running_worker(installed(NODE_NEW), engine.url, unique) as worker:
        begin_loop(worker, unique)
        words = f"perhaps a loop: worker {unique} has written the key that it was handling 100 times in a row"
        wait_until(lambda: words in engine.stderr.text(), "there is no warning")
        assert "looping" not in row_of(worker, f"{unique}::counts")
        worker.unregister_trigger(f"{unique}::counts")
