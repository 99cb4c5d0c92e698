"""Functions of workers, called by other workers through the engine: every SDK with every other."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sdk.conftest import WorkerOf
from tests.support.engines.processes import EngineProcess
from tests.support.sdk.workers import PYTHON_NEW, SDKS, CallFailedError, Sdk, Worker, running_worker

PAYLOAD: dict[str, Any] = {"n": 2**53 - 1, "x": 0.5, "list": [], "map": {}, "nothing": None, "text": "żółć 🎈\n"}

other_sdks = pytest.mark.parametrize("other_sdk", SDKS, ids=lambda sdk: f"to-{sdk.name}")


@pytest.fixture
def other(other_sdk: Sdk, worker_of: WorkerOf) -> Worker:
    """The worker that is called; when both are of one SDK it is the caller itself, which is a case of its own."""
    return worker_of(other_sdk)


@other_sdks
def test_a_call_brings_payload_and_result_across(worker: Worker, other: Worker, unique: str) -> None:
    function = f"{unique}::echo"
    other.register_function(function, "echo")
    result = worker.call(function, PAYLOAD)
    # The engine tells the function who calls.
    assert result == {**PAYLOAD, "_caller_worker_id": worker.info()["worker_id"]}
    assert [call.payload for call in other.wait_for_calls(function)] == [result]


@other_sdks
@pytest.mark.parametrize("payload", ["text", 7, [1, {}], True], ids=repr)
def test_a_payload_that_is_no_object_comes_as_it_is(worker: Worker, other: Worker, unique: str, payload: Any) -> None:
    other.register_function(f"{unique}::echo", "echo")
    assert worker.call(f"{unique}::echo", payload) == payload


@other_sdks
def test_an_error_of_a_function_reaches_its_caller(worker: Worker, other: Worker, unique: str) -> None:
    other.register_function(f"{unique}::boom", "raise", message="no more żółć: 7")
    with pytest.raises(CallFailedError) as caught:
        worker.call(f"{unique}::boom", {})
    assert caught.value.code == "invocation_failed"
    assert caught.value.message == "no more żółć: 7"
    assert caught.value.stacktrace
    assert "no more" in caught.value.stacktrace


@other_sdks
def test_a_call_that_asks_for_no_answer_is_carried_out(worker: Worker, other: Worker, unique: str) -> None:
    fine, boom = f"{unique}::fine", f"{unique}::boom"
    other.register_function(fine)
    other.register_function(boom, "raise", message="unheard")
    worker.call_void(boom, {"n": 1})
    worker.call_void(fine, {"n": 2})
    assert other.wait_for_calls(boom)[0].payload["n"] == 1
    assert other.wait_for_calls(fine)[0].payload["n"] == 2


@other_sdks
def test_a_function_may_call_another_while_it_runs(worker: Worker, other: Worker, unique: str) -> None:
    inner, outer = f"{unique}::inner", f"{unique}::outer"
    worker.register_function(inner, "return", value={"depth": 2})
    other.register_function(outer, "call", request={"function_id": inner, "payload": {}})
    assert worker.call(outer, {}) == {"depth": 2}


def test_a_function_that_returns_nothing_gives_no_result(worker: Worker, worker_of: WorkerOf, unique: str) -> None:
    other = worker_of(PYTHON_NEW)
    other.register_function(f"{unique}::nothing")
    assert worker.call(f"{unique}::nothing", {}) is worker.sdk.nothing


def test_numbers_pass_exactly_between_workers(worker_of: WorkerOf, unique: str) -> None:
    caller, other = worker_of(SDKS[0]), worker_of(PYTHON_NEW)
    other.register_function(f"{unique}::echo", "echo")
    value = [2**64 - 1, -(2**63), 1.0, 1e300]
    result = caller.call(f"{unique}::echo", value)
    assert result == value
    assert [type(number) for number in result] == [int, int, float, float]


def test_slow_calls_do_not_hold_up_quick_ones(worker: Worker, worker_of: WorkerOf, unique: str) -> None:
    other = worker_of(PYTHON_NEW)
    slow, quick = f"{unique}::slow", f"{unique}::quick"
    other.register_function(slow, "hold")
    other.register_function(quick, "return", value=1)
    waiting = worker.start_call(slow, {})
    other.wait_for_calls(slow)
    assert worker.call(quick, {}) == 1
    other.release(slow)
    assert waiting.result() == "released"


def test_an_unknown_function_is_an_error_in_words(worker: Worker, unique: str) -> None:
    with pytest.raises(CallFailedError) as caught:
        worker.call(f"{unique}::nowhere", {})
    assert caught.value.code == "function_not_found"
    assert caught.value.message == f"Function {unique}::nowhere not found in namespace default."


def test_an_unregistered_function_is_found_no_more(worker: Worker, unique: str) -> None:
    function = f"{unique}::gone"
    worker.register_function(function, "return", value=1)
    assert worker.call(function, {}) == 1
    worker.unregister_function(function)
    with pytest.raises(CallFailedError) as caught:
        worker.call(function, {})
    assert caught.value.code == "function_not_found"
    worker.register_function(function, "return", value=2)
    assert worker.call(function, {}) == 2


def test_two_workers_with_the_same_function_share_its_calls(
    worker: Worker, worker_of: WorkerOf, engine: EngineProcess, unique: str
) -> None:
    function = f"{unique}::shared"
    worker.register_function(function, "return", value="first")
    with running_worker(worker.sdk, engine.url, f"{unique}-second") as second:
        second.register_function(function, "return", value="second")
        assert sorted(worker.call(function, {}) for _ in range(4)) == ["first", "first", "second", "second"]
        second.unregister_function(function)
        assert [worker.call(function, {}) for _ in range(4)] == ["first"] * 4


def test_a_worker_cannot_take_over_a_builtin_function(worker: Worker, unique: str) -> None:
    at = {"scope": unique, "key": "k"}
    worker.call("state::set", {**at, "value": "stored"})
    worker.register_function("state::get", "return", value="taken over")
    assert worker.call("state::get", at) == "stored"
    assert worker.calls("state::get") == []
    worker.unregister_function("state::get")
    assert worker.call("state::get", at) == "stored"


def test_the_engine_lists_workers_and_functions(worker: Worker, unique: str) -> None:
    function = f"{unique}::listed"
    worker.register_function(function)
    workers = {entry["name"]: entry for entry in worker.call("engine::workers::list", {})["workers"]}
    mine = workers[worker.name]
    assert mine["id"] == worker.info()["worker_id"]
    assert (mine["runtime"], mine["version"], mine["status"]) == (worker.sdk.language, worker.sdk.version, "connected")
    functions = worker.call("engine::functions::list", {})["functions"]
    assert function in [entry["function_id"] for entry in functions]
    assert {"state::set", "state::get", "state::delete", "state::update", "state::list", "state::list_groups"} <= {
        entry["function_id"] for entry in functions
    }


@other_sdks
def test_a_channel_carries_bytes_from_worker_to_worker(worker: Worker, other: Worker, unique: str) -> None:
    function = f"{unique}::read"
    other.register_function(function, "read_channel")
    pieces = ["first ", "x" * 200_000, " last żółć"]
    assert worker.send("stream", function_id=function, pieces=pieces).result() == "".join(pieces)
