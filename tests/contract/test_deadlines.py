"""Deadlines: a value goes at its deadline, with one event, and nothing sees it from then on."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from iii_state import values
from iii_state.adapters.base import Updated
from iii_state.errors import FunctionError, StoreError
from iii_state.events import Delivery, QueueLimits
from iii_state.sessions import Request
from iii_state.state.functions.requests import EntriesRequest
from iii_state.state.functions.snapshots import Snapshots
from iii_state.tasks.results import result_of
from tests.support.stores import ALL, LIMIT, Store, drain, opened, plan, seen, stored

LONG = 3_600_000
INCREMENT = plan({"type": "increment", "path": "n", "by": 1})
WITHOUT_DEADLINE = {f"always{number}" for number in range(0, 8, 2)}
DELETED = ("deleted", "s", "k", b"1", None)


async def events(store: Store, count: int) -> list[tuple[Any, ...]]:
    """The first events that come, so many at least, and what is there with them."""
    came: list[Delivery] = []
    async with asyncio.timeout(10):
        while len(came) < count:
            came += await drain(store, ALL)
            await asyncio.sleep(0.002)
    return seen(came)


async def test_a_value_goes_at_its_deadline_with_one_event(store: Store) -> None:
    await store.subscribe(ALL)
    assert await store.set("s", "k", b"1", ttl_ms=40) is None
    assert await events(store, 2) == [("created", "s", "k", None, b"1"), DELETED]
    assert await store.get("s", "k") is None
    assert await store.scopes() == []
    await store.set("s", "other", b"1", ttl_ms=40)
    assert await events(store, 2) == [("created", "s", "other", None, b"1"), ("deleted", "s", "other", b"1", None)]
    assert await drain(store, ALL) == []


async def test_a_value_is_there_until_its_deadline(store: Store) -> None:
    await store.set("s", "k", b"1", ttl_ms=LONG)
    await store.set("s", "always", b"2")
    assert await store.get("s", "k") == b"1"
    assert sorted(await store.entries("s")) == [("always", b"2"), ("k", b"1")]
    assert await store.scopes() == ["s"]
    assert await store.set("s", "k", b"2", ttl_ms=LONG) == b"1"
    assert await store.delete("s", "k") == b"2"
    assert await store.entries("s") == [("always", b"2")]


async def test_what_is_over_is_not_seen_by_anything(store: Store) -> None:
    for key in "abcd":
        await store.set("s", key, b"1", ttl_ms=LONG)
    await store.set("s", "always", b"1")
    await store.set("gone", "k", b"1", ttl_ms=LONG)
    store.elapse(LONG)
    assert await store.get("s", "a") is None
    assert await store.entries("s") == [("always", b"1")]
    assert await store.scopes() == ["s"]
    assert await store.entries("gone") == []
    assert (await store.keys("s"), await store.keys("gone")) == (["always"], [])
    assert await store.set("s", "b", b"2") is None
    assert (await store.update("s", "c", INCREMENT, LIMIT)).old is None
    assert await store.delete("s", "d") is None
    assert sorted(await store.entries("s")) == [("always", b"1"), ("b", b"2"), ("c", stored({"n": 1}))]


async def test_a_page_leaves_out_what_has_gone_since_its_snapshot_was_read(store: Store, kind: str) -> None:
    """By the store's clock, and through a bridge, too, whose engine keeps a snapshot of its own."""
    snapshots = Snapshots(store.adapter)

    async def page(limit: int, cursor: str | None = None) -> dict[str, Any]:
        request = EntriesRequest("s", cursor, limit, _iii_state_deadlines=True)
        found: dict[str, Any] = values.decode(await asyncio.wait_for(result_of(snapshots.page(request, "w")), 10))
        return found

    has_own_clock = kind.startswith("kv")
    ttl_ms = LONG if has_own_clock else 2000
    for number in range(8):
        await store.set("s", f"always{number}", b"1", ttl_ms=2 * LONG if number % 2 else None)
    await store.set("s", "large", b'"%b"' % (b"x" * 3_000), ttl_ms=ttl_ms)
    for number in range(8):
        await store.set("s", f"k{number}", b"1", ttl_ms=ttl_ms)
    await store.set("mark", "k", b"1", ttl_ms=ttl_ms + 250)  # a snapshot goes by what its engine knows of Redis's clock
    pages = [await page(3)]
    handed_out = {key for key, _ in pages[0]["entries"]}
    assert (pages[0]["offset"], pages[0]["total"], len(handed_out)) == (0, 17, 3)
    assert set(pages[0]["ttl_ms"]) == handed_out - WITHOUT_DEADLINE
    assert all(0 < ttl <= (2 * LONG if "always" in key else ttl_ms) for key, ttl in pages[0]["ttl_ms"].items())
    for number in range(8):
        await store.delete("s", f"always{number}")
    if has_own_clock:
        store.elapse(LONG + 250)
    async with asyncio.timeout(10):
        while await store.get("mark", "k") is not None:
            await asyncio.sleep(0.002)
    while not pages[-1]["done"]:
        pages.append(await page(3, pages[-1]["next_cursor"]))
    later = [key for page in pages[1:] for key, _ in page["entries"]]
    assert sorted(later) == sorted({f"always{number}" for number in range(8)} - handed_out)
    assert all(page["total"] == 17 for page in pages)
    for before, after in pairwise(pages):
        assert before["offset"] + len(before["entries"]) <= after["offset"]
    assert pages[-1]["offset"] + len(pages[-1]["entries"]) <= 17


