"""What the calls of `State` take beyond the plain: conditions, meta, parts of a scope, many at once; over each adapter."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from iii_state import (
    ConditionUnmet,
    Engine,
    Event,
    FunctionError,
    SetResult,
    State,
    StateChange,
    StepResult,
    Stored,
    UpdateResult,
    conditions,
    ops,
    steps,
)

HELD: dict[str, tuple[Any, Any]] = {
    "absent": (conditions.absent("x"), conditions.absent("n")),
    "present": (conditions.present("null"), conditions.present("x")),
    "equals": (conditions.equals(["deep", "a"], [1, {"b": 2}]), conditions.equals(None, {})),
    "not_equals": (conditions.not_equals("x", 1), conditions.not_equals("n", 5.0)),
    "type": (conditions.type("deep", "object"), conditions.type("n", "string")),
    "lt": (conditions.lt("n", 5.5), conditions.lt("n", 5)),
    "lte": (conditions.lte("n", 5), conditions.lte("n", 4)),
    "gt": (conditions.gt("n", 4), conditions.gt("n", 5)),
    "gte": (conditions.gte("n", 5), conditions.gte("n", 2**60)),
}
"""A test → one that the value below fulfils, and one that it does not."""

VALUE = {"n": 5, "null": None, "deep": {"a": [1.0, {"b": 2}]}}


@pytest.mark.parametrize("name", HELD)
async def test_a_condition_is_judged_with_every_change(name: str, state: State) -> None:
    met, unmet = HELD[name]
    await state.set("s", "k", VALUE)
    assert (await state.set("s", "k", VALUE, only_if=[met])).old_value == VALUE
    assert (await state.update("s", "k", [], only_if=[met])).new_value == VALUE
    for change in (
        state.set("s", "k", 1, only_if=[met, unmet]),
        state.update("s", "k", [ops.remove()], only_if=[met, unmet]),
        state.delete("s", "k", only_if=[met, unmet]),
        state.transact("s", [steps.set("other", 1), steps.delete("k", only_if=[met, unmet])]),
    ):
        with pytest.raises(ConditionUnmet) as refused:
            await change
        assert (refused.value.code, refused.value.index, refused.value.value) == ("CONDITION_FAILED", 1, VALUE)
        assert refused.value.etag == (await state.get("s", "k", meta=True)).etag
        assert "Condition 1 does not hold at path " in refused.value.message
    assert refused.value.step == 1
    assert refused.value.message.startswith("steps[1]: ")
    assert await state.get_many("s", ["other", "k"]) == {"k": VALUE}
    assert await state.delete("s", "k", only_if=[met]) == VALUE


async def test_the_error_of_a_condition_reads_as_the_engine_words_it(state: State, embedded: Engine) -> None:
    condition = conditions.equals(["a", "b"], 1)
    with pytest.raises(ConditionUnmet) as ours:
        await state.set("s", "k", 1, only_if=[condition])
    payload = {"scope": "s", "key": "k", "value": 1, "if": [condition]}
    with pytest.raises(FunctionError) as theirs:
        await embedded.trigger({"function_id": "state::set", "payload": payload})
    assert (ours.value.code, ours.value.message) == (theirs.value.code, theirs.value.message)
    assert (ours.value.value, ours.value.etag, ours.value.step) == (None, None, None)


async def test_a_value_that_looks_like_a_refusal_is_none(state: State) -> None:
    looks_alike = {"applied": False, "condition": 0, "value": None, "etag": None}
    await state.set("s", "k", looks_alike)
    assert await state.get("s", "k") == looks_alike
    assert await state.delete("s", "k", only_if=[conditions.present()]) == looks_alike


async def test_a_condition_that_makes_no_sense_refuses_the_call(state: State) -> None:
    given: list[Any] = [[], [{}], [{"path": "a", "etag": "x"}], [{"equal": 1}], {"absent": True}]
    for wrong in given:
        with pytest.raises(FunctionError) as refused:
            await state.set("s", "k", 1, only_if=wrong)
        assert refused.value.code == "deserialization_error"
    assert await state.list_keys("s") == []


async def test_meta_lets_a_value_be_changed_without_reading_it_again(state: State) -> None:
    written = await state.set("ledger", "m", [1], meta=True)
    assert written == SetResult(None, [1], written.etag, written.revision)
    stored = await state.get("ledger", "m", meta=True)
    assert stored == Stored([1], written.etag, None, stored.revision)
    assert stored.revision is not None
    changed = await state.update("ledger", "m", [ops.set(None, [2])], only_if=[conditions.etag(stored.etag or "")], meta=True)
    assert changed.etag not in (None, stored.etag)
    with pytest.raises(ConditionUnmet):
        await state.set("ledger", "m", [3], only_if=[conditions.etag(stored.etag or "")])
    with pytest.raises(ConditionUnmet):
        await state.set("ledger", "m", [3], only_if=[conditions.revision(stored.revision)])
    assert await state.get("ledger", "nowhere", meta=True) == Stored(None, None, None, None)
    await state.set("s", "leased", 1, ttl_ms=60_000)
    left = (await state.get("s", "leased", meta=True)).ttl_ms
    assert left is not None
    assert 0 < left <= 60_000


async def test_values_that_are_not_wanted_back_are_none(state: State) -> None:
    await state.set("s", "k", 1)
    assert await state.set("s", "k", 2, return_="old") == SetResult(1, None)
    assert await state.set("s", "k", 3, return_="new") == SetResult(None, 3)
    assert await state.update("s", "k", [ops.increment()], return_="none") == UpdateResult(None, None)
    assert await state.get("s", "k") == 4


async def test_a_strict_update_is_made_whole_or_not_at_all(state: State) -> None:
    await state.set("s", "k", {"n": 1, "text": "x"})
    with pytest.raises(FunctionError) as refused:
        await state.update("s", "k", [ops.increment("n"), ops.increment("text")], strict=True)
    assert refused.value.code == "OP_FAILED"
    with pytest.raises(FunctionError) as refused:
        await state.transact("s", [steps.set("other", 1), steps.update("k", [ops.increment("text")], strict=True)])
    assert (refused.value.code, refused.value.message[:10]) == ("OP_FAILED", "steps[1]: ")
    assert await state.get_many("s", ["k", "other"]) == {"k": {"n": 1, "text": "x"}}


async def test_touch_gives_and_takes_a_deadline(state: State) -> None:
    assert not await state.touch("s", "k", 1000)
    await state.set("s", "k", 1)
    assert await state.touch("s", "k", 60_000)
    assert (await state.get("s", "k", meta=True)).ttl_ms is not None
    assert await state.touch("s", "k", None)
    assert (await state.get("s", "k", meta=True)).ttl_ms is None


async def test_many_values_are_read_at_once_and_a_null_is_one(state: State) -> None:
    await state.set("s", "null", None)
    await state.set("s", "one", 1)
    assert await state.get_many("s", ["one", "nothing", "null", "one"]) == {"one": 1, "null": None}
    assert await state.get_many("s", []) == {}
    with pytest.raises(FunctionError) as refused:
        await state.get_many("s", ["k"] * 1001)
    assert refused.value.code == "deserialization_error"


async def test_a_transaction_tells_what_each_step_did(state: State) -> None:
    await state.set("s", "a", {"n": 1})
    done = await state.transact(
        "s",
        [
            steps.update("a", [ops.increment("n"), ops.append("n", 1)], ttl_ms=60_000),
            steps.set("b", [1]),
            steps.update("b", [ops.append(None, 2)], only_if=[conditions.equals(None, [1])]),
            steps.delete("b"),
        ],
    )
    assert done[1:] == [StepResult(None, [1]), StepResult([1], [1, 2]), StepResult([1, 2], None)]
    assert (done[0].old_value, done[0].new_value) == ({"n": 1}, {"n": 2})
    assert [(error.op_index, error.code) for error in done[0].errors] == [(1, "append.type_mismatch")]
    assert await state.list_keys("s") == ["a"]


async def test_a_part_of_a_scope_is_listed_in_order(state: State) -> None:
    await state.transact("s", [steps.set(key, key.upper()) for key in ("b/2", "a/1", "b/10", "b/1", "c")])
    assert await state.list("s", prefix="b/", order="desc") == ["B/2", "B/10", "B/1"]
    assert await state.list("s", limit=2, order="asc") == ["A/1", "B/1"]
    assert await state.list_keys("s", prefix="b/", order="asc") == ["b/1", "b/10", "b/2"]
    assert await state.list_keys("s", after="b/10", limit=2) == ["b/2", "c"]
    assert await state.list_keys("s", after="b/10", order="desc") == ["b/1", "a/1"]
    assert [key async for key, _ in state.entries("s", prefix="b/", order="desc")] == ["b/2", "b/10", "b/1"]


async def test_a_history_is_read_from_a_position_on(state: State) -> None:
    for number in range(3):
        await state.set("ledger", f"k{number % 2}", number)
    await state.delete("ledger", "k1")
    seen = [change async for change in state.history("ledger")]
    assert [(change.revision, change.event.event_type, change.event.key) for change in seen] == [
        (1, "state:created", "k0"),
        (2, "state:created", "k1"),
        (3, "state:updated", "k0"),
        (4, "state:deleted", "k1"),
    ]
    assert all(isinstance(change, StateChange) and change.at_ms > 1_600_000_000_000 for change in seen)
    assert [change.revision async for change in state.history("ledger", after=seen[1].event.after)] == [3, 4]
    assert [change.revision async for change in state.history("ledger", key="k1")] == [2, 4]
    assert [change.revision async for change in state.history("ledger", limit=2)] == [1, 2]
    with pytest.raises(FunctionError) as refused:
        await anext(state.history("short", after="elsewhere:1"))
    assert refused.value.code == "COMPACTED"
    with pytest.raises(FunctionError) as refused:
        await anext(state.history("nothing is kept of it"))
    assert refused.value.code == "HISTORY_ERROR"


async def test_a_handler_is_called_for_what_it_asks_for_alone(state: State) -> None:
    seen: asyncio.Queue[Event] = asyncio.Queue()

    @state.on_change(
        scope_prefix="users/",
        key_prefix="a",
        event_types=["updated", "state:deleted"],
        changed=["email", ["address", "city"]],
        when=[conditions.present("email") | {"of": "old"}],
        payload="new",
        on_full="drop_oldest",
        max_queue_length=100,
        max_queue_bytes=100_000,
    )
    async def changed(event: Event) -> None:
        await seen.put(event)

    for scope, key, value in (
        ("users", "ada", {"email": "1"}),
        ("users", "ada", {"email": "2"}),
        ("users/1", "bob", {"email": "1"}),
        ("users/1", "bob", {"email": "2"}),
        ("users/1", "ada", {"email": "1"}),
        ("users/1", "ada", {"email": "1", "seen": 1}),
        ("users/1", "ada", {"email": "1", "address": {"city": "Turin"}}),
    ):
        await state.set(scope, key, value)
    event = await asyncio.wait_for(seen.get(), 20)
    assert (event.scope, event.key, event.event_type, event.old_value) == ("users/1", "ada", "state:updated", None)
    assert event.new_value == {"email": "1", "address": {"city": "Turin"}}
    await state.delete("users/1", "ada")
    assert (await asyncio.wait_for(seen.get(), 20)).event_type == "state:deleted"
    assert seen.empty()


def serve_old_state(engine: Engine, answers: dict[str, Any]) -> None:
    """State from a worker that knows nothing of what was added later; `answers` keeps what it was asked."""

    async def set_value(payload: Any) -> dict[str, Any]:
        answers["value"] = payload["value"]
        return {"old_value": None, "new_value": payload["value"]}

    for name in ("get", "delete", "update", "list", "list_keys", "list_entries"):
        engine.register_function(f"state::{name}", lambda payload: answers.setdefault("called", payload))
    engine.register_function("state::set", set_value)


async def test_what_an_older_engine_lacks_is_refused_and_nothing_is_done() -> None:
    answers: dict[str, Any] = {}
    async with Engine() as engine:
        serve_old_state(engine, answers)
        state = State(engine)
        there = [conditions.present()]
        for call in (
            state.set("s", "k", 1, only_if=there),
            state.set("s", "k", 1, meta=True),
            state.set("s", "k", 1, return_="none"),
            state.get("s", "k", meta=True),
            state.delete("s", "k", only_if=there),
            state.update("s", "k", [], only_if=there),
            state.update("s", "k", [], strict=True),
            state.touch("s", "k", 1),
            state.get_many("s", ["k"]),
            state.transact("s", [steps.delete("k")]),
            state.list("s", prefix="k"),
            state.list_keys("s", after="k"),
            anext(state.entries("s", order="asc")),
            anext(state.history("s")),
        ):
            with pytest.raises(FunctionError) as refused:
                await call
            assert refused.value.code == "UNSUPPORTED", refused.value
        assert answers == {}
        assert await state.set("s", "k", 1) == SetResult(None, 1)

        @state.on_change(scope="s", changed=["a"])
        def changed(event: Event) -> None: ...

        with pytest.raises(FunctionError) as refused:
            await state.start()
        assert refused.value.code == "UNSUPPORTED"


async def test_an_engine_without_state_is_told_from_an_old_one() -> None:
    async with Engine() as engine:
        with pytest.raises(FunctionError) as refused:
            await State(engine).touch("s", "k", None)
    assert refused.value.code == "function_not_found"
