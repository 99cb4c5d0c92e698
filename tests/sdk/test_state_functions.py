"""The six state functions through every SDK: what goes in comes out, to the last digit."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sdk.conftest import WorkerOf
from tests.support.sdk.workers import NODE_NEW, PYTHON_NEW, PYTHON_OLD, CallFailedError, Worker
from tests.support.slow import slow

ADAPTERS = ["kv", *map(slow, ("redis", "attached-ours", "attached-stock"))]

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    2**53 - 1,
    0.1,
    -2.5e-7,
    "",
    "plain",
    "żółć 漢字 🎈 \u2028",
    'quotes " backslash \\ slash / newline \n tab \t NUL \x00',
    [],
    {},
    [[], {}, None, [1, [2, [3]]]],
    {"b": 1, "a": {"z": [], "y": {}, "x": None}, "": "empty name", "naïve 🎈": [True]},
]

# JavaScript numbers cannot hold these.
BEYOND_DOUBLES: list[Any] = [
    2**53 + 1,
    2**63 - 1,
    -(2**63),
    2**64 - 1,
    1.0,
    -0.0,
    1e300,
    {"id": 9007199254740993, "ratio": 1.0, "list": [2**64 - 1, 0.0]},
]


@pytest.mark.parametrize("value", VALUES + BEYOND_DOUBLES, ids=repr)
def test_a_value_comes_back_as_it_went_in(worker: Worker, unique: str, value: Any) -> None:
    if not worker.sdk.reads_numbers_exactly and any(value is other for other in BEYOND_DOUBLES):
        pytest.skip("JavaScript cannot hold this number")
    at = {"scope": unique, "key": "k"}
    assert worker.same_json(worker.call("state::set", {**at, "value": value}), {"old_value": None, "new_value": value})
    assert worker.same_json(worker.call("state::get", at), value)
    assert worker.same_json(worker.call("state::list", {"scope": unique}), [value])
    assert worker.same_json(worker.call("state::set", {**at, "value": [value]}), {"old_value": value, "new_value": [value]})
    assert worker.same_json(worker.call("state::delete", at), [value])
    assert worker.call("state::get", at) is worker.sdk.nothing


def test_a_missing_key_gives_no_result(worker: Worker, unique: str) -> None:
    at = {"scope": unique, "key": "nowhere"}
    assert worker.call("state::get", at) is worker.sdk.nothing
    assert worker.call("state::delete", at) is worker.sdk.nothing


def test_a_stored_null_is_a_value(worker: Worker, unique: str) -> None:
    at = {"scope": unique, "key": "k"}
    worker.call("state::set", {**at, "value": None})
    assert worker.same_json(worker.call("state::get", at), None)
    assert worker.call("state::list", {"scope": unique}) == [None]


@pytest.mark.parametrize("key", ["", "a/b:c{d}", "line\nbreak", "NUL\x00", "🎈"], ids=ascii)
def test_scopes_and_keys_are_any_strings(worker: Worker, unique: str, key: str) -> None:
    at = {"scope": f"{unique}{key}", "key": key}
    worker.call("state::set", {**at, "value": 1})
    assert worker.call("state::get", at) == 1
    assert at["scope"] in worker.call("state::list_groups", {})["groups"]


def test_data_is_another_name_for_value(worker: Worker, unique: str) -> None:
    result = worker.call("state::set", {"scope": unique, "key": "k", "data": {"a": 1}})
    assert result == {"old_value": None, "new_value": {"a": 1}}


def test_update_applies_its_ops_in_order(worker: Worker, unique: str) -> None:
    at = {"scope": unique, "key": "k"}
    before = {"name": "Ada", "visits": 41, "tags": ["x"], "old": True, "deep": {"a": {"b": 1}}}
    after = {
        "name": "Grace",
        "visits": 40,
        "tags": ["x", "y"],
        "deep": {"a": {"b": 1, "c": 2}},
        "plan": "pro",
        "new": 5,
    }
    worker.call("state::set", {**at, "value": before})
    ops = [
        {"type": "set", "path": "name", "value": "Grace"},
        {"type": "increment", "path": "visits", "by": 1},
        {"type": "decrement", "path": "visits", "by": 2},
        {"type": "append", "path": "tags", "value": "y"},
        {"type": "remove", "path": "old"},
        {"type": "merge", "path": ["deep", "a"], "value": {"c": 2}},
        {"type": "merge", "value": {"plan": "pro"}},
        {"type": "increment", "path": "new", "by": 5},
    ]
    result = worker.call("state::update", {**at, "ops": ops})
    assert worker.same_json(result, {"old_value": before, "new_value": after})
    assert worker.same_json(worker.call("state::get", at), after)


def test_update_of_a_missing_key_starts_with_an_empty_object(worker: Worker, unique: str) -> None:
    ops = [{"type": "increment", "path": "n", "by": 3}]
    result = worker.call("state::update", {"scope": unique, "key": "k", "ops": ops})
    assert result == {"old_value": None, "new_value": {"n": 3}}


def test_a_failed_op_is_skipped_and_reported(worker: Worker, unique: str) -> None:
    at = {"scope": unique, "key": "k"}
    worker.call("state::set", {**at, "value": {"name": "Ada", "n": 1}})
    ops = [
        {"type": "increment", "path": "name", "by": 1},
        {"type": "increment", "path": "n", "by": 1},
        {"type": "append", "path": "n", "value": 1},
        {"type": "set", "path": ["a", "__proto__"], "value": 1},
        {"type": "merge", "value": 7},
    ]
    result = worker.call("state::update", {**at, "ops": ops})
    assert result["old_value"] == {"name": "Ada", "n": 1}
    assert result["new_value"] == {"name": "Ada", "n": 2}
    assert [{name: error[name] for name in ("op_index", "code", "message")} for error in result["errors"]] == [
        {
            "op_index": 0,
            "code": "increment.not_number",
            "message": "Expected number at path 'name', got string.",
        },
        {
            "op_index": 2,
            "code": "append.type_mismatch",
            "message": "Cannot append at path 'n': target is number, expected array, string, null, or missing field.",
        },
        {
            "op_index": 3,
            "code": "set.path.proto_polluted",
            "message": "Path segment '__proto__' is not allowed (prototype pollution).",
        },
        {"op_index": 4, "code": "merge.value.not_an_object", "message": "Merge value must be a JSON object"},
    ]


def test_an_update_leaves_alone_what_its_own_sdk_cannot_read(worker_of: WorkerOf, unique: str) -> None:
    python, node = worker_of(PYTHON_NEW), worker_of(NODE_NEW)
    at = {"scope": unique, "key": "k"}
    python.call("state::set", {**at, "value": {"id": 2**63 - 1, "ratio": 1.0, "n": 1, "deep": {"id": 2**64 - 1}}})
    node.call("state::update", {**at, "ops": [{"type": "increment", "path": "n", "by": 1}]})
    after = {"id": 2**63 - 1, "ratio": 1.0, "n": 2, "deep": {"id": 2**64 - 1}}
    assert python.same_json(python.call("state::get", at), after)


def test_counting_is_exact_up_to_the_last_integer(worker_of: WorkerOf, unique: str) -> None:
    worker = worker_of(PYTHON_OLD)
    at = {"scope": unique, "key": "k"}
    ops = [{"type": "increment", "path": "n", "by": 1}]
    worker.call("state::set", {**at, "value": {"n": 2**64 - 3, "f": 1.0}})
    assert worker.same_json(worker.call("state::update", {**at, "ops": ops})["new_value"], {"n": 2**64 - 2, "f": 1.0})
    assert worker.same_json(worker.call("state::update", {**at, "ops": ops})["new_value"], {"n": 2**64 - 1, "f": 1.0})
    result = worker.call("state::update", {**at, "ops": ops})
    assert result["errors"][0]["message"] == "Result at path 'n' is out of range."
    assert worker.same_json(result["new_value"], {"n": 2**64 - 1, "f": 1.0})


def test_list_gives_the_values_of_a_scope(worker: Worker, unique: str) -> None:
    for number in range(20):
        worker.call("state::set", {"scope": unique, "key": f"k{number}", "value": {"n": number}})
    values = worker.call("state::list", {"scope": unique})
    assert sorted(value["n"] for value in values) == list(range(20))
    assert worker.call("state::list", {"scope": f"{unique}-empty"}) == []


def test_list_groups_gives_the_scopes_that_hold_something(worker: Worker, unique: str) -> None:
    first, second = f"{unique}-1", f"{unique}-2"
    worker.call("state::set", {"scope": second, "key": "k", "value": 1})
    worker.call("state::set", {"scope": first, "key": "k", "value": 1})
    groups = worker.call("state::list_groups", {})["groups"]
    assert groups == sorted(set(groups))
    assert {first, second} <= set(groups)
    worker.call("state::delete", {"scope": first, "key": "k"})
    assert first not in worker.call("state::list_groups", {})["groups"]


def test_list_groups_needs_no_payload(worker: Worker) -> None:
    # Python leaves a None out of the frame, so that there is no `data` at all.
    assert isinstance(worker.call("state::list_groups")["groups"], list)


@pytest.mark.parametrize(
    ("function", "request_", "named"),
    [
        ("set", {"key": "k", "value": 1}, "`scope`"),
        ("set", {"scope": "s", "value": 1}, "`key`"),
        ("set", {"scope": "s", "key": "k"}, "`value`"),
        ("set", {"scope": 1, "key": "k", "value": 1}, "expected a string"),
        ("get", {"scope": "s"}, "`key`"),
        ("get", {"scope": "s", "key": None}, "expected a string"),
        ("get", None, ""),
        ("get", [1], ""),
        ("delete", {}, "`scope`"),
        ("update", {"scope": "s", "key": "k"}, "`ops`"),
        ("list", {}, "`scope`"),
    ],
    ids=str,
)
def test_a_request_that_is_wrong_is_refused_in_words(worker: Worker, function: str, request_: Any, named: str) -> None:
    with pytest.raises(CallFailedError) as caught:
        worker.call(f"state::{function}", request_)
    assert caught.value.code == "deserialization_error"
    assert caught.value.message.startswith(f"Failed to deserialize input for state::{function}: ")
    assert named in caught.value.message


@pytest.mark.parametrize(
    "op",
    [
        {"type": "explode", "path": "n"},
        {"type": "increment", "path": "n"},
        {"type": "increment", "path": "n", "by": "one"},
        {"type": "set", "path": 7, "value": 1},
        {"path": "n", "value": 1},
    ],
    ids=str,
)
def test_one_malformed_op_refuses_the_whole_update(worker: Worker, unique: str, op: dict[str, Any]) -> None:
    at = {"scope": unique, "key": "k"}
    worker.call("state::set", {**at, "value": {"n": 1}})
    with pytest.raises(CallFailedError) as caught:
        worker.call("state::update", {**at, "ops": [{"type": "increment", "path": "n", "by": 1}, op]})
    assert caught.value.code == "deserialization_error"
    assert worker.call("state::get", at) == {"n": 1}


def test_a_write_that_asks_for_no_answer_is_applied(worker: Worker, unique: str) -> None:
    at = {"scope": unique, "key": "k"}
    worker.call_void("state::set", {**at, "value": {"n": 1}})
    worker.call_void("state::update", {**at, "ops": [{"type": "increment", "path": "n", "by": 1}]})
    assert worker.call("state::get", at) == {"n": 2}


def test_many_calls_at_once_are_all_answered_and_none_is_lost(worker: Worker, unique: str) -> None:
    request = {"scope": unique, "key": "k", "ops": [{"type": "increment", "path": "n", "by": 1}]}
    answers = [worker.start_call("state::update", request) for _ in range(200)]
    counts = [answer.result()["new_value"]["n"] for answer in answers]
    assert sorted(counts) == list(range(1, 201))


def test_a_value_over_one_megabyte_reaches_the_sdks_that_can_receive_it(worker: Worker, worker_of: WorkerOf, unique: str) -> None:
    at = {"scope": unique, "key": "k"}
    value = "x" * (3 * 2**19)
    worker_of(PYTHON_NEW).call("state::set", {**at, "value": value})
    connection = worker.info()["worker_id"]
    if worker.sdk.receives_bytes > len(value):
        assert worker.call("state::get", at) == value
    else:
        # The frame would cut the connection, and the call would never be answered.
        with pytest.raises(CallFailedError) as caught:
            worker.call("state::get", at)
        assert caught.value.code != "TIMEOUT"
        assert caught.value.message
    assert worker.call("state::get", {**at, "key": "other"}) is worker.sdk.nothing
    assert worker.info()["worker_id"] == connection


def test_a_value_over_sixteen_megabytes_is_refused(worker_of: WorkerOf, unique: str) -> None:
    # Python 0.25 sends this as one message in fragments.
    worker = worker_of(PYTHON_NEW)
    at = {"scope": unique, "key": "k"}
    with pytest.raises(CallFailedError) as caught:
        worker.call("state::set", {**at, "value": "x" * (16 * 2**20)})
    assert caught.value.code == "VALUE_TOO_LARGE"
    assert worker.call("state::get", at) is None
