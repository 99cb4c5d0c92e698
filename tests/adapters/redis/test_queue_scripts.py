"""subscriptions/subscribe.lua, queues/take.lua, queues/ack.lua: from a registration to the last event of a lane."""

from __future__ import annotations

import random
from typing import Any, cast

import pytest
import redis

from iii_state.adapters.redis.keys import Keys, lane
from iii_state.adapters.redis.scripts.engines import fence, heartbeat, join_succession, takeover
from iii_state.adapters.redis.scripts.loader import script
from iii_state.adapters.redis.scripts.mutations import BoundedQueue, Stale
from iii_state.adapters.redis.scripts.queues import (
    DEAD_LETTERS_AT_ONCE,
    Entry,
    ack,
    dead_letter,
    drop_entries,
    drop_old_dead_letters,
    due,
    is_fenced,
    redeliver,
    release,
    retry,
    take,
    taken,
)
from iii_state.adapters.redis.scripts.subscriptions import Registration, abandon, end_subscription, subscribe
from iii_state.events import Delivery
from tests.support.redis.script_engine import Engine, refused

KEYS = Keys()


class Fenced(Exception):
    """The engine is not among the engines any more."""


def admitted(reply: Any) -> Any:
    """The reply of a script that an engine has called. Raises `Fenced`."""
    if is_fenced(reply):
        raise Fenced
    return reply


class Worker:
    """The queue side of an engine."""

    def __init__(self, client: redis.Redis, engine: bytes = b"e1") -> None:
        self.client = client
        self.engine = engine
        client.hset(KEYS.engines, engine, "now")

    def run(self, name: str, call: list[bytes]) -> Any:
        return self.client.execute_command("EVAL", script(name).source, *call)

    def subscribe(self, *queues: bytes, route: bytes = b"{}") -> int:
        registrations = [Registration(queue, route, b"settings") for queue in queues]
        version: int = admitted(self.run("subscriptions/subscribe", subscribe(KEYS, self.engine, registrations)))[1]
        return version

    def take(self, queue: bytes, count: int = 100) -> list[Delivery]:
        return taken(admitted(self.run("queues/take", take(KEYS, queue, self.engine, count))), "id")[0]

    def ack(self, queue: bytes, deliveries: list[Delivery], want: int = 0) -> list[Delivery]:
        entries = [delivery.token for delivery in deliveries]
        call = ack(KEYS, queue, self.engine, entries, want)  # type: ignore[arg-type]
        return taken(admitted(self.run("queues/ack", call)), "id")[0]


@pytest.fixture
def worker(client: redis.Redis) -> Worker:
    return Worker(client)


@pytest.fixture
def engine(worker: Worker) -> Engine:
    worker.subscribe(b"q")
    engine = Engine(worker.client)
    engine.targets = [BoundedQueue(b"q", 1000, 10**6)]
    return engine


def keys_and_news(deliveries: list[Delivery]) -> list[tuple[str, bytes | None]]:
    return [(delivery.event.key, delivery.event.new) for delivery in deliveries]


def test_what_is_registered_together_is_one_change(worker: Worker, client: redis.Redis) -> None:
    first = worker.subscribe(b"a", b"b")
    assert worker.subscribe(b"b") == first
    assert worker.subscribe(b"b", b"c", route=b"other") == first + 1
    assert client.hgetall(KEYS.routes) == {b"a": b"{}", b"b": b"other", b"c": b"other"}
    assert client.xrange(KEYS.routes_log) == [
        (b"%d-0" % first, {b"a": b"{}", b"b": b"{}"}),
        (b"%d-0" % (first + 1), {b"b": b"other", b"c": b"other"}),
    ]
    assert client.hgetall(KEYS.subscription(b"a")) == {b"settings": b"settings", b"at:e1": b"1"}


def test_a_mutation_that_does_not_know_a_registration_is_stale(worker: Worker, client: redis.Redis) -> None:
    engine = Engine(client)
    version = worker.subscribe(b"a", route=b"r")
    with refused(Stale) as stale:
        engine.set(b"s", b"k", b"1")
    assert stale[0].changes == [(version, [b"a", b"r"])]


