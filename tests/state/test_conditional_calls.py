"""`if`, `if_failed`, `meta`, `return`, `strict` and `state::touch`, as callers of an engine have them; on kv, and over a bridge."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from iii_state.engine import Engine
from iii_state.errors import MAX_RECORDED_BYTES, FunctionError
from iii_state.state.features import FEATURES
from iii_state.state.module import StateModule
from tests.support.engines.embedded import KINDS, engine_over

Call = Any
PLACE = {"scope": "s", "key": "k"}


def etag(text: bytes) -> str:
    return hashlib.sha1(text).hexdigest()


FRAMED = b'{\t\n"n":1\n}'


class Caller:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def __call__(self, function: str, **payload: Any) -> Any:
        return await self.engine.trigger({"function_id": f"state::{function}", "payload": {**PLACE, **payload}})

    async def refused(self, function: str, **payload: Any) -> tuple[str, str]:
        with pytest.raises(FunctionError) as raised:
            await self(function, **payload)
        return raised.value.code, raised.value.message


@pytest.fixture(params=["kv", "bridge"])
async def call(request: pytest.FixtureRequest) -> AsyncIterator[Caller]:
    async with Engine() as engine:
        await engine.add_module(StateModule())
        if request.param == "kv":
            yield Caller(engine)
            return
        host, port = await engine.serve("127.0.0.1", 0)
        async with Engine() as other:
            adapter = {"name": "bridge", "config": {"bridge_url": f"ws://{host}:{port}"}}
            await other.add_module(StateModule({"adapter": adapter}))
            yield Caller(other)


async def test_without_them_replies_are_what_they_were(call: Caller) -> None:
    assert await call("set", value={"n": 1}) == {"old_value": None, "new_value": {"n": 1}}
    assert await call("update", ops=[]) == {"old_value": {"n": 1}, "new_value": {"n": 1}}
    assert await call("get") == {"n": 1}
    assert await call("delete") == {"n": 1}


async def test_meta_tells_what_is_stored_now(call: Caller) -> None:
    nothing = {"etag": None, "revision": None}
    assert await call("get", meta=True) == {"value": None, "ttl_ms": None, **nothing}
    known = {"etag": etag(FRAMED), "revision": None}
    assert await call("set", value={"n": 1}, meta=True) == {"old_value": None, "new_value": {"n": 1}, **known}
    assert await call("get", meta=True) == {"value": {"n": 1}, "ttl_ms": None, **known}
    assert await call("update", ops=[], meta=True) == {"old_value": {"n": 1}, "new_value": {"n": 1}, **known}
    await call("touch", ttl_ms=100_000)
    assert 0 < (await call("get", meta=True))["ttl_ms"] <= 100_000
    assert await call("delete", meta=True) == {"old_value": {"n": 1}, **nothing}
    assert (await call("set", value=None, meta=True))["etag"] == etag(b"null")
    assert await call("get", meta=True) == {"value": None, "ttl_ms": None, "etag": etag(b"null"), "revision": None}


async def test_return_leaves_values_out(call: Caller) -> None:
    for wanted, expected in (
        ("both", {"old_value": 1, "new_value": 1}),
        ("new", {"new_value": 1}),
        ("old", {"old_value": 1}),
        ("none", {}),
        (None, {"old_value": 1, "new_value": 1}),
    ):
        await call("set", value=1)
        assert await call("set", value=1, **{"return": wanted}) == expected
        assert await call("update", ops=[], **{"return": wanted}) == expected
    failed = await call("update", ops=[{"type": "append", "value": 1}], meta=True, **{"return": "none"})
    assert failed == {"etag": etag(b"1"), "revision": None, "errors": failed["errors"]}
    assert failed["errors"][0]["code"] == "append.type_mismatch"


async def test_what_does_not_hold_is_an_error_or_a_result(call: Caller) -> None:
    absent = [{"path": ["a", "b"], "absent": True}, {"absent": True}]
    changes: list[tuple[str, dict[str, Any]]] = [("set", {"value": 2}), ("update", {"ops": []}), ("delete", {})]
    told = ("CONDITION_FAILED", "Condition 1 does not hold at path 'root' of scope 's', key 'k'")
    for stored, text in (({"n": 1}, FRAMED), (None, b"null")):
        await call("set", value=stored)
        for function, payload in changes:
            for meta in (False, True):
                assert await call.refused(function, **payload, meta=meta, **{"if": absent}) == told
                result = await call(function, **payload, meta=meta, if_failed="return", **{"if": absent})
                assert result == {"applied": False, "condition": 1, "value": stored, "etag": etag(text)}
        assert await call("get") == stored
    await call("delete")
    result = await call("set", value=1, if_failed="return", **{"if": [{"path": "n", "gte": 1}]})
    assert result == {"applied": False, "condition": 0, "value": None, "etag": None}
    assert await call("set", value=1, if_failed="return", **{"if": absent}) == {"old_value": None, "new_value": 1}
    assert await call("delete", if_failed="return", **{"if": [{"equals": 1.0}]}) == 1


async def test_a_compare_and_set_loop_needs_no_further_get(call: Caller) -> None:
    known = (await call("set", value={"n": 0}, meta=True))["etag"]
    for number in range(1, 5):
        condition = {"if": [{"etag": known}], "if_failed": "return"}
        known = (await call("set", value={"n": number}, meta=True, **condition, **{"return": "none"}))["etag"]
    assert await call("get") == {"n": 4}


async def test_conditions_are_judged_before_sizes(call: Caller) -> None:
    large = "x" * (16 * 1024 * 1024)
    assert (await call.refused("set", value=large, **{"if": [{"present": True}]}))[0] == "CONDITION_FAILED"
    result = await call("set", value=large, if_failed="return", **{"if": [{"present": True}]})
    assert result == {"applied": False, "condition": 0, "value": None, "etag": None}
    assert (await call.refused("set", value=large, **{"if": [{"absent": True}]}))[0] == "VALUE_TOO_LARGE"
    assert await call("get", meta=True) == {"value": None, "etag": None, "ttl_ms": None, "revision": None}


async def test_a_strict_update_is_refused_with_the_ops_own_words(call: Caller) -> None:
    await call("set", value={"n": "x", "m": 1})
    ops = [{"type": "increment", "path": "m", "by": 1}, {"type": "increment", "path": "n", "by": 1}]
    assert await call.refused("update", ops=ops, strict=True) == ("OP_FAILED", "Expected number at path 'n', got string.")
    assert await call("get") == {"n": "x", "m": 1}
    assert (await call("update", ops=ops[:1], strict=True))["new_value"] == {"n": "x", "m": 2}


async def test_a_touch_tells_whether_there_is_a_value(call: Caller) -> None:
    assert await call("touch", ttl_ms=1000) == {"found": False}
    await call("set", value=1)
    assert await call("touch", ttl_ms=100_000) == {"found": True}
    assert await call("touch", ttl_ms=None) == {"found": True}
    assert (await call("get", meta=True))["ttl_ms"] is None


MALFORMED: list[tuple[str, dict[str, Any], str]] = [
    ("set", {"value": 1, "if": []}, "if: invalid length: 0"),
    ("set", {"value": 1, "if": None}, "if: invalid type: null, expected a sequence"),
    ("set", {"value": 1, "if": [{"path": [""], "absent": True}]}, "if[0].path: Path contains an empty segment"),
    ("set", {"value": 1, "if_failed": "ignore"}, "if_failed: unknown variant `ignore`"),
    ("set", {"value": 1, "return": "all"}, "return: unknown variant `all`"),
    ("set", {"value": 1, "meta": 1}, "meta: invalid type: integer, expected a boolean"),
    ("get", {"meta": "yes"}, "meta: invalid type: string, expected a boolean"),
    ("delete", {"if": [{"equal": 1}]}, "if[0]: unknown field `equal`"),
    ("update", {"ops": [], "strict": "yes"}, "strict: invalid type: string, expected a boolean"),
    ("update", {"ops": [], "if": [{"lt": "1"}]}, "if[0].lt: invalid type: string, expected a number"),
    ("touch", {}, "missing field `ttl_ms`"),
    ("touch", {"ttl_ms": 0}, "ttl_ms: invalid value: 0"),
    ("touch", {"ttl_ms": "1"}, "ttl_ms: invalid type: string, expected an integer"),
]


@pytest.mark.parametrize(("function", "payload", "told"), MALFORMED, ids=[told for _, _, told in MALFORMED])
async def test_what_is_malformed_is_told_and_changes_nothing(
    call: Caller, function: str, payload: dict[str, Any], told: str
) -> None:
    await call("set", value={"n": 1})
    code, message = await call.refused(function, **payload)
    assert code == "deserialization_error"
    assert message.startswith(f"Failed to deserialize input for state::{function}: ")
    assert told in message
    assert await call("get") == {"n": 1}


async def test_a_refusal_made_again_whose_value_was_too_large_to_be_kept(call: Caller) -> None:
    large = "x" * MAX_RECORDED_BYTES
    await call("set", value=large)
    opening = {"function_id": "iii-state::session_open", "payload": {"session": "session-1", "epoch": 1}}
    await call.engine.trigger(opening)
    request = {"session": "session-1", "epoch": 1, "slot": 0, "seq": 1}
    condition = {"if": [{"absent": True}], "_iii_state_request": request}
    assert (await call("set", value=1, if_failed="return", **condition))["value"] == large
    assert (await call.refused("set", value=1, if_failed="return", **condition))[0] == "OLD_VALUE_UNKNOWN"
    assert await call("get") == large


async def test_features_are_announced(call: Caller) -> None:
    info = await call.engine.trigger({"function_id": "engine::functions::info", "payload": {"function_id": "state::set"}})
    assert info["metadata"]["iii_state"]["features"] == FEATURES
    assert {"if", "meta", "touch"} <= set(FEATURES)


async def test_a_bridge_refuses_what_the_other_engine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine of 0.2.0 would carry a change out without its conditions."""
    monkeypatch.setattr("iii_state.state.module.FEATURES", [])
    async with Engine() as engine:
        await engine.add_module(StateModule())
        host, port = await engine.serve("127.0.0.1", 0)
        async with Engine() as other:
            adapter = {"name": "bridge", "config": {"bridge_url": f"ws://{host}:{port}"}}
            await other.add_module(StateModule({"adapter": adapter}))
            call = Caller(other)
            await call("set", value=1)
            asked: list[tuple[str, dict[str, Any], str]] = [
                ("set", {"value": 2, "if": [{"present": True}]}, "if"),
                ("delete", {"if": [{"present": True}]}, "if"),
                ("update", {"ops": [], "if": [{"present": True}]}, "if"),
                ("update", {"ops": [], "strict": True}, "meta"),
                ("get", {"meta": True}, "meta"),
                ("touch", {"ttl_ms": 1}, "touch"),
            ]
            for function, payload, feature in asked:
                code, message = await call.refused(function, **payload)
                assert code == "UNSUPPORTED"
                assert f"does not have the feature `{feature}`; nothing was changed" in message
            assert await call("get") == 1


@pytest.mark.parametrize("logged_kind", KINDS)
async def test_meta_tells_the_revision_where_there_is_a_change_log(logged_kind: str, tmp_path: Path) -> None:
    async with engine_over(logged_kind, tmp_path) as engine:

        async def call(name: str, **payload: Any) -> Any:
            request = {"scope": "ledger", "key": "k", "meta": True, **payload}
            return await engine.trigger({"function_id": f"state::{name}", "payload": request})

        assert (await call("set", value=1))["revision"] == 1
        changed = await call("update", ops=[{"type": "increment", "path": "", "by": 1}], **{"if": [{"revision": 1}]})
        assert changed == {"old_value": 1, "new_value": 2, "etag": etag(b"2"), "revision": 2}
        assert await call("set", value=3, **{"return": "none"}) == {"etag": etag(b"3"), "revision": 3}
        assert (await call("get"))["revision"] == 3
        assert await call("delete", **{"if": [{"revision": 3}]}) == {"old_value": 3, "etag": None, "revision": 4}
        assert (await call("get"))["revision"] is None
        assert (await call("set", scope="s", value=1))["revision"] is None
