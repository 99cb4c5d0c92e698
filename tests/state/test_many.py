"""`state::get_many` and `state::transact`, as a caller sees them: answers, error codes and messages."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from iii_state import Engine, FunctionError, StateModule


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with Engine() as running:
        await running.add_module(StateModule({"max_value_bytes": 100}))
        yield running


async def call(engine: Engine, function: str, **payload: Any) -> Any:
    return await engine.trigger({"function_id": f"state::{function}", "payload": payload})


async def refused(engine: Engine, function: str, **payload: Any) -> tuple[str, str]:
    with pytest.raises(FunctionError) as raised:
        await call(engine, function, **payload)
    return raised.value.code, raised.value.message.removeprefix(f"Failed to deserialize input for state::{function}: ")


async def test_values_are_answered_in_the_order_asked(engine: Engine) -> None:
    await call(engine, "set", scope="s", key="a", value={"n": []})
    await call(engine, "set", scope="s", key="null", value=None)
    await call(engine, "set", scope="t", key="a", value=1.0)
    found = {"found": True, "value": {"n": []}}
    assert await call(engine, "get_many", scope="s", keys=["no", "a", "null", "a"]) == {
        "values": [{"found": False, "value": None}, found, {"found": True, "value": None}, found]
    }
    places = [("t", "a"), ("s", "a"), ("u", "a"), ("t", "a")]
    items = [{"scope": scope, "key": key} for scope, key in places]
    assert [(one["found"], one["value"]) for one in (await call(engine, "get_many", items=items))["values"]] == [
        (True, 1.0),
        (True, {"n": []}),
        (False, None),
        (True, 1.0),
    ]
    assert await call(engine, "get_many", scope="s", keys=[]) == {"values": []}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"keys": ["k"]}, "missing field `scope`"),
        ({"scope": "s"}, "missing field `keys`"),
        ({}, "missing field `scope`"),
        ({"scope": "s", "keys": "k"}, "keys: invalid type: string, expected a sequence"),
        ({"scope": "s", "keys": [1]}, "keys[0]: invalid type: integer, expected a string"),
        ({"items": [{"scope": "s"}]}, "items[0]: missing field `key`"),
        ({"scope": "s", "keys": ["k"] * 1001}, "keys: invalid length: 1001, expected at most 1000"),
        ({"items": [{"scope": "s", "key": "k"}] * 1001}, "items: invalid length: 1001, expected at most 1000"),
        ({"scope": "s", "items": []}, "`items` have scopes and keys of their own; give them, or `scope` and `keys`"),
    ],
)
async def test_what_get_many_cannot_use(engine: Engine, request_: dict[str, Any], message: str) -> None:
    assert await refused(engine, "get_many", **request_) == ("deserialization_error", message)


async def test_a_transaction_is_answered_step_by_step(engine: Engine) -> None:
    await call(engine, "set", scope="s", key="a", value={"n": 1, "t": "x"})
    ops = [{"type": "increment", "path": "t", "by": 1}, {"type": "increment", "path": "n", "by": 1}]
    steps = [
        {"type": "set", "key": "b", "value": 1.0},
        {"type": "update", "key": "a", "ops": ops},
        {"type": "delete", "key": "b"},
        {"type": "delete", "key": "none"},
    ]
    assert await call(engine, "transact", scope="s", steps=steps) == {
        "results": [
            {"old_value": None, "new_value": 1.0},
            {
                "old_value": {"n": 1, "t": "x"},
                "new_value": {"n": 2, "t": "x"},
                "errors": [{"op_index": 0, "code": "increment.not_number", "message": "Expected number at path 't', got string."}],
            },
            {"old_value": 1.0},
            {"old_value": None},
        ]
    }
    assert await call(engine, "list", scope="s") == [{"n": 2, "t": "x"}]


SET = {"type": "set", "key": "k", "value": 1}


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (None, "steps: invalid type: null, expected a sequence"),
        ([], "steps: number of steps: invalid value: 0, expected an integer from 1 to 128"),
        ([SET] * 129, "steps: number of steps: invalid value: 129, expected an integer from 1 to 128"),
        ([SET, 1], "steps[1]: invalid type: integer, expected an object"),
        ([SET, {"key": "k"}], "steps[1]: missing field `type`"),
        ([SET, {"type": "get", "key": "k"}], "steps[1].type: unknown variant `get`, expected one of `set`, `update`, `delete`"),
        ([SET, {"type": "set", "value": 1}], "steps[1]: missing field `key`"),
        ([SET, {"type": "set", "key": "k"}], "steps[1]: missing field `value`"),
        ([SET, {"type": "update", "key": "k"}], "steps[1]: missing field `ops`"),
        ([SET, {**SET, "scope": "t"}], "steps[1]: scope: a transaction is of one scope, and its steps have none"),
        ([SET, {**SET, "ttl_ms": 0}], "steps[1]: ttl_ms: invalid value: 0, expected an integer from 1 to 10000000000000"),
        ([SET, {**SET, "ttl_ms": "1"}], "steps[1].ttl_ms: invalid type: string, expected an integer"),
        (
            [SET, {"type": "update", "key": "k", "ops": [{"type": "increment", "path": "n"}]}],
            "steps[1]: ops[0]: missing field `by`",
        ),
        ([SET, {"type": "update", "key": "k", "ops": [{"type": "shout"}]}], "steps[1].ops[0].type: unknown variant `shout`"),
        ([SET, {"type": "update", "key": "k", "ops": 1}], "steps[1].ops: invalid type: integer, expected a sequence"),
    ],
)
async def test_what_transact_cannot_use_changes_nothing(engine: Engine, steps: Any, message: str) -> None:
    code, said = await refused(engine, "transact", scope="s", steps=steps)
    assert code == "deserialization_error"
    assert said.startswith(message)
    assert await call(engine, "list", scope="s") == []


async def test_conditions_are_not_passed_over_where_they_do_not_belong(engine: Engine) -> None:
    condition = [{"absent": True}]
    code, said = await refused(engine, "transact", scope="s", steps=[SET], **{"if": condition})
    assert (code, said) == ("deserialization_error", "if: conditions are members of the steps")
    code, said = await refused(engine, "touch", scope="s", key="k", ttl_ms=1, **{"if": condition})
    assert (code, said[:32]) == ("deserialization_error", "if: a touch takes no conditions;")
    assert await call(engine, "list", scope="s") == []


async def test_a_value_that_is_too_large_names_its_step(engine: Engine) -> None:
    message = "steps[1]: value of 101 bytes exceeds the configured max_value_bytes limit of 100"
    assert await refused(engine, "transact", scope="s", steps=[SET, {**SET, "value": "x" * 99}]) == ("VALUE_TOO_LARGE", message)
    append = {"type": "update", "key": "k", "ops": [{"type": "append", "value": "y"}]}
    steps = [{**SET, "value": "x" * 98}, append]
    assert await refused(engine, "transact", scope="s", steps=steps) == ("VALUE_TOO_LARGE", message)
    assert await call(engine, "list", scope="s") == []


async def test_more_than_a_reply_holds_is_an_error() -> None:
    async with Engine() as running:
        await running.add_module(StateModule())
        large = "x" * (16 * 1024 * 1024 - 2)
        for key in "abcd":
            await call(running, "set", scope="s", key=key, value=large)
        assert len((await call(running, "get_many", scope="s", keys=["a", "b", "c"]))["values"]) == 3
        code, message = await refused(running, "get_many", scope="s", keys=["a", "b", "c", "d"])
        assert (code, message) == (
            "GET_ERROR",
            "Failed to get values: they take more than 62914560 bytes; ask for fewer of them at once",
        )
        code, message = await refused(
            running, "transact", scope="s", steps=[{"type": "set", "key": key, "value": large[:-9]} for key in "ab"]
        )
        assert (code, "33554414 bytes" in message) == ("VALUE_TOO_LARGE", True)


async def test_a_part_of_a_scope(engine: Engine) -> None:
    for key in ("b", "a1", "a2", "a3"):
        await call(engine, "set", scope="s", key=key, value=key)
    assert await call(engine, "list", scope="s", prefix="a", order="desc", limit=2) == ["a3", "a2"]
    assert await call(engine, "list", scope="s", limit=100_000, order="asc") == ["a1", "a2", "a3", "b"]
    assert await call(engine, "list_keys", scope="s", limit=3) == {"keys": ["a1", "a2", "a3"], "next": "a3"}
    assert await call(engine, "list_keys", scope="s", after="a3") == {"keys": ["b"], "next": None}
    assert await call(engine, "list_keys", scope="s", prefix="a", order="desc", limit=3) == {
        "keys": ["a3", "a2", "a1"],
        "next": None,
    }
    assert await call(engine, "list_keys", scope="s", prefix="a", order="desc", after="a2") == {"keys": ["a1"], "next": None}
    assert await call(engine, "list_keys", scope="s", prefix=None, order=None, limit=None, after=None) == {
        "keys": ["b", "a1", "a2", "a3"]
    }
    page = await call(engine, "list_entries", scope="s", prefix="a", order="desc", limit=2)
    assert (page["entries"], page["total"]) == ([["a3", "a3"], ["a2", "a2"]], 3)


@pytest.mark.parametrize("function", ["list", "list_keys"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"limit": 0}, "limit: invalid value: 0, expected an integer from 1 to 100000"),
        ({"limit": 100_002}, "limit: invalid value: 100002, expected an integer from 1 to 100000"),
        ({"limit": "1"}, "limit: invalid type: string, expected an integer"),
        ({"prefix": 1}, "prefix: invalid type: integer, expected a string"),
        ({"order": "up"}, "order: unknown variant `up`, expected one of `asc`, `desc`"),
    ],
)
async def test_what_listings_cannot_use(engine: Engine, function: str, given: dict[str, Any], message: str) -> None:
    assert await refused(engine, function, scope="s", **given) == ("deserialization_error", message)


async def test_a_condition_of_a_step_refuses_or_is_told(engine: Engine) -> None:
    await call(engine, "set", scope="s", key="k", value={"stock": 0})
    steps = [
        {"type": "set", "key": "order", "value": 1, "if": [{"absent": True}]},
        {
            "type": "update",
            "key": "k",
            "ops": [{"type": "decrement", "path": "stock", "by": 1}],
            "if": [{"present": True}, {"path": "stock", "gte": 1}],
        },
    ]
    message = "steps[1]: Condition 1 does not hold at path 'stock' of scope 's', key 'k'"
    assert await refused(engine, "transact", scope="s", steps=steps) == ("CONDITION_FAILED", message)
    told = await call(engine, "transact", scope="s", steps=steps, if_failed="return")
    etag = (await call(engine, "get", scope="s", key="k", meta=True))["etag"]
    assert told == {"applied": False, "condition": 1, "step": 1, "value": {"stock": 0}, "etag": etag}
    assert await call(engine, "list_keys", scope="s") == {"keys": ["k"]}
    await call(engine, "set", scope="s", key="k", value={"stock": 1})
    told = await call(engine, "transact", scope="s", steps=steps, if_failed="return")
    assert [result["new_value"] for result in told["results"]] == [1, {"stock": 0}]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"if": 1}, "steps[1]: if: "),
        ({"if": []}, "steps[1]: if: "),
        ({"if": [{"lt": "x"}]}, "steps[1]: if[0]"),
        ({"strict": 1}, "steps[1].strict: invalid type: integer, expected a boolean"),
    ],
)
async def test_what_a_step_cannot_ask_for(engine: Engine, given: dict[str, Any], message: str) -> None:
    code, said = await refused(engine, "transact", scope="s", steps=[SET, {**SET, **given}])
    assert (code, said[: len(message)]) == ("deserialization_error", message)
    code, said = await refused(engine, "transact", scope="s", steps=[SET], if_failed="throw")
    assert (code, said[:26]) == ("deserialization_error", "if_failed: unknown variant")


async def test_conditions_are_judged_before_sizes(engine: Engine) -> None:
    large = {**SET, "value": "x" * 99}
    code, message = await refused(engine, "transact", scope="s", steps=[{**SET, "if": [{"present": True}]}, large])
    assert (code, message[:9]) == ("CONDITION_FAILED", "steps[0]:")
    code, message = await refused(engine, "transact", scope="s", steps=[{**SET, "if": [{"absent": True}]}, large])
    assert (code, message[:9]) == ("VALUE_TOO_LARGE", "steps[1]:")


async def test_a_strict_update_is_all_or_nothing(engine: Engine) -> None:
    ops = [{"type": "increment", "path": "n", "by": 1}, {"type": "increment", "path": "t", "by": 1}]
    await call(engine, "set", scope="s", key="k", value={"t": "x"})
    step = {"type": "update", "key": "k", "ops": ops, "strict": True}
    message = "steps[1]: Expected number at path 't', got string."
    assert await refused(engine, "transact", scope="s", steps=[{**SET, "key": "j"}, step]) == ("OP_FAILED", message)
    assert await call(engine, "list", scope="s") == [{"t": "x"}]


async def test_one_large_value_asked_for_many_times_is_not_copied_to_be_refused() -> None:
    async with Engine() as large:
        await large.add_module(StateModule({}))
        await call(large, "set", scope="s", key="k", value="x" * 1_000_000)
        tracemalloc.start()
        try:
            assert await refused(large, "get_many", scope="s", keys=["k"] * 1000) == (
                "GET_ERROR",
                "Failed to get values: they take more than 62914560 bytes; ask for fewer of them at once",
            )
            assert tracemalloc.get_traced_memory()[1] < 10_000_000
        finally:
            tracemalloc.stop()
