"""What operators do with subscriptions: paused ones queue and start nothing, what waits is dropped, what nobody serves is ended."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from iii_state.errors import StoreError
from iii_state.events import QueueStats, Subscription
from tests.support.stores import ALL, FAILED, Store, drain, opened, seen
from tests.support.waiting import until

KEPT = msgspec.structs.replace(ALL, retention_ms="forever")
OTHER = Subscription("other")


async def stats_of(store: Store, subscription: Subscription = ALL) -> QueueStats:
    listed: list[QueueStats] = await store.stats()
    [stats] = [each for each in listed if each.subscription.id == subscription.id]
    return stats


async def waits(store: Store, count: int) -> None:
    async def so_many() -> bool:
        stats = await stats_of(store)
        return (stats.waiting, stats.pending) == (count, 0)

    await until(so_many)


async def test_nothing_is_taken_of_a_paused_subscription_until_it_is_resumed(store: Store) -> None:
    await store.subscribe(ALL)
    await store.subscribe(OTHER)
    await store.set("s", "before", b"1")
    assert await store.pause(ALL) in ((0, 1) if store.is_remote else (0,))
    for number in range(3):
        await store.set("s", "k", b"%d" % number)
    assert len(await drain(store, OTHER)) == 4
    assert await store.take(ALL.id, 100) == []
    await waits(store, 4)
    assert (await stats_of(store)).paused_at_ms is not None
    assert (await stats_of(store, OTHER)).paused_at_ms is None
    store.bells.clear()
    assert await store.resume(ALL)
    await until(lambda: store.rang(ALL.id))
    assert [event[4] for event in seen(await drain(store, ALL))] == [b"1", b"0", b"1", b"2"]
    assert (await stats_of(store)).paused_at_ms is None
    assert not await store.resume(ALL)


async def test_what_is_out_when_a_subscription_is_paused_may_be_finished_and_no_more_comes_of_it(store: Store) -> None:
    await store.subscribe(ALL)
    await store.set("s", "k", b"1")
    await store.set("s", "k", b"2")
    await store.set("s", "l", b"1")
    (out, *more) = await store.taken(ALL.id, 2)
    out.begun = True
    await store.pause(ALL)
    for delivery in more:
        assert not store.adapter.queues.holds(delivery) or not store.is_remote
    await store.release(more)
    assert await store.ack([out], 10) == []
    await waits(store, 2)
    await store.resume(ALL)
    assert {event[2:] for event in seen(await drain(store, ALL))} == {("k", b"1", b"2"), ("l", None, b"1")}


async def test_a_subscription_stays_paused_when_it_is_let_go_for_good_and_registered_again(store: Store) -> None:
    await store.subscribe(ALL)
    await store.pause(ALL)
    if not store.is_remote:
        await store.unsubscribe(ALL.id)
        stats = await stats_of(store)
        assert (stats.paused_at_ms is None, stats.hosts, stats.waiting) == (False, [], 0)
        await store.subscribe(ALL)
    await store.set("s", "k", b"1")
    await waits(store, 1)
    assert await store.take(ALL.id, 1) == []


async def test_purging_drops_what_waits_and_counts_it(store: Store) -> None:
    await store.subscribe(ALL)
    for number in range(30):
        await store.set("s", f"k{number % 3}", b"%d" % number)
    if store.is_remote:
        await store.pause(ALL)
        await waits(store, 30)
    else:
        (out,) = await store.taken(ALL.id, 1, at_most=1)
    expected = 30 if store.is_remote else 29
    assert await store.purge(ALL) == expected
    stats = await stats_of(store)
    assert (stats.waiting, stats.pending, stats.dropped) == (0, 30 - expected, expected)
    if store.is_remote:
        await store.resume(ALL)
    else:
        await store.ack([out])
    await store.set("s", "k0", b'"new"')
    assert [event[4] for event in seen(await drain(store, ALL))] == [b'"new"']
    assert await store.purge(ALL) == 0


async def test_purging_drops_planned_attempts(store: Store) -> None:
    if store.is_remote:
        pytest.skip("its attempts are planned by the remote, whose store is another one of these")
    await store.subscribe(ALL)
    await store.set("s", "k", b"1")
    await store.set("s", "k", b"2")
    (delivery,) = await store.taken(ALL.id, 1)
    await store.retry(delivery, 60_000, FAILED)
    assert await store.purge(ALL) == 2
    stats = await stats_of(store)
    assert (stats.waiting, stats.retrying, stats.pending) == (0, 0, 0)
    await store.set("s", "k", b"3")
    assert [event[4] for event in seen(await drain(store, ALL))] == [b"3"]


async def test_only_a_subscription_that_nobody_hosts_is_removed(store: Store) -> None:
    await store.subscribe(KEPT)
    await store.set("s", "k", b"1")
    with pytest.raises(StoreError, match="is served"):
        await store.remove(KEPT)
    assert len((await stats_of(store)).hosts) == 1
    await store.abandon(KEPT.id)
    await store.pause(KEPT)

    async def is_counted() -> bool:
        stats = await stats_of(store)
        return stats.waiting + stats.pending == 1

    await until(is_counted)
    assert await store.remove(KEPT) == 1
    await until(store.has_no_queue)
    await store.subscribe(ALL)
    await store.set("s", "k", b"2")
    assert [event[4] for event in seen(await drain(store, ALL))] == [b"2"]


async def test_a_pause_outlives_a_restart(kind: str, tmp_path: Path) -> None:
    if kind == "kv-memory" or kind.startswith("bridge"):
        pytest.skip("nothing of it outlives a restart, or it is the remote's")
    async with opened(kind, tmp_path) as store:
        await store.subscribe(KEPT)
        await store.pause(KEPT)
        since = (await stats_of(store)).paused_at_ms
        await store.set("s", "k", b"1")
        await store.adapter.stop()
        await store.start()
        await store.subscribe(KEPT)
        assert (await stats_of(store)).paused_at_ms == since
        assert await store.take(KEPT.id, 1) == []
        await store.resume(KEPT)
        await store.adapter.stop()
        await store.start()
        await store.subscribe(KEPT)
        assert [event[4] for event in seen(await drain(store, KEPT))] == [b"1"]


async def test_dropped_events_stay_dropped_after_a_restart(tmp_path: Path) -> None:
    async with opened("kv-file", tmp_path) as store:
        await store.subscribe(KEPT)
        for number in range(5):
            await store.set("s", "k", b"%d" % number)
        assert await store.purge(KEPT) == 5
        await store.adapter.stop()
        await store.start()
        await store.subscribe(KEPT)
        stats = await stats_of(store)
        assert (stats.waiting, stats.dropped) == (0, 5)
