"""Limits of ops, as a caller of `iii-state serve` meets them: beyond one, that op fails, and the others count."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any

import aiohttp
import pytest

from tests.support.engines.processes import running_engine
from tests.support.engines.raw_worker import Port, RawWorker
from tests.support.redis.server import shared_server

ADAPTERS = ["kv-memory", "kv-file", "redis", "bridge"]


@pytest.fixture(scope="module", params=ADAPTERS)
def port_number(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with ExitStack() as stack:
        if request.param == "redis":
            server = shared_server()
            server.empty("op limits")
            arguments, config = ["--redis-url", server.url], None
        elif request.param == "bridge":
            arguments, config = ["--bridge-url", stack.enter_context(running_engine()).url], None
        else:
            method = "file_based" if request.param == "kv-file" else "in_memory"
            place = str(tmp_path_factory.mktemp("store"))
            arguments, config = [], {"adapter": {"name": "kv", "config": {"store_method": method, "file_path": place}}}
        yield stack.enter_context(running_engine(arguments, config=config)).port


@pytest.fixture
async def caller(port_number: int) -> AsyncIterator[RawWorker]:
    async with aiohttp.ClientSession() as session:
        yield await Port(session, "127.0.0.1", port_number).connect()


def nested(levels: int) -> Any:
    text = b"[" * (levels - 1) + b"]" * (levels - 1)
    return {"a": json.loads(text)} if levels > 1 else {}


LONG = ["x"] * 1000
WIDE = {str(number): number for number in range(1025)}

COMPLETE: dict[str, dict[str, Any]] = {
    "set": {"value": 1},
    "merge": {"value": {}},
    "increment": {"by": 1},
    "decrement": {"by": 1},
    "append": {"value": 1},
    "remove": {},
}
"""What an op of each type has to have beside a path."""

FAILING: list[tuple[dict[str, Any], str, str]] = [
    *(
        ({"type": word, "path": LONG, **fields}, f"{word}.path.too_deep", "Path depth 1000 exceeds maximum of 32")
        for word, fields in COMPLETE.items()
    ),
    ({"type": "set", "path": LONG, "value": nested(600)}, "set.path.too_deep", "Path depth 1000 exceeds maximum of 32"),
    ({"type": "set", "path": ["x"] * 33, "value": nested(500)}, "set.path.too_deep", "Path depth 33 exceeds maximum of 32"),
    ({"type": "append", "path": [""], "value": nested(512)}, "append.path.empty_segment", "Path contains an empty segment"),
    (
        {"type": "merge", "path": ["x" * 300, *LONG[:31]], "value": nested(600)},
        "merge.path.segment_too_long",
        "Path segment of 300 bytes exceeds maximum of 256",
    ),
    (
        {"type": "set", "path": "__proto__", "value": nested(600)},
        "set.path.proto_polluted",
        "Path segment '__proto__' is not allowed (prototype pollution).",
    ),
    *(
        (
            {"type": "merge", "path": ["x"] * 32, "value": nested(levels)},
            "merge.value.too_deep",
            f"Merge value JSON nesting depth {levels} exceeds maximum of 16",
        )
        for levels in (17, 482, 512, 513, 600, 800)
    ),
    (
        {"type": "merge", "value": WIDE | {"a": nested(600)}},
        "merge.value.too_many_keys",
        "Merge value has 1026 top-level keys, exceeds maximum of 1024",
    ),
    (
        {"type": "merge", "value": {"constructor": nested(600)}},
        "merge.value.proto_polluted",
        'Merge value top-level key "constructor" is a prototype-pollution sink',
    ),
    ({"type": "merge", "value": [nested(600)]}, "merge.value.not_an_object", "Merge value must be a JSON object"),
    ({"type": "increment", "path": "n", "by": 2**64}, "increment.not_number", "Result at path 'n' is out of range."),
    ({"type": "increment", "path": "n", "by": 10**300}, "increment.not_number", "Result at path 'n' is out of range."),
    ({"type": "decrement", "path": "n", "by": -(10**30)}, "decrement.not_number", "Result at path 'n' is out of range."),
]


@pytest.mark.parametrize(("op", "code", "message"), FAILING, ids=[f"{code}-{index}" for index, (_, code, _) in enumerate(FAILING)])
async def test_a_limit_of_an_op_fails_this_op_alone(caller: RawWorker, op: dict[str, Any], code: str, message: str) -> None:
    place = {"scope": "limits", "key": code}
    await caller.call("state::set", {**place, "value": {"n": 1}})
    ops = [{"type": "increment", "path": "n", "by": 1}, op, {"type": "increment", "path": "n", "by": 1}]
    outcome = await caller.call("state::update", {**place, "ops": ops})
    assert "error" not in outcome, outcome["error"]
    errors = [{name: error[name] for name in ("op_index", "code", "message")} for error in outcome["result"]["errors"]]
    assert errors == [{"op_index": 1, "code": code, "message": message}]
    assert outcome["result"]["new_value"] == {"n": 3}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"type": "set", "path": "a", "value": nested(512)}, "ops[1].value: at this path it would nest deeper than 512 levels"),
    ({"type": "set", "value": nested(513)}, "ops[1].value: nesting deeper than 512 levels"),
    ({"type": "append", "path": "a", "value": nested(511)}, "ops[1].value: at this path it would nest deeper than 512 levels"),
    ({"type": "merge", "path": LONG}, "ops[1]: missing field `value`"),
    ({"type": "increment", "path": LONG}, "ops[1]: missing field `by`"),
]


@pytest.mark.parametrize(("op", "why"), REFUSED, ids=range(len(REFUSED)))
async def test_what_no_op_has_a_limit_for_refuses_the_call_and_changes_nothing(
    caller: RawWorker, op: dict[str, Any], why: str
) -> None:
    place = {"scope": "limits", "key": "refused"}
    await caller.call("state::set", {**place, "value": {"n": 1}})
    ops = [{"type": "increment", "path": "n", "by": 1}, op]
    outcome = await caller.call("state::update", {**place, "ops": ops})
    assert outcome["error"]["code"] == "deserialization_error"
    assert outcome["error"]["message"] == f"Failed to deserialize input for state::update: {why}"
    assert (await caller.call("state::get", place))["result"] == {"n": 1}


async def test_more_errors_than_an_answer_holds_refuse_the_call_before_it_changes_anything(caller: RawWorker) -> None:
    place = {"scope": "limits", "key": "errors"}
    ops = [{"type": "set", "value": 1}, *([{"type": "remove", "path": [""]}] * 160_000)]
    outcome = await caller.call("state::update", {**place, "ops": ops})
    assert outcome["error"]["code"] == "deserialization_error"
    assert "send them in several calls" in outcome["error"]["message"]
    assert "result" not in await caller.call("state::get", place)