async def test_a_large_scope_is_listed_without_what_is_over(store: Store) -> None:
    await asyncio.gather(*(store.set("s", f"k{number}", b"1", ttl_ms=LONG) for number in range(0, 3000, 3)))
    await asyncio.gather(*(store.set("s", f"k{number}", b"1") for number in range(3000) if number % 3))
    assert len(await store.entries("s")) == 3000
    store.elapse(LONG)
    assert sorted(await store.keys("s")) == sorted(f"k{number}" for number in range(3000) if number % 3)
    assert sorted(await store.entries("s")) == sorted((f"k{number}", b"1") for number in range(3000) if number % 3)


async def test_a_mutation_that_comes_first_makes_the_value_go_before_it(store: Store) -> None:
    await store.subscribe(ALL)
    for key in ("set", "update", "delete"):
        await store.set("s", key, b"1", ttl_ms=LONG)
    assert len(await drain(store, ALL)) == 3
    store.elapse(LONG)
    await store.set("s", "set", b"2")
    await store.update("s", "update", INCREMENT, LIMIT)
    await store.delete("s", "delete")
    came = await drain(store, ALL)
    assert sorted(seen(came), key=lambda event: event[2]) == [
        ("deleted", "s", "delete", b"1", None),
        ("deleted", "s", "delete", None, None),
        ("deleted", "s", "set", b"1", None),
        ("created", "s", "set", None, b"2"),
        ("deleted", "s", "update", b"1", None),
        ("created", "s", "update", None, stored({"n": 1})),
    ]
    assert len({delivery.event_id for delivery in came}) == 6


async def test_a_call_made_again_answers_what_it_did_though_a_deadline_has_passed(store: Store) -> None:
    await store.subscribe(ALL)
    await store.open("session-of-a-caller", 0, 1)
    first, second = (Request("session-of-a-caller", 1, slot, slot + 1) for slot in range(2))
    await store.set("s", "k", b"1", ttl_ms=LONG, request=first)
    store.elapse(LONG)
    assert await store.set("s", "k", b"1", ttl_ms=LONG, request=first) is None
    assert await store.get("s", "k") is None
    for _ in range(2):
        assert await store.update("s", "k", INCREMENT, LIMIT, request=second) == Updated(None, stored({"n": 1}), [])
    assert [event[0] for event in seen(await drain(store, ALL))] == ["created", "deleted", "created"]


async def test_a_set_takes_a_deadline_away_and_an_update_keeps_it(store: Store) -> None:
    await store.subscribe(ALL)
    for key in ("set", "update", "later", "fresh"):
        await store.set("s", key, stored({"n": 0}), ttl_ms=LONG)
    await store.set("s", "set", b"2")
    await store.update("s", "update", INCREMENT, LIMIT)
    await store.update("s", "later", INCREMENT, LIMIT, ttl_ms=3 * LONG)
    await store.delete("s", "fresh")
    await store.set("s", "fresh", b"1")
    await drain(store, ALL)
    store.elapse(2 * LONG)
    assert sorted(await store.entries("s")) == [("fresh", b"1"), ("later", stored({"n": 1})), ("set", b"2")]
    store.elapse(2 * LONG)
    assert sorted(await store.entries("s")) == [("fresh", b"1"), ("set", b"2")]


