"""`State`: every function of `state::*` as a typed call, over each adapter, exactly."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from iii_state import Engine, FunctionError, OpError, SetResult, State, UpdateResult, ops

EXACT: list[Any] = [
    None,
    True,
    "",
    "\N{SNOWMAN}\x00\n",
    0,
    -(2**63),
    2**64 - 1,
    2**53 + 1,
    10**40,
    1.0,
    -0.5,
    [],
    {},
    {"b": 1, "a": [{"": None}]},
]


def same(value: Any, expected: Any) -> bool:
    """Whether two values are one in text, too: an int is no float, and members keep their order."""
    return repr(value) == repr(expected)


async def test_values_come_back_exactly_as_they_were_written(state: State) -> None:
    for number, value in enumerate(EXACT):
        written = await state.set("s", f"k{number}", value)
        assert same(written, SetResult(None, value))
        assert same(await state.get("s", f"k{number}"), value)


async def test_set_answers_the_value_that_was_replaced(state: State) -> None:
    await state.set("s", "k", {"n": 1})
    assert await state.set("s", "k", [2]) == SetResult({"n": 1}, [2])


async def test_a_deleted_value_is_returned_and_gone(state: State) -> None:
    await state.set("s", "k", 1)
    assert await state.delete("s", "k") == 1
    assert await state.get("s", "k") is None
    assert await state.delete("s", "k") is None


async def test_ops_are_applied_in_order_and_failed_ones_reported(state: State) -> None:
    await state.set("orders", "o1", {"n": 1, "items": []})
    done = await state.update("orders", "o1", [ops.increment("n"), ops.append("items", "book")])
    assert done == UpdateResult({"n": 1, "items": []}, {"n": 2, "items": ["book"]}, [])
    done = await state.update("orders", "o1", [ops.increment("items"), ops.decrement("n", 5), ops.set([""], 1)])
    assert done.new_value == {"n": -3, "items": ["book"]}
    assert done.errors == [
        OpError(0, "increment.not_number", "Expected number at path 'items', got array."),
        OpError(2, "set.path.empty_segment", "Path contains an empty segment"),
    ]


async def test_arithmetic_on_64_bit_integers_is_exact(state: State) -> None:
    await state.set("s", "n", 2**63)
    assert (await state.update("s", "n", [ops.increment(by=2**63 - 1)])).new_value == 2**64 - 1
    assert (await state.update("s", "n", [ops.increment()])).errors[0].code == "increment.not_number"
    assert await state.get("s", "n") == 2**64 - 1


async def test_scopes_keys_and_values_are_listed(state: State) -> None:
    for scope, key in (("b", "1"), ("a", "1"), ("a", "2")):
        await state.set(scope, key, f"{scope}{key}")
    assert await state.list_groups() == ["a", "b"]
    assert sorted(await state.list("a")) == ["a1", "a2"]
    assert sorted(await state.list_keys("a")) == ["1", "2"]
    assert await state.list("nowhere") == []
    assert await state.list_keys("nowhere") == []


async def test_entries_are_read_over_pages_as_they_were_at_first(state: State) -> None:
    await asyncio.gather(*(state.set("s", f"k{number}", number) for number in range(2300)))
    found: dict[str, int] = {}
    async for key, value in state.entries("s"):
        if not found:
            await state.set("s", "late", 1)
            await state.delete("s", "k7")
        found[key] = value
    assert found == {f"k{number}": number for number in range(2300)}
    assert [entry async for entry in state.entries("nowhere")] == []


async def test_entries_of_large_values_fill_large_pages(kv: State) -> None:
    for number in range(5):
        await kv.set("s", f"k{number}", "x" * 3_000_000)
    assert {key async for key, _ in kv.entries("s")} == {f"k{number}" for number in range(5)}


async def test_a_value_with_a_deadline_goes_by_itself(state: State) -> None:
    await state.set("s", "set", 1, ttl_ms=300)
    await state.update("s", "updated", [ops.increment()], ttl_ms=300)
    await state.set("s", "stays", 1, ttl_ms=300)
    await state.set("s", "stays", 2)
    async with asyncio.timeout(20):
        while await state.list_keys("s") != ["stays"]:
            await asyncio.sleep(0.05)


async def test_a_call_that_fails_raises_its_code(state: State) -> None:
    with pytest.raises(FunctionError) as refused:
        await state.set("s", "k", float("nan"))
    assert refused.value.code == "deserialization_error"
    with pytest.raises(FunctionError) as refused:
        await state.set("s", "k", 1, ttl_ms=0)
    assert refused.value.code == "deserialization_error"
    with pytest.raises(FunctionError) as refused:
        await state.update("s", "k", [{"type": "no_such_op"}])
    assert refused.value.code == "deserialization_error"
    assert await state.get("s", "k") is None


async def test_without_a_state_module_a_function_is_not_found() -> None:
    async with Engine() as engine:
        with pytest.raises(FunctionError) as refused:
            await State(engine).get("s", "k")
    assert refused.value.code == "function_not_found"


async def test_without_a_running_engine_it_says_so() -> None:
    state = State(Engine())
    with pytest.raises(RuntimeError, match="this engine is not running"):
        await state.get("s", "k")


async def test_objects_that_are_json_are_written_as_such(kv: State) -> None:
    @dataclass
    class Order:
        items: list[str]

    await kv.set("s", "k", Order(["book"]))
    assert await kv.get("s", "k") == {"items": ["book"]}


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (ops.set("a", 1), {"type": "set", "path": "a", "value": 1}),
        (ops.set(None, None), {"type": "set", "path": None, "value": None}),
        (ops.merge(["a", "b"], {"x": 1}), {"type": "merge", "path": ["a", "b"], "value": {"x": 1}}),
        (ops.increment("n"), {"type": "increment", "path": "n", "by": 1}),
        (ops.increment(), {"type": "increment", "path": None, "by": 1}),
        (ops.decrement("n", 0.5), {"type": "decrement", "path": "n", "by": 0.5}),
        (ops.append("items", "book"), {"type": "append", "path": "items", "value": "book"}),
        (ops.remove("a"), {"type": "remove", "path": "a"}),
    ],
)
def test_an_op_is_the_json_object_that_a_request_carries(op: dict[str, Any], expected: dict[str, Any]) -> None:
    assert op == expected


async def test_every_op_may_have_a_path_of_names_or_none(state: State) -> None:
    done = await state.update(
        "s",
        "k",
        [
            ops.set(["a", "n"], 1),
            ops.increment(("a", "n"), 4),
            ops.decrement(["a", "n"]),
            ops.append(["a", "items"], 1),
            ops.merge([], {"b": 1, "c": 2}),
            ops.remove("b"),
        ],
    )
    assert done == UpdateResult(None, {"a": {"n": 4, "items": [1]}, "c": 2}, [])
    assert (await state.update("s", "k", [ops.remove()])).new_value is None
