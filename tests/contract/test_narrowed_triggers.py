"""Subscriptions that want less than every event of a scope and key: prefixes, types, changed members, parts of an event."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from iii_state import values
from iii_state.errors import ConditionFailed, StoreError
from iii_state.events import Delivery, Subscription
from iii_state.filters import LEFT_OUT, Filter
from iii_state.values import conditions
from iii_state.values.transactions import Step
from tests.support.stores import Store, drain, opened, plan
from tests.support.waiting import until

LIMIT = values.MAX_VALUE_BYTES
ADA: dict[str, Any] = {"name": "Ada", "email": "a@x", "address": {"city": "London", "zip": [1, 2]}}


def text(value: Any) -> bytes:
    return values.to_stored(values.encode(value))


def told(deliveries: list[Delivery]) -> list[tuple[str, str, str]]:
    return [(each.event.event_type.removeprefix("state:"), each.event.scope, each.event.key) for each in deliveries]


PLACES = [("users", "ada"), ("users", "bob"), ("users-eu", "ada"), ("use", "ada"), ("", ""), ("other", "adam")]

PREFIXES = [
    (Subscription("f", scope_prefix="users"), [0, 1, 2]),
    (Subscription("f", scope_prefix="users-"), [2]),
    (Subscription("f", scope_prefix="users-eu and more"), []),
    (Subscription("f", key_prefix="ada"), [0, 2, 3, 5]),
    (Subscription("f", key_prefix="adam"), [5]),
    (Subscription("f", scope="users", key_prefix="a"), [0]),
    (Subscription("f", scope_prefix="users", key="ada"), [0, 2]),
    (Subscription("f", scope_prefix="us", key_prefix="b"), [1]),
]


@pytest.mark.parametrize(("subscription", "wanted"), PREFIXES, ids=str)
async def test_a_prefix_wants_what_begins_so(store: Store, subscription: Subscription, wanted: list[int]) -> None:
    await store.subscribe(subscription)
    for scope, key in PLACES:
        await store.set(scope, key, b"1")
    found = told(await drain(store, subscription))
    if store.is_parted:  # the order of events of several scopes is not told
        found.sort(key=lambda event: PLACES.index(event[1:3]))
    assert found == [("created", *PLACES[place]) for place in wanted]
    await store.unsubscribe(subscription.id)
    await until(store.has_no_queue)
    for scope, key in PLACES:
        await store.set(scope, key, b"2")


async def test_prefixes_of_all_lengths_are_matched_beside_names(store: Store) -> None:
    subscriptions = [Subscription(f"p{length}", scope_prefix="scope"[:length]) for length in range(1, 6)]
    subscriptions += [Subscription("named", scope="scope"), Subscription("keys", scope="scope", key_prefix="k")]
    for subscription in subscriptions:
        await store.subscribe(subscription)
    await store.set("scope", "k", b"1")
    await store.set("sc", "k", b"1")
    counts = {each.function_id: len(await drain(store, each)) for each in subscriptions}
    assert counts == {"p1": 2, "p2": 2, "p3": 1, "p4": 1, "p5": 1, "named": 1, "keys": 1}


async def test_event_types_want_only_those(store: Store) -> None:
    made = Subscription("made", filter=Filter(("state:created",)))
    gone = Subscription("gone", filter=Filter(("state:created", "state:deleted")))
    for subscription in (made, gone):
        await store.subscribe(subscription)
    await store.set("s", "k", b"1")
    await store.set("s", "k", b"2")
    await store.update("s", "k", plan({"type": "increment", "by": 1}), LIMIT)
    await store.delete("s", "k")
    await store.delete("s", "k")
    assert told(await drain(store, made)) == [("created", "s", "k")]
    assert [kind for kind, _, _ in told(await drain(store, gone))] == ["created", "deleted", "deleted"]


CHANGED: list[tuple[tuple[str, ...], Any, Any, bool]] = [
    (("email",), ADA, {**ADA, "email": "b@x"}, True),
    (("email",), ADA, {**ADA, "name": "Eve"}, False),
    (("email",), ADA, {**ADA, "email": "a@y"}, True),
    (("email",), ADA, {**ADA, "email": None}, True),
    (("email",), ADA, {"name": "Ada"}, True),
    (("email",), {"email": 1}, {"email": 1.0}, True),
    (("email",), {"mail": "\nemail", "email": "x"}, {"email": "x"}, False),
    (("email",), [1], {"email": 1}, True),
    (("email",), [1], "email", False),
    (("email",), {}, {"x": 1}, False),
    (("address", "city"), ADA, {**ADA, "address": {"city": "Paris", "zip": [1, 2]}}, True),
    (("address", "city"), ADA, {**ADA, "address": {"zip": [], "city": "London"}}, False),
    (("address", "city"), ADA, {**ADA, "address": "London"}, True),
    (("address", "city"), {"address": 1}, {"address": 2}, False),
    (("address", "zip"), ADA, {**ADA, "address": {"zip": [1, 2]}}, False),
    (('a"b\n', "ü", "c"), {'a"b\n': {"ü": {"c": 1}}}, {'a"b\n': {"ü": {"c": 2}}}, True),
    ((), ADA, {**ADA, "email": "b@x"}, True),
    ((), ADA, ADA, False),
    ((), 1, 2, True),
]


@pytest.mark.parametrize(("path", "before", "after", "fires"), CHANGED, ids=lambda case: str(case)[:30])
async def test_changed_wants_what_differs_at_a_path(
    store: Store, path: tuple[str, ...], before: Any, after: Any, fires: bool
) -> None:
    subscription = Subscription("f", scope="s", filter=Filter(changed=(path,)))
    other = Subscription("g", scope="s", filter=Filter(changed=(("not there",), path)))
    await store.set("s", "k", text(before))
    await store.set("s", "u", text(before))
    for each in (subscription, other):
        await store.subscribe(each)
    await store.set("s", "k", text(after))
    await store.update("s", "u", plan({"type": "set", "value": after}), LIMIT)
    assert told(await drain(store, subscription)) == [("updated", "s", "k"), ("updated", "s", "u")] * fires
    assert told(await drain(store, other)) == [("updated", "s", "k"), ("updated", "s", "u")] * fires


WHEN: list[tuple[dict[str, Any], Any, Any, bool]] = [
    ({"when_new": '[{"path":["status"],"equals":"paid"}]'}, {"status": "open"}, {"status": "paid"}, True),
    ({"when_new": '[{"path":["status"],"equals":"paid"}]'}, {"status": "paid"}, {"status": "open"}, False),
    ({"when_old": '[{"path":["status"],"equals":"paid"}]'}, {"status": "paid"}, {"status": "open"}, True),
    ({"when_old": '[{"path":["n"],"lt":5}]', "when_new": '[{"path":["n"],"gte":5}]'}, {"n": 4}, {"n": 5.0}, True),
    ({"when_old": '[{"path":["n"],"lt":5}]', "when_new": '[{"path":["n"],"gte":5}]'}, {"n": 5}, {"n": 6}, False),
    ({"when_new": '[{"path":["a","b"],"absent":true}]'}, {}, {"a": {"c": 1}}, True),
    ({"when_new": '[{"type":"object"},{"path":["n"],"not_equals":1}]'}, 1, {"n": 1}, False),
    ({"when_new": '[{"equals":{"b":[1,{"c":2}],"a":1}}]'}, 1, {"a": 1.0, "b": [1, {"c": 2}]}, True),
]


@pytest.mark.parametrize(("conditions", "before", "after", "fires"), WHEN, ids=lambda case: str(case)[:40])
async def test_when_wants_what_its_conditions_hold_for(
    store: Store, conditions: dict[str, Any], before: Any, after: Any, fires: bool
) -> None:
    subscription = Subscription("f", scope="s", filter=Filter(**conditions))
    await store.set("s", "k", text(before))
    await store.subscribe(subscription)
    await store.set("s", "k", text(after))
    assert told(await drain(store, subscription)) == [("updated", "s", "k")] * fires


async def test_what_is_not_there_is_absent_to_a_condition(store: Store) -> None:
    made = Subscription("made", filter=Filter(when_old='[{"absent":true}]'))
    gone = Subscription("gone", filter=Filter(when_new='[{"absent":true}]'))
    for each in (made, gone):
        await store.subscribe(each)
    await store.set("s", "k", b"null")
    await store.set("s", "k", b"1")
    await store.delete("s", "k")
    assert [kind for kind, _, _ in told(await drain(store, made))] == ["created"]
    assert [kind for kind, _, _ in told(await drain(store, gone))] == ["deleted"]


async def test_an_etag_can_be_a_condition(store: Store) -> None:
    value = text({"n": 1})
    subscription = Subscription("f", filter=Filter(when_new=f'[{{"etag":"{values.etag(value)}"}}]'))
    await store.subscribe(subscription)
    await store.set("s", "k", text({"n": 2}))
    await store.set("s", "k", value)
    wanted = [each for each in await drain(store, subscription) if subscription.still_wants(each.event)]
    assert told(wanted) == [("updated", "s", "k")]


async def test_to_appear_and_to_go_is_to_change(store: Store) -> None:
    subscription = Subscription("f", filter=Filter(changed=(("email",),)))
    root = Subscription("g", filter=Filter(changed=((),)))
    for each in (subscription, root):
        await store.subscribe(each)
    for key, value in (("with", ADA), ("without", {"name": "Eve"})):
        await store.set("s", key, text(value))
        await store.delete("s", key)
        await store.delete("s", key)
    assert told(await drain(store, subscription)) == [("created", "s", "with"), ("deleted", "s", "with")]
    assert len(await drain(store, root)) == 4


async def test_the_deletion_of_what_is_over_is_judged_by_itself(store: Store) -> None:
    changed = Subscription("f", filter=Filter(changed=(("email",),)))
    made = Subscription("made", filter=Filter(("state:created",)))
    for each in (changed, made):
        await store.subscribe(each)
    await store.set("s", "k", text(ADA), ttl_ms=3_600_000)
    store.elapse(3_600_000)
    await store.set("s", "k", text({"name": "Eve"}))
    assert [kind for kind, _, _ in told(await drain(store, changed))] == ["created", "deleted"]
    assert [kind for kind, _, _ in told(await drain(store, made))] == ["created", "created"]


async def test_what_does_not_match_takes_no_room(store: Store) -> None:
    subscription = Subscription("f", scope="s", filter=Filter(("state:deleted",)), max_queue_length=1)
    await store.subscribe(subscription)
    for number in range(5):
        await store.set("s", str(number), b"1")
    assert await store.is_empty(subscription.id)
    await store.delete("s", "1")
    with pytest.raises(Exception, match="is full"):
        await store.delete("s", "2")


PAYLOADS = {
    "full": b'{"type":"state","event_type":"state:updated","scope":"s","key":"k","old_value":1,"new_value":2}',
    "new": b'{"type":"state","event_type":"state:updated","scope":"s","key":"k","new_value":2}',
    "keys": b'{"type":"state","event_type":"state:updated","scope":"s","key":"k"}',
}


@pytest.mark.parametrize("payload", list(PAYLOADS))
async def test_what_the_payload_leaves_out_is_absent_and_takes_no_room(store: Store, payload: Any) -> None:
    subscription = Subscription("f", scope="s", payload=payload, max_queue_bytes=300)
    large = text({"text": "x" * 1000})
    await store.set("s", "k", b"1")
    await store.set("s", "large", large)
    await store.subscribe(subscription)
    await store.set("s", "k", b"2")
    [delivery] = await drain(store, subscription)
    assert delivery.event.payload() == PAYLOADS[payload]
    if payload == "full":
        with pytest.raises(Exception, match="max_queue_bytes"):
            await store.set("s", "large", b"1")
    else:
        await store.set("s", "large", b"1")
        await drain(store, subscription)
    if payload == "keys":
        await store.set("s", "large", large)
        await store.delete("s", "large")
        events = [each.event.payload() for each in await drain(store, subscription)]
        assert events == [
            b'{"type":"state","event_type":"state:updated","scope":"s","key":"large"}',
            b'{"type":"state","event_type":"state:deleted","scope":"s","key":"large","new_value":null}',
        ]


STEPS: list[tuple[list[bytes | None], tuple[str, bytes | None, bytes | None]]] = [
    ([b"1", b"2", b"3"], ("updated", b"0", b"3")),
    ([b"1", None], ("deleted", b"0", None)),
    ([None, b"2"], ("updated", b"0", b"2")),
    ([None, b"2", None], ("deleted", b"0", None)),
    ([None, None, b"2"], ("updated", b"0", b"2")),
    ([b"1"], ("updated", b"0", b"1")),
]


@pytest.mark.parametrize(("steps", "together"), STEPS, ids=str)
@pytest.mark.parametrize("payload", ["full", "new", "keys"])
async def test_a_lane_that_coalesces_keeps_one_event_behind_the_first(
    store: Store, steps: list[bytes | None], together: tuple[str, bytes | None, bytes | None], payload: Any
) -> None:
    subscription = Subscription("f", scope="s", coalesce=True, payload=payload, max_queue_length=2)
    await store.subscribe(subscription)
    await store.set("s", "k", b"0")
    [first] = await store.taken(subscription.id, 1)
    for value in steps:
        await (store.delete("s", "k") if value is None else store.set("s", "k", value))
    await store.ack([first])
    [delivery] = await store.taken(subscription.id, 1)
    event = delivery.event
    kind, old, new = together
    assert event.event_type == f"state:{kind}"
    if payload == "full":
        assert (event.old, event.new) == (old, new)
    assert delivery.event_id != first.event_id
    await store.ack([delivery])
    assert not await drain(store, subscription)
    await until(lambda: store.is_empty(subscription.id))


@pytest.mark.parametrize("payload", ["full", "keys"])
async def test_what_was_created_and_deleted_again_is_one_deletion_of_nothing(store: Store, payload: Any) -> None:
    subscription = Subscription("f", scope="s", coalesce=True, payload=payload)
    await store.subscribe(subscription)
    await store.delete("s", "k")
    [first] = await store.taken(subscription.id, 1)
    await store.set("s", "k", b"1")
    await store.set("s", "k", b"2")
    await store.delete("s", "k")
    await store.ack([first])
    [delivery] = await store.taken(subscription.id, 1)
    event = delivery.event
    assert (event.event_type, event.old, event.new) == (
        "state:deleted",
        LEFT_OUT if store.is_remote and payload != "full" else None,
        None,
    )
    await store.set("s", "k", b"3")
    await store.ack([delivery])
    [delivery] = await store.taken(subscription.id, 1)
    assert (delivery.event.event_type, delivery.event.old) == ("state:created", None)


async def test_what_is_over_is_told_together_with_what_comes_behind_it(store: Store) -> None:
    subscription = Subscription("f", scope="s", coalesce=True)
    await store.subscribe(subscription)
    await store.set("s", "k", b"1", ttl_ms=3_600_000)
    [first] = await store.taken(subscription.id, 1)
    store.elapse(3_600_000)
    await store.set("s", "k", b"2")
    await store.ack([first])
    [delivery] = await store.taken(subscription.id, 1)
    event = delivery.event
    assert (event.event_type, event.old, event.new, event.cause) == ("state:updated", b"1", b"2", None)


@pytest.mark.parametrize("kind", ["kv-file", "redis"])
async def test_what_waits_together_is_still_one_after_a_restart(kind: str, tmp_path: Path) -> None:
    subscription = Subscription("f", scope="s", coalesce=True)
    async with opened(kind, tmp_path) as store:
        await store.subscribe(subscription)
        for number in range(6):
            await store.set("s", "k", b"%d" % number)
            await store.set("s", "other", b"%d" % number)
        await store.adapter.stop()
        await store.start()
        await store.subscribe(subscription)
        events = [each.event for each in await drain(store, subscription)]
        assert sorted((each.key, each.old or b"", each.new) for each in events) == [
            ("k", b"", b"0"),
            ("k", b"0", b"5"),
            ("other", b"", b"0"),
            ("other", b"0", b"5"),
        ]


async def test_a_trigger_bounds_its_own_queue_and_is_told_what_was_dropped(store: Store) -> None:
    strict = Subscription("strict", scope="s", max_queue_length=4)
    watch = Subscription("watch", scope="s", on_full="drop_oldest", max_queue_length=2)
    for each in (strict, watch):
        await store.subscribe(each)
    for number in range(4):
        await store.set("s", str(number), b"1")
    if not store.is_remote:  # else what is out at the bridge is not dropped
        with pytest.raises(StoreError, match=r"the queue of strict is full \(max_queue_length 4\)"):
            await store.set("s", "4", b"1")
        taken = await store.taken(watch.id, 2)
        assert [(each.event.key, each.dropped) for each in taken] == [("2", 2), ("3", 2)]
        await store.ack(taken)
        await drain(store, strict)
        await store.set("s", "5", b"1")
        [more] = await store.taken(watch.id, 1)
        assert more.dropped == 2


async def test_the_last_registration_says_what_does_not_belong_to_the_identity(store: Store) -> None:
    await store.subscribe(Subscription("f", scope="s", payload="full", max_queue_length=1))
    last = Subscription("f", scope="s", payload="keys", max_queue_length=5)
    await store.subscribe(last)
    for number in range(3):
        await store.set("s", str(number), b"1")
    assert [each.event.new for each in await drain(store, last)] == [LEFT_OUT] * 3


async def test_the_steps_of_a_transaction_are_judged_and_coalesced_one_by_one(store: Store) -> None:
    lane = Subscription("lane", scope="s", coalesce=True)
    emails = Subscription("emails", scope="s", filter=Filter(changed=(("email",),)), payload="new")
    for each in (lane, emails):
        await store.subscribe(each)
    eve = {**ADA, "name": "Eve"}
    steps = [Step("k", text(ADA)), Step("k", text(eve)), Step("k"), Step("k", text(ADA)), Step("other", b"1"), Step("k", text(eve))]
    await store.transact("s", steps, LIMIT)
    taken = await store.taken(lane.id, 2)
    assert sorted((each.event.event_type, each.event.key) for each in taken) == [("state:created", "k"), ("state:created", "other")]
    await store.transact("s", [Step("k"), Step("k", b"1"), Step("k", b"2"), Step("third", b"1")], LIMIT)
    await store.ack(taken)
    taken = await store.taken(lane.id, 2)
    together = {each.event.key: each.event for each in taken}
    assert (together["k"].event_type, together["k"].old, together["k"].new) == ("state:updated", text(ADA), b"2")
    assert together["third"].event_type == "state:created"
    await store.ack(taken)
    await until(lambda: store.is_empty(lane.id))
    changed = [(each.event.event_type, each.event.new) for each in await drain(store, emails)]
    assert changed == [
        ("state:created", text(ADA)),
        ("state:deleted", None),
        ("state:created", text(ADA)),
        ("state:deleted", None),
    ]


async def test_conditions_of_a_write_and_of_triggers_go_together(store: Store) -> None:
    subscription = Subscription("f", scope="s", filter=Filter(changed=(("email",),), when_new='[{"path":["n"],"gt":1}]'))
    await store.subscribe(subscription)
    await store.set("s", "k", text({"email": 1, "n": 2}))
    held = conditions.parse(b'[{"path":"n","equals":2}]')
    await store.set("s", "k", text({"email": 2, "n": 2}), conditions=held)
    with pytest.raises(ConditionFailed):
        await store.set("s", "k", text({"email": 3, "n": 5}), conditions=conditions.parse(b'[{"path":"n","equals":3}]'))
    await store.update("s", "k", plan({"type": "set", "path": "email", "value": 4}), LIMIT, conditions=held)
    await store.delete("s", "k", conditions=held)
    assert [each.event.event_type for each in await drain(store, subscription)] == [
        "state:created",
        "state:updated",
        "state:updated",
    ]


async def test_the_end_of_a_stored_null_is_not_taken_for_a_missing_key_when_it_is_looked_at_again(store: Store) -> None:
    filters = [Filter(changed=((),)), Filter(when_old='[{"present":true}]'), Filter(when_old='[{"type":"null"}]')]
    subscriptions = [Subscription(f"f{number}", scope="s", filter=wanted) for number, wanted in enumerate(filters)]
    await store.set("s", "k", b"null")
    for subscription in subscriptions:
        await store.subscribe(subscription)
    await store.delete("s", "missing")
    await store.delete("s", "k")
    for subscription in subscriptions:
        deliveries = await drain(store, subscription)
        assert told(deliveries) == [("deleted", "s", "k")]
        assert subscription.still_wants(deliveries[0].event)
