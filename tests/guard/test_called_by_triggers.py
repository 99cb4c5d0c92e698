"""What a trigger calls, it calls without the limits of its token: so functions that go by a caller's rights cannot be named."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from iii_state.access import EVERYBODYS
from tests.support.engines.raw_worker import RawWorker
from tests.support.engines.with_tokens import Guarded, code, guarded, limited

ENTRIES = {
    "root": {},
    "reader": limited(scopes=["mine"], register=[], read_only=True),
    "own": limited(scopes=["mine"]),
    "anything": limited(),
}


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Guarded]:
    async with guarded(tmp_path / "tokens.yaml", ENTRIES) as engine:
        yield engine


async def registered(worker: RawWorker, way: str, function_id: str, config: Any, type: str = "state") -> str | None:
    """Register a trigger in one of the two ways. The code of the refusal, None where it is taken."""
    trigger = {"trigger_type": type, "function_id": function_id, "config": config}
    if way == "function":
        return code(await worker.call("engine::register_trigger", trigger))
    await worker.send("registertrigger", id=str(uuid.uuid4()), **trigger)
    await worker.call("engine::triggers::list", {})  # answered behind what has been registered
    answers = [frame for frame in await worker.settled() if frame["type"] == "triggerregistrationresult"]
    return code(answers[0]) if answers else None


@pytest.mark.parametrize("way", ["message", "function"])
async def test_a_reader_deletes_nothing_by_a_trigger_that_calls_delete(engine: Guarded, way: str) -> None:
    root, reader = await engine.join("root"), await engine.join("reader")
    as_handler = await registered(reader, way, "state::delete", {"scope": "mine"})
    as_condition = await registered(reader, way, "own::f", {"scope": "mine", "condition_function_id": "state::delete"})
    # where one is taken, it is called behind the first of these writes and before the event of the second is done
    await root.send("registerfunction", id="seen")
    await root.send("registertrigger", id="seen", trigger_type="state", function_id="seen", config={"scope": "mine", "key": "last"})
    for key in ("k", "last"):
        await root.call("state::set", {"scope": "mine", "key": key, "value": 1})
    await root.answer(await root.expect("invokefunction", function_id="seen"))
    assert (await root.call("state::get", {"scope": "mine", "key": "k"}))["result"] == 1
    assert (as_handler, as_condition) == ("FORBIDDEN", "FORBIDDEN")


@pytest.mark.parametrize("label", ["reader", "own"])
async def test_whoever_fires_chooses_the_scope_so_no_trigger_of_any_type_calls_state(engine: Guarded, label: str) -> None:
    root, worker = await engine.join("root"), await engine.join(label)
    await root.send("registertriggertype", id="clock", description="")
    await root.call("engine::triggers::list", {})
    for trigger_type in ("clock", "engine::workers-available", "state"):
        for function_id in ("state::set", "state::delete", "state::get", "state::list_groups"):
            assert await registered(worker, "message", function_id, {"scope": "mine"}, trigger_type) == "FORBIDDEN"
            config = {"scope": "mine", "condition_function_id": function_id}
            assert await registered(worker, "message", "f", config, trigger_type) == "FORBIDDEN"
    assert await registered(worker, "message", "f", {"scope": "mine"}) is None


async def test_functions_that_are_everybodys_are_so_for_who_calls_them_and_no_handlers(engine: Guarded) -> None:
    anything, root = await engine.join("anything"), await engine.join("root")
    for function_id in sorted(EVERYBODYS):
        assert await registered(anything, "message", function_id, {}, "engine::workers-available") == "FORBIDDEN", function_id
        assert await registered(anything, "message", "f", {"condition_function_id": function_id}) == "FORBIDDEN", function_id
    assert await registered(root, "message", "engine::channels::create", {}, "engine::workers-available") is None
    assert await registered(anything, "message", "state::get", {"scope": "mine"}) is None, "it may use all scopes"


async def test_a_trigger_that_calls_state_goes_with_the_right_to_all_scopes(engine: Guarded) -> None:
    anything = await engine.join("anything")
    await anything.send("registertrigger", id="t", trigger_type="state", function_id="state::delete", config={"scope": "mine"})
    await anything.call("engine::triggers::list", {})
    await engine.give({**ENTRIES, "anything": limited(read_only=True)})
    assert code(await anything.expect("triggerregistrationresult", id="t")) == "FORBIDDEN"


async def test_handlers_that_fail_by_the_hundred_do_not_fill_the_log(engine: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    anything = await engine.join("anything")
    await anything.send("registerfunction", id="last")
    for function_id in ["state::get"] * 200 + ["last"]:
        assert await registered(anything, "function", function_id, {}, "engine::workers-available") is None
    await engine.join("anything")
    await anything.answer(await anything.expect("invokefunction", function_id="last"))
    lines = [record for record in caplog.records if record.getMessage().startswith("the handler state::get of trigger")]
    assert 1 <= len(lines) <= 50