def test_a_thousand_subscriptions_at_once(worker: Worker, client: redis.Redis) -> None:
    worker.subscribe(*(b"%d" % number for number in range(1000)))
    assert client.hlen(KEYS.routes) == 1000
    assert client.xlen(KEYS.routes_log) == 1


def test_the_versions_of_a_flushed_database_are_met_by_none_of_the_next(worker: Worker, client: redis.Redis) -> None:
    before = [worker.subscribe(b"%d" % number) for number in range(3)]
    time, _ = client.time()
    client.flushall()
    again = Worker(client)
    assert before[0] >= (time - 60) * 10**6
    assert again.subscribe(b"other") not in before


def test_a_lane_goes_on_when_its_event_has_been_acknowledged(worker: Worker, engine: Engine, client: redis.Redis) -> None:
    for number in range(3):
        engine.set(b"s", b"k", b"%d" % number)
    engine.set(b"s", b"other", b"9")
    first = worker.take(b"q")
    assert keys_and_news(first) == [("k", b"0"), ("other", b"9")]
    assert worker.take(b"q") == []
    second = worker.ack(b"q", first, want=10)
    assert keys_and_news(second) == [("k", b"1")]
    assert (second[0].event.event_type, second[0].event.old) == ("state:updated", b"0")
    third = worker.ack(b"q", second, want=10)
    assert keys_and_news(third) == [("k", b"2")]
    assert worker.ack(b"q", third, want=10) == []
    assert client.exists(KEYS.busy(b"q"), KEYS.wait(b"q", lane(b"s", b"k"))) == 0
    assert client.xlen(KEYS.stream(b"q")) == 0


def test_of_large_events_a_few_are_taken_and_the_bell_rings_for_the_rest(worker: Worker, client: redis.Redis) -> None:
    worker.subscribe(b"q")
    engine = Engine(client)
    engine.targets = [BoundedQueue(b"q", 1000, 10**8)]
    text = b'"' + b"x" * 300_000 + b'"'
    for number in range(12):
        engine.set(b"s", b"%02d" % number, b"1" if number == 0 else text)
    bells = client.pubsub()
    bells.subscribe(KEYS.stream(b"q").decode())
    assert bells.get_message(timeout=5)["type"] == "subscribe"
    first = worker.take(b"q")
    assert 2 < len(first) < 12
    assert bells.get_message(timeout=5)["type"] == "message"
    rest = worker.ack(b"q", first, want=100)
    assert 2 < len(rest) < 12 - len(first)
    assert bells.get_message(timeout=5)["type"] == "message"
    taken_in_order = first + rest + worker.take(b"q") + worker.take(b"q")
    assert [delivery.event.key for delivery in taken_in_order] == [f"{number:02d}" for number in range(12)]


def test_an_acknowledgement_made_twice_counts_once(worker: Worker, engine: Engine, client: redis.Redis) -> None:
    for number in range(3):
        engine.set(b"s", b"k", b"%d" % number)
    first = worker.take(b"q")
    assert keys_and_news(worker.ack(b"q", first * 2, want=10)) == [("k", b"1")]
    assert worker.ack(b"q", first, want=10) == []
    assert client.hgetall(KEYS.busy(b"q")) == {lane(b"s", b"k"): b"2", b"entries": b"2", b"bytes": b"8"}


def test_a_fenced_engine_takes_and_ends_nothing(worker: Worker, engine: Engine, client: redis.Redis) -> None:
    engine.set(b"s", b"k", b"1")
    deliveries = worker.take(b"q")
    client.hdel(KEYS.engines.decode(), "e1")
    with pytest.raises(Fenced):
        worker.ack(b"q", deliveries)
    with pytest.raises(Fenced):
        worker.take(b"q")
    with pytest.raises(Fenced):
        worker.subscribe(b"another")
    assert client.xlen(KEYS.stream(b"q")) == 1
    assert not client.exists(KEYS.stream(b"another"))


