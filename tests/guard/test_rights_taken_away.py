"""Rights that are taken away from living connections: what was registered by them goes, and what waits for it goes on waiting."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.engines.with_tokens import Guarded, code, guarded, limited
from tests.support.waiting import until

WIDE = limited(scopes=["a", "b"], functions=["state::*", "own::*", "engine::*"], register=["own::*", "clock"], trigger_types=True)
ENTRIES = {"root": {}, "own": WIDE}


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Guarded]:
    async with guarded(tmp_path / "tokens.yaml", ENTRIES) as engine:
        yield engine


async def test_calls_are_judged_by_what_holds_now(engine: Guarded) -> None:
    own = await engine.join("own")
    assert code(await own.call("state::set", {"scope": "a", "key": "k", "value": 1})) is None
    await engine.give({**ENTRIES, "own": limited(scopes=["b"], read_only=True)})
    assert code(await own.call("state::get", {"scope": "a", "key": "k"})) == "FORBIDDEN"
    assert code(await own.call("state::set", {"scope": "b", "key": "k", "value": 1})) == "FORBIDDEN"
    await engine.give(ENTRIES)
    assert (await own.call("state::get", {"scope": "a", "key": "k"}))["result"] == 1
    await engine.give({**ENTRIES, "own": {}})
    assert code(await own.call("state::get", {"scope": "c", "key": "k"})) is None


async def test_a_trigger_goes_with_its_scope_and_what_waits_is_there_when_it_comes_back(engine: Guarded) -> None:
    root, own = await engine.join("root"), await engine.join("own")
    await own.send("registerfunction", id="own::f")
    for scope in "ab":
        await own.send("registertrigger", id=scope, trigger_type="state", function_id="own::f", config={"scope": scope})
    await own.settled()
    await engine.give({**ENTRIES, "own": limited(scopes=["b"])})
    gone = await own.expect("triggerregistrationresult", id="a")
    assert gone["error"]["code"] == "FORBIDDEN"
    for scope in "ab":
        await root.call("state::set", {"scope": scope, "key": "k", "value": 1})
    event = await own.expect("invokefunction", function_id="own::f")
    assert event["data"]["scope"] == "b"
    await own.answer(event)
    assert [frame for frame in await own.settled() if frame["type"] == "invokefunction"] == []

    await engine.give(ENTRIES)
    await own.send("registertrigger", id="a", trigger_type="state", function_id="own::f", config={"scope": "a"})
    event = await own.expect("invokefunction", function_id="own::f")
    assert event["data"]["scope"] == "a"
    await own.answer(event)


async def test_functions_and_types_go_with_their_rights(engine: Guarded) -> None:
    root, own = await engine.join("root"), await engine.join("own")
    await own.send("registerfunction", id="own::f")
    await own.send("registertriggertype", id="clock", description="")
    await own.settled()
    await engine.give({**ENTRIES, "own": limited(register=["other::*"])})
    assert (await own.expect("registrationrejected", function_id="own::f"))["error"]["code"] == "FORBIDDEN"
    assert (await own.expect("registrationrejected", function_id="clock"))["error"]["code"] == "FORBIDDEN"
    assert code(await root.call("own::f", {})) == "function_not_found"
    assert "clock" not in str(await root.call("engine::triggers::list", {}))


@pytest.mark.parametrize("after", [None, limited(scopes=["b"])], ids=["the token goes", "the scope goes"])
async def test_a_trigger_that_outlives_its_connection_does_not_outlive_its_right(
    engine: Guarded, after: dict[str, object] | None
) -> None:
    root, own = await engine.join("root"), await engine.join("own")
    for scope in "ab":
        await own.call("engine::register_trigger", {"trigger_type": "state", "function_id": "own::f", "config": {"scope": scope}})
    await own.socket.close()
    await until(lambda: len(engine.engine.workers) == 1)
    entries = dict(ENTRIES)
    if after is None:
        del entries["own"]
    else:
        entries["own"] = after
    await engine.give(entries)
    rows = (await root.call("engine::registered-triggers::list", {}))["result"]["registered_triggers"]
    assert [row["config"]["scope"] for row in rows] == ([] if after is None else ["b"])


async def test_a_revoked_token_ends_the_connection_its_functions_and_triggers(engine: Guarded) -> None:
    root, own = await engine.join("root"), await engine.join("own")
    await own.send("registerfunction", id="own::f")
    await own.send("registertrigger", id="t", trigger_type="state", function_id="own::f", config={"scope": "a"})
    await own.settled()
    await engine.give({"root": {}})
    assert await own.closed() == 1012
    await until(lambda: len(engine.engine.workers) == 1)
    assert code(await root.call("own::f", {})) == "function_not_found"
    assert (await root.call("engine::registered-triggers::list", {}))["result"]["registered_triggers"] == []


async def test_what_one_token_of_a_name_loses_another_of_that_name_keeps(engine: Guarded) -> None:
    """A rotation: two tokens of one name, each with its own entry, and a trigger that goes on when the old one is taken away."""
    await engine.give({**ENTRIES, "own 2": WIDE})
    old, new = await engine.join("own"), await engine.join("own 2")
    await new.send("registerfunction", id="own::f")
    for worker in (old, new):
        await worker.send("registertrigger", id=f"t-{worker.id}", trigger_type="state", function_id="own::f", config={"scope": "a"})
        await worker.settled()
    await engine.give({"root": {}, "own 2": WIDE})
    assert await old.closed() == 1012
    assert code(await new.call("state::set", {"scope": "a", "key": "k", "value": 1})) is None
    assert (await new.expect("invokefunction", function_id="own::f"))["data"]["scope"] == "a"
