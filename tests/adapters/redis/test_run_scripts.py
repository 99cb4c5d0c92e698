"""queues/ack_run.lua: what it ends, what it takes and reads, and when it ends nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import redis

from iii_state.adapters.redis.keys import Keys, lane
from iii_state.adapters.redis.scripts.loader import script
from iii_state.adapters.redis.scripts.mutations import BoundedQueue
from iii_state.adapters.redis.scripts.queues import RunStep, ack, ack_run, following, take, taken
from iii_state.adapters.redis.scripts.subscriptions import Registration, subscribe
from iii_state.events import Delivery
from tests.support.redis.script_engine import Engine

KEYS = Keys()
BUSY, STREAM, LINEAGES = KEYS.busy(b"q"), KEYS.stream(b"q"), KEYS.lineages(b"q")
LANE = lane(b"s", b"k")
WAIT = KEYS.wait(b"q", LANE)


class Lane:
    """An engine that handles a lane, `k` of the scope `s`."""

    def __init__(self, client: Any) -> None:
        self.client = client
        client.hset(KEYS.engines, b"e1", "now")
        self._run("subscriptions/subscribe", subscribe(KEYS, b"e1", [Registration(b"q", b"{}", b"settings")]))
        self.engine = Engine(client)
        self.engine.targets = [BoundedQueue(b"q", 1000, 10**7)]

    def _run(self, name: str, call: list[bytes]) -> Any:
        return self.client.execute_command("EVAL", script(name).source, *call)

    def write(self, *values: bytes, key: bytes = b"k") -> None:
        for value in values:
            self.engine.set(b"s", key, value)

    def take(self, count: int = 100, engine: bytes = b"e1") -> list[Delivery]:
        return taken(self._run("queues/take", take(KEYS, b"q", engine, count)), "id", b"q", engine)[0]

    def ack(self, delivery: Delivery) -> None:
        self._run("queues/ack", ack(KEYS, b"q", b"e1", [delivery.token], 0))  # type: ignore[list-item]

    def end(
        self,
        head: Delivery,
        handled: Sequence[Delivery] = (),
        known: Sequence[Delivery] = (),
        *,
        want: int = 0,
        keep: bool = False,
        peek: int = 15,
        **more: Any,
    ) -> Any:
        """The reply."""
        return self._run("queues/ack_run", ack_run(KEYS, RunStep(head, handled, known, want, keep, peek, **more)))

    def go_on(self, head: Delivery) -> tuple[Delivery, list[Delivery]]:
        """The next one of the lane, which has to be taken, and what follows it."""
        reply = self.end(head, want=1)
        assert reply[0] == b"OK"
        (first,) = taken(reply, "id", b"q", b"e1")[0]
        return first, following(reply, first)


@pytest.fixture
def hot(client: redis.Redis) -> Lane:
    return Lane(client)


def news(deliveries: list[Delivery]) -> list[bytes | None]:
    return [delivery.event.new for delivery in deliveries]


def test_the_next_event_is_taken_and_what_waits_behind_it_is_read_and_stays(hot: Lane) -> None:
    hot.write(b"0", b"1", b"2", b"3")
    (head,) = hot.take()
    first, behind = hot.go_on(head)
    assert (first.event.new, news(behind)) == (b"1", [b"2", b"3"])
    assert [(each.event.old, each.event.event_type, each.event_id) for each in behind] == [
        (b"1", "state:updated", behind[0].event_id),
        (b"2", "state:updated", behind[1].event_id),
    ]
    assert hot.client.llen(WAIT) == 12
    assert hot.client.xpending(STREAM, "engines")["pending"] == 1
    assert hot.client.hget(BUSY, LANE) == b"3"


def test_what_has_been_handled_ends_together_and_nothing_is_left_of_it(hot: Lane) -> None:
    hot.write(b"0", b"1", b"2", b"3")
    (head,) = hot.take()
    first, behind = hot.go_on(head)
    reply = hot.end(first, behind[:1], behind[1:], keep=True)
    assert reply[:3] == [b"OK", 2, []]
    (third,) = taken(reply, "id", b"q", b"e1")[0]
    assert third.event_id == behind[1].event_id
    assert hot.end(third)[:2] == [b"OK", 1]
    assert not hot.client.exists(BUSY, WAIT)
    assert hot.client.xlen(STREAM) == 0


def test_no_event_is_ready_for_another_engine_while_one_of_its_lane_runs(hot: Lane) -> None:
    hot.client.hset(KEYS.engines, b"e2", "now")
    hot.write(b"0", b"1", b"2", b"3")
    (head,) = hot.take()
    first, behind = hot.go_on(head)
    hot.write(b"9", key=b"other")
    reply = hot.end(first, behind[:1], behind[1:], keep=True, want=0)
    assert reply[:3] == [b"KEPT", 0, []]
    assert news(taken(reply, "id", b"q", b"e1")[0]) == [b"9"]
    assert hot.client.xpending(STREAM, "engines")["pending"] == 2
    assert (hot.client.llen(WAIT), hot.client.hget(BUSY, LANE)) == (12, b"3")
    assert hot.take(engine=b"e2") == []
    assert hot.end(first, behind[:1], behind[1:], keep=True)[:2] == [b"OK", 2]
    assert hot.take(engine=b"e2") == []


def test_where_nothing_runs_the_next_event_is_ready_for_whoever_comes_first(hot: Lane) -> None:
    hot.client.hset(KEYS.engines, b"e2", "now")
    hot.write(b"0", b"1", b"2")
    (head,) = hot.take()
    first, behind = hot.go_on(head)
    assert hot.end(first, want=0) == [b"OK", 1, [], [], 0]
    assert news(hot.take(engine=b"e2")) == news(behind)


def test_a_fenced_engine_ends_and_reads_nothing(hot: Lane) -> None:
    hot.write(b"0", b"1", b"2")
    (head,) = hot.take()
    hot.client.hdel(KEYS.engines, b"e1")
    assert hot.end(head, want=1) == [b"FENCED"]
    assert (hot.client.xlen(STREAM), hot.client.llen(WAIT)) == (1, 12)


def test_a_call_that_is_made_again_answers_what_it_has_taken(hot: Lane) -> None:
    hot.write(b"0", b"1", b"2", b"3")
    (head,) = hot.take()
    first, behind = hot.go_on(head)
    once = hot.end(first, behind[:1], behind[1:], keep=True)
    hot.write(b"9", key=b"other")
    again = hot.end(first, behind[:1], behind[1:], keep=True)
    assert (again[0], again[3]) == (b"OK", once[3])
    assert hot.client.hget(BUSY, LANE) == b"1"


def test_a_delivery_that_is_pending_no_more_ends_nothing(hot: Lane) -> None:
    hot.write(b"0", b"1", b"2", b"3")
    (head,) = hot.take()
    first, behind = hot.go_on(head)
    hot.client.xack(STREAM, "engines", first.token.id)  # type: ignore[attr-defined]
    assert hot.end(first, behind[:1], behind[1:], keep=True) == [b"GONE", 0, [], [], 0]
    assert hot.client.llen(WAIT) == 12


def test_what_an_earlier_call_has_taken_is_ended_by_the_next(hot: Lane) -> None:
    hot.write(b"0", b"1", b"2", b"3", b"4")
    (head,) = hot.take()
    first, behind = hot.go_on(head)
    hot.end(first, [], behind, keep=True)
    reply = hot.end(first, behind[:2], behind[2:], keep=True)
    assert reply[:2] == [b"OK", 2]
    assert news(taken(reply, "id", b"q", b"e1")[0]) == [b"4"]
    assert hot.client.hget(BUSY, LANE) == b"1"


def test_what_somebody_has_dropped_after_it_was_handled_is_passed_over(hot: Lane) -> None:
    hot.write(b"0", b"1", b"2", b"3", b"4")
    (head,) = hot.take()
    first, behind = hot.go_on(head)
    hot.client.ltrim(WAIT, 6, -1)  # the oldest
    hot.client.hset(BUSY, LANE, 3)
    reply = hot.end(first, behind[:2], behind[2:], keep=True)
    assert reply[:2] == [b"OK", 2]
    assert news(taken(reply, "id", b"q", b"e1")[0]) == [b"4"]
    hot.write(b"5", b"6")
    (last,) = taken(reply, "id", b"q", b"e1")[0]
    stranger = behind[0]
    assert hot.end(last, [stranger], want=1)[:2] == [b"OK", 1]
    assert hot.client.llen(WAIT) == 6


def test_where_somebody_has_dropped_what_runs_nothing_of_its_lane_becomes_ready(hot: Lane) -> None:
    hot.write(b"0", b"1", b"2", b"3", b"4")
    (head,) = hot.take()
    first, behind = hot.go_on(head)
    for _ in range(3):  # until nothing is left of the lane
        hot.client.ltrim(WAIT, 6, -1)
        assert hot.end(first, [], behind, keep=True)[:3] == [b"OTHER", 0, []]
        assert hot.client.xpending(STREAM, "engines")["pending"] == 1
        assert hot.take() == []


@pytest.mark.parametrize(("size", "read"), [(10, 15), (2000, 15), (4000, 8), (5000, 1), (9000, 0)])
def test_what_is_read_ahead_is_bounded_in_number_and_bytes(hot: Lane, size: int, read: int) -> None:
    hot.write(b"0", b"0", *(b'"%s"' % (b"x" * size) for _ in range(30)))
    (head,) = hot.take()
    _, behind = hot.go_on(head)
    total = sum(len(each.event.old or b"") + len(each.event.new or b"") for each in behind)
    assert total <= 65536
    assert abs(len(behind) - read) <= 1


def test_reading_goes_on_behind_what_is_known(hot: Lane) -> None:
    hot.write(*(b"%d" % number for number in range(12)))
    (head,) = hot.take()
    reply = hot.end(head, want=1, peek=3)
    (first,) = taken(reply, "id", b"q", b"e1")[0]
    behind = following(reply, first)
    assert news(behind) == [b"2", b"3", b"4"]
    reply = hot.end(first, behind[:1], behind[1:], keep=True, peek=4)
    assert news(following(reply, first)) == [b"5", b"6", b"7", b"8"]


def test_what_the_write_was_made_within_comes_along(hot: Lane) -> None:
    hot.write(b"0", b"1")
    hot.client.rpush(WAIT, b"+e-2", b"s", b"k", b"updated", b"1", b"2")
    hot.client.hset(BUSY, LANE, 3)
    hot.client.hset(LINEAGES, b"+e-2", b"00-0123456789abcdef0123456789abcdef-0123456789abcdef-01 3")
    (head,) = hot.take()
    first, behind = hot.go_on(head)
    assert [each.event.write_id for each in behind] == ["+e-2"]
    assert hot.client.hlen(LINEAGES) == 1
    hot.end(first, behind, want=1)
    assert hot.client.hlen(LINEAGES) == 0


def test_a_list_of_another_program_is_not_read_on(hot: Lane) -> None:
    hot.write(b"0", b"1", b"2", b"3")
    hot.client.lset(WAIT, 7, b"another scope")
    (head,) = hot.take()
    assert hot.go_on(head)[1] == []


def test_one_that_failed_is_made_ready_as_its_next_attempt(hot: Lane) -> None:
    hot.write(b"0", b"1", b"2", b"3")
    (head,) = hot.take()
    first, behind = hot.go_on(head)
    assert hot.end(first, [], behind, attempt=2, crashes=1, peek=0)[:2] == [b"OK", 1]
    (again,) = hot.take()
    assert (again.event_id, again.attempt, again.crashes, again.fence) == (behind[0].event_id, 2, 1, 0)
    hot.ack(again)
    assert [(each.event.new, each.attempt) for each in hot.take()] == [(b"3", 1)]


def test_one_that_may_still_run_comes_with_a_higher_fence(hot: Lane) -> None:
    hot.write(b"0", b"1", b"2", b"3")
    (head,) = hot.take()
    first, behind = hot.go_on(head)
    hot.end(first, [], behind, begun=True, peek=0)
    assert [(each.event_id, each.attempt, each.fence) for each in hot.take()] == [(behind[0].event_id, 1, 1)]


def test_where_somebody_has_removed_what_was_counted_it_is_counted_anew(hot: Lane) -> None:
    hot.write(*(b"%d" % number for number in range(8)))
    (head,) = hot.take()
    first, behind = hot.go_on(head)
    hot.client.delete(BUSY)
    assert hot.end(first, behind[:2], behind[2:], keep=True)[:2] == [b"OK", 3]
    counted = hot.client.hgetall(BUSY)
    assert (counted[LANE], counted[b"entries"], counted[b"doubt"]) == (b"4", b"4", b"1")


def test_a_list_of_the_wrong_type_ends_nothing(hot: Lane) -> None:
    hot.write(b"0", b"1")
    (head,) = hot.take()
    hot.client.set(WAIT, "x")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        hot.end(head, want=1)
    assert hot.client.xpending(STREAM, "engines")["pending"] == 1


def test_the_bell_rings_for_what_is_left_to_others(real: redis.Redis) -> None:
    hot = Lane(real)
    hot.write(b"0", b"1", b"2", b"3")
    (head,) = hot.take()
    with real.pubsub(ignore_subscribe_messages=True) as heard:
        heard.subscribe(STREAM)
        assert heard.get_message(timeout=5) is None
        first, behind = hot.go_on(head)
        hot.end(first, [], behind, keep=True)
        assert heard.get_message(timeout=0.05) is None
        hot.end(hot_head(hot), want=0)
        assert heard.get_message(timeout=5) is not None


def hot_head(hot: Lane) -> Delivery:
    """The delivery that is pending."""
    ((entry_id, fields),) = hot.client.xrange(STREAM)
    flat = [part for pair in fields.items() for part in pair]
    return taken([b"OK", [[entry_id, flat]], 0], "id", b"q", b"e1")[0][0]


def test_of_a_paused_subscription_a_run_takes_nothing_more(hot: Lane) -> None:
    hot.write(b"1", b"2", b"3", b"4")
    (first,) = hot.take()
    second, known = hot.go_on(first)
    hot.client.hset(KEYS.paused, b"q", b"1 {}")
    assert hot.end(second, known=known, keep=True)[:4] == [b"PAUSED", 0, [], []]  # what runs here stays where it is
    assert hot.end(second, [known[0]], want=5)[:4] == [b"PAUSED", 2, [], []]
    assert hot.take() == []
    hot.client.hdel(KEYS.paused, b"q")
    assert news(hot.take()) == [b"4"]
