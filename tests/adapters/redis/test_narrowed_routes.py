"""What triggers that ask for less mean for a fleet: older engines, other programs' texts, repairs, calls that are made again."""

from __future__ import annotations

from typing import Any

import pytest

from iii_state import values
from iii_state.adapters.redis.mutations.route import Route, route_text
from iii_state.errors import StoreError
from iii_state.events import Change, Delivery, Subscription
from iii_state.filters import LEFT_OUT, Filter
from iii_state.sessions import Request
from tests.support.redis.adapters import Open, drain
from tests.support.redis.server import RedisServer
from tests.support.waiting import answer_of, until

EMAIL = Filter(changed=(("email",),))


def text(value: Any) -> bytes:
    return values.to_stored(values.encode(value))


def test_a_route_without_anything_new_is_the_text_that_it_was() -> None:
    assert route_text(Subscription("f", scope="s")) == b'{"scope":"s","key":null,"function_id":"f"}'
    narrowed = route_text(Subscription("f", scope_prefix="s", filter=EMAIL, coalesce=True, payload="keys", on_full="drop_oldest"))
    assert narrowed == (
        b'{"scope":null,"key":null,"function_id":"f","scope_prefix":"s","filter":{"changed":[["email"]]},"coalesce":true,'
        b'"payload":"keys","on_full":"drop_oldest"}'
    )


async def test_a_narrowed_trigger_is_refused_while_an_engine_does_not_know_of_any(opened: Open, server: RedisServer) -> None:
    adapter, older = await opened(), await opened()
    server.client.hset("iii-state:features", older._shared.engine.id, "lineages")
    plain, narrowed = Subscription("plain", scope="s"), Subscription("narrowed", scope="s", filter=EMAIL)
    registering = [adapter.queues.subscribe(each) for each in (plain, narrowed)]
    await answer_of(registering[0])
    with pytest.raises(StoreError, match=r"has not the feature triggers\.v2"):
        await answer_of(registering[1])
    await answer_of(adapter.queues.subscribe(Subscription("bounded", scope="s", payload="keys", max_queue_length=1)))
    server.client.hset("iii-state:features", older._shared.engine.id, "lineages triggers.v2 more")
    await answer_of(adapter.queues.subscribe(narrowed))
    server.client.hdel("iii-state:features", older._shared.engine.id)
    await answer_of(adapter.queues.subscribe(narrowed))  # its worker has come again: it is routed already


async def test_what_an_older_engine_queues_too_much_is_not_for_the_trigger(opened: Open, server: RedisServer) -> None:
    """It reads of a route what it knows, and writes it down so where it restores the routes."""
    adapter, other = await opened(), await opened()
    subscription = Subscription("f", scope_prefix="users", filter=EMAIL, payload="keys")
    await answer_of(adapter.queues.subscribe(subscription))
    await answer_of(other.values.set("users", "k", text({"email": 1})))
    other._shared.fanout.routes._change(subscription.id.encode(), b'{"scope":null,"key":null,"function_id":"f"}')
    await answer_of(other.values.set("users", "k", text({"email": 1, "n": 1})))
    await answer_of(other.values.set("other", "k", text({"email": 1})))
    await answer_of(other.values.set("users", "k", text({"email": 2, "n": 1})))
    came = await drain(adapter, subscription)
    wanted = [each.event for each in came if subscription.still_wants(each.event)]
    assert len(came) == 4
    assert [(event.event_type, event.new) for event in wanted] == [
        ("state:created", LEFT_OUT),
        ("state:updated", text({"email": 2, "n": 1})),
    ]


FOREIGN = [
    (b'{"email": 1}', {"email": 1}, False),
    (b'{"email": 1}', {"email": 2}, True),
    (b' { "email" : 1 }', {"email": 1, "n": 2}, False),
    (b'{\t\n"email":1', {"email": 1}, True),
    (b"[1, {", {"email": 1}, True),
    (b"", {"email": 1}, True),
    (b" 5", 5, False),
    (b'"\\u0041"', "A", False),
]


@pytest.mark.parametrize(("foreign", "value", "fires"), FOREIGN)
async def test_another_programs_text_is_judged_when_it_is_delivered(
    opened: Open, server: RedisServer, foreign: bytes, value: Any, fires: bool
) -> None:
    adapter = await opened()
    subscription = Subscription("f", scope="s", filter=EMAIL)
    other = Subscription("g", scope="s", filter=Filter(when_new='[{"path":["email"],"equals":[1,2]}]'))
    for each in (subscription, other):
        await answer_of(adapter.queues.subscribe(each))
    server.client.hset("state:s", "k", foreign)
    await answer_of(adapter.values.set("s", "k", text(value)))
    came = [each for each in await drain(adapter, subscription) if subscription.still_wants(each.event)]
    assert len(came) == fires
    assert not [each for each in await drain(adapter, other) if other.still_wants(each.event)]