def test_a_queue_that_is_gone_is_an_error(real: redis.Redis) -> None:
    with pytest.raises(redis.ResponseError, match="NOGROUP"):
        Worker(real).take(b"gone")


def test_a_waiting_list_of_the_wrong_type_ends_nothing(worker: Worker, engine: Engine, client: redis.Redis) -> None:
    engine.set(b"s", b"k", b"1")
    engine.set(b"s", b"k", b"2")
    deliveries = worker.take(b"q")
    client.set(KEYS.wait(b"q", lane(b"s", b"k")), "x")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        worker.ack(b"q", deliveries)
    assert client.xpending(KEYS.stream(b"q"), "engines")["pending"] == 1


def test_the_bell_rings_for_what_the_engine_that_acknowledges_leaves(real: redis.Redis) -> None:
    worker = Worker(real)
    worker.subscribe(b"q")
    engine = Engine(real)
    engine.targets = [BoundedQueue(b"q", 1000, 10**6)]
    for number in range(3):
        engine.set(b"s", b"k", b"%d" % number)
    first = worker.take(b"q")
    with real.pubsub(ignore_subscribe_messages=True) as heard:
        heard.subscribe(KEYS.stream(b"q"))
        assert heard.get_message(timeout=5) is None
        second = worker.ack(b"q", first, want=10)
        assert heard.get_message(timeout=0.05) is None
        worker.ack(b"q", second, want=0)
        assert heard.get_message(timeout=5) is not None


def test_every_event_is_delivered_once_and_in_the_order_of_its_lane(real: redis.Redis) -> None:
    dice = random.Random(11)
    workers = [Worker(real, b"e%d" % number) for number in range(3)]
    workers[0].subscribe(b"q")
    engine = Engine(real)
    engine.targets = [BoundedQueue(b"q", 10**6, 10**9)]
    written: dict[str, list[bytes]] = {}
    handled: dict[str, list[bytes | None]] = {}
    out: list[tuple[Worker, Delivery]] = []
    for number in range(1500):
        key = f"k{dice.randrange(8)}"
        engine.set(b"s", key.encode(), b"%d" % number)
        written.setdefault(key, []).append(b"%d" % number)
        worker = dice.choice(workers)
        out += [(worker, delivery) for delivery in worker.take(b"q", dice.randrange(1, 4))]
        dice.shuffle(out)
        while len(out) > 4:
            holder, delivery = out.pop()
            handled.setdefault(delivery.event.key, []).append(delivery.event.new)
            out += [(holder, more) for more in holder.ack(b"q", [delivery], want=dice.randrange(2))]
    out += [(workers[0], delivery) for delivery in workers[0].take(b"q")]
    while out:
        holder, delivery = out.pop()
        handled.setdefault(delivery.event.key, []).append(delivery.event.new)
        out += [(holder, more) for more in holder.ack(b"q", [delivery], want=10)]
    assert handled == written
    assert not real.exists(KEYS.busy(b"q"))


def test_when_memory_is_full_acknowledging_works(real: redis.Redis) -> None:
    worker = Worker(real)
    worker.subscribe(b"q")
    engine = Engine(real)
    engine.targets = [BoundedQueue(b"q", 1000, 10**6)]
    engine.set(b"s", b"k", b"1")
    engine.set(b"s", b"k", b"2")
    first = worker.take(b"q")
    real.config_set("maxmemory", 1)
    try:
        assert keys_and_news(worker.ack(b"q", first, want=1)) == [("k", b"2")]
    finally:
        real.config_set("maxmemory", 0)


def test_an_acknowledgement_gives_back_what_was_counted(worker: Worker, engine: Engine, client: redis.Redis) -> None:
    for name in ("é😀".encode(), b"x" * 100, b""):
        engine.set(name, name, b'"old"')
        engine.delete(name, name)
    counted = int(client.hget(KEYS.busy(b"q").decode(), "bytes") or 0)
    entries: list[Entry] = []
    deliveries = worker.take(b"q")
    while deliveries:
        entries += [delivery.token for delivery in deliveries]  # type: ignore[misc]
        deliveries = worker.ack(b"q", deliveries, want=10)
    assert len(entries) == 6
    assert sum(entry.size for entry in entries) == counted


