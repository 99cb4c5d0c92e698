"""Runs: what an engine handles of a hot lane ahead of its acknowledgements, and what becomes of it when something comes between."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from iii_state.adapters.redis import RedisAdapter
from iii_state.adapters.redis.keys import Keys, lane
from iii_state.events import Batch, Delivery, Failure, RetryPolicy, Subscription
from tests.support.redis.adapters import Open
from tests.support.redis.proxy import Proxy
from tests.support.redis.server import RedisServer
from tests.support.waiting import answer_of, until

ALL = Subscription("all", scope="s")
KEYS = Keys()
FAILED = Failure("FAILED", "it failed")


class Hot:
    """An adapter that handles a lane, and its events as a dispatcher starts them."""

    def __init__(self, adapter: RedisAdapter, subscription: Subscription, server: RedisServer) -> None:
        self.queues = adapter.queues
        self.adapter = adapter
        self.subscription = subscription
        self.client = server.client
        self.ready: list[Delivery] = []
        """What may be started now."""

    @classmethod
    async def begin(
        cls, opened: Open, server: RedisServer, subscription: Subscription = ALL, events: int = 12, **settings: Any
    ) -> Hot:
        """The third event of a lane is taken, and what follows it is known."""
        hot = cls(await opened(**settings), subscription, server)
        await answer_of(hot.queues.subscribe(subscription))
        await hot.write(*range(events))
        hot.ready = await answer_of(hot.queues.take(subscription.id, 1))
        await hot.ack(hot.start(), want=1)
        await hot.ack(hot.start(), want=1)
        return hot

    async def write(self, *values: int, key: str = "k") -> None:
        for value in values:
            await answer_of(self.adapter.values.set("s", key, b"%d" % value))

    def start(self) -> Delivery:
        """Start what may be started first."""
        delivery = self.ready.pop(0)
        assert self.queues.holds(delivery)
        delivery.begun = True
        return delivery

    def returned(self, delivery: Delivery) -> Delivery:
        """Its handler has returned."""
        delivery.returned = True
        following, delivery.following = delivery.following, None
        if following is not None:
            self.ready.insert(0, following)
        return delivery

    def acked(self, delivery: Delivery, want: int = 0) -> asyncio.Future[None]:
        """It is acknowledged when this is done."""
        return asyncio.ensure_future(self._received(self.queues.ack([self.returned(delivery)], want, ahead=True)))

    async def _received(self, answer: Any) -> None:
        self.ready += await answer_of(answer)

    async def ack(self, delivery: Delivery, want: int = 0) -> None:
        await self.acked(delivery, want)

    async def rest(self) -> list[int]:
        """Everything that is left, handled one after the other."""
        seen = list[int]()

        async def is_empty() -> bool:
            self.ready += await answer_of(self.queues.take(self.subscription.id, 100))
            while self.ready:
                delivery = self.start()
                seen.append(int(delivery.event.new or b"-1"))
                await self.ack(delivery, want=10)
            return not self.client.exists(KEYS.busy(self.queue))

        await until(is_empty)
        assert not len(self.queues._runs)
        return seen

    @property
    def queue(self) -> bytes:
        return self.subscription.id.encode()

    @property
    def waiting(self) -> int:
        """How many events lie in the list of the lane."""
        length: int = self.client.llen(KEYS.wait(self.queue, lane(b"s", b"k")))
        return length // 6

    @property
    def pending(self) -> int:
        count: int = self.client.xpending(KEYS.stream(self.queue), "engines")["pending"]
        return count


def number(delivery: Delivery | None) -> int:
    assert delivery is not None
    return int(delivery.event.new or b"-1")


async def test_what_follows_in_a_hot_lane_may_start_before_the_acknowledgement_is_written(
    opened: Open, server: RedisServer
) -> None:
    hot = await Hot.begin(opened, server)
    delivery = hot.start()
    assert (number(delivery), number(delivery.following)) == (2, 3)
    acked = hot.acked(delivery)
    assert [number(each) for each in hot.ready] == [3]
    await acked
    assert hot.pending == 1
    assert await hot.rest() == list(range(3, 12))


async def test_who_does_not_start_ahead_is_told_of_nothing_that_follows(opened: Open, server: RedisServer) -> None:
    adapter = await opened()
    await answer_of(adapter.queues.subscribe(ALL))
    for value in range(5):
        await answer_of(adapter.values.set("s", "k", b"%d" % value))
    taken = await answer_of(adapter.queues.take(ALL.id, 1))
    for _ in range(5):
        assert taken[0].following is None
        taken = await answer_of(adapter.queues.ack(taken, 1))


async def test_events_handled_while_an_acknowledgement_is_under_way_go_with_the_next(opened: Open, server: RedisServer) -> None:
    hot = await Hot.begin(opened, server)
    calls = hot.client.info("commandstats")["cmdstat_evalsha"]["calls"]
    acked = [hot.acked(hot.start()) for _ in range(8)]
    await asyncio.gather(*acked)
    assert hot.client.info("commandstats")["cmdstat_evalsha"]["calls"] - calls <= 2
    assert hot.waiting == 1
    assert await hot.rest() == [10, 11]


async def test_while_another_lane_is_ready_a_run_is_acknowledged_at_its_end(opened: Open, server: RedisServer) -> None:
    hot = await Hot.begin(opened, server, events=6)
    await hot.write(100, key="a")
    await hot.write(101, key="b")
    first = hot.acked(hot.start())
    running = hot.start()
    await first
    assert [number(each) for each in hot.ready] == [100]
    assert (hot.pending, hot.waiting) == (2, 3)
    hot.ready.clear()
    acked = [hot.acked(running), hot.acked(hot.start()), hot.acked(hot.start())]
    await asyncio.gather(*acked)
    assert hot.waiting == 0
    assert hot.pending == 1


async def test_one_that_fails_in_mid_run_is_tried_again_and_nothing_behind_it_starts(opened: Open, server: RedisServer) -> None:
    hot = await Hot.begin(opened, server)
    acked = [hot.acked(hot.start()) for _ in range(2)]
    failing = hot.start()
    assert failing.following is not None
    await answer_of(hot.queues.retry(failing, 1, FAILED))
    await asyncio.gather(*acked)
    assert hot.ready == []
    (again,) = await until(lambda: hot.queues.take(ALL.id, 1))
    assert (number(again), again.attempt, again.event_id) == (4, 2, failing.event_id)
    hot.ready = [again]
    assert await hot.rest() == list(range(4, 12))


async def test_one_that_fails_before_those_ahead_of_it_are_acknowledged_is_tried_again(opened: Open, server: RedisServer) -> None:
    hot = await Hot.begin(opened, server)
    returned = [hot.returned(hot.start()) for _ in range(3)]
    failing = hot.start()
    retried = hot.queues.retry(failing, 1, FAILED)
    await answer_of(hot.queues.ack(returned, 0, ahead=True))
    await answer_of(retried)
    (again,) = await until(lambda: hot.queues.take(ALL.id, 1))
    assert (number(again), again.attempt, again.event_id) == (5, 2, failing.event_id)


@pytest.mark.parametrize("crashed", [False, True])
async def test_one_that_fails_while_another_lane_is_ready_waits_for_its_next_attempt_here(
    opened: Open, server: RedisServer, crashed: bool
) -> None:
    hot = await Hot.begin(opened, server, events=6)
    await hot.write(100, key="a")
    await hot.write(101, key="b")
    await hot.write(102, key="c")
    await hot.ack(hot.start())
    failing = next(each for each in hot.ready if each.event.key == "k")
    failing.begun = True
    await answer_of(hot.queues.retry(failing, 20, FAILED, crashed=crashed))
    again = await until(lambda: taken_of_k(hot))
    assert again is not None
    assert (number(again), again.attempt, again.crashes) == (3, 1 if crashed else 2, int(crashed))


async def taken_of_k(hot: Hot) -> Delivery | None:
    for delivery in await answer_of(hot.queues.take(ALL.id, 10)):
        if delivery.event.key == "k":
            found: Delivery = delivery
            return found
    return None


async def test_one_of_a_run_becomes_a_dead_letter_and_its_lane_goes_on(opened: Open, server: RedisServer) -> None:
    hot = await Hot.begin(opened, server)
    acked = hot.acked(hot.start())
    await answer_of(hot.queues.dead_letter(hot.start(), FAILED))
    await acked
    (letter,) = await answer_of(hot.adapter.admin.dead_letters())
    assert (letter.event.new, letter.attempts) == (b"3", 1)
    assert await hot.rest() == list(range(4, 12))


async def test_what_was_not_started_is_given_back_and_stays_where_it_was(opened: Open, server: RedisServer) -> None:
    hot = await Hot.begin(opened, server)
    delivery = hot.start()
    acked = hot.acked(delivery)
    given_back = hot.ready.pop()
    await answer_of(hot.queues.release([given_back]))
    assert not hot.queues.holds(given_back)
    await acked
    assert await hot.rest() == list(range(3, 12))


async def test_one_that_may_still_run_is_given_back_with_a_higher_fence(opened: Open, server: RedisServer) -> None:
    hot = await Hot.begin(opened, server)
    acked = hot.acked(hot.start())
    running = hot.start()
    await answer_of(hot.queues.release([running], begun=True))
    await acked
    (again,) = await answer_of(hot.queues.take(ALL.id, 1))
    assert (number(again), again.attempt, again.fence) == (3, 1, running.fence + 1)


async def test_an_engine_that_was_declared_dead_starts_nothing_more_of_a_run(opened: Open, server: RedisServer) -> None:
    hot = await Hot.begin(opened, server, heartbeat_ttl_ms=300)
    other = await opened()
    await answer_of(other.queues.subscribe(ALL))
    delivery = hot.start()
    following = delivery.following
    assert following is not None
    fence = delivery.fence
    hot.client.delete(KEYS.engine(hot.queues._engine.id))
    hot.client.hdel(KEYS.engines, hot.queues._engine.id)
    hot.client.sadd(KEYS.fenced, hot.queues._engine.id)
    await hot.ack(delivery)
    assert not hot.queues.holds(following)
    (again,) = await until(lambda: other.queues.take(ALL.id, 1))
    assert (number(again), again.fence) == (2, fence + 1)


async def test_a_reply_that_got_lost_is_answered_again_and_nothing_runs_twice(
    opened: Open, server: RedisServer, proxy: Proxy
) -> None:
    hot = await Hot.begin(opened, server, url=proxy.url)
    proxy.loses_replies = True
    acked = [hot.acked(hot.start()) for _ in range(3)]
    running = hot.start()
    await until(lambda: hot.waiting < 9)
    proxy.loses_replies = False
    proxy.cut_all()
    await asyncio.gather(*acked)
    await hot.ack(running)
    assert await hot.rest() == list(range(6, 12))


DROPS = Subscription("all", scope="s", on_full="drop_oldest", max_queue_length=10)


@pytest.mark.parametrize("fails", [False, True])
async def test_where_the_expected_event_was_dropped_the_next_waits_until_it_has_returned(
    opened: Open, server: RedisServer, fails: bool
) -> None:
    hot = await Hot.begin(opened, server, DROPS, events=10)
    handled = hot.returned(hot.start())
    running = hot.start()
    await hot.write(10, 11, 12)
    acked = hot.acked(handled)
    await acked
    assert (hot.ready, hot.pending, hot.waiting) == ([], 1, 9)
    if fails:
        await answer_of(hot.queues.retry(running, 1, FAILED))
    else:
        await hot.ack(running, want=1)
        assert [number(each) for each in hot.ready] == [4]
    assert await hot.rest() == list(range(4, 13))


async def test_what_was_dropped_after_it_was_handled_holds_up_nothing(opened: Open, server: RedisServer) -> None:
    hot = await Hot.begin(opened, server, DROPS, events=10)
    returned = [hot.returned(hot.start()) for _ in range(3)]
    running = hot.start()
    await hot.write(10, 11, 12, 13)
    hot.ready += await answer_of(hot.queues.ack(returned, 0, ahead=True))
    assert hot.waiting == 8
    await hot.ack(running)
    assert await hot.rest() == list(range(6, 14))


@pytest.mark.parametrize(
    "subscription",
    [
        Subscription("all", scope="s", coalesce=True),
        Subscription("all", scope="s", batch=Batch(3)),
        Subscription("all", scope="s", retry=RetryPolicy(max_attempts=1)),
    ],
)
async def test_nothing_runs_ahead_where_it_could_become_wrong(
    opened: Open, server: RedisServer, subscription: Subscription
) -> None:
    adapter = await opened()
    await answer_of(adapter.queues.subscribe(subscription))
    for value in range(5):
        await answer_of(adapter.values.set("s", "k", b"%d" % value))
    taken = await answer_of(adapter.queues.take(subscription.id, 1))
    while taken:
        assert taken[0].following is None
        taken = await answer_of(adapter.queues.ack(taken, 1, ahead=True))
        assert not len(adapter.queues._runs)
