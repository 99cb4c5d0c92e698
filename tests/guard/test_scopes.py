"""Scopes of limited tokens, on every adapter: what is not theirs can neither be seen nor changed, however it is asked for."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.engines.raw_worker import Frame, RawWorker
from tests.support.engines.with_tokens import Guarded, code, guarded, limited
from tests.support.redis.server import shared_server
from tests.support.stores import engine_over

ENTRIES = {
    "root": {},
    "own": limited(scopes=["mine", "mine/*", ""]),
    "reader": limited(scopes=["mine/*"], read_only=True),
    "nothing": limited(scopes=[]),
    "caller": limited(functions=["state::get"]),
    "operator": limited(operate=True),
    "operator of mine": limited(operate=True, scopes=["mine"]),
}


@pytest.fixture(params=["kv-memory", "kv-file", "redis", "bridge-kv"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Guarded]:
    async with AsyncExitStack() as stack:
        config: dict[str, Any] = {"adapter": {"name": "kv"}}
        if request.param == "kv-file":
            config["adapter"]["config"] = {"store_method": "file_based", "file_path": str(tmp_path / "data")}
        elif request.param == "redis":
            server = await asyncio.to_thread(shared_server)
            await asyncio.to_thread(server.empty, str(tmp_path))
            config["adapter"] = {"name": "redis", "config": {"redis_url": server.url}}
        elif request.param == "bridge-kv":
            url, _ = await stack.enter_async_context(engine_over("kv", tmp_path, None))
            config["adapter"] = {"name": "bridge", "config": {"bridge_url": url}}
        yield await stack.enter_async_context(guarded(tmp_path / "tokens.yaml", ENTRIES, config))


async def raw_call(worker: RawWorker, function_id: str, data: str) -> Frame:
    """A call whose payload is this very text."""
    invocation_id = str(uuid.uuid4())
    await worker.socket.send_str(
        f'{{"type":"invokefunction","function_id":{json.dumps(function_id)},"invocation_id":"{invocation_id}","data":{data}}}'
    )
    return await worker.expect("invocationresult", invocation_id=invocation_id)


ARGUMENTS = {"key": "k", "value": 1, "ops": [], "keys": ["k"], "items": [{"scope": "secret", "key": "k"}], "steps": [], "ttl_ms": 1}
HARMLESS = {"state::list_groups", "iii-state::session_open", "iii-state::route", "iii-state::about"}
"""Functions that show no more than the token may see; what they answer is tested by itself."""


async def test_no_function_of_the_module_shows_or_changes_what_is_not_the_tokens(engine: Guarded) -> None:
    """Functions that are still to come have to pass this, too."""
    root, own = await engine.join("root"), await engine.join("own")
    assert code(await root.call("state::set", {"scope": "secret", "key": "k", "value": "s3cret"})) is None
    functions = [function.id for function in engine.engine.functions if function.id.startswith(("state::", "iii-state::"))]
    assert len(functions) > 12
    for function_id in functions:
        request = {"scope": "secret", **ARGUMENTS}
        if function_id in ("state::set", "state::touch"):
            request.pop("data", None)
        answer = await own.call(function_id, request)
        assert "s3cret" not in json.dumps(answer), function_id
        if function_id not in HARMLESS:
            assert code(answer) == "FORBIDDEN", (function_id, answer)
    assert (await root.call("state::get", {"scope": "secret", "key": "k"}))["result"] == "s3cret"


async def test_the_tokens_own_scopes_are_as_always(engine: Guarded) -> None:
    own = await engine.join("own")
    for scope in ("mine", "mine/a", "mine/a/b", ""):
        assert (await own.call("state::set", {"scope": scope, "key": "k", "value": 1}))["result"]["new_value"] == 1
        assert (await own.call("state::update", {"scope": scope, "key": "k", "ops": [{"type": "increment", "by": 1}]}))["result"]
        assert (await own.call("state::get", {"scope": scope, "key": "k"}))["result"] == 2
        assert (await own.call("state::list", {"scope": scope}))["result"] == [2]
        assert (await own.call("state::list_keys", {"scope": scope}))["result"] == {"keys": ["k"]}
        assert (await own.call("state::list_entries", {"scope": scope}))["result"]["entries"] == [["k", 2]]
        assert (await own.call("state::delete", {"scope": scope, "key": "k"}))["result"] == 2


@pytest.mark.parametrize(
    "scope",
    [
        "Mine",
        "MINE/a",
        "mine ",
        " mine",
        "mine\x00",
        "min\u0065\u0301",
        "ｍｉｎｅ/a",
        "mine\\/a",
        "./mine/a",
        "mine.a",
        "xmine/a",
        "*",
        "mine*",
    ],
)
async def test_look_alikes_of_a_scope_are_other_scopes(engine: Guarded, scope: str) -> None:
    own = await engine.join("own")
    assert code(await own.call("state::get", {"scope": scope, "key": "k"})) == "FORBIDDEN"
    assert code(await own.call("state::set", {"scope": scope, "key": "k", "value": 1})) == "FORBIDDEN"


async def test_conditions_meta_and_touches_show_and_change_no_scope_of_others(engine: Guarded) -> None:
    root, own = await engine.join("root"), await engine.join("own")
    await root.call("state::set", {"scope": "secret", "key": "k", "value": 1})
    place = {"scope": "secret", "key": "k"}
    unmet = {"if": [{"absent": True}], "if_failed": "return", "meta": True}
    for function, payload in (
        ("set", {"value": 2, **unmet}),
        ("update", {"ops": [], **unmet}),
        ("delete", unmet),
        ("get", {"meta": True}),
        ("touch", {"ttl_ms": 1}),
    ):
        assert code(await own.call(f"state::{function}", {**place, **payload})) == "FORBIDDEN", function
    assert (await root.call("state::get", {**place, "meta": True}))["result"]["ttl_ms"] is None


async def test_a_path_that_climbs_out_does_not(engine: Guarded) -> None:
    """A slash is an ordinary character: `mine/../secret` is a scope of that name, and no way to another."""
    root, own = await engine.join("root"), await engine.join("own")
    await root.call("state::set", {"scope": "secret", "key": "k", "value": 1})
    assert (await own.call("state::get", {"scope": "mine/../secret", "key": "k"})).get("result") is None


async def test_the_scope_that_is_checked_is_the_one_that_is_used(engine: Guarded) -> None:
    """Of two members of a name the last counts, for the check as for the call; escapes are what they stand for."""
    root, own = await engine.join("root"), await engine.join("own")
    await root.call("state::set", {"scope": "secret", "key": "k", "value": 1})
    for text in (
        '{"scope":"mine","key":"k","scope":"secret"}',
        '{"scope":"mine","key":"k","\\u0073cope":"secret"}',
        '{"scope":"\\u0073ecret","key":"k"}',
    ):
        assert code(await raw_call(own, "state::get", text)) == "FORBIDDEN", text
    assert (await raw_call(own, "state::get", '{"scope":"secret","key":"k","scope":"mine"}')).get("result") is None
    assert code(await raw_call(own, "state::set", '{"scope":"mine","key":"k","value":2,"scope":"secret"}')) == "FORBIDDEN"
    assert (await root.call("state::get", {"scope": "secret", "key": "k"}))["result"] == 1


async def test_a_reader_reads_and_changes_nothing(engine: Guarded) -> None:
    root, reader = await engine.join("root"), await engine.join("reader")
    await root.call("state::set", {"scope": "mine/a", "key": "k", "value": 1})
    assert (await reader.call("state::get", {"scope": "mine/a", "key": "k"}))["result"] == 1
    for function_id, more in (("set", {"value": 2}), ("update", {"ops": []}), ("delete", {})):
        assert code(await reader.call(f"state::{function_id}", {"scope": "mine/a", "key": "k", **more})) == "FORBIDDEN"
    await reader.send(
        "invokefunction", function_id="state::set", data={"scope": "mine/a", "key": "k", "value": 3}, action={"type": "void"}
    )
    await reader.settled()
    assert (await root.call("state::get", {"scope": "mine/a", "key": "k"}))["result"] == 1


async def test_groups_are_those_that_may_be_seen(engine: Guarded) -> None:
    root = await engine.join("root")
    for scope in ("mine/a", "mine", "secret", "other/mine/a"):
        await root.call("state::set", {"scope": scope, "key": "k", "value": 1})
    shown = {
        name: (await (await engine.join(name)).call("state::list_groups", {}))["result"]["groups"]
        for name in ("root", "own", "reader", "nothing")
    }
    assert shown == {
        "root": ["mine", "mine/a", "other/mine/a", "secret"],
        "own": ["mine", "mine/a"],
        "reader": ["mine/a"],
        "nothing": [],
    }


async def test_a_cursor_of_somebody_else_is_none(engine: Guarded) -> None:
    root, own = await engine.join("root"), await engine.join("own")
    for key in "abc":
        await root.call("state::set", {"scope": "secret", "key": key, "value": "s3cret"})
    cursor = (await root.call("state::list_entries", {"scope": "secret", "limit": 1}))["result"]["next_cursor"]
    assert code(await own.call("state::list_entries", {"scope": "secret", "cursor": cursor})) == "FORBIDDEN"
    assert code(await own.call("state::list_entries", {"scope": "mine", "cursor": cursor})) == "INVALID_CURSOR"
    assert (await root.call("state::list_entries", {"scope": "secret", "cursor": cursor}))["result"]["offset"] == 1


async def test_a_right_that_goes_ends_the_pages_of_a_cursor(engine: Guarded) -> None:
    own = await engine.join("own")
    for key in "abc":
        await own.call("state::set", {"scope": "mine", "key": key, "value": 1})
    cursor = (await own.call("state::list_entries", {"scope": "mine", "limit": 1}))["result"]["next_cursor"]
    await engine.give({**ENTRIES, "own": limited(scopes=["mine/*"])})
    assert code(await own.call("state::list_entries", {"scope": "mine", "cursor": cursor})) == "FORBIDDEN"


async def test_operators_functions_are_for_operators(engine: Guarded) -> None:
    own, operator = await engine.join("own"), await engine.join("operator")
    functions = [f"iii-state::{name}" for name in ("triggers", "dead_list", "dead_show", "dead_retry", "dead_drop")]
    for function_id in functions:
        assert code(await own.call(function_id, {})) == "FORBIDDEN"
        assert code(await operator.call(function_id, {})) is None
    for word in ("pause", "resume", "purge", "remove"):
        assert code(await own.call(f"iii-state::trigger_{word}", {"function_id": "f"})) == "FORBIDDEN"
        assert code(await operator.call(f"iii-state::trigger_{word}", {"function_id": "f"})) == "NOT_FOUND"
    assert code(await own.call("iii-state::backup", {})) == "FORBIDDEN"
    assert code(await operator.call("iii-state::backup", {})) in (None, "STORE_ERROR"), "but for a file there is nothing to copy"
    assert code(await own.call("iii-state::line_up", {"worker": "w", "ttl_ms": 0})) == "FORBIDDEN"


async def test_an_operator_with_scopes_sees_and_has_the_dead_letters_and_queues_of_those_alone(engine: Guarded) -> None:
    root, operator = await engine.join("root"), await engine.join("operator of mine")
    await root.send("registerfunction", id="f")
    retry = {"max_attempts": 1}
    for config in ({"scope": "mine"}, {"scope": "secret"}, {}):
        await root.send("registertrigger", id=str(config), trigger_type="state", function_id="f", config={**config, "retry": retry})
    for scope in ("mine", "secret"):
        await root.call("state::set", {"scope": scope, "key": f"key of {scope}", "value": f"value of {scope}"})
    no = {"code": "invocation_failed", "message": "no"}
    for _ in range(4):
        await root.answer(await root.expect("invokefunction", function_id="f"), error=no)

    async def dead(worker: RawWorker, function_id: str, **request: Any) -> list[Frame]:
        rows: list[Frame] = (await worker.call(f"iii-state::{function_id}", request))["result"]["dead"]
        return rows

    async with asyncio.timeout(10):
        while len(of_all := await dead(root, "dead_list")) < 4:
            await asyncio.sleep(0.05)
    secret = next(row["id"] for row in of_all if row["scope"] == "secret")
    for function_id in ("dead_list", "dead_show", "triggers"):
        answer = (await operator.call(f"iii-state::{function_id}", {}))["result"]
        assert "secret" not in json.dumps(answer)
        assert answer.get("total", 2) == 2
        assert len(answer["triggers" if function_id == "triggers" else "dead"]) == (1 if function_id == "triggers" else 2)
    for function_id in ("dead_show", "dead_list", "dead_retry", "dead_drop"):
        assert code(await operator.call(f"iii-state::{function_id}", {"id": secret})) == "NOT_FOUND"
    assert code(await operator.call("iii-state::dead_list", {"after": secret})) == "NOT_FOUND"
    assert (await operator.call("iii-state::trigger_pause", {"function_id": "f"}))["result"] == {"paused": 1, "out": 0}
    rows = (await root.call("iii-state::triggers", {}))["result"]["triggers"]
    assert {row["scope"] for row in rows if "paused_at_ms" in row} == {"mine"}
    assert (await operator.call("iii-state::dead_drop", {}))["result"] == {"dropped": 2}
    assert {row["scope"] for row in await dead(root, "dead_list")} == {"secret"}
    assert len((await root.call("iii-state::triggers", {}))["result"]["triggers"]) == 3


async def test_functions_outside_the_globs_cannot_be_called_nor_told_from_ones_that_are_not_there(engine: Guarded) -> None:
    caller = await engine.join("caller")
    assert code(await caller.call("state::get", {"scope": "secret", "key": "k"})) is None
    there, missing = [await caller.call(function_id, {}) for function_id in ("state::set", "state::nowhere")]
    assert code(there) == code(missing) == "FORBIDDEN"
    assert there["error"]["message"].replace("state::set", "") == missing["error"]["message"].replace("state::nowhere", "")


# --- sessions

SESSION = "session-of-root-1234"


def written(scope: str, seq: int, epoch: int = 1) -> dict[str, Any]:
    request = {"session": SESSION, "epoch": epoch, "slot": 0, "seq": seq}
    return {"scope": scope, "key": "k", "value": seq, "_iii_state_request": request}


async def test_a_session_is_that_of_its_tokens_name(tmp_path: Path, engine: Guarded) -> None:
    """Another name's record is not shown, nor is its session taken over or fenced; a new token of the same name goes on with it."""
    both = {**ENTRIES, "root 2": {}}
    await engine.give(both)
    root, own = await engine.join("root"), await engine.join("own")
    assert code(await root.call("iii-state::session_open", {"session": SESSION, "epoch": 1})) is None
    assert code(await root.call("state::set", {**written("secret", 1), "value": "s3cret"})) is None
    assert (await root.call("state::set", {**written("secret", 2)}))["result"]["old_value"] == "s3cret"

    stolen = await own.call("state::set", written("mine", 2))
    assert code(stolen) == "SESSION_LOST"
    assert "s3cret" not in json.dumps(stolen)
    assert (
        code(await own.call("iii-state::session_open", {"session": SESSION, "epoch": 9})) is None
    )  # one of its own, of the same id
    assert code(await own.call("state::set", written("mine", 1, epoch=9))) is None

    renewed = await engine.join("root 2")
    assert (await renewed.call("state::set", written("secret", 2)))["result"]["old_value"] == "s3cret"  # from the record
    assert code(await renewed.call("state::set", written("secret", 3))) is None