def test_an_engine_whose_heart_beats_is_not_fenced(worker: Worker, client: redis.Redis) -> None:
    assert worker.run("fleet/heartbeat", heartbeat(KEYS, b"e1", 60_000, b"host:1"))[0] == b"OK"
    assert worker.run("fleet/fence", fence(KEYS, b"e1")) == 0
    assert worker.run("fleet/takeover", takeover(KEYS, b"q", b"e1", 10)) == [b"ALIVE"]
    client.delete(KEYS.engine(b"e1"))
    assert worker.run("fleet/fence", fence(KEYS, b"e1")) == 1
    assert worker.run("fleet/heartbeat", heartbeat(KEYS, b"e1", 60_000, b"host:1")) == [b"FENCED"]
    assert not client.exists(KEYS.engine(b"e1"))


def test_what_a_fenced_engine_held_is_ready_again_in_its_lanes(worker: Worker, engine: Engine, client: redis.Redis) -> None:
    other = Worker(client, b"e2")
    other.subscribe(b"q")
    for key in (b"a", b"b", b"c"):
        engine.set(b"s", key, b"1")
        engine.set(b"s", key, b"2")
    held = worker.take(b"q")
    assert len(held) == 3
    worker.run("fleet/fence", fence(KEYS, b"e1"))
    assert worker.run("fleet/takeover", takeover(KEYS, b"q", b"e1", 2)) == [b"OK", 2, 0]
    assert worker.run("fleet/takeover", takeover(KEYS, b"q", b"e1", 2)) == [b"OK", 1, 1]
    with pytest.raises(Fenced):
        worker.ack(b"q", held)
    taken_over = other.take(b"q")
    assert keys_and_news(taken_over) == [("a", b"1"), ("b", b"1"), ("c", b"1")]
    assert all(delivery.fence >= 1 and delivery.attempt == 1 for delivery in taken_over)
    following = other.ack(b"q", taken_over, want=10)
    assert keys_and_news(following) == [("a", b"2"), ("b", b"2"), ("c", b"2")]
    other.ack(b"q", following)
    assert client.hgetall(KEYS.subscription(b"q")) == {b"settings": b"settings", b"at:e2": b"1"}
    assert client.xinfo_consumers(KEYS.stream(b"q"), "engines")[0]["name"] == b"e2"
    assert not client.exists(KEYS.hosts(b"e1"))


def test_a_planned_attempt_is_made_ready_once(worker: Worker, engine: Engine, client: redis.Redis) -> None:
    engine.set(b"s", b"k", b"1")
    engine.set(b"s", b"k", b"2")
    (delivery,) = worker.take(b"q")
    entry = delivery.token
    assert isinstance(entry, Entry)
    assert worker.run("queues/retry", retry(KEYS, b"q", b"e1", entry, 0)) == [b"OK", 1]
    assert worker.run("queues/retry", retry(KEYS, b"q", b"e1", entry, 0)) == [b"OK", 0]
    assert worker.take(b"q") == []
    assert worker.run("deadlines/due", due(KEYS, KEYS.later, 10)) == [[b"q:" + entry.id], -1]
    assert worker.run("queues/redeliver", redeliver(KEYS, b"q", [entry.id])) == 1
    assert worker.run("queues/redeliver", redeliver(KEYS, b"q", [entry.id])) == 0
    (second,) = worker.take(b"q")
    assert (second.attempt, second.event_id) == (2, delivery.event_id)
    assert keys_and_news(worker.ack(b"q", [second], want=1)) == [("k", b"2")]


def test_what_is_given_back_keeps_its_attempt(worker: Worker, engine: Engine) -> None:
    engine.set(b"s", b"k", b"1")
    (delivery,) = worker.take(b"q")
    entry = delivery.token
    assert isinstance(entry, Entry)
    worker.run("queues/retry", retry(KEYS, b"q", b"e1", entry, 0))
    worker.run("queues/redeliver", redeliver(KEYS, b"q", [entry.id]))
    (second,) = worker.take(b"q")
    assert isinstance(second.token, Entry)
    assert worker.run("queues/release", release(KEYS, b"q", b"e1", [second.token.id, entry.id])) == [b"OK", 1]
    (third,) = worker.take(b"q")
    assert third.attempt == 2
    assert worker.ack(b"q", [second]) == []
    assert worker.take(b"q") == []


