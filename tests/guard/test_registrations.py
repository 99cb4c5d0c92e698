"""What limited tokens may register: functions, trigger types, triggers; and what they get to know of those of others."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.engines.raw_worker import Frame, RawWorker
from tests.support.engines.with_tokens import Guarded, code, guarded, limited

ENTRIES = {
    "root": {},
    "own": limited(scopes=["mine", "mine/*"], functions=["state::*", "own::*"], register=["own::*"]),
    "reader": limited(scopes=["mine"], functions=["state::*"], register=[], read_only=True),
    "provider": limited(trigger_types=True),
    "anything": limited(),
}


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Guarded]:
    async with guarded(tmp_path / "tokens.yaml", ENTRIES) as engine:
        yield engine


async def refused_trigger(worker: RawWorker, function_id: str, config: Any, type: str = "state") -> Frame | None:
    """The answer to a trigger that is refused, None where it is taken."""
    await worker.send(
        "registertrigger",
        id=str(uuid.uuid4()),
        trigger_type=type,
        function_id=function_id,
        config=config,
    )
    await worker.call("engine::triggers::list", {})  # answered behind what has been registered
    for frame in await worker.settled():
        if frame["type"] == "triggerregistrationresult":
            return frame
    return None


async def names(worker: RawWorker, function_id: str, list_name: str, name: str) -> set[str]:
    return {row[name] for row in (await worker.call(function_id, {"include_internal": True}))["result"][list_name]}


# --- functions


async def test_a_function_outside_the_globs_is_not_registered_and_the_worker_hears_why(engine: Guarded) -> None:
    root, own = await engine.join("root"), await engine.join("own")
    await own.send("registerfunction", id="others::f")
    rejected = await own.expect("registrationrejected", function_id="others::f")
    assert rejected["error"]["code"] == "FORBIDDEN"
    assert rejected["code"] == "FUNCTION_NAMESPACE_CONFLICT", "every other code ends the worker of an SDK since 0.23"
    assert code(await root.call("others::f", {})) == "function_not_found"
    await own.send("registerfunction", id="own::f")
    await own.settled()
    assert "own::f" in await names(root, "engine::functions::list", "functions", "function_id")


async def test_another_workers_function_is_not_taken_over(engine: Guarded) -> None:
    """Neither shared round robin, nor in a namespace that a worker moves to."""
    root, own = await engine.join("root"), await engine.join("own")
    await root.send("registerfunction", id="others::pay")
    await root.settled()
    await own.send("registerfunction", id="others::pay")
    await own.expect("registrationrejected", function_id="others::pay")
    caller = await engine.join("root")
    for _ in range(4):
        await caller.send(
            "invokefunction", function_id="others::pay", data={}, invocation_id=f"00000000-0000-0000-0000-00000000000{_}"
        )
        await root.answer(await root.expect("invokefunction", function_id="others::pay"), result=1)
    assert [frame for frame in await own.settled() if frame["type"] == "invokefunction"] == []


@pytest.mark.parametrize(
    "function_id", ["engine::functions::list", "engine::mine", "iii-state::dead_list", "iii-state::mine", "state::set"]
)
async def test_what_is_built_in_is_nobodys_to_register(engine: Guarded, function_id: str) -> None:
    anything = await engine.join("anything")
    await anything.send("registerfunction", id=function_id)
    await anything.expect("registrationrejected", function_id=function_id)


async def test_a_listener_of_somebody_else_is_not_joined(engine: Guarded) -> None:
    """Listeners of watches and bridges may be registered with every token, but not beside another token's."""
    root, own, again = await engine.join("root"), await engine.join("own"), await engine.join("own")
    await own.send("registerfunction", id="iii-state::watch::1")
    await root.send("registerfunction", id="iii-state::watch::2")
    await root.settled()
    await again.send("registerfunction", id="iii-state::watch::1")
    await own.send("registerfunction", id="iii-state::watch::2")
    await own.expect("registrationrejected", function_id="iii-state::watch::2")
    assert [frame for frame in await again.settled() if frame["type"] == "registrationrejected"] == []


