"""What the scripts do with deadlines: mutations, reads, removal, claims, and the fact that a scope has some."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from iii_state.adapters.redis.keys import Keys, lane
from iii_state.adapters.redis.mutations.routes import deadlines_setting
from iii_state.adapters.redis.scripts import queues
from iii_state.adapters.redis.scripts.mutations import BoundedQueue, Postponed, QueueFull, RequestId, Stale, declare, declared
from tests.adapters.redis.test_mutation_scripts import INCREMENT, MUTATIONS, entries, events, everything
from tests.support.redis.script_engine import Engine, refused

KEYS = Keys()
DEADLINES = KEYS.deadlines_of(b"s").decode()
INDEX = KEYS.deadlines.decode()
HOUR = b"3600000"
every_mutation = pytest.mark.parametrize("mutate", MUTATIONS.values(), ids=MUTATIONS)


@pytest.fixture
def engine(client: redis.Redis) -> Engine:
    engine = Engine(client, session=b"engine")
    engine.with_deadlines = True
    last = int(now(client))
    client.hset(KEYS.clock.decode(), mapping={"offset": 0, "last": last, "until": last + 600_000})
    return engine


def now(client: redis.Redis) -> float:
    seconds, microseconds = client.time()
    return float(seconds * 1000 + microseconds / 1000)


def deadline(client: redis.Redis, key: bytes = b"k") -> float | None:
    """Milliseconds from now, rounded to seconds; None without."""
    score = client.zscore(DEADLINES, key)
    return None if score is None else round((score - now(client)) / 1000) * 1000


def put_over(engine: Engine, key: bytes = b"k", value: bytes = b"1") -> None:
    """A value whose deadline is over."""
    engine.set(b"s", key, value, ttl=HOUR)
    engine.client.zadd(DEADLINES, {key: 1})
    engine.client.zadd(INDEX, {b"s": 1})


def test_a_set_gives_a_deadline_or_takes_it_away(engine: Engine, client: redis.Redis) -> None:
    engine.set(b"s", b"k", b"1", ttl=HOUR)
    assert deadline(client) == 3_600_000
    assert client.zscore(INDEX, b"s") == client.zscore(DEADLINES, b"k")
    engine.set(b"s", b"k", b"2", ttl=b"60000")
    assert deadline(client) == 60_000
    assert client.zscore(INDEX, b"s") == client.zscore(DEADLINES, b"k")
    assert engine.set(b"s", b"k", b"3") == b"2"
    assert not client.exists(DEADLINES)


def test_an_update_keeps_a_deadline_or_gives_one_and_a_delete_takes_it_away(engine: Engine, client: redis.Redis) -> None:
    engine.update(b"s", b"k", INCREMENT)
    assert deadline(client) is None
    engine.update(b"s", b"k", INCREMENT, ttl=HOUR)
    assert deadline(client) == 3_600_000
    before = client.zscore(DEADLINES, b"k")
    engine.update(b"s", b"k", INCREMENT)
    assert client.zscore(DEADLINES, b"k") == before
    assert engine.delete(b"s", b"k") == b"3"
    assert not client.exists(DEADLINES)


def test_a_deadline_without_a_value_is_not_inherited(engine: Engine, client: redis.Redis) -> None:
    engine.set(b"s", b"k", b"1", ttl=HOUR)
    client.hdel(KEYS.values(b"s").decode(), "k")
    engine.update(b"s", b"k", INCREMENT)
    assert deadline(client) is None


@every_mutation
def test_what_is_over_goes_first_with_an_event_of_its_own(
    engine: Engine, client: redis.Redis, mutate: Callable[[Engine, RequestId | None], Any]
) -> None:
    engine.targets = [BoundedQueue(b"q1", 10, 10**6), BoundedQueue(b"q2", 10, 10**6)]
    put_over(engine, value=b"17")
    for queue in (b"q1", b"q2"):
        client.delete(KEYS.busy(queue))
        client.xtrim(KEYS.stream(queue), maxlen=0)
    request = engine.request()
    outcome = mutate(engine, request)
    after = everything(client)
    assert mutate(engine, request) == outcome
    assert everything(client) == after
    assert (outcome.old if hasattr(outcome, "old") else outcome) is None
    assert deadline(client) is None
    for queue in (b"q1", b"q2"):
        assert events(client, queue) == [(b"s", b"k", b"deleted", b"17", b"")]
        write, scope, key, kind, old, new = client.lrange(KEYS.wait(queue, lane(b"s", b"k")), 0, -1)
        assert write != entries(client, queue)[0][b"w"]
        assert (scope, key, old) == (b"s", b"k", b"")
        assert (kind, new) == ((b"deleted", b"") if not engine.stored(b"s", b"k") else (b"created", engine.stored(b"s", b"k")))
        held = client.hgetall(KEYS.busy(queue))
        assert held == {lane(b"s", b"k"): b"2", b"entries": b"2", b"bytes": b"%d" % (6 + len(new))}


@every_mutation
@pytest.mark.parametrize(("entries", "size"), [(2, 10**6), (10, 7)])
def test_both_events_find_room_or_nothing_changes(
    engine: Engine, client: redis.Redis, mutate: Callable[[Engine, RequestId | None], Any], entries: int, size: int
) -> None:
    engine.targets = [BoundedQueue(b"roomy", 10, 10**6), BoundedQueue(b"full", entries, size)]
    put_over(engine)
    before = everything(client)
    with refused(QueueFull):
        mutate(engine, None)
    assert everything(client) == before


@every_mutation
@pytest.mark.parametrize("name", [DEADLINES, INDEX])
def test_a_deadline_key_of_another_type_is_an_error_and_nothing_changes(
    engine: Engine, client: redis.Redis, mutate: Callable[[Engine, RequestId | None], Any], name: str
) -> None:
    engine.set(b"s", b"k", b"1")
    client.set(name, "x")
    before = everything(client)
    if name == DEADLINES:
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            mutate(engine, None)
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        engine.set(b"s", b"k", b"1", ttl=HOUR)
    assert everything(client) == before


def test_removal_happens_once_and_only_when_it_is_due(engine: Engine, client: redis.Redis) -> None:
    engine.targets = [BoundedQueue(b"q", 10, 10**6)]
    engine.set(b"s", b"k", b"1", ttl=HOUR)
    assert engine.expire(b"s", b"k") is None
    assert engine.stored(b"s", b"k") == b"1"
    client.zadd(DEADLINES, {b"k": 1})
    request = engine.request()
    assert engine.expire(b"s", b"k", request) == b"1"
    assert engine.expire(b"s", b"k", request) == b"1"
    assert engine.expire(b"s", b"k") is None
    assert client.hget(KEYS.busy(b"q").decode(), "entries") == b"2"
    assert not client.exists(DEADLINES, KEYS.values(b"s"), KEYS.scopes)


def test_removal_of_what_another_program_has_removed_is_no_event(engine: Engine, client: redis.Redis) -> None:
    engine.targets = [BoundedQueue(b"q", 10, 10**6)]
    put_over(engine)
    client.hdel(KEYS.values(b"s").decode(), "k")
    assert engine.expire(b"s", b"k") is None
    assert not client.exists(DEADLINES)
    assert client.hget(KEYS.busy(b"q").decode(), "entries") == b"1"


def test_what_another_program_has_written_over_goes_at_the_deadline(engine: Engine) -> None:
    put_over(engine)
    engine.put(b"s", b"k", b'{"foreign": true}')
    assert engine.expire(b"s", b"k") == b'{"foreign": true}'


def test_the_bell_rings_for_a_deadline_that_comes_before_all_others(real: redis.Redis) -> None:
    engine = Engine(real)
    engine.with_deadlines = True
    with real.pubsub(ignore_subscribe_messages=True) as heard:
        heard.subscribe(KEYS.deadlines)
        assert heard.get_message(timeout=5) is None
        engine.set(b"s", b"k", b"1", ttl=b"100000")
        assert heard.get_message(timeout=5) is not None
        engine.set(b"s", b"k2", b"1", ttl=b"200000")
        engine.set(b"t", b"k", b"1", ttl=b"150000")
        assert heard.get_message(timeout=0.05) is None
        engine.set(b"t", b"k", b"1", ttl=b"50000")
        assert heard.get_message(timeout=5) is not None


def test_reads_leave_out_what_is_over(engine: Engine, client: redis.Redis) -> None:
    names = (KEYS.values(b"s"), KEYS.deadlines_of(b"s"), KEYS.clock, KEYS.clock_copy)
    assert engine.call("deadlines/expired_scopes", b"4", *names, b"s") == [b"s"]
    put_over(engine, b"k0")
    put_over(engine, b"k1")
    assert engine.call("values/get", b"4", *names, b"k0") is None
    assert engine.call("values/snapshot", b"4", *names, b"2000", b"1000000") == []
    assert engine.call("deadlines/expired_scopes", b"4", *names, b"s") == [b"s"]
    client.hdel(KEYS.values(b"s").decode(), "k1")
    engine.put(b"s", b"k3", b"3")
    assert engine.call("deadlines/expired_scopes", b"4", *names, b"s") == []
    for number in range(4, 1300):
        engine.put(b"s", b"k%d" % number, b"%d" % number)
    client.zadd(DEADLINES, {b"k%d" % number: 1 for number in range(4, 1300, 2)})
    engine.set(b"s", b"k2", b"2", ttl=HOUR)
    assert engine.call("values/get", b"4", *names, b"k2") == b"2"
    assert engine.call("values/get", b"4", *names, b"k3") == b"3"
    assert engine.call("values/get", b"4", *names, b"missing") is None
    expected = {b"k2": b"2", b"k3": b"3"} | {b"k%d" % number: b"%d" % number for number in range(5, 1300, 2)}
    found = engine.call("values/snapshot", b"4", *names, b"2000", b"1000000")
    assert dict(zip(found[::2], found[1::2], strict=True)) == expected
    cursor = b"0"
    paged: dict[bytes, bytes] = {}
    while True:
        cursor, page = engine.call("values/page", b"4", *names, cursor, b"100")
        paged.update(zip(page[::2], page[1::2], strict=True))
        if cursor == b"0":
            break
    assert paged == expected
    ends = {b"k2": b"%d" % int(client.zscore(DEADLINES, "k2") or 0)}
    expected_ends = {key: (text, ends.get(key, b"")) for key, text in expected.items()}
    told = engine.call("values/snapshot", b"4", *names, b"2000", b"1000000", b"1")
    assert dict(zip(told[::3], zip(told[1::3], told[2::3], strict=True), strict=True)) == expected_ends
    _, page = engine.call("values/page", b"4", *names, b"0", b"2000", b"1")
    assert dict(zip(page[::3], zip(page[1::3], page[2::3], strict=True), strict=True)) == expected_ends


def test_what_is_due_can_be_read_past_what_is_stuck(engine: Engine, client: redis.Redis) -> None:
    client.zadd(DEADLINES, {b"a": 1, b"b": 2, b"c": 3, b"later": now(client) + 100_000})
    assert engine.call("deadlines/due", *queues.due(KEYS, DEADLINES.encode(), 2))[0] == [b"a", b"b"]
    assert engine.call("deadlines/due", *queues.due(KEYS, DEADLINES.encode(), 2, 2))[0] == [b"c"]
    assert engine.call("deadlines/due", *queues.due(KEYS, DEADLINES.encode(), 2, 3))[0] == []


def test_a_scope_that_one_engine_has_claimed_is_left_alone_for_a_moment(engine: Engine, client: redis.Redis) -> None:
    client.zadd(INDEX, {b"s": 1000, b"t": 1000.5, b"later": now(client) + 100_000})
    due, following = engine.call("deadlines/claim", b"3", KEYS.deadlines, KEYS.clock, KEYS.clock_copy, b"10", b"60")
    assert (sorted(due[::2]), {float(score) for score in due[1::2]}) == ([b"s", b"t"], {1000, 1000.5})
    assert 0 < following <= 60
    assert engine.call("deadlines/claim", b"3", KEYS.deadlines, KEYS.clock, KEYS.clock_copy, b"10", b"60")[0] == []
    until = time.monotonic() + 10
    while len(engine.call("deadlines/claim", b"3", KEYS.deadlines, KEYS.clock, KEYS.clock_copy, b"10", b"100000")[0]) < 4:
        assert time.monotonic() < until, "a claim ends"
    due, following = engine.call("deadlines/claim", b"3", KEYS.deadlines, KEYS.clock, KEYS.clock_copy, b"10", b"60")
    assert (due, 90_000 < following <= 100_000) == ([], True)


def settle(engine: Engine, *, kept: bool = False, was_empty: bool = False) -> int:
    routes = (KEYS.routes, KEYS.routes_version, KEYS.routes_log)
    names = (KEYS.deadlines, KEYS.deadlines_of(b"s"), *routes, KEYS.hold, KEYS.clock, KEYS.clock_copy, KEYS.values(b"s"))
    words = (b"s", deadlines_setting(b"s"), b"1000000" if kept else b"0", b"1" if was_empty else b"", b"2000000", b"3000")
    reply = engine.call("deadlines/reschedule", b"9", *names, *words)
    assert isinstance(reply, int)
    return reply


def test_a_claim_is_settled_with_the_next_deadline(engine: Engine, client: redis.Redis) -> None:
    client.zadd(DEADLINES, {b"k": 5000, b"k2": 6000})
    assert settle(engine) == 0
    assert client.zscore(INDEX, b"s") == 5000
    settle(engine, kept=True)
    assert 900_000 < (client.zscore(INDEX, b"s") or 0) - now(client) <= 1_000_000


def declare_fact(engine: Engine, fact: bytes, known: int) -> Stale:
    """What has changed since the version that is known, when the fact is declared."""
    changed = declared(engine.call("fleet/change_settings", *declare(KEYS, known, (fact, b"1"))))
    assert isinstance(changed, Stale)
    return changed


def test_a_scope_that_has_had_no_deadlines_for_a_while_is_without_them_again(engine: Engine, client: redis.Redis) -> None:
    fact = deadlines_setting(b"s")
    engine.put(b"s", b"k", b"1")
    client.set(KEYS.routes_version, b"5")
    assert declare_fact(engine, fact, 5).changes == [(6, [fact, b"1"])]
    assert settle(engine) == 0
    score = client.zscore(INDEX, b"s")
    assert score is not None
    assert (score % 1, 1_900_000 < score - now(client) <= 2_000_001) == (0.5, True)
    client.set(KEYS.hold, b"1")
    assert settle(engine, was_empty=True) == 0
    client.delete(KEYS.hold)
    client.zadd(DEADLINES, {b"k": 5000})
    assert settle(engine, was_empty=True) == 0
    client.delete(DEADLINES)
    assert settle(engine, was_empty=True) == 1
    assert not client.exists(INDEX, KEYS.routes)
    engine.routes_version = 6
    with refused(Stale) as stale:
        engine.set(b"s", b"k", b"1", ttl=HOUR)
    assert stale[0].changes == [(7, [fact, b""])]


def test_a_scope_without_values_is_without_deadlines_soon(engine: Engine, client: redis.Redis) -> None:
    client.zadd(INDEX, {b"s": 10**15})
    engine.set(b"s", b"k", b"1", ttl=b"1000000000")
    engine.set(b"s", b"other", b"1")
    engine.delete(b"s", b"k")
    assert (client.zscore(INDEX, b"s") or 0) > 10**12
    engine.delete(b"s", b"other")
    assert client.zscore(INDEX, b"s") == 0  # looked at with the next sweep
    assert settle(engine) == 0
    assert 0 < (client.zscore(INDEX, b"s") or 0) - now(client) <= 3001


def test_a_fact_is_declared_once_and_not_while_the_routes_hold_still(engine: Engine, client: redis.Redis) -> None:
    fact = deadlines_setting(b"s\x00\n")
    client.hset(KEYS.engines.decode(), "one", "1000 1")
    client.set(KEYS.hold, b"1")
    reply = engine.call("fleet/change_settings", *declare(KEYS, 0, (fact, b"1")))
    assert declared(reply) is Postponed.HELD
    assert not client.exists(KEYS.routes, KEYS.routes_version)
    client.delete(KEYS.hold)
    for _ in range(2):
        known = declare_fact(engine, fact, 0)
        assert known.changes == [(known.version, [fact, b"1"])]
    client.set(KEYS.hold, b"1")
    assert declare_fact(engine, fact, known.version).changes == []
    assert client.hgetall(KEYS.routes.decode()) == {fact: b"1"}
