"""Transactions: several keys of a scope, all or none, each step with its event, in order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iii_state import values
from iii_state.adapters.kv import KvAdapter
from iii_state.errors import ConditionFailed, FunctionError, OldValueUnknown, RequestFenced, StoreError
from iii_state.events import QueueLimits, Subscription
from iii_state.sessions import Request
from iii_state.values.conditions import Conditions, parse
from iii_state.values.transactions import MAX_STEPS, Done, Step
from tests.support.stores import ALL, LIMIT, Store, drain, opened, plan, seen, stored
from tests.support.vectors import CONDITION_VECTORS, condition_case

INCREMENT = plan({"type": "increment", "path": "n", "by": 1})
APPEND = plan({"type": "append", "path": "", "value": "x"})


async def contents(store: Store) -> Any:
    return [(scope, sorted(await store.entries(scope))) for scope in sorted(await store.scopes())]


async def test_each_step_does_what_a_call_of_its_own_does(store: Store) -> None:
    await store.set("s", "a", stored({"n": 1, "t": "x"}))
    await store.set("s", "gone", b"1")
    failing = plan({"type": "increment", "path": "t", "by": 1}, {"type": "set", "path": "u", "value": None})
    results = await store.transact(
        "s", [Step("new", b"1.0"), Step("a", plan=failing), Step("gone"), Step("none"), Step("b", plan=INCREMENT)], LIMIT
    )
    assert [(done.old, done.new) for done in results] == [
        (None, b"1.0"),
        (stored({"n": 1, "t": "x"}), stored({"n": 1, "t": "x", "u": None})),
        (b"1", None),
        (None, None),
        (None, stored({"n": 1})),
    ]
    assert [[error.code for error in done.errors] for done in results] == [[], ["increment.not_number"], [], [], []]
    assert sorted(await store.entries("s")) == [
        ("a", stored({"n": 1, "t": "x", "u": None})),
        ("b", stored({"n": 1})),
        ("new", b"1.0"),
    ]


async def test_a_step_finds_what_those_before_it_have_left(store: Store) -> None:
    steps = [
        Step("k", stored("é")),
        Step("k", plan=APPEND),
        Step("k"),
        Step("k", plan=INCREMENT),
        Step("k", plan=INCREMENT),
        Step("other", b"1"),
        Step("k", b"0"),
        Step("k", plan=plan({"type": "increment", "path": "", "by": -1})),
    ]
    results = await store.transact("s", steps, LIMIT)
    texts = [None, stored("é"), stored("éx"), None, stored({"n": 1}), stored({"n": 2}), b"0", b"-1"]
    chain = [done for step, done in zip(steps, results, strict=True) if step.key == "k"]
    assert [done.old for done in chain] == texts[:-1]
    assert [done.new for done in chain] == texts[1:]
    assert sorted(await store.entries("s")) == [("k", b"-1"), ("other", b"1")]


async def test_values_that_need_a_look_are_taken_on_all_at_once(store: Store) -> None:
    keys = [f"k{number}" for number in range(MAX_STEPS)]
    for key in keys:
        await store.set("s", key, stored(["é", [key]]))
    results = await store.transact("s", [Step(key, plan=APPEND) for key in keys], LIMIT)
    assert [done.new for done in results] == [stored(["é", [key], "x"]) for key in keys]
    assert dict(await store.entries("s")) == {key: stored(["é", [key], "x"]) for key in keys}


async def test_each_step_has_its_event_in_order(store: Store) -> None:
    of_a = Subscription("of a", scope="s", key="a")
    await store.subscribe(ALL)
    await store.subscribe(of_a)
    await store.transact("s", [Step("a", b"1"), Step("b", b"1"), Step("a", b"2"), Step("a"), Step("b", plan=APPEND)], LIMIT)
    events = seen(await drain(store, ALL))
    of_lane = {key: [event for event in events if event[2] == key] for key in "ab"}
    assert of_lane["a"] == [
        ("created", "s", "a", None, b"1"),
        ("updated", "s", "a", b"1", b"2"),
        ("deleted", "s", "a", b"2", None),
    ]
    assert of_lane["b"] == [("created", "s", "b", None, b"1"), ("updated", "s", "b", b"1", b"1")]
    assert len(events) == 5
    deliveries = await drain(store, of_a)
    assert seen(deliveries) == of_lane["a"]
    assert len({delivery.event_id for delivery in deliveries}) == 3


async def test_the_index_of_scopes_follows(store: Store) -> None:
    await store.transact("s", [Step("k", b"1"), Step("k")], LIMIT)
    assert await store.scopes() == []
    await store.transact("s", [Step("k", b"1"), Step("j"), Step("l", b"1")], LIMIT)
    assert await store.scopes() == ["s"]
    await store.transact("s", [Step("k"), Step("l")], LIMIT)
    assert await store.scopes() == []
    await store.set("s", "k", b"1")
    await store.transact("s", [Step("k"), Step("l", b"1")], LIMIT)
    assert await store.scopes() == ["s"]


async def test_a_result_that_is_too_large_refuses_all(store: Store) -> None:
    await store.set("s", "k", stored({"a": "x"}))
    await store.subscribe(ALL)
    before = await contents(store)
    append = plan({"type": "append", "path": "a", "value": "y" * 20})
    with pytest.raises(FunctionError) as raised:
        await store.transact("s", [Step("first", b"1"), Step("k", plan=append), Step("last", b"1")], 20)
    assert (raised.value.code, raised.value.message) == (
        "VALUE_TOO_LARGE",
        "steps[1]: value of 29 bytes exceeds the configured max_value_bytes limit of 20",
    )
    assert await contents(store) == before
    assert await drain(store, ALL) == []


@pytest.mark.parametrize("kind", ["kv-memory", "redis", "bridge-kv"])  # fakeredis closes the connection over so large a reply
async def test_what_is_found_and_left_together_is_bounded(store: Store) -> None:
    large = values.encode("x" * (8 * 1024 * 1024 - 2))
    await store.transact("s", [Step("a", large), Step("b", large)], LIMIT)
    before = [key for key, _ in await store.entries("s")]
    with pytest.raises(FunctionError, match="a transaction that finds and leaves values of 16777217 bytes"):
        await store.transact("s", [Step("c", b"1"), Step("a"), Step("b")], LIMIT)
    assert sorted(key for key, _ in await store.entries("s")) == sorted(before)
    assert [len(done.old or b"") for done in await store.transact("s", [Step("a"), Step("b")], LIMIT)] == [len(large)] * 2


async def test_a_full_queue_refuses_all(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path, QueueLimits(max_queue_length=2)) as store:
        await store.subscribe(ALL)
        await store.subscribe(Subscription("of b", scope="s", key="b"))
        with pytest.raises((StoreError, FunctionError), match="is full"):
            await store.transact("s", [Step("a", b"1"), Step("b", b"1"), Step("a", b"2")], LIMIT)
        assert await contents(store) == []
        await store.transact("s", [Step("a", b"1"), Step("a", b"2")], LIMIT)
        with pytest.raises((StoreError, FunctionError), match="is full"):
            await store.transact("s", [Step("b", b"1")], LIMIT)
        assert await contents(store) == [("s", [("a", b"2")])]
        assert len(await drain(store, ALL)) == 2
        await store.transact("s", [Step("b", b"1")], LIMIT)


async def test_a_full_queue_that_drops_its_oldest_makes_room_for_all(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path, QueueLimits(max_queue_length=6, on_full="drop_oldest")) as store:
        await store.subscribe(ALL)
        for number in range(9):
            await store.set("s", f"old{number % 2}", b"%d" % number)
        await store.transact("s", [Step(f"k{number}", b"1") for number in range(4)], LIMIT)
        if not store.is_remote:  # of a remote, some have come here already
            events = seen(await drain(store, ALL))
            assert [event[2] for event in events if event[2].startswith("k")] == ["k0", "k1", "k2", "k3"]
            assert [event[4] for event in events if event[2].startswith("old")] == [b"7", b"8"]


async def test_deadlines_of_steps(store: Store) -> None:
    await store.set("s", "keeps", b"1", ttl_ms=500_000)
    await store.set("s", "loses", b"1", ttl_ms=500_000)
    await store.transact(
        "s",
        [
            Step("new", b"1", ttl_ms=600_000),
            Step("keeps", plan=APPEND),
            Step("loses", b"2"),
            Step("twice", b"1", ttl_ms=400_000),
            Step("twice", b"2"),
            Step("kept", b"1", ttl_ms=400_000),
            Step("kept", plan=APPEND),
            Step("late", b"1"),
            Step("late", plan=APPEND, ttl_ms=400_000),
            Step("again", b"1", ttl_ms=400_000),
            Step("again"),
            Step("again", plan=INCREMENT),
        ],
        LIMIT,
    )
    store.elapse(450_000)
    assert sorted(await store.keys("s")) == ["again", "keeps", "loses", "new", "twice"]
    store.elapse(100_000)
    assert sorted(await store.keys("s")) == ["again", "loses", "new", "twice"]
    store.elapse(100_000)
    assert sorted(await store.keys("s")) == ["again", "loses", "twice"]


async def test_a_value_that_is_over_goes_first_with_its_event(store: Store) -> None:
    await store.subscribe(ALL)
    await store.set("s", "k", b"1", ttl_ms=1000)
    await store.set("s", "l", b"1", ttl_ms=1000)
    await drain(store, ALL)
    store.elapse(2000)
    results = await store.transact("s", [Step("k", plan=INCREMENT), Step("l"), Step("k", b"2")], LIMIT)
    assert [done.old for done in results] == [None, None, stored({"n": 1})]
    events = seen(await drain(store, ALL))
    assert [event for event in events if event[2] == "k"] == [
        ("deleted", "s", "k", b"1", None),
        ("created", "s", "k", None, stored({"n": 1})),
        ("updated", "s", "k", stored({"n": 1}), b"2"),
    ]
    assert ("deleted", "s", "l", b"1", None) in events


STEPS = [Step("a", b"1"), Step("b", plan=INCREMENT), Step("b", plan=APPEND), Step("c"), Step("a", b"2"), Step("none")]


async def test_a_transaction_made_again_is_answered_alike_and_happens_once(store: Store) -> None:
    await store.open("session-1", 0, 1)
    await store.subscribe(ALL)
    for seq, (b, c) in enumerate(((stored({"n": 4}), None), (None, b"null"), (stored("é"), stored({"c": 1}))), 1):
        for key, text in (("b", b), ("c", c)):
            await (store.delete("s", key) if text is None else store.set("s", key, text))
        await drain(store, ALL)
        request = Request("session-1", 1, seq % 2, seq)
        answer: list[Done] = await store.transact("s", STEPS, LIMIT, request=request)
        assert [done.old for done in answer[1:4]] == [b, answer[1].new, store.replaced(c)]
        assert answer[1].errors or b != stored("é")
        after = await contents(store)
        assert await store.transact("s", STEPS, LIMIT, request=request) == answer
        assert await contents(store) == after
        assert len(await drain(store, ALL)) == len(STEPS)


async def test_a_transaction_is_recognised_after_a_restart(tmp_path: Path) -> None:
    async with opened("kv-file", tmp_path) as store:
        await store.open("session-1", 0, 1)
        await store.set("s", "c", b"7")
        answer = await store.transact("s", STEPS, LIMIT, request=Request("session-1", 1, 0, 1))
    async with opened("kv-file", tmp_path) as store:
        await store.set("s", "c", b"8")
        assert await store.transact("s", STEPS, LIMIT, request=Request("session-1", 1, 0, 1)) == answer
        assert await store.get("s", "c") == b"8"


async def test_its_record_is_taken_for_no_other_call_and_none_for_its(store: Store) -> None:
    await store.open("session-1", 0, 1)
    first, second = Request("session-1", 1, 0, 5), Request("session-1", 1, 1, 6)
    await store.transact("s", STEPS, LIMIT, request=first)
    await store.set("s", "k", b"1", request=second)
    before = await contents(store)
    with pytest.raises(OldValueUnknown):
        await store.set("s", "k", b"2", request=first)
    with pytest.raises(OldValueUnknown):
        await store.transact("s", STEPS, LIMIT, request=second)
    with pytest.raises(RequestFenced):
        await store.transact("s", STEPS, LIMIT, request=Request("session-1", 1, 0, 4))
    assert await contents(store) == before


async def test_large_old_values_are_not_recorded_and_that_is_said(store: Store) -> None:
    await store.open("session-1", 0, 1)
    for key in ("a", "b"):
        await store.set("s", key, values.encode("x" * 600_000))
    steps = [Step("a"), Step("b", b"1")]
    request = Request("session-1", 1, 0, 1)
    await store.transact("s", steps, LIMIT, request=request)
    with pytest.raises(OldValueUnknown):
        await store.transact("s", steps, LIMIT, request=request)
    assert await store.entries("s") == [("b", b"1")]


async def test_a_transaction_whose_commit_fails_has_done_nothing(tmp_path: Path) -> None:
    async with opened("kv-file", tmp_path) as store:
        assert isinstance(store.adapter, KvAdapter)
        await store.subscribe(ALL)
        await store.open("session-1", 0, 1)
        await store.set("s", "a", b"1")
        await drain(store, ALL)
        journal = store.adapter._journal
        assert journal is not None
        await journal._call(lambda: journal._opened().execute("PRAGMA query_only=ON"))
        with pytest.raises(StoreError):
            await store.transact("s", STEPS, LIMIT, request=Request("session-1", 1, 0, 1))
        assert await store.entries("s") == [("a", b"1")]
        await journal._call(lambda: journal._opened().execute("PRAGMA query_only=OFF"))
        assert await drain(store, ALL) == []
        await store.transact("s", STEPS, LIMIT, request=Request("session-1", 1, 0, 1))
        assert len(await drain(store, ALL)) == len(STEPS)


# -- conditions, and all or nothing of an update


def conditions(*wanted: dict[str, Any]) -> Conditions:
    return parse(values.encode(list(wanted)))


ABSENT = conditions({"absent": True})
FIRST = Request("session-1", 1, 0, 1)
Change = Callable[[str, Conditions], Step]
CHANGES: dict[str, Change] = {
    "set": lambda key, asked: Step(key, b"1", conditions=asked),
    "delete": lambda key, asked: Step(key, conditions=asked),
    "update": lambda key, asked: Step(key, plan=INCREMENT, conditions=asked),
}
every_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


@every_change
async def test_condition_vectors(store: Store, change: Change) -> None:
    for vector in CONDITION_VECTORS:
        text, asked = condition_case(vector)
        await (store.delete("s", "k") if text is None else store.set("s", "k", text))
        steps = [Step("first", b"1"), change("k", parse(asked))]
        if vector["failing"] is None:
            await store.transact("s", steps, LIMIT)
            await store.delete("s", "first")
            continue
        with pytest.raises(ConditionFailed) as raised:
            await store.transact("s", steps, LIMIT)
        assert (raised.value.step, raised.value.index, raised.value.text) == (1, vector["failing"], text), vector["name"]
        assert await store.get("s", "k") == text, vector["name"]
        assert await store.get("s", "first") is None


async def test_a_condition_is_judged_on_what_the_steps_before_have_left(store: Store) -> None:
    text = stored({"é": ["é"], "n": 1})
    of_text = conditions({"etag": values.etag(text)})
    steps = [
        Step("k", text, conditions=ABSENT),
        Step("k", plan=INCREMENT, conditions=of_text),
        Step("k", conditions=conditions({"path": "n", "equals": 2}, {"path": ["é"], "equals": ["é"]})),
        Step("k", b"7", conditions=ABSENT),
        Step("k", b"8", conditions=conditions({"equals": 7.0})),
    ]
    await store.subscribe(ALL)
    await store.transact("s", steps, LIMIT)
    assert await store.entries("s") == [("k", b"8")]
    assert len(await drain(store, ALL)) == 5
    with pytest.raises(ConditionFailed) as raised:
        await store.transact("s", [Step("other", b"1"), Step("k"), *steps[:2], Step("k", b"1", conditions=of_text)], LIMIT)
    assert raised.value.message == "steps[4]: Condition 0 does not hold at path 'root' of scope 's', key 'k'"
    assert raised.value.text == stored({"é": ["é"], "n": 2})
    assert await store.entries("s") == [("k", b"8")]
    assert await drain(store, ALL) == []


async def test_what_has_reached_its_deadline_is_absent(store: Store) -> None:
    await store.set("s", "k", b"1", ttl_ms=1000)
    store.elapse(2000)
    await store.transact("s", [Step("k", b"2", conditions=ABSENT)], LIMIT)
    assert await store.get("s", "k") == b"2"


@every_change
async def test_a_condition_that_did_not_hold_is_answered_again_as_it_was(store: Store, change: Change) -> None:
    await store.open("session-1", 0, 1)
    await store.set("s", "k", stored({"é": 1}))
    await store.subscribe(ALL)
    steps = [Step("first", b"1"), change("k", ABSENT)]
    for _ in range(2):
        with pytest.raises(ConditionFailed) as raised:
            await store.transact("s", steps, LIMIT, request=FIRST)
        assert (raised.value.step, raised.value.index, raised.value.text) == (1, 0, stored({"é": 1}))
        await store.delete("s", "k")
    assert await store.entries("s") == []
    assert [event[2] for event in seen(await drain(store, ALL))] == ["k", "k"]
    with pytest.raises((RequestFenced, OldValueUnknown)):
        await store.transact("s", [Step("first", b"1")], LIMIT, request=FIRST)
    with pytest.raises((RequestFenced, OldValueUnknown)):
        await store.set("s", "k", b"1", request=FIRST)
    assert await store.entries("s") == []
    await store.transact("s", steps, LIMIT, request=Request("session-1", 1, 0, 2))


async def test_a_condition_that_did_not_hold_is_known_after_a_restart(tmp_path: Path) -> None:
    steps = [*[Step("first", b"1")] * 100, Step("k", b"2", conditions=conditions({"present": True}, {"absent": True}))]
    async with opened("kv-file", tmp_path) as store:
        await store.open("session-1", 0, 1)
        await store.set("s", "k", b"1")
        with pytest.raises(ConditionFailed):
            await store.transact("s", steps, LIMIT, request=FIRST)
    async with opened("kv-file", tmp_path) as store:
        await store.delete("s", "k")
        with pytest.raises(ConditionFailed) as raised:
            await store.transact("s", steps, LIMIT, request=FIRST)
        assert (raised.value.step, raised.value.index, raised.value.text) == (100, 1, b"1")


async def test_the_first_refusal_counts(store: Store) -> None:
    """A text that has to be looked at first is no reason to judge what comes after it."""
    for key in ("foreign", "k"):
        await store.set("s", key, stored(["é", {"a": 1}]))
    await store.open("session-1", 0, 1)
    fits = conditions({"equals": ["é", {"a": 1}]})
    steps = [Step("foreign", plan=APPEND, conditions=fits), Step("k", b"1", conditions=ABSENT), Step("foreign", conditions=fits)]
    with pytest.raises(ConditionFailed) as raised:
        await store.transact("s", steps, LIMIT, request=FIRST)
    assert (raised.value.step, raised.value.index) == (1, 0)
    steps = [Step("foreign", plan=APPEND, conditions=fits), Step("k", b"1", conditions=fits), Step("foreign", conditions=fits)]
    with pytest.raises(ConditionFailed) as raised:
        await store.transact("s", steps, LIMIT)
    assert (raised.value.step, raised.value.text) == (2, stored(["é", {"a": 1}, "x"]))


async def test_an_op_that_fails_in_a_strict_update_refuses_all(store: Store) -> None:
    await store.set("s", "k", stored({"t": "x"}))
    before = await contents(store)
    for op in ({"type": "increment", "path": "t", "by": 1}, {"type": "set", "path": "__proto__"}):
        failing = plan({"type": "set", "path": "n", "value": 1}, op)
        with pytest.raises(FunctionError) as raised:
            await store.transact("s", [Step("first", b"1"), Step("k", plan=failing, strict=True)], LIMIT)
        assert raised.value.code == "OP_FAILED"
        assert raised.value.message.startswith("steps[1]: ")
        assert await contents(store) == before
    await store.transact("s", [Step("k", plan=plan({"type": "set", "path": "n", "value": 1}), strict=True)], LIMIT)
    assert await store.get("s", "k") == stored({"t": "x", "n": 1})