# --- trigger types


async def test_providing_trigger_types_has_to_be_allowed(engine: Guarded) -> None:
    anything, provider, root = await engine.join("anything"), await engine.join("provider"), await engine.join("root")
    await anything.send("registertriggertype", id="clock", description="")
    assert (await anything.expect("registrationrejected", function_id="clock"))["error"]["code"] == "FORBIDDEN"
    await provider.send("registertriggertype", id="clock", description="")
    await provider.settled()
    types = (await root.call("engine::triggers::list", {}))["result"]["triggers"]
    assert [row["worker_name"] for row in types if row["id"] == "clock"] == ["provider"]


async def test_a_trigger_type_has_to_match_what_may_be_registered_and_of_a_workers_own_what_may_be_called(engine: Guarded) -> None:
    provider, own, anything = await engine.join("provider"), await engine.join("own"), await engine.join("anything")
    await engine.give({**ENTRIES, "provider": limited(trigger_types=True, register=["clock"])})
    for trigger_type in ("clock", "calendar"):
        await provider.send("registertriggertype", id=trigger_type, description="")
    await provider.expect("registrationrejected", function_id="calendar")
    refused = await refused_trigger(own, "own::f", {}, "clock")
    assert refused is not None
    assert refused["error"]["code"] == "FORBIDDEN"
    assert await refused_trigger(anything, "own::f", {}, "clock") is None
    assert (await provider.expect("registertrigger"))["function_id"] == "own::f"


async def test_a_connection_is_taken_down_by_one_of_the_same_tokens_name_alone(engine: Guarded) -> None:
    root, other, own = await engine.join("root"), await engine.join("own"), await engine.join("own")
    for victim in (root, own):
        await other.send("reattach", previous_worker_id=victim.id, reattach_token=victim.hello["reattach_token"])
    assert await own.closed() == 1006
    assert code(await root.call("state::list_groups", {})) is None


# --- triggers


@pytest.mark.parametrize(
    ("config", "allowed"),
    [
        ({"scope": "mine"}, True),
        ({"scope": "mine/a", "key": "k"}, True),
        ({"scope": "mine", "condition_function_id": "own::condition"}, True),
        ({"scope": "secret"}, False),
        ({"scope": "mine "}, False),
        ({}, False),
        (None, False),
        ({"scope": None}, False),
        ({"key": "k"}, False),
        ({"scope_prefix": ""}, False),
        ({"scope_prefix": "mine"}, False),
        ({"scope_prefix": "mine/"}, True),
        ({"scope_prefix": "mine/a", "key_prefix": "k"}, True),
        ({"scope": "mine", "condition_function_id": "others::condition"}, False),
        ({"scope": "mine", "condition_function_id": "iii-state::dead_drop"}, False),
    ],
)
@pytest.mark.parametrize("way", ["message", "call"])
async def test_a_trigger_has_to_lie_inside_the_tokens_scopes(engine: Guarded, config: Any, allowed: bool, way: str) -> None:
    """With a message, and with the call that makes one which outlives its connection."""
    own, root = await engine.join("own"), await engine.join("root")
    if way == "call":
        answer = await own.call("engine::register_trigger", {"trigger_type": "state", "function_id": "own::f", "config": config})
        error = answer.get("error")
    else:
        frame = await refused_trigger(own, "own::f", config)
        error = None if frame is None else frame["error"]
    assert (error is None) == allowed
    if error is not None:
        assert error["code"] == "FORBIDDEN"
    rows = (await root.call("engine::registered-triggers::list", {}))["result"]["registered_triggers"]
    assert len(rows) == (1 if allowed else 0)


async def test_a_config_with_two_scopes_counts_as_its_provider_takes_it(engine: Guarded) -> None:
    own = await engine.join("own")
    for index, config in enumerate(('{"scope":"mine","scope":"secret"}', '{"scope":"mine","\\u0073cope":null}', '{"scope":1}')):
        await own.socket.send_str(
            f'{{"type":"registertrigger","id":"t{index}","trigger_type":"state","function_id":"own::f","config":{config}}}'
        )
        await own.expect("triggerregistrationresult", id=f"t{index}")


