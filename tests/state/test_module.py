"""The functions, as a caller sees them: answers, error codes and messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from iii_state import Engine, FunctionError, StateModule, values
from iii_state.host import LOCAL


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with Engine() as running:
        await running.add_module(StateModule())
        yield running


async def call(engine: Engine, function: str, **payload: Any) -> Any:
    return await engine.trigger({"function_id": f"state::{function}", "payload": payload})


async def refused(engine: Engine, function: str, payload: Any) -> tuple[str, str]:
    with pytest.raises(FunctionError) as raised:
        await engine.trigger({"function_id": f"state::{function}", "payload": payload})
    return raised.value.code, raised.value.message


async def test_set_get_delete(engine: Engine) -> None:
    assert await call(engine, "set", scope="s", key="k", value={"a": []}) == {"old_value": None, "new_value": {"a": []}}
    assert await call(engine, "set", scope="s", key="k", data=1.0) == {"old_value": {"a": []}, "new_value": 1.0}
    assert await call(engine, "get", scope="s", key="k") == 1.0
    assert await call(engine, "delete", scope="s", key="k") == 1.0
    assert await call(engine, "delete", scope="s", key="k") is None
    assert await call(engine, "get", scope="s", key="k") is None


async def test_a_stored_null_is_a_value(engine: Engine) -> None:
    events: list[str] = []
    engine.register_function("on", lambda event: events.append(event["event_type"]))
    await engine.register_trigger({"type": "state", "function_id": "on"})
    await call(engine, "set", scope="s", key="k", value=None)
    assert await call(engine, "list", scope="s") == [None]
    handler = engine.functions.get("default", "state::get")
    assert handler is not None
    assert handler.handler is not None
    assert handler.handler(b'{"scope":"s","key":"k"}', LOCAL) == b"null"
    assert handler.handler(b'{"scope":"s","key":"missing"}', LOCAL) is None


async def test_update_reports_the_ops_that_failed_and_only_then(engine: Engine) -> None:
    await call(engine, "set", scope="s", key="k", value={"n": 1, "t": "x"})
    answer = await call(engine, "update", scope="s", key="k", ops=[{"type": "increment", "path": "n", "by": 2}])
    assert answer == {"old_value": {"n": 1, "t": "x"}, "new_value": {"n": 3, "t": "x"}}
    ops = [{"type": "increment", "path": "t", "by": 1}, {"type": "set", "path": "u", "value": 1}]
    answer = await call(engine, "update", scope="s", key="k", ops=ops)
    assert answer["new_value"] == {"n": 3, "t": "x", "u": 1}
    message = "Expected number at path 't', got string."
    assert answer["errors"] == [{"op_index": 0, "code": "increment.not_number", "message": message}]


async def test_a_value_with_a_deadline_goes_and_null_is_no_deadline(engine: Engine) -> None:
    await call(engine, "set", scope="s", key="k", value=1, ttl_ms=20)
    await call(engine, "set", scope="s", key="always", value=1, ttl_ms=None)
    await call(engine, "update", scope="s", key="updated", ops=[], ttl_ms=20)
    async with asyncio.timeout(10):
        while await call(engine, "list", scope="s") != [1]:
            await asyncio.sleep(0.005)
    assert await call(engine, "get", scope="s", key="always") == 1


async def test_list_and_groups(engine: Engine) -> None:
    assert await call(engine, "list", scope="unknown") == []
    assert await call(engine, "list_groups") == {"groups": []}
    for scope in ("b", "a", "é"):
        await call(engine, "set", scope=scope, key="k", value=scope)
    assert await call(engine, "list", scope="b") == ["b"]
    assert await call(engine, "list_groups", anything=["is", "accepted"]) == {"groups": ["a", "b", "é"]}
    assert await engine.trigger({"function_id": "state::list_groups"}) == {"groups": ["a", "b", "é"]}


TTL_RANGE = "ttl_ms: invalid value: %d, expected an integer from 1 to 10000000000000"


async def test_list_keys_and_entries(engine: Engine) -> None:
    for key in ("b", "a"):
        await call(engine, "set", scope="s", key=key, value={"k": key})
    assert await call(engine, "list_keys", scope="s") == {"keys": ["b", "a"]}
    assert await call(engine, "list_keys", scope="unknown") == {"keys": []}
    page = await call(engine, "list_entries", scope="s", limit=1)
    assert page == {"entries": [["b", {"k": "b"}]], "next_cursor": page["next_cursor"], "done": False, "offset": 0, "total": 2}
    page = await call(engine, "list_entries", scope="s", cursor=page["next_cursor"], limit=None, max_bytes=None)
    assert page == {"entries": [["a", {"k": "a"}]], "next_cursor": None, "done": True, "offset": 1, "total": 2}
    code, message = await refused(engine, "list_entries", {"scope": "s", "cursor": "made up"})
    assert (code, "begin again without one" in message) == ("INVALID_CURSOR", True)
    cause = "limit: invalid value: 0, expected an integer from 1 to 1000"
    expected = ("deserialization_error", f"Failed to deserialize input for state::list_entries: {cause}")
    assert await refused(engine, "list_entries", {"scope": "s", "limit": 0}) == expected


@pytest.mark.parametrize("function", ["set", "get", "delete", "update", "list", "list_keys", "list_entries"])
@pytest.mark.parametrize(
    ("payload", "cause"),
    [
        (None, "invalid type: null, expected an object"),
        ("x", "invalid type: string, expected an object"),
        ([], "invalid type: sequence, expected an object"),
        ({}, "missing field `scope`"),
        ({"scope": 1, "key": "k", "value": 1, "ops": []}, "scope: invalid type: integer, expected a string"),
        ({"scope": None, "key": "k", "value": 1, "ops": []}, "scope: invalid type: null, expected a string"),
    ],
)
async def test_a_request_that_cannot_be_used(engine: Engine, function: str, payload: Any, cause: str) -> None:
    expected = f"Failed to deserialize input for state::{function}: {cause}"
    assert await refused(engine, function, payload) == ("deserialization_error", expected)
    assert await call(engine, "list_groups") == {"groups": []}


@pytest.mark.parametrize(
    ("function", "payload", "cause"),
    [
        ("set", {"scope": "s", "value": 1}, "missing field `key`"),
        ("set", {"scope": "s", "key": "k"}, "missing field `value`"),
        ("set", {"scope": "s", "key": "k", "value": 1, "data": 1}, "`value` and `data` are the same field; give one"),
        ("set", {"scope": "s", "key": "k", "value": [[float("nan")]]}, "nan is no JSON value"),
        ("set", {"scope": "s", "key": "\ud800", "value": 1}, "a string holds a lone surrogate, which is no Unicode text"),
        ("set", {"scope": "s", "key": "k", "value": 1, "ttl_ms": 0}, TTL_RANGE % 0),
        ("set", {"scope": "s", "key": "k", "value": 1, "ttl_ms": 10**13 + 1}, TTL_RANGE % (10**13 + 1)),
        ("set", {"scope": "s", "key": "k", "value": 1, "ttl_ms": 10**30}, TTL_RANGE % 10**30),
        ("set", {"scope": "s", "key": "k", "value": 1, "ttl_ms": "5"}, "ttl_ms: invalid type: string, expected an integer"),
        ("set", {"scope": "s", "key": "k", "value": 1, "ttl_ms": True}, "ttl_ms: invalid type: boolean, expected an integer"),
        (
            "set",
            {"scope": "s", "key": "k", "value": 1, "ttl_ms": 5.0},
            "ttl_ms: invalid type: floating point number, expected an integer",
        ),
        ("update", {"scope": "s", "key": "k", "ops": [], "ttl_ms": -1}, TTL_RANGE % -1),
        ("update", {"scope": "s", "key": "k", "ops": [], "ttl_ms": [1]}, "ttl_ms: invalid type: sequence, expected an integer"),
        ("update", {"scope": "s", "key": "k"}, "missing field `ops`"),
        ("update", {"scope": "s", "key": "k", "ops": [{"path": "a"}]}, "ops[0]: missing field `type`"),
        (
            "update",
            {"scope": "s", "key": "k", "ops": [{"type": "set", "path": "a"}, {"type": "move"}]},
            "ops[1].type: unknown variant `move`, expected one of `set`, `merge`, `increment`, `decrement`, `append`, `remove`",
        ),
        ("update", {"scope": "s", "key": "k", "ops": [{"type": "append", "path": ["a"]}]}, "ops[0]: missing field `value`"),
        (
            "update",
            {"scope": "s", "key": "k", "ops": [{"type": "increment", "by": "1"}]},
            "ops[0].by: invalid type: string, expected an integer or a number",
        ),
    ],
)
async def test_what_is_wrong_with_a_request_is_said(engine: Engine, function: str, payload: Any, cause: str) -> None:
    expected = f"Failed to deserialize input for state::{function}: {cause}"
    assert await refused(engine, function, payload) == ("deserialization_error", expected)
    assert await call(engine, "get", scope="s", key="k") is None


async def test_one_malformed_op_rejects_the_whole_call(engine: Engine) -> None:
    await call(engine, "set", scope="s", key="k", value={"n": 1})
    await refused(engine, "update", {"scope": "s", "key": "k", "ops": [{"type": "remove", "path": "n"}, {"type": "increment"}]})
    assert await call(engine, "get", scope="s", key="k") == {"n": 1}


async def test_nesting_beyond_what_is_stored_is_refused_and_up_to_it_kept(engine: Engine) -> None:
    def nested(depth: int) -> Any:
        value: Any = 1
        for _ in range(depth):
            value = [value]
        return value

    await call(engine, "set", scope="s", key="k", value=nested(512))
    assert await call(engine, "get", scope="s", key="k") == nested(512)
    code, message = await refused(engine, "set", {"scope": "s", "key": "k", "value": nested(513)})
    assert (code, message.endswith("nesting deeper than 512 levels")) == ("deserialization_error", True)


async def test_the_size_limit_counts_compact_text_and_lets_exactly_the_limit_pass() -> None:
    async with Engine() as engine:
        module = StateModule({"max_value_bytes": 20})
        await engine.add_module(module)
        await call(engine, "set", scope="s", key="k", value={"a": "01234", "b": 12})
        code, message = await refused(engine, "set", {"scope": "s", "key": "k", "value": {"a": "01234", "b": 123}})
        assert code == "VALUE_TOO_LARGE"
        assert message == "value of 21 bytes exceeds the configured max_value_bytes limit of 20"
        ops = [{"type": "append", "path": "a", "value": "x"}]
        assert await refused(engine, "update", {"scope": "s", "key": "k", "ops": ops}) == (code, message)
        assert await call(engine, "get", scope="s", key="k") == {"a": "01234", "b": 12}
        module.reconfigure({"max_value_bytes": 30})
        await call(engine, "update", scope="s", key="k", ops=ops)


async def test_no_value_is_larger_than_a_reply_can_carry(engine: Engine) -> None:
    most = values.MAX_VALUE_BYTES
    await call(engine, "set", scope="s", key="k", value="x" * (most - 2))
    code, message = await refused(engine, "set", {"scope": "s", "key": "k", "value": "x" * (most - 1)})
    assert (code, str(most) in message) == ("VALUE_TOO_LARGE", True)


async def test_a_scope_that_does_not_fit_into_a_frame_is_an_error_that_says_what_to_do(engine: Engine) -> None:
    for number in range(5):
        await call(engine, "set", scope="s", key=str(number), value="x" * (14 * 1024 * 1024))
    code, message = await refused(engine, "list", {"scope": "s"})
    assert code == "LIST_ERROR"
    assert "state::list_entries" in message


@pytest.mark.parametrize(
    ("config", "cause"),
    [
        ({"scope": 5}, "scope: invalid type: integer, expected a string"),
        ({"condition_function_id": []}, "condition_function_id: invalid type: sequence, expected a string"),
        ({"delivery": "twice"}, "delivery: unknown variant `twice`, expected one of `once`, `broadcast`"),
        ({"retry": {"max_attempts": 0}}, "retry.max_attempts has to be a whole number from 1 to 1000000, not int 0"),
        ({"retry": {"attempts": 1}}, "unknown key retry.attempts; did you mean retry.max_attempts?"),
        ({"retention_ms": -1}, 'retention_ms has to be a number of milliseconds or "forever", not int -1'),
        ([], "invalid type: sequence, expected an object"),
        ("s", "invalid type: string, expected an object"),
    ],
)
async def test_a_trigger_config_that_cannot_be_used(engine: Engine, config: Any, cause: str) -> None:
    engine.register_function("on", lambda event: None)
    with pytest.raises(FunctionError) as raised:
        await engine.register_trigger({"type": "state", "function_id": "on", "config": config})
    assert raised.value.code == "trigger_registration_failed"
    assert raised.value.message == f"Failed to parse trigger config: {cause}"
