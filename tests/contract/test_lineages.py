"""What a write was made within goes with its event: through lanes, attempts, restarts and other engines, as far as they read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from iii_state import lineages
from iii_state.adapters.redis import RedisAdapter
from iii_state.config import RedisSettings
from iii_state.events import QueueLimits, RetryPolicy, Subscription
from iii_state.lineages import Lineage
from tests.support.redis.server import shared_server
from tests.support.stores import ALL, FAILED, Store, drain, opened
from tests.support.waiting import answer_of, until

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
WITHIN = b',"traceparent":"%b","baggage":"user=ada,iii-state-hops=3"' % TRACE.encode()
LINEAGE = Lineage(3, TRACE, "user=ada")


async def set_within(store: Store, key: str, value: bytes, text: bytes = WITHIN) -> None:
    token = lineages.within.set(text)
    try:
        await store.set("s", key, value)
    finally:
        lineages.within.reset(token)


async def told(store: Store) -> None:
    """Wait until an engine on Redis knows that all engines there read it."""
    if isinstance(store.adapter, RedisAdapter):
        adapter = store.adapter
        await until(lambda: adapter._shared.fanout.tells_lineages)
    elif store.is_remote:  # its remote, if that is on Redis
        await store.subscribe(Subscription("told"))

        async def is_told() -> bool:
            await set_within(store, "told", b"1")
            return any(delivery.event.lineage is not None for delivery in await drain(store, Subscription("told")))

        await until(is_told)
        await store.unsubscribe(Subscription("told").id)


async def test_it_comes_with_events_that_are_ready_and_with_those_that_wait(store: Store) -> None:
    await told(store)
    await store.subscribe(ALL)
    await store.set("s", "k", b"0")
    await set_within(store, "k", b"1")
    await set_within(store, "other", b"2")
    await store.set("s", "k", b"3")
    came = {delivery.event.new: delivery.event.lineage for delivery in await drain(store, ALL)}
    assert came == {b"0": None, b"1": LINEAGE, b"2": LINEAGE, b"3": None}


async def test_it_goes_with_attempts_and_takeovers_and_not_with_a_dead_letter_that_is_retried(store: Store) -> None:
    await told(store)
    failing = Subscription("failing", retry=RetryPolicy(backoff_ms=1, max_backoff_ms=1))
    await store.subscribe(failing)
    await set_within(store, "k", b"1")
    (first,) = await store.taken(failing.id, 1)
    await store.retry(first, 1, FAILED, crashed=True)
    (second,) = await until(lambda: store.take(failing.id, 1))
    assert (second.crashes, second.event.lineage) == (1, LINEAGE)
    await store.release([second])
    (third,) = await until(lambda: store.take(failing.id, 1))
    assert (third.event_id, third.event.lineage) == (first.event_id, LINEAGE)
    await store.dead_letter(third, FAILED)
    await until(store.has_dead_letters)
    (dead,) = await store.dead_letters()
    assert await store.dead_retry(dead.id) is True
    (again,) = await until(lambda: store.take(failing.id, 1))
    assert (again.event.new, again.event.lineage) == (b"1", None)


async def test_a_deadline_comes_from_nothing_though_a_write_within_something_meets_it(store: Store) -> None:
    await told(store)
    await store.subscribe(ALL)
    await store.set("s", "k", b"1", ttl_ms=3_600_000)
    await drain(store, ALL)
    store.elapse(3_600_000)
    await set_within(store, "k", b"2")
    came = [(delivery.event.cause, delivery.event.lineage) for delivery in await drain(store, ALL)]
    assert came == [("expired", None), (None, LINEAGE)]


@pytest.mark.parametrize("kind", ["kv-file", "redis"])
async def test_it_lasts_through_restarts(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as store:
        await told(store)
        await store.subscribe(ALL)
        await set_within(store, "k", b"1")
        await set_within(store, "k", b"2")
        await store.adapter.stop()
        await store.start()
        await store.subscribe(ALL)
        assert [delivery.event.lineage for delivery in await drain(store, ALL)] == [LINEAGE, LINEAGE]
        await store.adapter.stop()  # and what is done with is kept no longer
        await store.start()
        await store.subscribe(ALL)
        assert await drain(store, ALL) == []


@pytest.mark.parametrize("kind", ["redis"])
async def test_it_is_not_written_while_an_engine_has_not_said_that_it_reads_it(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as store:
        await told(store)
        await store.subscribe(ALL)
        client = shared_server().client
        client.hset("iii-state:engines", "older", "600000 1")
        assert isinstance(store.adapter, RedisAdapter)
        fanout = store.adapter._shared.fanout
        await until(lambda: not fanout.tells_lineages)
        await set_within(store, "k", b"1")
        await set_within(store, "k", b"2")
        (stream,) = client.keys("iii-state:q:*")
        (_, entry) = client.xrange(stream)[0]
        assert set(entry) == {b"w", b"s", b"k", b"t", b"o", b"n"}
        (waiting,) = client.keys("iii-state:wait:*")
        assert not client.lindex(waiting, 0).startswith(b"+")
        client.hdel("iii-state:engines", "older")
        await until(lambda: fanout.tells_lineages)
        await set_within(store, "k", b"3")
        assert [delivery.event.lineage for delivery in await drain(store, ALL)] == [None, None, LINEAGE]


@pytest.mark.parametrize("kind", ["redis"])
async def test_where_it_is_gone_or_its_key_is_another_type_the_event_comes_all_the_same(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as store:
        await told(store)
        await store.subscribe(ALL)
        client = shared_server().client
        for number in range(3):
            await set_within(store, "k", b"%d" % number)
        (key,) = client.keys("iii-state:lineages:*")
        assert 0 < client.pttl(key) <= 86_400_000
        assert client.hlen(key) == 2
        client.delete(key)
        client.set(key, "in the way")
        await set_within(store, "k", b"3")
        came = await drain(store, ALL)
        assert [(delivery.event.new, delivery.event.lineage) for delivery in came] == [
            (b"0", LINEAGE),
            *((b"%d" % number, None) for number in (1, 2, 3)),
        ]


@pytest.mark.parametrize("kind", ["redis"])
async def test_nothing_of_it_stays_behind(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as store:
        await told(store)
        await store.subscribe(ALL)
        client = shared_server().client
        for number in range(3):
            await set_within(store, "k", b"%d" % number)
        await drain(store, ALL)
        assert client.keys("iii-state:lineages:*") == []
        for number in range(3):
            await set_within(store, "k", b"%d" % number)
        await store.unsubscribe(ALL.id)
        await until(lambda: not client.keys("iii-state:lineages:*"))
        other = RedisAdapter(RedisSettings(redis_url=shared_server().url))
        await other.start(lambda subscription_id: None)
        assert client.hlen("iii-state:features") == 2
        await answer_of(other.stop())
        assert client.hlen("iii-state:features") == 1


@pytest.mark.parametrize("kind", ["redis"])
async def test_nothing_of_it_stays_behind_events_that_were_dropped_or_removed(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path, QueueLimits(max_queue_length=10, on_full="drop_oldest")) as store:
        await told(store)
        await store.subscribe(ALL)
        client = shared_server().client
        await set_within(store, "k", b"0")
        (out,) = await store.taken(ALL.id, 1)
        for number in range(40):
            await set_within(store, "k", b"%d" % number)
        (key,) = client.keys("iii-state:lineages:*")
        assert client.hlen(key) == 9
        (waiting,) = client.keys("iii-state:wait:*")
        assert set(client.hkeys(key)) == set(client.lrange(waiting, 0, -1)[::6])
        await store.release([out])
        for _ in range(3):
            (waiting,) = client.keys("iii-state:wait:*")
            client.delete(waiting)
            await drain(store, ALL)
            for number in range(5):
                await set_within(store, "k", b"%d" % number)
            assert client.hlen(key) <= 9  # never more than events wait
        assert [delivery.event.lineage for delivery in await drain(store, ALL)] == [LINEAGE] * 5