async def test_a_trigger_calls_only_what_its_owner_may_call(engine: Guarded) -> None:
    """A deputy with more rights is not confused: neither a worker's function, nor one of the module or for operators."""
    root, own = await engine.join("root"), await engine.join("own")
    await root.send("registerfunction", id="others::pay")
    await root.send("registerfunction", id="iii-state::watch::of-root")
    await root.settled()
    for function_id in ("others::pay", "iii-state::dead_drop", "iii-state::watch::of-root", "iii-state::nobodys"):
        refused = await refused_trigger(own, function_id, {"scope": "mine"})
        assert refused is not None
        assert refused["error"]["code"] == "FORBIDDEN", function_id
    await own.call("state::set", {"scope": "mine", "key": "k", "value": 1})
    assert [frame for frame in await root.settled() if frame["type"] == "invokefunction"] == []


async def test_a_condition_of_any_trigger_is_one_that_its_owner_may_call(engine: Guarded) -> None:
    own = await engine.join("own")
    for config in ({"condition_function_id": "others::f"}, {"condition_function_id": "others::f", "scope": 1}):
        refused = await refused_trigger(own, "own::f", config, "engine::functions-available")
        assert refused is not None
        assert refused["error"]["code"] == "FORBIDDEN"


async def test_watching_needs_the_right_to_read_alone(engine: Guarded) -> None:
    root, reader = await engine.join("root"), await engine.join("reader")
    await reader.send("registerfunction", id="iii-state::watch::mine")
    assert await refused_trigger(reader, "iii-state::watch::mine", {"scope": "mine"}) is None
    assert await refused_trigger(reader, "iii-state::watch::mine", {"scope": "secret"}) is not None
    await root.call("state::set", {"scope": "secret", "key": "k", "value": 1})
    await root.call("state::set", {"scope": "mine", "key": "k", "value": 1})
    assert (await reader.expect("invokefunction"))["data"]["scope"] == "mine"


async def test_a_trigger_for_a_listener_goes_when_another_token_serves_that(engine: Guarded) -> None:
    """A bridge registers a trigger before it serves its function, whose name can be guessed: nobody else's events may reach it."""
    own, reader, root = await engine.join("own"), await engine.join("reader"), await engine.join("root")
    for worker, trigger_id in ((own, "squatter"), (reader, "rightful")):
        config = {"scope": "mine"}
        await worker.send("registertrigger", id=trigger_id, trigger_type="state", function_id="iii-state::bridge::1", config=config)
        await worker.settled()
    await reader.send("registerfunction", id="iii-state::bridge::1")
    assert (await own.expect("triggerregistrationresult", id="squatter"))["error"]["code"] == "FORBIDDEN"
    assert await names(root, "engine::registered-triggers::list", "registered_triggers", "id") == {"rightful"}
    await root.call("state::set", {"scope": "mine", "key": "k", "value": 1})
    assert (await reader.expect("invokefunction"))["data"]["scope"] == "mine"


async def test_somebody_elses_trigger_is_not_unregistered(engine: Guarded) -> None:
    root, own, also_own = await engine.join("root"), await engine.join("own"), await engine.join("own")
    await root.send("registertrigger", id="of-root", trigger_type="state", function_id="own::f", config={"scope": "mine"})
    await root.settled()
    assert code(await own.call("engine::unregister_trigger", {"id": "of-root"})) == "FORBIDDEN"
    await own.send("unregistertrigger", id="of-root", trigger_type="state")
    await own.settled()
    assert "of-root" in await names(root, "engine::registered-triggers::list", "registered_triggers", "id")
    made = await own.call(
        "engine::register_trigger", {"trigger_type": "state", "function_id": "own::f", "config": {"scope": "mine"}}
    )
    assert (await also_own.call("engine::unregister_trigger", {"id": made["result"]["id"]}))["result"] == {"removed": True}


# --- what is seen