async def test_a_call_that_is_made_again_coalesces_nothing_twice(opened: Open) -> None:
    adapter = await opened()
    subscription = Subscription("f", scope="s", coalesce=True)
    await answer_of(adapter.queues.subscribe(subscription))
    await answer_of(adapter.sessions.open("session", 0, 1))
    for seq in (1, 2, 3):
        for _ in range(2):
            await answer_of(adapter.values.set("s", "k", b"%d" % seq, request=Request("session", 1, 0, seq)))
    events = [each.event for each in await drain(adapter, subscription)]
    assert [(event.event_type, event.old, event.new) for event in events] == [
        ("state:created", None, b"1"),
        ("state:updated", b"1", b"3"),
    ]


async def test_coalesced_lanes_count_right_and_are_left_even(opened: Open, server: RedisServer) -> None:
    adapter = await opened()
    subscription = Subscription("f", scope="s", coalesce=True, payload="new")
    await answer_of(adapter.queues.subscribe(subscription))
    busy = f"iii-state:busy:{subscription.id}"
    for number in range(50):
        await answer_of(adapter.values.set("s", f"k{number % 3}", text("x" * (number % 7))))
        await answer_of(adapter.values.delete("s", f"k{number % 2}"))
    held = {name: int(count) for name, count in server.client.hgetall(busy).items()}
    stream = server.client.xrange(f"iii-state:q:{subscription.id}")
    waiting = [server.client.lrange(name, 0, -1) for name in server.client.scan_iter(f"iii-state:wait:{subscription.id}:*")]
    assert [len(items) for items in waiting] == [6] * 3
    size = sum(len(fields[b"s"] + fields[b"k"] + fields[b"o"] + fields[b"n"]) for _, fields in stream)
    size += sum(len(items[1] + items[2] + items[4] + items[5]) for items in waiting)
    assert (held.pop(b"entries"), held.pop(b"bytes")) == (6, size)
    assert set(held.values()) == {2}
    assert len(await drain(adapter, subscription)) == 6
    await until(lambda: not server.client.exists(busy))


async def test_a_lane_in_which_an_older_engine_has_queued_more_is_told_together_at_its_end(opened: Open) -> None:
    adapter, older = await opened(), await opened()
    subscription = Subscription("f", scope="s", coalesce=True)
    await answer_of(adapter.queues.subscribe(subscription))
    await answer_of(older.values.set("s", "k", b"0"))
    older._shared.fanout.routes._change(subscription.id.encode(), b'{"scope":"s","key":null,"function_id":"f"}')
    for number in range(1, 4):
        await answer_of(older.values.set("s", "k", b"%d" % number))
    await answer_of(adapter.values.set("s", "k", b"4"))
    await answer_of(adapter.values.set("s", "k", b"5"))
    assert [(each.event.old, each.event.new) for each in await drain(adapter, subscription)] == [
        (None, b"0"),
        (b"0", b"1"),
        (b"1", b"2"),
        (b"2", b"5"),
    ]


async def test_what_waits_together_survives_the_engine_that_held_the_first(opened: Open) -> None:
    dying, other = await opened(), await opened()
    subscription = Subscription("f", scope="s", coalesce=True)
    for adapter in (dying, other):
        await answer_of(adapter.queues.subscribe(subscription))
    await answer_of(dying.values.set("s", "k", b"0"))
    [first] = await answer_of(dying.queues.take(subscription.id, 1))
    for number in range(1, 5):
        await answer_of(other.values.set("s", "k", b"%d" % number))
    await dying.stop()
    came = list[Delivery]()

    async def have_come() -> bool:
        came.extend(await drain(other, subscription))
        return len(came) >= 2

    await until(have_come)
    assert [(each.event.old, each.event.new) for each in came] == [(None, b"0"), (b"0", b"4")]
    assert came[0].event_id == first.event_id


async def test_what_was_written_within_a_delivery_is_still_told_of_what_is_coalesced(opened: Open, server: RedisServer) -> None:
    adapter = await opened()
    await until(lambda: adapter._shared.fanout.tells_lineages)
    subscription = Subscription("f", scope="s", coalesce=True)
    await answer_of(adapter.queues.subscribe(subscription))
    for number in range(5):
        await answer_of(adapter.values.set("s", "k", b"%d" % number))
    assert server.client.hlen(f"iii-state:lineages:{subscription.id}") <= 1
    assert len(await drain(adapter, subscription)) == 2


def test_the_words_of_a_filter_are_few() -> None:
    assert not Route("s", None, "f").is_narrowed
    assert Route("s", None, "f", filter=EMAIL, coalesce=True).filter_words == (b"f101s", (b'\n"email":',))
    narrowed = Filter(("state:created", "state:deleted"), (("a", "b"), ()), when_new='[{"path":["n"],"equals":1}]')
    head, words = Route("s", None, "f", filter=narrowed, payload="new").filter_words
    assert head == b"n052g"
    assert words == (b"10", b"2", b'\n"a":', b'"b"', b"0", b"0", b"4", b"equals", b"1", b'\n"n":', b"1")


def test_the_marks_of_what_was_left_out_are_json_and_no_text_of_ours() -> None:
    assert values.decode(LEFT_OUT) is None
    assert values.normalize(LEFT_OUT) != LEFT_OUT
    event = Change("w-1", "s", "k", "state:updated", b"1", b"2").with_payload("keys")
    assert event.size == 2 + 2 * len(LEFT_OUT)
