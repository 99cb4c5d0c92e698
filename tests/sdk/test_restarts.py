"""Workers and engines that stop, die and come back, and what the SDKs make of it."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator

import pytest

from tests.sdk.conftest import WorkerOf
from tests.support.engines.processes import EngineProcess, free_port, running_engine, running_relay
from tests.support.sdk.workers import (
    PYTHON_NEW,
    SOON,
    CallFailedError,
    Sdk,
    Worker,
    running_worker,
)
from tests.support.waiting import wait_until


def call_until_it_works(worker: Worker, function_id: str) -> object:
    """Calls a function until it is there again, and returns its result."""
    results: list[object] = []

    def works() -> bool:
        try:
            results.append(worker.call(function_id, {}, timeout_ms=1000))
        except CallFailedError as error:
            if error.code not in ("function_not_found", "TIMEOUT"):
                raise
        return bool(results)

    wait_until(works, f"{function_id} did not come back", SOON)
    return results[-1]


@pytest.fixture
def victim(sdk: Sdk, engine: EngineProcess, unique: str) -> Iterator[Worker]:
    """A worker of its own for a test, to be killed."""
    with running_worker(sdk, engine.url, f"{unique}-victim") as worker:
        yield worker


@pytest.fixture
def caller(worker_of: WorkerOf) -> Worker:
    """A worker that stays."""
    return worker_of(PYTHON_NEW)


def test_a_worker_killed_in_mid_call_fails_the_call(victim: Worker, caller: Worker, unique: str) -> None:
    function = f"{unique}::slow"
    victim.register_function(function, "hold")
    answer = caller.start_call(function, {})
    victim.wait_for_calls(function)
    victim.kill()
    with pytest.raises(CallFailedError) as caught:
        answer.result()
    assert caught.value.code == "invocation_stopped"
    assert caught.value.message == "Invocation stopped"
    with pytest.raises(CallFailedError) as caught:
        caller.call(function, {})
    assert caught.value.code == "function_not_found"


def test_a_caller_killed_in_mid_call_leaves_the_function_in_peace(victim: Worker, caller: Worker, unique: str) -> None:
    function = f"{unique}::slow"
    caller.register_function(function, "hold")
    victim.start_call(function, {})
    caller.wait_for_calls(function)
    victim.kill()
    caller.release(function)
    answer = caller.start_call(function, {})
    caller.wait_for_calls(function, 2)
    caller.release(function)
    assert answer.result() == "released"


def test_a_worker_that_shuts_down_takes_its_functions_along(victim: Worker, caller: Worker, unique: str) -> None:
    function = f"{unique}::here"
    victim.register_function(function, "return", value=1)
    assert caller.call(function, {}) == 1
    victim.shut_down()
    with pytest.raises(CallFailedError) as caught:
        caller.call(function, {})
    assert caught.value.code == "function_not_found"
    names = [entry["name"] for entry in caller.call("engine::workers::list", {})["workers"]]
    assert victim.name not in names


def test_an_event_waits_for_a_handler_that_was_killed_with_it(
    victim: Worker, caller: Worker, engine: EngineProcess, unique: str
) -> None:
    handler = f"{unique}::on_change"
    victim.register_function(handler, "hold")
    victim.register_trigger(handler, {"scope": unique})
    caller.call("state::set", {"scope": unique, "key": "k", "value": 1})
    victim.wait_for_calls(handler)
    victim.kill()
    caller.call("state::set", {"scope": unique, "key": "k", "value": 2})
    with running_worker(victim.sdk, engine.url, f"{unique}-next") as successor:
        successor.register_function(handler)
        successor.register_trigger(handler, {"scope": unique})
        calls = successor.wait_for_calls(handler, 2)
        assert [call.payload["new_value"] for call in calls] == [1, 2]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_workers_come_back_when_the_engine_does(sdk: Sdk, how: signal.Signals, unique: str) -> None:
    function, handler = f"{unique}::here", f"{unique}::on_change"
    port = free_port()
    with running_engine(port=port) as first, running_worker(sdk, first.url, unique) as worker:
        connection = worker.info()["worker_id"]
        worker.register_function(function, "return", value="here")
        worker.register_function(handler)
        worker.register_trigger(handler, {"scope": unique})
        worker.call("state::set", {"scope": unique, "key": "k", "value": 1})
        worker.wait_for_calls(handler, 1)
        if how == signal.SIGTERM:
            assert first.stop() == 0
        else:
            first.kill()
        # A worker on a clean close (1000, 1001) would stay `connected` and never come back.
        wait_until(lambda: not worker.info()["connected"], "the worker has not noticed", SOON)
        queued = worker.start_call("state::set", {"scope": unique, "key": "queued", "value": "q"})
        with running_engine(port=port) as second:
            # What was called meanwhile is sent behind the registrations, and before the worker has said its name.
            assert queued.result()["new_value"] == "q"
            wait_until(lambda: worker.info()["worker_id"] != connection, "the worker has no new id", SOON)
            with running_worker(sdk, second.url, f"{unique}-caller") as caller:
                assert call_until_it_works(caller, function) == "here"
                caller.call("state::set", {"scope": unique, "key": "k", "value": 2})
                wait_until(
                    lambda: 2 in [payload["new_value"] for payload in worker.payloads(handler)], "the trigger does not fire", SOON
                )
                caller.call("state::set", {"scope": unique, "key": "k", "value": 3})
                worker.wait_for_calls(handler, 4)
                values = [payload["new_value"] for payload in worker.payloads(handler)]
                assert [value for value in values if value != "q"] == [1, 2, 3]
                names = [entry["name"] for entry in caller.call("engine::workers::list", {})["workers"]]
                assert sorted(names) == sorted([unique, f"{unique}-caller"])


def test_a_worker_that_comes_back_leaves_no_dead_half_behind(sdk: Sdk, engine: EngineProcess, caller: Worker, unique: str) -> None:
    if not sdk.reattaches:
        pytest.skip("this SDK does not name its old connection; the engine's pings find it in half a minute")
    function, handler = f"{unique}::here", f"{unique}::on_change"
    with running_relay(engine.port) as relay, running_worker(sdk, relay.url, unique) as worker:
        connection = worker.info()["worker_id"]
        worker.register_function(function, "return", value="here")
        worker.register_function(handler)
        worker.register_trigger(handler, {"scope": unique})
        relay.cut_clients_off()
        wait_until(lambda: worker.info()["worker_id"] != connection, f"{worker} did not come back", SOON)
        worker.settle()
        # For the engine the old connection is open still; what it sent there would never be answered.
        assert [caller.call(function, {}, timeout_ms=2000) for _ in range(4)] == ["here"] * 4
        for number in range(4):
            caller.call("state::set", {"scope": unique, "key": f"k{number}", "value": number})
        worker.wait_for_calls(handler, 4)
        names = [entry["name"] for entry in caller.call("engine::workers::list", {})["workers"]]
        assert names.count(unique) == 1


def test_an_engine_that_stops_lets_a_running_handler_finish(sdk: Sdk, unique: str) -> None:
    with running_engine() as engine, running_worker(sdk, engine.url, unique) as worker:
        handler, call = f"{unique}::on_change", f"{unique}::call"
        worker.register_function(handler, "hold")
        worker.register_function(call, "hold")
        worker.register_trigger(handler, {"scope": unique})
        worker.call("state::set", {"scope": unique, "key": "k", "value": 1})
        worker.wait_for_calls(handler)
        # A call that is never answered does not keep the engine.
        worker.start_call(call, {})
        worker.wait_for_calls(call)
        engine.ask_to_stop()
        wait_until(lambda: not engine.accepts_connections(), "the engine goes on listening", SOON)
        worker.release(handler)
        assert engine.wait() == 0


def test_telemetry_that_is_left_on_disturbs_nothing(sdk: Sdk, engine: EngineProcess, unique: str) -> None:
    # Every SDK opens a second connection, to /otel, unless it is told not to.
    with running_worker(sdk, engine.url, unique, {"OTEL_ENABLED": "true"}) as worker:
        worker.register_function(f"{unique}::echo", "echo")
        assert worker.call(f"{unique}::echo", [1]) == [1]
        worker.register_trigger(f"{unique}::echo", {"scope": unique})
        worker.call("state::set", {"scope": unique, "key": "k", "value": 1})
        worker.wait_for_calls(f"{unique}::echo", 2)
        assert re.search(r"\b404\b", worker.stderr()) is None