AGAIN_OF_0_1_0 = """
redis.call('XLEN', KEYS[2])
local made = 0
for number = 2, #ARGV do
  if redis.call('ZREM', KEYS[1], ARGV[1] .. ':' .. ARGV[number]) == 1 then
    local entry = redis.call('XRANGE', KEYS[2], ARGV[number], ARGV[number])[1]
    if entry then
      local fields = entry[2]
      fields[14] = tonumber(fields[14] or 1) + 1
      fields[13] = 'a'
      redis.call('XADD', KEYS[2], '*', unpack(fields))
      redis.call('XDEL', KEYS[2], ARGV[number])
      made = made + 1
    end
  end
end
return made
"""


def test_crashes_are_counted_beside_attempts_and_kept_by_an_older_engine(worker: Worker, engine: Engine) -> None:
    engine.set(b"s", b"k", b"1")

    def outcome(*, crashed: bool, by: str = "") -> tuple[int, int]:
        (delivery,) = worker.take(b"q")
        entry = delivery.token
        assert isinstance(entry, Entry)
        worker.run("queues/retry", retry(KEYS, b"q", b"e1", entry, 0, crashed=crashed))
        call = redeliver(KEYS, b"q", [entry.id])
        assert (worker.client.execute_command("EVAL", by, *call) if by else worker.run("queues/redeliver", call)) == 1
        (next_one,) = worker.take(b"q")
        assert isinstance(next_one.token, Entry)
        worker.run("queues/release", release(KEYS, b"q", b"e1", [next_one.token.id]))
        return next_one.attempt, next_one.crashes

    assert outcome(crashed=True) == (1, 1)
    assert outcome(crashed=False) == (2, 1)
    assert outcome(crashed=True) == (2, 2)
    assert outcome(crashed=False, by=AGAIN_OF_0_1_0) == (3, 2)
    assert outcome(crashed=True, by=AGAIN_OF_0_1_0) == (4, 2)  # which does not know of crashes: it costs an attempt
    (delivery,) = worker.take(b"q")
    worker.client.hdel(KEYS.engines, b"e1")
    other = Worker(worker.client, b"e2")
    assert other.run("fleet/takeover", takeover(KEYS, b"q", b"e1", 10)) == [b"OK", 1, 1]
    (taken_over,) = other.take(b"q")
    assert (taken_over.attempt, taken_over.crashes, taken_over.event_id) == (4, 2, delivery.event_id)


def test_a_subscription_ends_when_its_retention_is_over_and_nobody_has_come(worker: Worker, client: redis.Redis) -> None:
    registration = Registration(b"q", b"{}", b"settings", b"0")
    worker.run("subscriptions/subscribe", subscribe(KEYS, b"e1", [registration]))
    assert worker.run("subscriptions/end", end_subscription(KEYS, b"q")) == b"KEPT"
    assert worker.run("subscriptions/abandon", abandon(KEYS, b"q", b"e1")) == 1
    assert worker.run("subscriptions/abandon", abandon(KEYS, b"q", b"e1")) == 0
    worker.run("subscriptions/subscribe", subscribe(KEYS, b"e1", [registration]))
    assert worker.run("deadlines/due", due(KEYS, KEYS.orphans, 10)) == [[], -1]
    worker.run("subscriptions/abandon", abandon(KEYS, b"q", b"e1"))
    assert worker.run("deadlines/due", due(KEYS, KEYS.orphans, 10)) == [[b"q"], -1]
    client.set(KEYS.hold, "1")
    assert worker.run("subscriptions/end", end_subscription(KEYS, b"q")) == b"HOLD"
    client.delete(KEYS.hold)
    assert worker.run("subscriptions/end", end_subscription(KEYS, b"q")) == b"ENDED"
    assert client.hgetall(KEYS.routes) == {}
    assert worker.run("subscriptions/subscribe", subscribe(KEYS, b"e1", [registration])) == [b"ENDING", b"q"]


