"""Queues: every event of every write, in lanes, until it has been acknowledged."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from iii_state.errors import FunctionError, StoreError
from iii_state.events import Delivery, QueueLimits, RetryPolicy, Subscription
from tests.support.stores import ALL, FAILED, Store, drain, opened, seen
from tests.support.waiting import until

REFUSED = (StoreError, FunctionError)
"""A write that is refused: by the store itself, or by a remote, in its words."""

USERS = Subscription("users", scope="users")
ADA = Subscription("ada", scope="users", key="ada")
ANY_ADA = Subscription("any-ada", key="ada")


async def taken_at_a_bell(store: Store, subscription: Subscription) -> list[Delivery]:
    """What a bell has announced; one may be about nothing."""
    taken: list[Delivery] = []

    async def something_came() -> bool:
        if await store.rang(subscription.id):
            store.bells.clear()
            taken.extend(await store.take(subscription.id, 100))
        return bool(taken)

    await until(something_came)
    return taken


async def taken_until(store: Store, subscription: Subscription, event_id: str) -> Delivery:
    """Take until one event comes, and acknowledge all others."""
    async with asyncio.timeout(10):
        while True:
            taken: list[Delivery] = await store.take(subscription.id, 100)
            if others := [delivery for delivery in taken if delivery.event_id != event_id]:
                await store.ack(others)
            for delivery in taken:
                if delivery.event_id == event_id:
                    return delivery
            await asyncio.sleep(0.005)


async def test_each_subscription_gets_the_events_it_matches(store: Store) -> None:
    for subscription in (ALL, USERS, ADA, ANY_ADA):
        await store.subscribe(subscription)
    await store.set("users", "ada", b"1")
    await store.set("users", "bob", b"1")
    await store.set("other", "ada", b"1")
    await store.set("other", "bob", b"1")
    counts = {s.function_id: len(await drain(store, s)) for s in (ALL, USERS, ADA, ANY_ADA)}
    assert counts == {"all": 4, "users": 2, "ada": 1, "any-ada": 2}


async def test_events_say_what_happened(store: Store) -> None:
    await store.subscribe(ALL)
    await store.set("s", "k", b"1")
    await store.set("s", "k", b"null")
    await store.set("s", "k", b"2")
    await store.delete("s", "k")
    await store.delete("s", "k")
    assert seen(await drain(store, ALL)) == [
        ("created", "s", "k", None, b"1"),
        ("updated", "s", "k", b"1", b"null"),
        ("updated", "s", "k", b"null", b"2"),
        ("deleted", "s", "k", b"2", None),
        ("deleted", "s", "k", None, None),
    ]


async def test_one_delivery_of_a_lane_is_out_at_a_time_and_lanes_are_independent(store: Store) -> None:
    await store.subscribe(ALL)
    for number in range(3):
        await store.set("s", "a", b"%d" % number)
        await store.set("s", "b", b"%d" % number)
    first = await store.taken(ALL.id, 2)
    assert [(d.event.key, d.event.new) for d in first] == [("a", b"0"), ("b", b"0")]
    assert await store.take(ALL.id, 100) == []
    following = await store.ack([first[1]], 100) or await store.taken(ALL.id, 1)
    assert [(d.event.key, d.event.new) for d in following] == [("b", b"1")]
    assert await store.take(ALL.id, 100) == []
    await store.ack([first[0], following[0]])
    assert sorted((d.event.key, d.event.new) for d in await drain(store, ALL)) == [("a", b"1"), ("a", b"2"), ("b", b"2")]


async def test_what_follows_in_a_lane_may_be_started_ahead_and_comes_in_order_once(store: Store) -> None:
    await store.subscribe(ALL)
    for number in range(40):
        await store.set("s", "a", b"%d" % number)
    await store.set("s", "b", b"0")
    handled: dict[str, list[bytes | None]] = {}
    ready: list[Delivery] = []
    async with asyncio.timeout(20):
        while sum(map(len, handled.values())) < 41:
            ready = ready or await store.take(ALL.id, 1)
            done: list[Delivery] = []
            while ready and len(done) < 5:
                delivery = ready.pop(0)
                assert store.adapter.queues.holds(delivery)
                handled.setdefault(delivery.event.key, []).append(delivery.event.new)
                delivery.begun = delivery.returned = True
                following, delivery.following = delivery.following, None
                if following is not None:
                    ready.insert(0, following)
                done.append(delivery)
            if done:
                ready += await store.ack(done, 0 if ready else 1, ahead=True)
    assert handled == {"a": [b"%d" % number for number in range(40)], "b": [b"0"]}
    assert await drain(store, ALL) == []


async def test_a_retry_comes_later_as_the_next_attempt_and_holds_back_its_lane_only(store: Store) -> None:
    await store.subscribe(ALL)
    await store.set("s", "a", b"0")
    await store.set("s", "a", b"1")
    await store.set("s", "b", b"0")
    first, other = await store.taken(ALL.id, 2)
    await store.retry(first, 50, FAILED)
    await store.ack([other])
    assert await store.take(ALL.id, 100) == []
    store.bells.clear()
    (again,) = await taken_at_a_bell(store, ALL)
    assert (again.event.new, again.attempt, again.event_id) == (b"0", 2, first.event_id)
    await store.ack([again])
    assert [d.event.new for d in await drain(store, ALL)] == [b"1"]


async def test_a_crash_comes_later_as_the_same_attempt_and_holds_back_its_lane_only(store: Store) -> None:
    subscription = Subscription("all", retry=RetryPolicy(backoff_ms=1))  # by which a remote plans what is to come
    await store.subscribe(subscription)
    await store.set("s", "a", b"0")
    await store.set("s", "a", b"1")
    (delivery,) = await store.taken(subscription.id, 1)
    counts = []
    for crashed in (True, True, False, True):
        store.bells.clear()
        await store.retry(delivery, 20, FAILED, crashed=crashed)
        await store.set("s", "b", b"0")
        again = await taken_until(store, subscription, delivery.event_id)
        counts.append((again.event.new, again.attempt, again.crashes))
        delivery = again
    assert counts == [(b"0", 1, 1), (b"0", 1, 2), (b"0", 2, 2), (b"0", 2, 3)]
    await store.ack([delivery])
    assert [d.event.new for d in await drain(store, subscription)] == [b"1"]


async def test_a_buried_delivery_is_a_dead_letter_and_its_lane_goes_on(store: Store) -> None:
    await store.subscribe(ALL)
    await store.set("s", "a", b"0")
    await store.set("s", "a", b"1")
    (first,) = await store.taken(ALL.id, 1, at_most=1)
    await store.dead_letter(first, FAILED)
    await until(store.has_dead_letters)
    store.bells.clear()
    await store.set("s", "other", b"0")
    assert [d.event.new for d in await drain(store, ALL) if d.event.key == "a"] == [b"1"]
    (letter,) = await store.dead_letters("all")
    assert (letter.function_id, letter.attempts, letter.error) == ("all", 1, "invocation_failed: boom")
    assert (letter.event.key, letter.event.new) == ("a", b"0")
    assert await store.dead_letters("another") == []
    assert await store.dead_retry(letter.id)
    assert await store.dead_letters() == []
    await store.set("s", "other", b"1")
    revived = [d for d in await drain(store, ALL) if d.event.key == "a"]
    assert [(d.event.new, d.attempt) for d in revived] == [(b"0", 1)]
    assert not await store.dead_retry(letter.id)
    assert not await store.dead_drop(letter.id)


async def test_released_deliveries_come_again_in_order_with_no_attempt_counted(store: Store) -> None:
    await store.subscribe(ALL)
    for key in "abc":
        await store.set("s", key, b"0")
    taken = await store.taken(ALL.id, 3)
    await store.release(taken)
    again = await store.taken(ALL.id, 3)
    assert [(d.event.key, d.attempt) for d in again] == [("a", 1), ("b", 1), ("c", 1)]


async def test_what_may_still_be_running_comes_again_with_a_higher_fence_and_no_attempt_counted(store: Store) -> None:
    await store.subscribe(ALL)
    await store.set("s", "a", b"0")
    await store.set("s", "b", b"0")
    (first, other) = sorted(await store.taken(ALL.id, 2), key=lambda delivery: delivery.event.key)
    before = first.fence
    store.bells.clear()
    await store.release([first], begun=True)
    again = await taken_until(store, ALL, first.event_id)
    assert (again.attempt, again.crashes, again.fence > before) == (1, 0, True)
    assert other.fence == before
    fence = again.fence
    await store.release([again])
    kept = await taken_until(store, ALL, first.event_id)
    assert (kept.attempt, kept.fence) == (1, fence)


async def test_an_abandoned_queue_goes_on_collecting_and_is_handed_to_who_comes_back(store: Store) -> None:
    await store.subscribe(ALL)
    await store.set("s", "a", b"0")
    (out,) = await store.taken(ALL.id, 1, at_most=1)
    await store.release([out])
    await store.abandon(ALL.id)
    await store.set("s", "a", b"1")
    assert await store.take(ALL.id, 100) == []
    store.bells.clear()
    await store.subscribe(ALL)
    await until(lambda: store.rang(ALL.id))
    assert [d.event.new for d in await drain(store, ALL)] == [b"0", b"1"]


async def test_an_abandoned_queue_ends_with_its_retention(store: Store) -> None:
    brief = Subscription("brief", retention_ms=30)
    await store.subscribe(brief)
    await store.set("s", "a", b"0")
    await store.abandon(brief.id)
    await until(store.has_no_queue)
    await store.set("s", "a", b"1")
    await store.subscribe(brief)
    assert await store.take(brief.id, 100) == []


async def test_an_ended_subscription_takes_its_queue_with_it(store: Store) -> None:
    await store.subscribe(ALL)
    await store.set("s", "a", b"0")
    (out,) = await store.taken(ALL.id, 1, at_most=1)
    await store.unsubscribe(ALL.id)
    await store.ack([out])
    await store.set("s", "a", b"1")
    assert await store.stats() == []
    await store.subscribe(ALL)
    assert await store.take(ALL.id, 100) == []


async def test_a_full_queue_rejects_the_write_and_nothing_changes(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path, QueueLimits(max_queue_length=2)) as store:
        await store.subscribe(USERS)
        await store.subscribe(ALL)
        await store.set("users", "a", b"0")
        await store.set("users", "b", b"0")
        with pytest.raises(REFUSED, match=r"queue of \S+ is full \(max_queue_length 2\)"):
            await store.set("users", "c", b"0")
        assert await store.get("users", "c") is None
        assert {stats.waiting for stats in await store.stats()} == {2}
        assert len(await drain(store, ALL)) == 2
        with pytest.raises(REFUSED, match=r"queue of \S*users is full"):
            await store.set("users", "c", b"0")
        await store.set("other", "c", b"0")
        assert [d.event.key for d in await drain(store, ALL)] == ["c"]


async def test_a_burst_does_not_overfill_a_queue(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path, QueueLimits(max_queue_length=10)) as store:
        await store.subscribe(ALL)
        outcomes = await asyncio.gather(*(store.set("s", str(n), b"0") for n in range(30)), return_exceptions=True)
        assert sum(outcome is None for outcome in outcomes) == 10
        assert sum(isinstance(outcome, REFUSED) for outcome in outcomes) == 20
        assert len(await drain(store, ALL)) == 10


async def test_a_queue_that_drops_keeps_the_newest_and_what_is_out(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path, QueueLimits(max_queue_length=3, on_full="drop_oldest")) as store:
        await store.subscribe(ALL)
        await store.set("s", "a", b"0")
        (out,) = await store.taken(ALL.id, 1, at_most=1)
        for number in range(1, 4):
            await store.set("s", "a", b"%d" % number)
            await store.set("s", "b", b"%d" % number)
        (stats,) = await store.stats()
        assert (stats.waiting, stats.pending, stats.dropped) == (2, 1, 4)
        await store.ack([out])
        rest = sorted((d.event.key, d.event.new) for d in await drain(store, ALL))
        # A remote has the first event of b out, too, as soon as it is there.
        assert rest == [("b", b"1"), ("b", b"3")] if store.is_remote else [("a", b"3"), ("b", b"3")]


async def test_the_bytes_of_a_queue_are_bounded(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path, QueueLimits(max_queue_bytes=1000)) as store:
        await store.subscribe(ALL)
        await store.set("s", "a", b'"%b"' % (b"x" * 600))
        with pytest.raises(REFUSED, match="max_queue_bytes 1000"):
            await store.set("s", "b", b'"%b"' % (b"x" * 600))


async def test_without_events_nothing_is_queued(store: Store) -> None:
    await store.subscribe(ALL)
    store.adapter.queues.enable_events(False)
    await store.set("s", "a", b"0")
    await until(lambda: store.is_empty(ALL.id))
    store.adapter.queues.enable_events(True)
    await store.set("s", "a", b"1")
    assert [d.event.new for d in await drain(store, ALL)] == [b"1"]


async def test_registering_again_takes_on_the_new_settings(store: Store) -> None:
    await store.subscribe(Subscription("f", retention_ms=1000))
    await store.subscribe(Subscription("f", retention_ms=2000, metadata=b'{"a":1}'))
    (stats,) = await store.stats()
    assert (stats.subscription.retention_ms, stats.subscription.metadata) == (2000, b'{"a":1}')


async def test_a_write_finds_no_room_that_a_revived_dead_letter_takes(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path, QueueLimits(max_queue_length=2)) as store:
        await store.subscribe(ALL)
        await store.set("s", "dead", b"1")
        (delivery,) = await store.taken(ALL.id, 1, at_most=1)
        await store.dead_letter(delivery, FAILED)
        await until(store.has_dead_letters)
        await store.set("s", "first", b"1")
        (letter,) = await store.dead_letters()
        assert await store.dead_retry(letter.id)
        with pytest.raises(REFUSED, match="is full"):
            await store.set("s", "second", b"1")
        assert sorted(d.event.key for d in await drain(store, ALL)) == ["dead", "first"]


async def test_dead_letters_go_when_they_are_too_old_and_are_counted(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(kind, tmp_path, QueueLimits(dead_letter_retention_ms=1000)) as store:
        await store.subscribe(ALL)
        for key in ("a", "b"):
            await store.set("s", key, b"1")
        for delivery in await store.taken(ALL.id, 2):
            await store.dead_letter(delivery, FAILED)

        async def both_are_gone() -> bool:
            stats = await store.stats()
            return [(queue.dead, queue.dropped) for queue in stats] == [(0, 2)]

        await until(both_are_gone)
        assert await store.dead_letters() == []
        assert "dead letters of" in caplog.text
        assert "older than 1000 ms" in caplog.text


async def test_dead_letters_stay_until_they_are_too_old(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path, QueueLimits(dead_letter_retention_ms=10**9)) as store:
        await store.subscribe(ALL)
        for key in ("a", "b"):
            await store.set("s", key, b"1")
        for delivery in await store.taken(ALL.id, 2):
            await store.dead_letter(delivery, FAILED)

        async def both_are_there() -> bool:
            return len(await store.dead_letters()) == 2

        await until(both_are_there)
        (stats,) = await store.stats()
        assert (stats.dead, stats.dropped) == (2, 0)