async def test_lists_show_what_the_token_may_use(engine: Guarded) -> None:
    root, own = await engine.join("root"), await engine.join("own")
    for function_id in ("others::pay", "own::shared"):
        await root.send("registerfunction", id=function_id)
    hidden = await engine.join("provider")
    await hidden.send("registerfunction", id="others::hidden")
    await hidden.settled()
    for trigger_id, config in (("seen", {"scope": "mine"}), ("hidden", {"scope": "secret"})):
        await root.send("registertrigger", id=trigger_id, trigger_type="state", function_id="own::shared", config=config)
    await root.send(
        "registertrigger", id="hidden-function", trigger_type="state", function_id="others::pay", config={"scope": "mine"}
    )
    await root.settled()

    functions = await names(own, "engine::functions::list", "functions", "function_id")
    assert "own::shared" in functions
    assert not {"others::pay", "others::hidden", "iii-state::dead_list"} & functions
    assert {"others::pay", "others::hidden", "iii-state::dead_list"} <= await names(
        root, "engine::functions::list", "functions", "function_id"
    )
    assert await names(own, "engine::registered-triggers::list", "registered_triggers", "id") == {"seen"}
    workers = (await own.call("engine::workers::list", {}))["result"]["workers"]
    assert {worker["name"]: worker["functions"] for worker in workers} == {"root": ["own::shared"], "own": []}
    hidden_info, missing_info = [
        await own.call("engine::functions::info", {"function_id": function_id})
        for function_id in ("others::pay", "others::nowhere")
    ]
    assert code(hidden_info) == code(missing_info) == "NOT_FOUND"
    info = (await own.call("engine::functions::info", {"function_id": "own::shared"}))["result"]
    assert [trigger["id"] for trigger in info["registered_triggers"]] == ["seen"]


async def test_watches_of_functions_and_workers_tell_what_may_be_seen(engine: Guarded) -> None:
    root, own = await engine.join("root"), await engine.join("own")
    await own.send("registerfunction", id="own::told")
    for index, trigger_type in enumerate(("engine::functions-available", "engine::workers-available")):
        assert await refused_trigger(own, "own::told", {"n": index}, trigger_type) is None
    own_events: list[Frame] = []
    await root.send("registerfunction", id="others::pay")
    stranger = await engine.join("provider")
    await stranger.send("registerfunction", id="others::hidden")
    await stranger.settled()
    await stranger.socket.close()
    await root.send("registerfunction", id="own::shared")
    while not own_events or "functions" not in own_events[-1] or "own::shared" not in json.dumps(own_events[-1]):
        own_events.append((await own.expect("invokefunction", function_id="own::told"))["data"])
    assert "others::" not in json.dumps(own_events)
    assert stranger.id not in json.dumps(own_events)


async def test_scopes_are_not_checked_where_another_worker_serves_state_so_it_is_not_called(tmp_path: Path) -> None:
    """A worker that serves `state::*` does not know whose call it is: a token that is limited to scopes is kept from it."""
    async with guarded(tmp_path / "tokens.yaml", ENTRIES, with_state=False) as engine:
        root, own, anything = await engine.join("root"), await engine.join("own"), await engine.join("anything")
        await root.send("registerfunction", id="state::get")
        await root.settled()
        refused = await own.call("state::get", {"scope": "mine", "key": "k"})
        assert code(refused) == "FORBIDDEN"
        assert "a worker serves it" in refused["error"]["message"]
        await anything.send(
            "invokefunction", function_id="state::get", data={}, invocation_id="00000000-0000-0000-0000-000000000001"
        )
        await root.answer(await root.expect("invokefunction"), result=None)
        assert code(await anything.expect("invocationresult")) is None


async def test_a_forged_caller_is_overruled(engine: Guarded) -> None:
    root, own = await engine.join("root"), await engine.join("own")
    await root.send("registerfunction", id="own::who")
    await root.settled()
    await own.send(
        "invokefunction",
        function_id="own::who",
        data={"_caller_worker_id": root.id},
        invocation_id="00000000-0000-0000-0000-000000000001",
    )
    assert (await root.expect("invokefunction"))["data"]["_caller_worker_id"] == own.id