def test_when_memory_is_full_hearts_beat_and_work_is_taken_over(real: redis.Redis) -> None:
    worker, other = Worker(real), Worker(real, b"e2")
    worker.subscribe(b"q")
    other.subscribe(b"q")
    engine = Engine(real)
    engine.targets = [BoundedQueue(b"q", 1000, 10**6)]
    engine.set(b"s", b"k", b"1")
    (delivery,) = worker.take(b"q")
    other.run("fleet/heartbeat", heartbeat(KEYS, b"e2", 60_000, b"host:2"))
    real.config_set("maxmemory", 1)
    try:
        assert other.run("fleet/heartbeat", heartbeat(KEYS, b"e2", 60_000, b"host:2"))[0] == b"OK"
        assert other.run("fleet/fence", fence(KEYS, b"e1")) == 1
        assert other.run("fleet/takeover", takeover(KEYS, b"q", b"e1", 10)) == [b"OK", 1, 1]
        (again_,) = other.take(b"q")
        assert again_.event_id == delivery.event_id
        assert isinstance(again_.token, Entry)
        assert other.run("queues/retry", retry(KEYS, b"q", b"e2", again_.token, 0)) == [b"OK", 1]
        assert other.run("queues/redeliver", redeliver(KEYS, b"q", [again_.token.id])) == 1
    finally:
        real.config_set("maxmemory", 0)


def test_a_line_lasts_as_long_as_the_last_one_in_it(client: redis.Redis) -> None:
    worker = Worker(client)
    for name, ttl_ms in ((b"a", 500_000), (b"b", 1000)):
        worker.run("fleet/join_succession", join_succession(KEYS, name, ttl_ms))
        assert 400_000 < client.pttl(KEYS.line) <= 500_000
    worker.run("fleet/join_succession", join_succession(KEYS, b"a", 0))
    assert client.exists(KEYS.line)
    worker.run("fleet/join_succession", join_succession(KEYS, b"b", 0))
    assert not client.exists(KEYS.line)


def handle_all(worker: Worker, deliveries: list[Delivery]) -> list[tuple[str, bytes | None]]:
    """Handle what is out and whatever becomes ready then."""
    handled = keys_and_news(deliveries)
    while deliveries:
        deliveries = worker.ack(b"q", deliveries, want=100)
        handled += keys_and_news(deliveries)
    return handled


@pytest.mark.parametrize("length", [1, 80])
@pytest.mark.parametrize("cut", range(1, 9))
def test_a_waiting_list_cut_at_its_beginning_goes_on_with_the_next_whole_event(
    worker: Worker, engine: Engine, client: redis.Redis, cut: int, length: int
) -> None:
    key = b"k" * length
    for number in range(5):
        engine.set(b"s", key, b'"%d"' % number)
    first = worker.take(b"q")
    client.ltrim(KEYS.wait(b"q", lane(b"s", key)).decode(), cut, -1)
    gone = 1 if cut <= 6 else 2
    assert [new for _, new in handle_all(worker, first)] == [b'"%d"' % number for number in (0, *range(1 + gone, 5))]
    assert client.hgetall(KEYS.busy(b"q")) == {b"lost": b"%d" % gone}
    assert not client.exists(KEYS.wait(b"q", lane(b"s", key)))


@pytest.mark.parametrize("cut", range(1, 7))
def test_a_waiting_list_cut_at_its_end_goes_on_behind_what_is_cut(
    worker: Worker, engine: Engine, client: redis.Redis, cut: int
) -> None:
    for number in range(4):
        engine.set(b"s", b"k", b"%d" % number)
    engine.delete(b"s", b"k")
    first = worker.take(b"q")
    client.ltrim(KEYS.wait(b"q", lane(b"s", b"k")).decode(), 0, -1 - cut)
    for number in range(5, 8):
        engine.set(b"s", b"k", b"%d" % number)
    assert [new for _, new in handle_all(worker, first)] == [b"0", b"1", b"2", b"3", b"5", b"6", b"7"]
    assert client.hgetall(KEYS.busy(b"q")) == {b"lost": b"1"}


