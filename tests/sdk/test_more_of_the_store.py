"""Conditions, meta, many keys, parts of a scope, the change log and triggers that ask for less, through every SDK."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sdk.conftest import WorkerOf
from tests.support.sdk.workers import PYTHON_NEW, CallFailedError, Worker
from tests.support.slow import slow

ADAPTERS = ["kv", *map(slow, ("redis", "bridge", "attached-ours", "attached-stock"))]


def refusal(worker: Worker, function: str, **payload: Any) -> tuple[str, str]:
    with pytest.raises(CallFailedError) as refused:
        worker.call(f"state::{function}", payload)
    return refused.value.code, refused.value.message


def test_an_engine_says_what_it_can_do(worker: Worker) -> None:
    about = worker.call("engine::functions::info", {"function_id": "state::set"})
    features = about["metadata"]["iii_state"]["features"]
    assert features == ["if", "meta", "many", "transact", "prefix", "touch", "history", "triggers.v2", "triggers.pause"]


def test_a_change_is_made_on_a_condition(worker: Worker, unique: str) -> None:
    at = {"scope": unique, "key": "k"}
    create = {**at, "value": {"n": 1}, "if": [{"absent": True}]}
    assert worker.call("state::set", create) == {"old_value": None, "new_value": {"n": 1}}
    words = f"Condition 0 does not hold at path 'root' of scope '{unique}', key 'k'"
    assert refusal(worker, "set", **create) == ("CONDITION_FAILED", words)
    told = worker.call("state::set", {**create, "if_failed": "return"})
    assert (told["applied"], told["condition"], told["value"]) == (False, 0, {"n": 1})
    take = {**at, "ops": [{"type": "decrement", "path": "n", "by": 1}], "if": [{"path": "n", "gte": 1}]}
    assert worker.call("state::update", take)["new_value"] == {"n": 0}
    assert refusal(worker, "update", **take)[0] == "CONDITION_FAILED"
    assert refusal(worker, "delete", **at, **{"if": [{"equals": {"n": 1}}]})[0] == "CONDITION_FAILED"
    assert worker.call("state::delete", {**at, "if": [{"etag": told["etag"]}], "if_failed": "return"})["applied"] is False
    assert worker.call("state::delete", {**at, "if": [{"path": "n", "equals": 0}]}) == {"n": 0}


def test_what_is_known_of_a_value_saves_reading_it_again(worker: Worker, unique: str) -> None:
    at = {"scope": unique, "key": "k"}
    written = worker.call("state::set", {**at, "value": [1], "ttl_ms": 60_000, "meta": True, "return": "none"})
    assert set(written) == {"etag", "revision"}
    found = worker.call("state::get", {**at, "meta": True})
    assert (found["value"], found["etag"]) == ([1], written["etag"])
    assert 0 < found["ttl_ms"] <= 60_000
    assert worker.call("state::touch", {**at, "ttl_ms": None}) == {"found": True}
    assert worker.call("state::get", {**at, "meta": True})["ttl_ms"] is None
    refused = refusal(worker, "update", **at, ops=[{"type": "increment", "by": 1}], strict=True)
    assert refused[0] == "OP_FAILED"


def test_many_keys_are_changed_and_read_at_once(worker: Worker, unique: str) -> None:
    steps: list[Any] = [
        {"type": "set", "key": "a", "value": 1},
        {"type": "update", "key": "a", "ops": [{"type": "increment", "by": 1}], "if": [{"equals": 1}]},
        {"type": "set", "key": "b", "value": None},
        {"type": "delete", "key": "none"},
    ]
    assert worker.call("state::transact", {"scope": unique, "steps": steps}) == {
        "results": [
            {"old_value": None, "new_value": 1},
            {"old_value": 1, "new_value": 2},
            {"old_value": None, "new_value": None},
            {"old_value": None},
        ]
    }
    refused = [{"type": "set", "key": "c", "value": 1}, {"type": "delete", "key": "none", "if": [{"present": True}]}]
    told = worker.call("state::transact", {"scope": unique, "steps": refused, "if_failed": "return"})
    assert (told["applied"], told["step"], told["condition"]) == (False, 1, 0)
    assert worker.call("state::get_many", {"scope": unique, "keys": ["b", "c", "a"]}) == {
        "values": [{"found": True, "value": None}, {"found": False, "value": None}, {"found": True, "value": 2}]
    }


def test_a_part_of_a_scope_is_listed(worker: Worker, unique: str) -> None:
    for key in ("b2", "a", "b1"):
        worker.call("state::set", {"scope": unique, "key": key, "value": key})
    assert worker.call("state::list", {"scope": unique, "prefix": "b", "order": "desc"}) == ["b2", "b1"]
    assert worker.call("state::list_keys", {"scope": unique, "limit": 2}) == {"keys": ["a", "b1"], "next": "b1"}
    assert worker.call("state::list_keys", {"scope": unique, "limit": 2, "after": "b1"}) == {"keys": ["b2"], "next": None}
    page = worker.call("state::list_entries", {"scope": unique, "prefix": "b", "order": "asc"})
    assert page["entries"] == [["b1", "b1"], ["b2", "b2"]]


def test_a_scope_without_a_change_log_says_so(worker: Worker, unique: str) -> None:
    assert refusal(worker, "history", scope=unique)[0] == "HISTORY_ERROR"


def test_a_trigger_is_called_for_what_it_asks_for_alone(worker: Worker, worker_of: WorkerOf, unique: str) -> None:
    handler = f"{unique}::seen"
    worker.register_function(handler)
    config = {
        "scope_prefix": unique,
        "event_types": ["updated"],
        "changed": [["address", "city"]],
        "when": [{"path": "active", "equals": True}],
        "payload": "new",
    }
    worker.register_trigger(handler, config)
    worker.settle()
    writer = worker_of(PYTHON_NEW)
    for value in (
        {"active": True},
        {"active": True, "seen": 1},
        {"active": False, "address": {"city": "Turin"}},
        {"active": True, "address": {"city": "Graz"}},
    ):
        writer.call("state::set", {"scope": f"{unique}/users", "key": "k", "value": value})
    worker.wait_for_calls(handler, 1)
    [event] = worker.payloads(handler)
    assert event["new_value"] == {"active": True, "address": {"city": "Graz"}}
    assert "old_value" not in event
