"""The change log: every change of a scope that has one, with its revision, in the order of the commits, and nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from iii_state import values
from iii_state.errors import Code, ConditionFailed, FunctionError, InvalidValue, StateError, StoreError
from iii_state.history import LogPage, LogRule, LogRules
from iii_state.sessions import Request
from iii_state.values.conditions import Conditions, parse
from iii_state.values.transactions import Step
from tests.support.stores import LIMIT, Store, opened, plan, stored

LONG = 3_600_000
ABSENT = parse(b'[{"absent":true}]')
INCREMENT = plan({"type": "increment", "path": "n", "by": 1})
RULES = LogRules([LogRule(scope="s"), LogRule(scope_prefix="logged/"), LogRule(scope="short", max_length=3)])


@pytest.fixture
async def store(kind: str, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(kind, tmp_path, history=RULES) as opened_store:
        yield opened_store


async def page(store: Store, scope: str = "s", key: str | None = None, after: str | None = None, limit: int = 1000) -> LogPage:
    found: LogPage = await store.page(scope, key, after, limit)
    return found


def told(found: LogPage) -> list[tuple[Any, ...]]:
    """Revision, event type, key, old and new value of each change, and its cause."""
    told = []
    for change in found.changes:
        event = values.decode(change.event)
        about = (event["event_type"].removeprefix("state:"), event["key"], event["old_value"], event["new_value"])
        told.append((change.revision, *about, event.get("cause")))
        assert event["type"] == "state"
    return told


def code_of(error: StateError) -> str | None:
    return error.code if isinstance(error, FunctionError | StoreError) else None


async def test_each_change_has_a_revision_from_1_in_order(store: Store) -> None:
    await store.set("s", "k", b"1")
    await store.set("s", "k", b"2")
    await store.set("s", "other", stored({"n": 1}))
    await store.update("s", "other", INCREMENT, LIMIT)
    await store.delete("s", "k")
    await store.delete("s", "k")
    await store.set("s", "k", b"null")
    found = await page(store)
    assert told(found) == [
        (1, "created", "k", None, 1, None),
        (2, "updated", "k", 1, 2, None),
        (3, "created", "other", None, {"n": 1}, None),
        (4, "updated", "other", {"n": 1}, {"n": 2}, None),
        (5, "deleted", "k", 2, None, None),
        (6, "deleted", "k", None, None, None),
        (7, "created", "k", None, None, None),
    ]
    assert found.first == 1
    assert found.next_after.endswith(":7")
    assert all(change.at_ms > 1_700_000_000_000 for change in found.changes)
    assert await page(store, after=found.next_after) == ([], found.next_after, 1)


async def test_each_scope_counts_for_itself_and_one_without_a_log_has_none(store: Store) -> None:
    for scope in ("logged/a", "logged/b", "logged/a", "unlogged"):
        await store.set(scope, "k", b"1")
    assert [change[0] for change in told(await page(store, "logged/a"))] == [1, 2]
    assert [change[0] for change in told(await page(store, "logged/b"))] == [1]
    assert told(await page(store, "logged/never")) == []
    assert (await page(store, "logged/never")).first == 1
    with pytest.raises((StoreError, FunctionError), match="scope 'unlogged' has no change log"):
        await page(store, "unlogged")


async def test_revisions_outlive_the_last_key_of_the_scope(store: Store) -> None:
    await store.set("s", "k", b"1")
    await store.delete("s", "k")
    assert await store.scopes() == []
    await store.set("s", "k", b"2")
    assert [change[:2] for change in told(await page(store))] == [(1, "created"), (2, "deleted"), (3, "created")]


async def test_pages_follow_each_other_without_a_gap(store: Store) -> None:
    for number in range(25):
        await store.set("s", f"k{number % 3}", b"%d" % number)
    after, revisions = None, []
    while True:
        found = await page(store, after=after, limit=7)
        if found.next_after == after:
            break
        assert len(found.changes) <= 7
        revisions += [change.revision for change in found.changes]
        after = found.next_after
    assert revisions == list(range(1, 26))
    one_key = told(await page(store, key="k1", limit=3))
    assert [(change[0], change[2]) for change in one_key] == [(2, "k1"), (5, "k1"), (8, "k1")]
    rest = await page(store, key="k1", after=f"{after.rpartition(':')[0]}:8" if after else None)
    assert [change[0] for change in told(rest)] == [11, 14, 17, 20, 23]
    assert rest.next_after == after


async def test_a_page_of_large_values_ends_early(store: Store) -> None:
    large = b'"%b"' % (b"x" * 300_000)
    for _ in range(5):
        await store.set("s", "k", large)
    found = await page(store)
    assert 1 <= len(found.changes) < 5
    rest = await page(store, after=found.next_after)
    assert rest.changes[0].revision == found.changes[-1].revision + 1


async def test_what_is_kept_no_more_is_compacted_and_so_is_the_future_and_another_store(store: Store) -> None:
    for number in range(10):
        await store.set("short", "k", b"%d" % number)
    found = await page(store, "short")
    assert [change.revision for change in found.changes] == [8, 9, 10]
    assert found.first == 8
    name = found.next_after.rpartition(":")[0]
    assert [change.revision for change in (await page(store, "short", after=f"{name}:7")).changes] == [8, 9, 10]
    for after in (f"{name}:6", f"{name}:0", f"{name}:11", "another:9", ":9"):
        with pytest.raises((StoreError, FunctionError)) as failed:
            await page(store, "short", after=after)
        assert code_of(failed.value) == Code.COMPACTED


@pytest.mark.parametrize("after", ["", "7", "store:", "store:x", "store:-1", "store:99999999999999999999", "store:1.0", "store:٣"])
async def test_what_is_no_position_is_refused(store: Store, after: str) -> None:
    with pytest.raises((InvalidValue, FunctionError), match="after: invalid value"):
        await page(store, after=after)


async def test_what_is_refused_is_no_change(store: Store) -> None:
    await store.set("s", "k", stored({"n": 0}))
    with pytest.raises(FunctionError, match="VALUE_TOO_LARGE"):
        await store.update("s", "k", INCREMENT, 3)
    await store.set("s", "k", b"1")
    assert [change[0] for change in told(await page(store))] == [1, 2]


async def test_a_call_made_again_is_one_change(store: Store) -> None:
    await store.open("session-of-a-caller", 0, 1)
    for _ in range(3):
        await store.update("s", "k", INCREMENT, LIMIT, request=Request("session-of-a-caller", 1, 0, 1))
    assert told(await page(store)) == [(1, "created", "k", None, {"n": 1}, None)]


async def test_a_value_that_goes_at_its_deadline_is_a_change_with_its_cause(store: Store) -> None:
    await store.set("s", "k", b"1", ttl_ms=30)
    async with asyncio.timeout(10):
        while len(found := told(await page(store))) < 2:
            await asyncio.sleep(0.005)
    assert found == [(1, "created", "k", None, 1, None), (2, "deleted", "k", 1, None, "expired")]


async def test_a_mutation_that_meets_a_value_that_is_over_is_two_changes(store: Store) -> None:
    for key in ("set", "update", "delete"):
        await store.set("s", key, b"1", ttl_ms=LONG)
    store.elapse(LONG)
    await store.set("s", "set", b"2")
    await store.update("s", "update", INCREMENT, LIMIT)
    await store.delete("s", "delete")
    found = told(await page(store))
    assert [change[0] for change in found] == list(range(1, len(found) + 1))
    assert [change for change in found if change[2] == "set"][1:] == [
        *((found.index(change) + 1, *change[1:]) for change in found if change[1:] == ("deleted", "set", 1, None, "expired")),
        *((found.index(change) + 1, *change[1:]) for change in found if change[1:] == ("created", "set", None, 2, None)),
    ]
    assert sum(change[5] == "expired" for change in found) == 3
    assert [change[1] for change in found if change[2] == "delete"] == ["created", "deleted", "deleted"]


async def test_changes_at_once_have_revisions_of_their_own(store: Store) -> None:
    await asyncio.gather(*(store.update("s", f"k{number % 4}", INCREMENT, LIMIT) for number in range(200)))
    found = told(await page(store))
    assert [change[0] for change in found] == list(range(1, 201))
    for key in ("k0", "k1", "k2", "k3"):
        assert [change[4] for change in found if change[2] == key] == [{"n": number} for number in range(1, 51)]


async def test_old_and_new_are_the_bytes_that_were_stored(store: Store) -> None:
    text = values.to_stored(b'{"big": 18446744073709551615, "float": 1.0, "odd": 1E+5, "empty": [], "object": {}, "u": "\\u00e9"}')
    await store.set("s", "k\n\0é", text)
    event = (await page(store)).changes[0].event
    assert values.to_stored(values.members(event)["new_value"]) == text
    assert values.decode(event)["key"] == "k\n\0é"


async def test_changes_go_for_their_age(kind: str, tmp_path: Path) -> None:
    rules = LogRules([LogRule(scope_prefix="", max_age_ms=1)])
    async with opened(kind, tmp_path, history=rules) as store:
        for number in range(30):
            await store.set("s", "k", b"%d" % number)
        async with asyncio.timeout(20):
            while (found := await page(store)).first < 31:
                await asyncio.sleep(0.02)
        assert found.changes == []
        assert found.next_after.endswith(":30")
        await store.set("s", "k", b"1")
        with pytest.raises((StoreError, FunctionError)) as failed:
            await page(store, after=f"{found.next_after.rpartition(':')[0]}:29")
        assert code_of(failed.value) == Code.COMPACTED


def a_step(key: str, value: bytes | None = None, **others: Any) -> Step:
    return Step(key, value, others.pop("plan", None), **others)


async def test_the_steps_of_a_transaction_are_changes_in_their_order(store: Store) -> None:
    await store.set("s", "gone", b"1", ttl_ms=LONG)
    await store.set("s", "k", b"0")
    store.elapse(LONG)
    steps = [a_step("k", b"1"), a_step("gone", b"2"), a_step("k"), a_step("n", plan=INCREMENT), a_step("n", plan=INCREMENT)]
    await store.transact("s", steps, LIMIT)
    await store.set("s", "k", b"3")
    found = told(await page(store))
    assert [change[0] for change in found] == list(range(1, 10))
    assert [change[1:] for change in found if change[5] is None][2:] == [
        ("updated", "k", 0, 1, None),
        ("created", "gone", None, 2, None),
        ("deleted", "k", 1, None, None),
        ("created", "n", None, {"n": 1}, None),
        ("updated", "n", {"n": 1}, {"n": 2}, None),
        ("created", "k", None, 3, None),
    ]
    assert [change[1:] for change in found if change[5]] == [("deleted", "gone", 1, None, "expired")]


async def test_a_transaction_that_is_refused_is_no_change(store: Store) -> None:
    with pytest.raises(FunctionError, match="VALUE_TOO_LARGE"):
        await store.transact("s", [a_step("k", b"1"), a_step("n", plan=INCREMENT)], 3)
    assert told(await page(store)) == []


def at_revision(revision: int) -> Conditions:
    return parse(values.encode([{"revision": revision}]))


async def test_a_value_is_read_with_its_revision(store: Store) -> None:
    await store.set("s", "a", b"1")
    await store.set("s", "b", b"1", ttl_ms=LONG)
    await store.set("s", "a", b"1")
    await store.set("unlogged", "k", b"1")
    assert (await store.read("s", "a"))[::2] == (b"1", 3)
    assert (await store.read("s", "b"))[::2] == (b"1", 2)
    assert 0 < (await store.read("s", "b")).ttl_ms <= LONG
    assert await store.read("s", "missing") == (None, None, None)
    assert await store.read("unlogged", "k") == (b"1", None, None)
    await store.delete("s", "a")
    store.elapse(2 * LONG)
    assert await store.read("s", "a") == (None, None, None)
    assert (await store.read("s", "b")).text is None


async def test_conditions_are_judged_by_the_revision_of_the_value(store: Store) -> None:
    await store.set("s", "k", stored({"n": 1}))
    await store.set("s", "other", b"1")
    for wrong in (2, 7):
        with pytest.raises((ConditionFailed, FunctionError)):
            await store.set("s", "k", b"1", conditions=at_revision(wrong))
    assert await store.set("s", "k", stored({"n": 2}), conditions=at_revision(1)) == stored({"n": 1})
    with pytest.raises((ConditionFailed, FunctionError)):  # A, B, A again is seen
        await store.update("s", "k", INCREMENT, LIMIT, conditions=at_revision(1))
    await store.update("s", "k", INCREMENT, LIMIT, conditions=at_revision(3))
    with pytest.raises((ConditionFailed, FunctionError)):
        await store.delete("s", "k", conditions=at_revision(3))
    await store.delete("s", "k", conditions=at_revision(4))
    for revision in (4, 5):
        with pytest.raises((ConditionFailed, FunctionError)):
            await store.set("s", "k", b"1", conditions=at_revision(revision))
    assert [change[:3] for change in told(await page(store))] == [
        (1, "created", "k"),
        (2, "created", "other"),
        (3, "updated", "k"),
        (4, "updated", "k"),
        (5, "deleted", "k"),
    ]


async def test_steps_are_judged_by_the_revision_that_those_before_them_leave(store: Store) -> None:
    await store.set("s", "other", b"1")
    await store.set("s", "k", stored({"n": 1}))
    steps = [
        Step("k", plan=INCREMENT, conditions=at_revision(2)),
        Step("other", b"2", conditions=at_revision(1)),
        Step("k", conditions=at_revision(3)),
        Step("k", b"1", conditions=ABSENT),
        Step("k", b"2", conditions=at_revision(6)),
    ]
    for number, wrong in ((0, 1), (1, 3), (2, 2), (2, 4), (3, 5), (4, 4)):
        refused = list(steps)
        refused[number] = refused[number]._replace(conditions=at_revision(wrong))
        with pytest.raises((ConditionFailed, FunctionError), match=rf"steps\[{number}\]: Condition 0"):
            await store.transact("s", refused, LIMIT)
    assert (await store.read("s", "k")).revision == 2
    await store.transact("s", steps, LIMIT)
    assert [change[:3] for change in told(await page(store))][2:] == [
        (3, "updated", "k"),
        (4, "updated", "other"),
        (5, "deleted", "k"),
        (6, "created", "k"),
        (7, "updated", "k"),
    ]
    with pytest.raises((ConditionFailed, FunctionError)):
        await store.transact("unlogged", [Step("k", b"1"), Step("k", b"2", conditions=at_revision(1))], LIMIT)


async def test_a_change_with_meta_tells_its_revision_again_and_again(store: Store) -> None:
    await store.open("session-of-a-caller", 0, 1)
    await store.set("s", "other", b"1")
    number = 0

    def request() -> Request:
        return Request("session-of-a-caller", 1, 0, number)

    for conditions in (None, parse(b'[{"not_equals":7}]')):
        for value, old in ((b"1", None), (stored({"n": 1}), b"1"), (None, stored({"n": 1})), (None, None)):
            number += 1
            for _ in range(2):
                done = await store.replace("s", "k", value, request=request(), conditions=conditions)
                assert done == (old, (await page(store)).changes[-1].revision)
        number += 1
        for _ in range(2):
            done = await store.update("s", "k", INCREMENT, LIMIT, request=request(), conditions=conditions, meta=True)
            assert (done.old, done.revision) == (None, (await page(store)).changes[-1].revision)
            assert done.revision == 1 + number
            plain = await store.update("s", "k", INCREMENT, LIMIT, request=request(), conditions=conditions)
            assert (plain.old, plain.revision) == (None, None)
        number += 1
        assert await store.replace("s", "k", None, request=request()) == (stored({"n": 1}), 1 + number)
    with pytest.raises((ConditionFailed, FunctionError)):
        await store.replace("s", "k", b"1", conditions=at_revision(2))
    assert await store.replace("unlogged", "k", b"1", ttl_ms=LONG) == (None, None)
    assert (await store.read("unlogged", "k")).ttl_ms is not None
    assert (await store.update("unlogged", "k", plan(), LIMIT, meta=True)).revision is None
    assert await store.replace("unlogged", "k", None) == (b"1", None)


async def test_a_transaction_with_revisions_is_answered_again_as_it_was(store: Store) -> None:
    await store.set("s", "k", b"1")
    await store.open("session-of-a-caller", 0, 1)
    steps = [Step("k", b"2", conditions=at_revision(1)), Step("k", b"3", conditions=at_revision(2))]
    first = await store.transact("s", steps, LIMIT, request=Request("session-of-a-caller", 1, 0, 1))
    await store.set("s", "k", b"4")
    assert await store.transact("s", steps, LIMIT, request=Request("session-of-a-caller", 1, 0, 1)) == first
    assert (await store.read("s", "k"))[::2] == (b"4", 4)


async def test_a_new_deadline_is_no_change(store: Store) -> None:
    written = store.set("s", "k", stored({"n": 1}))
    touched = store.touch("s", "k", LONG)
    updated = store.update("s", "k", INCREMENT, LIMIT, conditions=at_revision(1))
    await asyncio.gather(written, touched, updated)
    await store.touch("s", "k", None)
    await store.update("s", "k", INCREMENT, LIMIT, conditions=at_revision(2))
    assert [change[0] for change in told(await page(store))] == [1, 2, 3]
