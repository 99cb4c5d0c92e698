"""An event that no call has made says why there is one: a deadline, or another program's write."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from iii_state.events import Delivery, RetryPolicy, Subscription
from tests.support.redis.server import shared_server
from tests.support.stores import ALL, FAILED, LIMIT, Store, drain, opened, plan
from tests.support.waiting import until

LONG = 3_600_000
INCREMENT = plan({"type": "increment", "path": "n", "by": 1})

EXPIRED = b'{"type":"state","event_type":"state:deleted","scope":"s","key":"k","old_value":1,"new_value":null,"cause":"expired"}'


def causes(deliveries: list[Delivery]) -> list[tuple[str, str | None]]:
    return [(delivery.event.event_type, delivery.event.cause) for delivery in deliveries]


async def test_what_a_call_has_made_says_nothing_of_a_cause(store: Store) -> None:
    await store.subscribe(ALL)
    await store.set("s", "k", b"1")
    await store.update("s", "k", INCREMENT, LIMIT)
    await store.set("s", "k", b"2", ttl_ms=LONG)
    await store.delete("s", "k")
    came = await drain(store, ALL)
    assert [delivery.event.cause for delivery in came] == [None] * 4
    assert came[0].event.payload() == (
        b'{"type":"state","event_type":"state:created","scope":"s","key":"k","old_value":null,"new_value":1}'
    )
    assert all(b"cause" not in delivery.event.payload() for delivery in came)


async def test_a_deadline_is_the_cause_of_the_event_at_it(store: Store) -> None:
    await store.subscribe(ALL)
    await store.set("s", "k", b"1", ttl_ms=30)
    came = list[Delivery]()
    async with asyncio.timeout(10):
        while len(came) < 2:
            came += await drain(store, ALL)
            await asyncio.sleep(0.002)
    assert causes(came) == [("state:created", None), ("state:deleted", "expired")]
    assert came[1].event.payload() == EXPIRED


async def test_it_is_where_a_mutation_comes_first_and_that_one_has_none(store: Store) -> None:
    await store.subscribe(ALL)
    for key in ("set", "update", "delete"):
        await store.set("s", key, b"1", ttl_ms=LONG)
    await drain(store, ALL)
    store.elapse(LONG)
    await store.set("s", "set", b"2")
    await store.update("s", "update", INCREMENT, LIMIT)
    await store.delete("s", "delete")
    came = await drain(store, ALL)
    found = {key: causes([each for each in came if each.event.key == key]) for key in ("set", "update", "delete")}
    assert found == {
        "set": [("state:deleted", "expired"), ("state:created", None)],
        "update": [("state:deleted", "expired"), ("state:created", None)],
        "delete": [("state:deleted", "expired"), ("state:deleted", None)],
    }


async def test_it_waits_behind_what_is_out_and_lasts_through_attempts_and_dead_letters(store: Store) -> None:
    failing = Subscription("failing", retry=RetryPolicy(max_attempts=2, backoff_ms=1, max_backoff_ms=1))
    await store.subscribe(failing)
    await store.set("s", "k", b"1", ttl_ms=LONG)
    (created,) = await store.taken(failing.id, 1)
    store.elapse(LONG)
    await store.set("s", "k", b"2")  # the events of both wait in the lane
    await store.ack([created])
    (first,) = await store.taken(failing.id, 1)
    assert causes([first]) == [("state:deleted", "expired")]
    await store.retry(first, 1, FAILED)
    (second,) = await until(lambda: store.take(failing.id, 1))
    assert (second.attempt, second.event.payload()) == (2, EXPIRED)
    await store.dead_letter(second, FAILED)
    await until(store.has_dead_letters)
    (dead,) = await store.dead_letters()
    assert (dead.event.cause, dead.event.payload()) == ("expired", EXPIRED)
    (following,) = await until(lambda: store.take(failing.id, 1))
    assert causes([following]) == [("state:created", None)]
    await store.ack([following])
    assert await store.dead_retry(dead.id) is True
    (again,) = await until(lambda: store.take(failing.id, 1))
    assert (again.attempt, again.event.payload()) == (1, EXPIRED)


@pytest.mark.parametrize("kind", ["kv-file", "redis"])
async def test_it_lasts_through_restarts(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as store:
        await store.subscribe(ALL)
        for key in ("k", "other"):
            await store.set("s", key, b"1", ttl_ms=LONG)
        await drain(store, ALL)
        store.elapse(LONG)
        await store.delete("s", "k")
        (first,) = await store.taken(ALL.id, 1)
        await store.dead_letter(first, FAILED)
        await store.delete("s", "other")
        await store.adapter.stop()
        await store.start()
        await store.subscribe(ALL)
        (dead,) = await store.dead_letters()
        assert dead.event.payload() == EXPIRED
        assert sorted(causes(await drain(store, ALL)), key=str) == [
            ("state:deleted", "expired"),
            ("state:deleted", None),
            ("state:deleted", None),
        ]


@pytest.mark.parametrize("kind", ["redis", "bridge-redis"])
async def test_what_engines_before_this_version_have_queued_says_it_too(kind: str, tmp_path: Path) -> None:
    """They tell the write's id alone, which has begun or ended like this ever since where a call was not the cause."""
    async with opened(kind, tmp_path) as store:
        await store.subscribe(ALL)
        client = shared_server().client
        (stream,) = client.keys("iii-state:q:*")
        busy = stream.replace(b":q:", b":busy:")
        for number, write_id in enumerate(("foreign-0a1b-7", "0a1b-8-over", "0a1b-9", "caller:foreign-over-9")):
            key = f"k{number}"
            client.hset(busy, mapping={f"1:s{key}": 1, "entries": number + 1, "bytes": 5})
            client.xadd(stream, {"w": write_id, "s": "s", "k": key, "t": "deleted", "o": "1", "n": ""})
        came = list[Delivery]()
        async with asyncio.timeout(10):
            while len(came) < 4:
                came += await drain(store, ALL)
                await asyncio.sleep(0.002)
        found = {delivery.event.key: delivery.event.cause for delivery in came}
        assert found == {"k0": "foreign", "k1": "expired", "k2": None, "k3": None}
