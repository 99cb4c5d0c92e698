"""A Node worker and a Python worker on one engine: they call each other, and react to each other's writes, over every adapter."""

from __future__ import annotations

import pytest

from tests.sdk.conftest import WorkerOf
from tests.support.sdk.workers import NODE_NEW, PYTHON_NEW, Sdk
from tests.support.slow import slow

ADAPTERS = ["redis", *map(slow, ("kv", "bridge"))]

both_ways = pytest.mark.parametrize(("here", "there"), [(NODE_NEW, PYTHON_NEW), (PYTHON_NEW, NODE_NEW)], ids=lambda sdk: sdk.name)


@both_ways
def test_one_calls_a_function_of_the_other(worker_of: WorkerOf, unique: str, here: Sdk, there: Sdk) -> None:
    function = f"{unique}::echo"
    worker_of(there).register_function(function, "echo")
    worker_of(there).settle()
    result = worker_of(here).call(function, {"from": here.name, "list": [], "map": {}, "nothing": None})
    assert {name: result[name] for name in ("from", "list", "map", "nothing")} == {
        "from": here.name,
        "list": [],
        "map": {},
        "nothing": None,
    }


@both_ways
def test_one_reacts_to_what_the_other_writes(worker_of: WorkerOf, unique: str, here: Sdk, there: Sdk) -> None:
    handler = f"{unique}::changed"
    worker_of(there).register_function(handler)
    worker_of(there).register_trigger(handler, {"scope": unique})
    writer = worker_of(here)
    writer.call("state::set", {"scope": unique, "key": "k", "value": {"n": 1}})
    writer.call("state::update", {"scope": unique, "key": "k", "ops": [{"type": "increment", "path": "n", "by": 1}]})
    assert worker_of(there).call("state::get", {"scope": unique, "key": "k"}) == {"n": 2}
    writer.call("state::delete", {"scope": unique, "key": "k"})
    calls = worker_of(there).wait_for_calls(handler, 3)
    told = [(call.payload["event_type"], call.payload["old_value"], call.payload["new_value"]) for call in calls]
    assert told == [("state:created", None, {"n": 1}), ("state:updated", {"n": 1}, {"n": 2}), ("state:deleted", {"n": 2}, None)]


def test_both_count_on_one_value_and_lose_nothing(worker_of: WorkerOf, unique: str) -> None:
    ops = [{"type": "increment", "path": "n", "by": 1}]
    answers = [
        worker_of(sdk).start_call("state::update", {"scope": unique, "key": "k", "ops": ops})
        for _ in range(50)
        for sdk in (NODE_NEW, PYTHON_NEW)
    ]
    seen = [answer.result()["new_value"]["n"] for answer in answers]
    assert sorted(seen) == list(range(1, 101))