def test_items_that_somebody_has_put_into_a_waiting_list_are_skipped(worker: Worker, engine: Engine, client: redis.Redis) -> None:
    for number in range(3):
        engine.set(b"s", b"k", b"%d" % number)
    first = worker.take(b"q")
    client.lpush(KEYS.wait(b"q", lane(b"s", b"k")), "junk", b"\xff", "")
    client.rpush(KEYS.wait(b"q", lane(b"s", b"k")), "w", "s", "k", "expired", "", "1")
    assert [new for _, new in handle_all(worker, first)] == [b"0", b"1", b"2"]
    assert client.hgetall(KEYS.busy(b"q")) == {b"lost": b"1"}  # six items that are no event count as one that was
    assert client.xlen(KEYS.stream(b"q")) == 0


def test_events_of_another_lane_are_not_made_ready(worker: Worker, engine: Engine, client: redis.Redis) -> None:
    for number in range(4):
        engine.set(b"s", b"a", b"%d" % number)
        engine.set(b"s", b"b", b"%d" % number)
    first = worker.take(b"q")
    client.rename(KEYS.wait(b"q", lane(b"s", b"a")), KEYS.wait(b"q", lane(b"s", b"b")))
    assert sorted(handle_all(worker, first)) == [("a", b"0"), ("b", b"0")]
    assert client.hgetall(KEYS.busy(b"q")) == {b"lost": b"6"}
    assert client.keys("iii-state:wait:*") == []


def test_where_nothing_is_found_among_many_items_the_lane_stays_counted(
    worker: Worker, engine: Engine, client: redis.Redis
) -> None:
    wait = KEYS.wait(b"q", lane(b"s", b"k"))
    engine.set(b"s", b"k", b"0")
    engine.set(b"s", b"k", b"1")
    first = worker.take(b"q")
    client.lpush(wait, *(["junk"] * 1500))
    assert keys_and_news(worker.ack(b"q", first, want=10)) == []
    assert client.llen(wait.decode()) == 306
    assert int(client.hget(KEYS.busy(b"q").decode(), lane(b"s", b"k").decode()) or 0) == 51


def test_an_entry_that_is_no_event_hides_no_other(worker: Worker, engine: Engine, client: redis.Redis) -> None:
    engine.set(b"s", b"a", b"1")
    stream = KEYS.stream(b"q")
    whole = {"w": "w", "s": "s", "k": "k", "t": "updated", "o": "1", "n": "2"}
    put = [
        client.xadd(stream, fields)  # type: ignore[arg-type]
        for fields in (
            {"w": "a", "s": "s"},
            {**whole, "s": b"\xff"},
            {**whole, "w": b"\xff"},
            {**whole, "t": "zzz"},
            {**whole, "a": "many"},
        )
    ]
    engine.set(b"s", b"b", b"1")
    reply = worker.run("queues/take", take(KEYS, b"q", worker.engine, 100))
    deliveries, wrong = taken(reply, "id")
    assert keys_and_news(deliveries) == [("a", b"1"), ("b", b"1")]
    assert wrong == put
    assert worker.run("repair/drop_entries", drop_entries(KEYS, b"q", wrong)) == 5
    assert worker.run("repair/drop_entries", drop_entries(KEYS, b"q", wrong)) == 0
    assert client.xpending(stream, "engines")["pending"] == 2
    assert client.hget(KEYS.subscription(b"q").decode(), "lost") == b"5"


HOUR_MS = 3_600_000


def bury(worker: Worker, queue: bytes, most: int = 1000) -> Any:
    """Make a dead letter of everything that is ready."""
    reply = None
    for delivery in worker.take(queue):
        assert isinstance(delivery.token, Entry)
        reply = worker.run("queues/dead_letter", dead_letter(KEYS, queue, worker.engine, delivery.token, 1, "boom", "f", most))
    return reply