async def test_an_update_can_give_a_deadline_to_a_value_that_had_none_and_to_a_new_one(store: Store) -> None:
    await store.subscribe(ALL)
    await store.set("s", "k", stored({"n": 0}))
    await store.update("s", "k", INCREMENT, LIMIT, ttl_ms=30)
    await store.update("s", "new", INCREMENT, LIMIT, ttl_ms=30)
    came = await events(store, 5)
    assert [event for event in came if event[2] == "k"] == [
        ("created", "s", "k", None, stored({"n": 0})),
        ("updated", "s", "k", stored({"n": 0}), stored({"n": 1})),
        ("deleted", "s", "k", stored({"n": 1}), None),
    ]
    assert [event for event in came if event[2] == "new"] == [
        ("created", "s", "new", None, stored({"n": 1})),
        ("deleted", "s", "new", stored({"n": 1}), None),
    ]
    assert await store.scopes() == []


async def test_an_update_that_is_refused_changes_no_deadline(store: Store) -> None:
    await store.set("s", "k", stored({"n": 0}), ttl_ms=LONG)
    with pytest.raises(FunctionError, match="VALUE_TOO_LARGE"):
        await store.update("s", "k", INCREMENT, 3, ttl_ms=3 * LONG)
    store.elapse(2 * LONG)
    assert await store.get("s", "k") is None


async def test_a_new_deadline_takes_the_place_of_the_old_one(store: Store) -> None:
    await store.set("s", "later", b"0", ttl_ms=LONG)
    await store.set("s", "later", b"1", ttl_ms=3 * LONG)
    await store.set("s", "sooner", b"0", ttl_ms=3 * LONG)
    await store.set("s", "sooner", b"1", ttl_ms=LONG)
    store.elapse(2 * LONG)
    assert await store.entries("s") == [("later", b"1")]


async def test_a_deadline_that_comes_nearer_is_kept_in_time(store: Store) -> None:
    await store.subscribe(ALL)
    await store.set("s", "first", b"1", ttl_ms=LONG)
    await store.set("s", "k", b"0", ttl_ms=LONG)
    await store.set("s", "k", b"1", ttl_ms=20)
    assert (await events(store, 4))[3:] == [DELETED]


async def test_many_values_go(store: Store) -> None:
    await store.subscribe(ALL)
    await asyncio.gather(*(store.set("s", f"k{number}", b"1", ttl_ms=50) for number in range(600)))
    came = await events(store, 1200)
    assert len(came) == 1200
    assert {event[2] for event in came if event[0] == "deleted"} == {f"k{number}" for number in range(600)}
    assert await store.scopes() == []


async def test_deadlines_outlive_the_engine(kind: str, tmp_path: Path) -> None:
    if kind == "kv-memory" or kind.startswith("bridge"):
        pytest.skip("nothing outlives the engine there, or the test's own remote")
    came: list[tuple[Any, ...]] = []
    async with opened(kind, tmp_path) as store:
        await store.subscribe(ALL)
        for key, ttl_ms in (("soon", 40), ("later", LONG), ("taken away", LONG)):
            await store.set("s", key, b"1", ttl_ms=ttl_ms)
        await store.set("s", "taken away", b"1")
        came += seen(await drain(store, ALL))
    for is_last in (False, True):
        async with opened(kind, tmp_path) as store:
            await store.subscribe(ALL)
            came += await events(store, 5 - len(came))
            assert await store.get("s", "soon") is None
            assert sorted(await store.entries("s")) == [("later", b"1"), ("taken away", b"1")]
            if is_last:
                store.elapse(LONG)
                assert await store.entries("s") == [("taken away", b"1")]
    assert [event for event in came if event[2] == "soon"] == [
        ("created", "s", "soon", None, b"1"),
        ("deleted", "s", "soon", b"1", None),
    ]
    assert len(came) == 5


async def test_a_full_queue_keeps_what_is_over_out_of_sight_until_there_is_room(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path, QueueLimits(max_queue_length=2)) as store:
        await store.subscribe(ALL)
        await store.set("s", "always", b"1")
        await store.set("s", "k", b"1", ttl_ms=30)
        async with asyncio.timeout(10):
            while await store.get("s", "k") is not None:
                await asyncio.sleep(0.002)
        with pytest.raises((StoreError, FunctionError), match="is full"):
            await store.set("s", "k", b"2")
        assert await store.entries("s") == [("always", b"1")]
        assert await events(store, 3) == [
            ("created", "s", "always", None, b"1"),
            ("created", "s", "k", None, b"1"),
            DELETED,
        ]


async def test_without_events_values_go_all_the_same(store: Store) -> None:
    await store.subscribe(ALL)
    store.adapter.queues.enable_events(False)
    await store.set("s", "k", b"1", ttl_ms=20)
    async with asyncio.timeout(10):
        while await store.scopes():
            await asyncio.sleep(0.002)
    assert await store.set("s", "k", b"2") is None
    assert await store.entries("s") == [("k", b"2")]
    assert await store.take(ALL.id, 10) == []
