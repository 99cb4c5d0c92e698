"""State triggers with handlers in every SDK: which events reach which function, and what they say."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sdk.conftest import WorkerOf
from tests.support.sdk.workers import NODE_NEW, PYTHON_NEW, PYTHON_OLD, SDKS, Sdk, Worker
from tests.support.slow import slow

ADAPTERS = ["kv", *map(slow, ("redis", "attached-ours", "attached-stock"))]


def event(kind: str, scope: str, key: str, old: Any, new: Any) -> dict[str, Any]:
    return {
        "type": "state",
        "event_type": f"state:{kind}",
        "scope": scope,
        "key": key,
        "old_value": old,
        "new_value": new,
    }


def test_every_change_gives_one_event_with_old_and_new_value(worker: Worker, unique: str) -> None:
    handler = f"{unique}::on_change"
    worker.register_function(handler)
    worker.register_trigger(handler, {"scope": unique})
    at = {"scope": unique, "key": "k"}
    worker.call("state::set", {**at, "value": {"n": 1, "list": []}})
    worker.call("state::set", {**at, "value": {"n": 2, "list": {}}})
    worker.call("state::update", {**at, "ops": [{"type": "increment", "path": "n", "by": 1}]})
    worker.call("state::delete", at)
    worker.call("state::delete", at)
    worker.wait_for_calls(handler, 5)
    assert worker.payloads(handler) == [
        event("created", unique, "k", None, {"n": 1, "list": []}),
        event("updated", unique, "k", {"n": 1, "list": []}, {"n": 2, "list": {}}),
        event("updated", unique, "k", {"n": 2, "list": {}}, {"n": 3, "list": {}}),
        event("deleted", unique, "k", {"n": 3, "list": {}}, None),
        event("deleted", unique, "k", None, None),
    ]


def test_a_deadline_is_the_cause_of_its_event(worker: Worker, unique: str) -> None:
    handler, condition = f"{unique}::on_change", f"{unique}::condition"
    worker.register_function(condition)
    worker.register_function(handler)
    worker.register_trigger(handler, {"scope": unique, "condition_function_id": condition})
    worker.call("state::set", {"scope": unique, "key": "k", "value": 1, "ttl_ms": 50})
    worker.wait_for_calls(handler, 2)
    expired = {**event("deleted", unique, "k", 1, None), "cause": "expired"}
    assert worker.payloads(handler) == [event("created", unique, "k", None, 1), expired]
    assert worker.payloads(condition)[-1] == expired


def test_a_stored_null_exists_for_the_events_too(worker: Worker, unique: str) -> None:
    handler = f"{unique}::on_change"
    worker.register_function(handler)
    worker.register_trigger(handler, {"scope": unique})
    at = {"scope": unique, "key": "k"}
    worker.call("state::set", {**at, "value": None})
    worker.call("state::set", {**at, "value": 1})
    worker.wait_for_calls(handler, 2)
    assert worker.payloads(handler) == [
        event("created", unique, "k", None, None),
        event("updated", unique, "k", None, 1),
    ]


def test_a_trigger_with_a_key_sees_that_key_alone(worker: Worker, unique: str) -> None:
    one_key, any_scope, everything = f"{unique}::one_key", f"{unique}::any_scope", f"{unique}::everything"
    wanted, other = f"{unique}-wanted", f"{unique}-other"
    for function in (one_key, any_scope, everything):
        worker.register_function(function)
    worker.register_trigger(one_key, {"scope": unique, "key": wanted})
    worker.register_trigger(any_scope, {"key": wanted, "scope": None})
    worker.register_trigger(everything, {"scope": unique})
    worker.call("state::set", {"scope": unique, "key": other, "value": 1})
    worker.call("state::set", {"scope": f"{unique}-2", "key": wanted, "value": 2})
    worker.call("state::set", {"scope": unique, "key": wanted, "value": 3})
    worker.wait_for_calls(one_key, 1)
    worker.wait_for_calls(any_scope, 2)
    worker.wait_for_calls(everything, 2)
    assert [payload["new_value"] for payload in worker.payloads(one_key)] == [3]
    assert sorted(payload["new_value"] for payload in worker.payloads(any_scope)) == [2, 3]
    assert sorted(payload["new_value"] for payload in worker.payloads(everything)) == [1, 3]


@pytest.mark.parametrize("config", [{}, None], ids=["empty", "null"])
def test_a_trigger_without_conditions_sees_everything(worker: Worker, unique: str, config: Any) -> None:
    handler = f"{unique}::on_change"
    worker.register_function(handler)
    worker.register_trigger(handler, config)
    worker.call("state::set", {"scope": unique, "key": "k", "value": 1})
    worker.wait_for_calls(handler, 1)
    worker.unregister_trigger(handler)
    assert event("created", unique, "k", None, 1) in worker.payloads(handler)


def test_a_condition_skips_the_handler_with_false_alone(worker: Worker, unique: str) -> None:
    handler, condition = f"{unique}::on_change", f"{unique}::condition"
    worker.register_function(condition, "pick", path=["new_value", "pass"])
    worker.register_function(handler)
    worker.register_trigger(handler, {"scope": unique, "condition_function_id": condition})
    answers: list[Any] = [False, True, False, 0, False, None, False, "false", False, {}]
    for answer in answers:
        worker.call("state::set", {"scope": unique, "key": "k", "value": {"pass": answer}})
    worker.wait_for_calls(handler, 5)
    # The events of one key come in order, so what was skipped before the last one was skipped for good.
    assert [payload["new_value"]["pass"] for payload in worker.payloads(handler)] == [True, 0, None, "false", {}]
    assert [payload["new_value"]["pass"] for payload in worker.payloads(condition)] == answers
    assert all(set(payload) == set(event("", "", "", None, None)) for payload in worker.payloads(condition))


@pytest.mark.parametrize("writer", SDKS, ids=lambda sdk: sdk.name)
def test_a_write_by_any_sdk_reaches_a_handler_in_any_other(worker: Worker, worker_of: WorkerOf, unique: str, writer: Sdk) -> None:
    handler = f"{unique}::on_change"
    worker.register_function(handler)
    worker.register_trigger(handler, {"scope": unique})
    worker_of(writer).call("state::set", {"scope": unique, "key": "k", "value": {"żółć": [1, None]}})
    worker.wait_for_calls(handler, 1)
    assert worker.payloads(handler) == [event("created", unique, "k", None, {"żółć": [1, None]})]


def test_events_keep_numbers_exact(worker_of: WorkerOf, unique: str) -> None:
    worker = worker_of(PYTHON_OLD)
    handler = f"{unique}::on_change"
    worker.register_function(handler)
    worker.register_trigger(handler, {"scope": unique})
    worker_of(PYTHON_NEW).call("state::set", {"scope": unique, "key": "k", "value": [2**64 - 1, 1.0, -(2**63)]})
    value = worker.wait_for_calls(handler, 1)[0].payload["new_value"]
    assert value == [2**64 - 1, 1.0, -(2**63)]
    assert [type(item) for item in value] == [int, float, int]


def test_the_trigger_may_be_registered_by_another_worker_than_the_function(
    worker: Worker, worker_of: WorkerOf, unique: str
) -> None:
    handler = f"{unique}::on_change"
    worker.register_function(handler)
    other = worker_of(NODE_NEW if worker.sdk.language == "python" else PYTHON_NEW)
    other.register_trigger(handler, {"scope": unique})
    other.call("state::set", {"scope": unique, "key": "k", "value": 1})
    worker.wait_for_calls(handler, 1)
    assert worker.payloads(handler) == [event("created", unique, "k", None, 1)]


def test_an_unregistered_trigger_fires_no_more(worker: Worker, unique: str) -> None:
    handler, witness = f"{unique}::on_change", f"{unique}::witness"
    for function in (handler, witness):
        worker.register_function(function)
        worker.register_trigger(function, {"scope": unique, "key": "k"})
    at = {"scope": unique, "key": "k"}
    worker.call("state::set", {**at, "value": 1})
    worker.wait_for_calls(handler, 1)
    worker.wait_for_calls(witness, 1)
    worker.unregister_trigger(handler)
    worker.call("state::set", {**at, "value": 2})
    worker.wait_for_calls(witness, 2)
    # Registered again, it sees what comes then; an event that had slipped through would stand before that.
    worker.register_trigger(handler, {"scope": unique, "key": "k"})
    worker.call("state::set", {**at, "value": 3})
    worker.wait_for_calls(handler, 2)
    assert [payload["new_value"] for payload in worker.payloads(handler)] == [1, 3]


def test_a_handler_that_raises_is_called_again(worker: Worker, unique: str) -> None:
    handler = f"{unique}::flaky"
    worker.register_function(handler, "raise", message="not yet", times=2)
    worker.register_trigger(handler, {"scope": unique, "retry": {"max_attempts": 5, "backoff_ms": 10, "max_backoff_ms": 20}})
    worker.call("state::set", {"scope": unique, "key": "k", "value": 1})
    worker.call("state::set", {"scope": unique, "key": "k", "value": 2})
    calls = worker.wait_for_calls(handler, 4)
    assert [call.payload["new_value"] for call in calls] == [1, 1, 1, 2]
    if worker.sdk.metadata:
        facts = [call.metadata["iii_state"] for call in calls]
        assert [fact["attempt"] for fact in facts] == [1, 2, 3, 1]
        assert facts[0]["event_id"] == facts[1]["event_id"] == facts[2]["event_id"] != facts[3]["event_id"]


def test_the_metadata_of_a_trigger_reaches_its_handler(worker: Worker, unique: str) -> None:
    if not worker.sdk.metadata:
        pytest.skip("this SDK does not hand metadata to handlers")
    handler = f"{unique}::on_change"
    worker.register_function(handler)
    worker.register_trigger(handler, {"scope": unique}, metadata={"team": "blue"})
    worker.call("state::set", {"scope": unique, "key": "k", "value": 1})
    metadata = worker.wait_for_calls(handler, 1)[0].metadata
    assert metadata["team"] == "blue"
    assert set(metadata) == {"team", "iii_state"}
    assert set(metadata["iii_state"]) == {"event_id", "attempt", "fence"}


def test_metadata_that_is_no_object_is_sent_untouched(worker_of: WorkerOf, unique: str) -> None:
    worker = worker_of(NODE_NEW)
    handler = f"{unique}::on_change"
    worker.register_function(handler)
    worker.register_trigger(handler, {"scope": unique}, metadata=["blue", 1])
    worker.call("state::set", {"scope": unique, "key": "k", "value": 1})
    assert worker.wait_for_calls(handler, 1)[0].metadata == ["blue", 1]


def test_a_slow_handler_holds_up_its_key_and_no_other(worker: Worker, unique: str) -> None:
    slow, quick = f"{unique}::slow", f"{unique}::quick"
    worker.register_function(slow, "hold")
    worker.register_function(quick)
    worker.register_trigger(slow, {"scope": unique})
    worker.register_trigger(quick, {"scope": unique})
    worker.call("state::set", {"scope": unique, "key": "a", "value": 1})
    worker.call("state::set", {"scope": unique, "key": "a", "value": 2})
    worker.call("state::set", {"scope": unique, "key": "b", "value": 3})
    worker.wait_for_calls(quick, 3)
    worker.wait_for_calls(slow, 2)
    assert sorted(payload["new_value"] for payload in worker.payloads(slow)) == [1, 3]
    worker.release(slow)
    assert [call.payload["new_value"] for call in worker.wait_for_calls(slow, 3)][2] == 2
    worker.release(slow)


def test_a_handler_may_write_state_itself(worker: Worker, unique: str) -> None:
    handler = f"{unique}::copy"
    at = {"scope": f"{unique}-copies", "key": "k"}
    worker.register_function(handler, "call", request={"function_id": "state::set", "payload": {**at, "value": "copied"}})
    worker.register_function(f"{unique}::copied")
    worker.register_trigger(f"{unique}::copied", {"scope": at["scope"]})
    worker.register_trigger(handler, {"scope": unique})
    worker.call("state::set", {"scope": unique, "key": "k", "value": 1})
    worker.wait_for_calls(f"{unique}::copied", 1)
    assert worker.call("state::get", at) == "copied"


def test_an_event_that_is_too_large_for_its_worker_does_not_cut_its_connection(worker_of: WorkerOf, unique: str) -> None:
    worker = worker_of(PYTHON_OLD)
    handler = f"{unique}::on_change"
    worker.register_function(handler)
    worker.register_trigger(handler, {"scope": unique})
    connection = worker.info()["worker_id"]
    writer = worker_of(PYTHON_NEW)
    writer.call("state::set", {"scope": unique, "key": "k", "value": "x" * (3 * 2**19)})
    writer.call("state::delete", {"scope": unique, "key": "k"})
    writer.call("state::set", {"scope": unique, "key": "k", "value": "small"})
    # Both events of the large value are too large; the one behind them comes through.
    worker.wait_for_calls(handler, 1)
    assert worker.payloads(handler) == [event("created", unique, "k", None, "small")]
    assert worker.info()["worker_id"] == connection


def test_a_trigger_with_a_wrong_config_fails_and_the_others_go_on(worker: Worker, unique: str) -> None:
    wrong, right = f"{unique}::wrong", f"{unique}::right"
    for function in (wrong, right):
        worker.register_function(function)
    worker.register_trigger(wrong, {"scope": 7})
    worker.register_trigger(right, {"scope": unique})
    worker.call("state::set", {"scope": unique, "key": "k", "value": 1})
    worker.wait_for_calls(right, 1)
    assert worker.calls(wrong) == []
    if worker.sdk.metadata:
        # Since 0.16 the SDK logs what the engine answers.
        assert "Failed to parse trigger config" in worker.stderr()