def test_dead_letters_go_by_the_time_of_the_fleet_and_not_by_that_of_a_clock_that_was_set(
    worker: Worker, engine: Engine, client: redis.Redis
) -> None:
    engine.set(b"s", b"a", b"1")
    bury(worker, b"q")
    seconds, micros = client.time()
    now = int(seconds) * 1000 + int(micros) // 1000
    # As if Redis's clock had been set ahead by ten hours since: the fleet's time went on as before.
    client.hset(KEYS.clock, mapping={"offset": -10 * HOUR_MS, "last": now, "until": now + HOUR_MS})
    later = now - 10 * HOUR_MS
    ((_, fields),) = cast("Any", client.xrange(KEYS.dead(b"q")))
    client.delete(KEYS.dead(b"q"))
    buried_at = later - HOUR_MS // 2
    client.xadd(KEYS.dead(b"q"), {**fields, b"b": b"%d" % buried_at}, id=f"{buried_at}-0")
    call = drop_old_dead_letters(KEYS, b"q", HOUR_MS)
    dropped, function_id, following = worker.run("queues/drop_old_dead_letters", call)
    assert (dropped, function_id) == (0, b"")
    assert 0 < following <= HOUR_MS, "by the clock it would be ten hours old"


def test_dead_letters_of_an_older_engine_go_by_the_time_of_redis(worker: Worker, client: redis.Redis) -> None:
    fields: Any = dict.fromkeys("wsktonae", b"x") | {"f": b"f"}
    seconds, _ = client.time()
    for number in range(DEAD_LETTERS_AT_ONCE + 1):
        client.xadd(KEYS.dead(b"q"), fields, id=f"{(int(seconds) - 7200) * 1000 + number}-0")
    client.xadd(KEYS.dead(b"q"), fields)
    client.sadd(KEYS.dead_queues, b"q")
    call = drop_old_dead_letters(KEYS, b"q", HOUR_MS)
    assert worker.run("queues/drop_old_dead_letters", call) == [DEAD_LETTERS_AT_ONCE, b"f", 0]
    dropped, _, following = worker.run("queues/drop_old_dead_letters", call)
    assert dropped == 1
    assert following > 0
    assert client.xlen(KEYS.dead(b"q")) == 1
    assert client.exists(KEYS.subscription(b"q")) == 0, "a queue that is gone does not come back for being counted"
    assert worker.run("queues/drop_old_dead_letters", drop_old_dead_letters(KEYS, b"q", 0)) == [1, b"f", -1]
    assert client.exists(KEYS.dead(b"q"), KEYS.dead_queues) == 0


def test_dead_letters_that_go_for_their_number_are_counted(worker: Worker, engine: Engine, client: redis.Redis) -> None:
    for key in (b"a", b"b", b"c"):
        engine.set(b"s", key, b"1")
    bury(worker, b"q", most=1)
    assert client.xlen(KEYS.dead(b"q")) == 1
    assert client.hget(KEYS.subscription(b"q"), "dropped") == b"2"


def test_queues_are_found_that_hold_what_no_engine_has_taken(worker: Worker, engine: Engine, client: redis.Redis) -> None:
    engine.routes_version = worker.subscribe(b"idle")
    queues = (b"none", b"idle", b"q", b"broken")
    client.set(KEYS.stream(b"broken"), "no stream")  # taking from it says so

    def found() -> list[bytes]:
        streams = [KEYS.stream(queue) for queue in queues]
        return [queues[number - 1] for number in worker.run("queues/find_ready", [b"%d" % len(streams), *streams])]

    assert found() == [b"broken"]
    for key in (b"1", b"2"):
        engine.set(b"s", key, b"0")
    assert found() == [b"q", b"broken"]
    (first,) = worker.take(b"q", 1)
    assert found() == [b"q", b"broken"]
    (second,) = worker.take(b"q", 1)
    assert found() == [b"broken"]
    worker.ack(b"q", [first, second])
    engine.set(b"s", b"1", b"1")
    assert found() == [b"q", b"broken"]
