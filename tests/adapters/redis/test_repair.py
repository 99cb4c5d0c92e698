"""Looking for damage: what is lost is counted exactly and told once, and a healthy queue under traffic is never taken for a damaged
one."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

import pytest

from iii_state.adapters.redis import RedisAdapter
from iii_state.adapters.redis.fleet import mending
from iii_state.adapters.redis.fleet.mending import BYTES_PER_SECOND, PAGE_BYTES
from iii_state.adapters.redis.mutations.routes import MOST_ALIKE
from iii_state.adapters.wall_clock import now_ms
from iii_state.errors import StoreError
from iii_state.events import Delivery, Failure, Subscription
from tests.support.redis.adapters import adapter_on
from tests.support.redis.server import RedisServer
from tests.support.waiting import answer_of, until

ONE = Subscription("one", scope="s")
OFTEN = Subscription("often", scope="s", retention_ms="forever")
QUEUE = ONE.id
REPAIR = {f"iii_state.adapters.redis.fleet.{part}" for part in ("aside", "checking", "mending", "shared_keys")}


async def fill(adapter: RedisAdapter, lanes: int, each: int) -> None:
    for number in range(each):
        await asyncio.gather(*(answer_of(adapter.values.set("s", f"k{lane}", b"%d" % number)) for lane in range(lanes)))


async def drain(adapter: RedisAdapter, subscription: Subscription = ONE) -> dict[str, list[int]]:
    """Everything that a queue holds, until nothing is left of it."""
    news: dict[str, list[int]] = {}
    deliveries: list[Delivery] = []

    async def left() -> bool:
        queue = subscription.id.encode()
        return bool(
            await answer_of(adapter._shared.connection.send(b"HLEN", adapter._shared.keys.busy(queue)))
            or await answer_of(adapter._shared.connection.send(b"XLEN", adapter._shared.keys.stream(queue)))
        )

    async with asyncio.timeout(30):
        while deliveries or await left():
            for delivery in deliveries:
                news.setdefault(delivery.event.key, []).append(int(delivery.event.new or b"-1"))
            deliveries = await answer_of(
                adapter.queues.ack(deliveries, 100) if deliveries else adapter.queues.take(subscription.id, 100)
            )
    return news


async def three_are_out(adapter: RedisAdapter) -> None:
    """Of three lanes with two events each the first is being handled, and nobody looks for damage by himself."""
    await adapter.checking.stop()
    await answer_of(adapter.queues.subscribe(ONE))
    await fill(adapter, 3, 2)
    out = await until(lambda: adapter.queues.take(ONE.id, 10))
    assert len(out) == 3


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name in REPAIR]


@pytest.mark.parametrize(
    ("damage", "lost", "left"),
    [
        (lambda client: client.delete(f"iii-state:q:{QUEUE}"), 40, [1, 2]),
        (lambda client: client.xtrim(f"iii-state:q:{QUEUE}", maxlen=0), 40, [1, 2]),
        (lambda client: client.xgroup_destroy(f"iii-state:q:{QUEUE}", "engines"), 0, [0, 1, 2]),
        (lambda client: client.delete(*client.keys("iii-state:wait:*")), 80, [0]),
        (lambda client: client.delete(f"iii-state:busy:{QUEUE}"), 0, [0, 1, 2]),
        (lambda client: client.delete(f"iii-state:q:{QUEUE}", *client.keys("iii-state:wait:*")), 120, []),
    ],
    ids=["stream", "trimmed", "group", "lists", "counts", "stream and lists"],
)
async def test_what_is_lost_is_counted_and_told_once(
    server: RedisServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    damage: Any,
    lost: int,
    left: list[int],
) -> None:
    monkeypatch.setattr(mending, "HANDLER_SECONDS", 0.0)
    async with adapter_on(server.url) as adapter:
        await answer_of(adapter.queues.subscribe(ONE))
        await fill(adapter, 40, 3)
        with caplog.at_level(logging.WARNING):
            damage(server.client)
            adapter.checking.look_soon()
            held = "lost" if lost else "settings"
            await until(lambda: server.client.hexists(f"iii-state:sub:{QUEUE}", held))
            assert await drain(adapter) == ({f"k{lane}": left for lane in range(40)} if left else {})
    assert int(server.client.hget(f"iii-state:sub:{QUEUE}", "lost") or 0) == lost
    counted = [int(line.split()[0]) for line in told(caplog) if "are lost" in line]
    assert sum(counted) == lost
    assert all(QUEUE in line for line in told(caplog) if "are lost" in line)
    assert server.client.keys("iii-state:wait:*") == []


@pytest.mark.parametrize("is_registered_again", [False, True])
@pytest.mark.parametrize("damage", ["delete", "replace"])
async def test_where_the_stream_is_gone_no_event_begins_before_those_that_are_out_had_time_to_end(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, damage: str, is_registered_again: bool
) -> None:
    monkeypatch.setattr(mending, "HANDLER_SECONDS", 3600.0)
    async with adapter_on(server.url) as one, adapter_on(server.url) as two:
        for adapter in (one, two):
            await answer_of(adapter.queues.subscribe(ONE))
        await fill(one, 3, 2)
        out = await until(lambda: one.queues.take(ONE.id, 10))
        server.client.delete(f"iii-state:q:{QUEUE}")
        if damage == "replace":
            server.client.set(f"iii-state:q:{QUEUE}", "in the way")
        if is_registered_again:
            await answer_of(two.queues.subscribe(ONE))
        await until(lambda: server.client.hexists(f"iii-state:sub:{QUEUE}", "cut"))
        for adapter in (one, two):
            for _ in range(3):
                await adapter.checking._check_queues(True)
        since = int(server.client.hget(f"iii-state:sub:{QUEUE}", "cut"))  # all engines wait from then on, also one that comes later
        assert since <= (two._shared.engine.own_now_ms() or 0)
        for adapter in (one, two):
            assert await answer_of(adapter.queues.take(ONE.id, 10)) == []
        assert await answer_of(one.queues.ack(out, 10)) == []
        monkeypatch.setattr(mending, "HANDLER_SECONDS", 0.0)
        assert await drain(two) == {f"k{lane}": [1] for lane in range(3)}
        await until(lambda: not server.client.hexists(f"iii-state:sub:{QUEUE}", "cut"))
    assert int(server.client.hget(f"iii-state:sub:{QUEUE}", "lost")) == 3


@pytest.mark.parametrize("verb", ["delete", "rename"])
@pytest.mark.parametrize("look", ["mend", "look_at_page"])
async def test_a_stream_that_goes_after_the_queue_was_looked_at_is_one_that_is_gone(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, verb: str, look: str
) -> None:
    """Whatever makes the group anew tells that those that are out are to have time to end."""
    monkeypatch.setattr(mending, "HANDLER_SECONDS", 3600.0)
    async with adapter_on(server.url) as adapter:
        await three_are_out(adapter)
        if verb == "delete":
            server.client.delete(f"iii-state:q:{QUEUE}")
        else:
            server.client.rename(f"iii-state:q:{QUEUE}", "elsewhere")
        mend = adapter._mending
        await (mend.mend(QUEUE.encode(), was_counted=True) if look == "mend" else mend.look_at_page(QUEUE.encode()))
        assert await mend.mend(QUEUE.encode(), was_counted=True)
        assert await answer_of(adapter.queues.take(ONE.id, 10)) == []
        monkeypatch.setattr(mending, "HANDLER_SECONDS", 0.0)
        await adapter.checking._check_queues(True)
        assert await drain(adapter) == {f"k{lane}": [1] for lane in range(3)}


@pytest.mark.parametrize("is_made_anew", ["", "by mending", "by registering", "while something else is in the place of the counts"])
async def test_no_event_overtakes_those_that_wait_where_stream_and_counts_are_gone(server: RedisServer, is_made_anew: str) -> None:
    """Other programs may remove both between two writes."""
    async with adapter_on(server.url) as adapter:
        await adapter.checking.stop()
        await answer_of(adapter.queues.subscribe(ONE))
        await fill(adapter, 3, 4)
        server.client.delete(f"iii-state:busy:{QUEUE}", f"iii-state:q:{QUEUE}")
        if is_made_anew == "by mending":
            await adapter._mending.look_at_page(QUEUE.encode())
        elif is_made_anew == "by registering":
            await answer_of(adapter.queues.subscribe(ONE))
        elif is_made_anew:
            server.client.set(f"iii-state:busy:{QUEUE}", "in the way")
            await adapter._mending.look_at_page(QUEUE.encode())
            await adapter.checking._aside.move(f"iii-state:busy:{QUEUE}".encode(), b"hash", counts=True)
        await answer_of(adapter.values.set("s", "another", b"1"))  # of which nothing waits
        for lane in range(3):
            await answer_of(adapter.values.set("s", f"k{lane}", b"4"))
        assert server.client.xlen(f"iii-state:q:{QUEUE}") == 0
        adapter.checking.start()
        assert await drain(adapter) == {"another": [1], **{f"k{lane}": [1, 2, 3, 4] for lane in range(3)}}


async def test_no_event_overtakes_those_that_wait_where_the_counts_go_after_the_stream(server: RedisServer) -> None:
    """The stream has been made anew by then, and is empty: what waits goes on when those that were out have had their time."""
    async with adapter_on(server.url) as adapter:
        await adapter.checking.stop()
        await answer_of(adapter.queues.subscribe(ONE))
        await fill(adapter, 3, 4)
        server.client.delete(f"iii-state:q:{QUEUE}")
        await adapter._mending.look_at_page(QUEUE.encode())
        server.client.delete(f"iii-state:busy:{QUEUE}")
        for lane in range(3):
            await answer_of(adapter.values.set("s", f"k{lane}", b"4"))
        assert server.client.xlen(f"iii-state:q:{QUEUE}") == 0
        adapter.checking.start()
        assert await drain(adapter) == {f"k{lane}": [1, 2, 3, 4] for lane in range(3)}


async def test_a_stream_that_goes_again_gives_those_that_are_out_their_time_again(server: RedisServer) -> None:
    async with adapter_on(server.url) as adapter:
        await three_are_out(adapter)
        long_ago = (adapter._shared.engine.own_now_ms() or 0) - 60_000
        server.client.hset(f"iii-state:sub:{QUEUE}", "cut", long_ago)  # since an earlier time, and its lanes have not gone on yet
        server.client.delete(f"iii-state:q:{QUEUE}")
        for _ in range(3):
            await adapter.checking._check_queues(True)
        assert int(server.client.hget(f"iii-state:sub:{QUEUE}", "cut")) > long_ago + 50_000
        assert await answer_of(adapter.queues.take(ONE.id, 10)) == []


async def test_a_queue_that_is_registered_again_gives_those_that_are_out_their_time_again(server: RedisServer) -> None:
    async with adapter_on(server.url) as adapter:
        await three_are_out(adapter)
        server.client.hset(f"iii-state:sub:{QUEUE}", "cut", 1)
        server.client.delete(f"iii-state:q:{QUEUE}")
        await answer_of(adapter.queues.subscribe(ONE))
        for _ in range(3):
            await adapter.checking._check_queues(True)
        assert await answer_of(adapter.queues.take(ONE.id, 10)) == []


@pytest.mark.parametrize("since", ["9999999999999", "in the way"])
async def test_a_queue_without_its_stream_goes_on_whatever_stands_there_for_since_when(server: RedisServer, since: str) -> None:
    async with adapter_on(server.url) as adapter:
        await answer_of(adapter.queues.subscribe(ONE))
        await fill(adapter, 3, 2)
        server.client.hset(f"iii-state:sub:{QUEUE}", "cut", since)
        server.client.delete(f"iii-state:q:{QUEUE}")
        assert await drain(adapter) == {f"k{lane}": [1] for lane in range(3)}


async def test_while_those_that_are_out_have_time_to_end_lists_are_free_for_writes(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mending, "HANDLER_SECONDS", 3600.0)
    async with adapter_on(server.url) as adapter:
        await answer_of(adapter.queues.subscribe(ONE))
        await fill(adapter, 3, 2)
        await until(lambda: adapter.queues.take(ONE.id, 10))
        server.client.delete(f"iii-state:q:{QUEUE}")
        for name in server.client.keys(f"iii-state:wait:{QUEUE}:*"):
            server.client.delete(name)
            server.client.set(name, "in the way")

        async def is_written() -> bool:
            try:
                await fill(adapter, 3, 1)
            except StoreError:
                return False
            return True

        await until(is_written)
        assert server.client.hexists(f"iii-state:sub:{QUEUE}", "cut")
        monkeypatch.setattr(mending, "HANDLER_SECONDS", 0.0)
        news = await drain(adapter)  # of those that were written while others failed, one for each time
        assert {key: set(numbers) for key, numbers in news.items()} == {f"k{lane}": {0} for lane in range(3)}
    assert int(server.client.hget(f"iii-state:sub:{QUEUE}", "lost")) == 6


async def test_a_list_that_was_moved_aside_is_no_list_of_a_lane(server: RedisServer) -> None:
    async with adapter_on(server.url) as adapter:
        await adapter.checking.stop()
        await answer_of(adapter.queues.subscribe(ONE))
        keys = adapter._shared.keys
        server.client.rpush(keys.aside(keys.wait(QUEUE.encode(), b"1:sk"), now_ms()), "in the way")
        await adapter.checking._check_lists()
        assert adapter.checking._lists_at == b"0"
        assert not server.client.exists(keys.busy(QUEUE.encode()))
        server.client.rpush(keys.wait(QUEUE.encode(), b"1:sk"), "w", "s", "k", "created", "", "1")
        await adapter.checking._check_lists()
        assert server.client.hget(keys.busy(QUEUE.encode()), "doubt") == b"1"


async def test_where_the_counts_are_gone_no_event_overtakes_one_that_is_out(server: RedisServer) -> None:
    async with adapter_on(server.url) as adapter:
        await adapter.checking.stop()
        await answer_of(adapter.queues.subscribe(ONE))
        await fill(adapter, 3, 2)
        out = await until(lambda: adapter.queues.take(ONE.id, 10))
        server.client.delete(f"iii-state:busy:{QUEUE}")
        (following,) = await answer_of(adapter.queues.ack(out[:1], 10))
        assert (following.event.key, following.event.new) == ("k0", b"1")
        await fill(adapter, 3, 3)
        assert await answer_of(adapter.queues.take(ONE.id, 10)) == []
        news = [
            (delivery.event.key, delivery.event.new) for delivery in await answer_of(adapter.queues.ack([following, *out[1:]], 10))
        ]
        assert sorted(news) == [("k0", b"0"), ("k1", b"1"), ("k2", b"1")]


async def test_a_queue_under_traffic_is_never_taken_for_a_damaged_one(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Every way an entry can go, while all of the queue is looked at again and again: nothing is repaired, nothing comes twice."""
    rng = random.Random(7)
    async with adapter_on(server.url) as one, adapter_on(server.url) as two:
        for adapter in (one, two):
            await answer_of(adapter.queues.subscribe(OFTEN))
        handled: dict[str, list[int]] = {}
        looked = 0
        is_over = False

        async def write(adapter: RedisAdapter, lanes: range) -> None:
            for number in range(60):
                await asyncio.gather(
                    *(answer_of(adapter.values.set("s", f"k{lane}" + "x" * (lane % 3) * 40, b"%d" % number)) for lane in lanes)
                )

        async def handle(adapter: RedisAdapter) -> None:
            while not is_over:
                deliveries = await answer_of(adapter.queues.take(OFTEN.id, 30))
                rng.shuffle(deliveries)
                for delivery in deliveries:
                    fate = rng.random()
                    if fate < 0.1:
                        await answer_of(adapter.queues.release([delivery]))
                    elif fate < 0.2:
                        await answer_of(adapter.queues.retry(delivery, rng.randrange(3), Failure("no", "not now")))
                        adapter._shared.maintenance.plan(0.01)
                    else:
                        handled.setdefault(delivery.event.key, []).append(int(delivery.event.new or b"-1"))
                        await answer_of(adapter.queues.ack([delivery]))
                await asyncio.sleep(0)

        async def look(adapter: RedisAdapter) -> None:
            nonlocal looked
            queue = OFTEN.id.encode()
            while not is_over:
                await adapter._mending.mend(queue, was_counted=True)
                await adapter._mending.look_at_lanes(queue, everything=True)
                await adapter.checking._check_lists()
                found = await adapter.checking._found([queue], b"1")
                assert {word for _, word, _ in found} <= {b"EVENTS"}, found
                looked += 1

        with caplog.at_level(logging.WARNING):
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                for adapter in (one, two):
                    group.create_task(handle(adapter))
                    group.create_task(look(adapter))
                await asyncio.gather(write(one, range(25)), write(two, range(25, 50)))
                while sum(map(len, handled.values())) < 50 * 60:
                    await asyncio.sleep(0.01)
                is_over = True
    assert looked >= 2
    assert [news == list(range(60)) for news in handled.values()] == [True] * 50
    assert told(caplog) == []


async def test_routes_that_were_removed_while_no_engine_ran_are_made_again(server: RedisServer) -> None:
    async with adapter_on(server.url) as adapter:
        await answer_of(adapter.queues.subscribe(OFTEN))
        await answer_of(adapter.values.set("t", "k", b"1", ttl_ms=600_000))
        await answer_of(adapter.queues.abandon(OFTEN.id))
        await fill(adapter, 3, 2)
    server.client.delete("iii-state:routes")
    async with adapter_on(server.url) as adapter:
        async with asyncio.timeout(30):
            while not server.client.hexists("iii-state:routes", ":began"):
                adapter.checking.look_soon()
                await asyncio.sleep(0.05)
        await until(lambda: adapter._shared.fanout.routes.queues() == [OFTEN.id.encode()])
        assert adapter._shared.fanout.routes.with_deadlines == {"t"}
        await fill(adapter, 3, 3)
        await answer_of(adapter.queues.subscribe(OFTEN))
        assert await drain(adapter, OFTEN) == {f"k{lane}": [0, 1, 0, 1, 2] for lane in range(3)}


async def test_an_older_session_in_the_place_of_the_own_is_an_outcome_unknown(server: RedisServer) -> None:
    async with adapter_on(server.url) as adapter:
        connection = adapter._shared.connection
        await answer_of(adapter.values.set("s", "k", b"1"))
        session = connection.session
        session.epoch = session.held = 5  # as after five connections
        key = adapter._shared.keys.session(session.name)
        assert await connection.run("sessions/open", [b"1", key, b"5", b"6", b"600000"]) == [b"LOST"]


async def test_more_subscriptions_of_one_scope_and_key_than_writes_can_bear_are_refused(server: RedisServer) -> None:
    async with adapter_on(server.url) as adapter:
        many = [Subscription(f"f{number}", scope="s") for number in range(MOST_ALIKE)]
        await asyncio.gather(*(answer_of(adapter.queues.subscribe(subscription)) for subscription in many))
        with pytest.raises(StoreError, match=r"500 subscriptions with scope 's' and key \(any\) already"):
            await answer_of(adapter.queues.subscribe(Subscription("one more", scope="s")))
        await answer_of(adapter.queues.subscribe(many[3]))
        await answer_of(adapter.queues.subscribe(Subscription("other", scope="s", key="k")))
        await answer_of(adapter.queues.unsubscribe(many[3].id))
        await until(lambda: len(adapter._shared.fanout.routes.queues()) == MOST_ALIKE)  # with the one that has a key
        await answer_of(adapter.queues.subscribe(Subscription("one more", scope="s")))


async def test_many_subscriptions_that_nobody_serves_are_worth_a_warning(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with adapter_on(server.url) as adapter:
        many = [Subscription(f"f{number}", scope="s") for number in range(60)]
        await asyncio.gather(*(answer_of(adapter.queues.subscribe(subscription)) for subscription in many))
        with caplog.at_level(logging.WARNING):
            await asyncio.gather(*(answer_of(adapter.queues.abandon(subscription.id)) for subscription in many))
            await until(lambda: told(caplog))
            for _ in range(3):
                adapter.checking.look_soon()
                await until(lambda: not adapter.checking._is_urgent)
        assert [line[:70] for line in told(caplog)] == [
            "60 subscriptions with scope 's' and key (any) are served by nobody, and "[:70]
        ]


async def test_looking_at_a_healthy_queue_reads_little_of_large_events(server: RedisServer) -> None:
    """Reading keeps Redis from everything else: a page is bounded whatever was read before, and so are all pages together."""
    size, pages = 700_000, list[int]()
    async with adapter_on(server.url) as adapter:
        await adapter.checking.stop()
        queues = [Subscription(f"q{number}", scope="s") for number in range(3)]
        for queue in queues:
            await answer_of(adapter.queues.subscribe(queue))
        await fill(adapter, 20, 1)
        large = b'"%s"' % (b"x" * size)
        await asyncio.gather(*(answer_of(adapter.values.set("s", f"large{number}", large)) for number in range(12)))
        run, loop = adapter._mending._run, asyncio.get_running_loop()

        async def counting(name: str, call: list[bytes]) -> Any:
            reply = await run(name, call)
            if name == "repair/requeue_entries":
                pages.append(reply[1])
            return reply

        adapter._mending._run = counting  # type: ignore[assignment]
        names = [queue.id.encode() for queue in queues]
        began = loop.time()
        for _ in range(200):
            await adapter._mending.look_at_events(set(names), everything=False)
        seconds = loop.time() - began + 1.5  # what may have been saved up before
        assert 0 < sum(pages) < BYTES_PER_SECOND * seconds + PAGE_BYTES + 2 * size
        pages.clear()
        for _ in range(60):  # through the end of the stream, and through its small events, again and again
            await adapter._mending.look_at_page(names[0])
        assert 0 in pages
        assert max(pages) < PAGE_BYTES + 2 * size
        pages.clear()
        await adapter._mending.mend(names[0], was_counted=True)
        assert 12 * size < sum(pages) < 15 * size
        assert max(pages) < PAGE_BYTES + 2 * size


async def test_every_queue_with_events_has_its_turn(server: RedisServer) -> None:
    async with adapter_on(server.url) as adapter:
        await adapter.checking.stop()
        names = [b"%d" % number for number in range(25)]
        await asyncio.gather(*(answer_of(adapter.queues.subscribe(Subscription(name.decode(), scope="s"))) for name in names))
        await fill(adapter, 2, 1)
        for _ in range(3):
            await adapter._mending.look_at_events(set(names), everything=False)
        assert set(adapter._mending._pages) == set(names)


JUNK: tuple[dict[Any, Any], ...] = (
    {"w": "a", "s": "s", "k": "k0"},
    {"w": "w", "s": b"\xff", "k": b"\xff", "t": "updated", "o": "", "n": "1"},
    {"w": "w", "s": "s", "k": "k0", "t": "zzz", "o": "", "n": "1"},
)


@pytest.mark.parametrize("are_taken", [True, False])
async def test_entries_that_are_no_events_are_removed_counted_and_told_once(
    server: RedisServer, caplog: pytest.LogCaptureFixture, are_taken: bool
) -> None:
    async with adapter_on(server.url) as adapter:
        await adapter.checking.stop()
        await answer_of(adapter.queues.subscribe(ONE))
        await fill(adapter, 2, 1)
        for fields in JUNK:
            server.client.xadd(f"iii-state:q:{QUEUE}", fields)
        await fill(adapter, 4, 2)
        with caplog.at_level(logging.WARNING):
            if not are_taken:
                await adapter._mending.look_at_page(QUEUE.encode())
                assert server.client.xlen(f"iii-state:q:{QUEUE}") == 4
            assert await drain(adapter) == {"k0": [0, 0, 1], "k1": [0, 0, 1], "k2": [0, 1], "k3": [0, 1]}
            await until(lambda: server.client.hget(f"iii-state:sub:{QUEUE}", "lost") == b"3")
        lines = [record.getMessage() for record in caplog.records if "no events" in record.getMessage()]
        assert [line.split()[0] for line in lines] == ["3"]


@pytest.mark.parametrize("junk", [1, 1500, 4000])
async def test_a_lane_behind_items_that_are_no_events_goes_on(
    server: RedisServer, caplog: pytest.LogCaptureFixture, junk: int
) -> None:
    async with adapter_on(server.url) as adapter:
        await answer_of(adapter.queues.subscribe(ONE))
        await fill(adapter, 1, 3)
        server.client.lpush(f"iii-state:wait:{QUEUE}:1:sk0", *(["junk"] * junk))
        assert await drain(adapter) == {"k0": [0, 1, 2]}
        assert server.client.keys("iii-state:wait:*") == []


async def test_where_counts_and_lists_are_gone_no_event_overtakes_one_that_is_out(server: RedisServer) -> None:
    async with adapter_on(server.url) as adapter:
        await three_are_out(adapter)
        await answer_of(adapter.values.set("s", "alone", b"1"))
        assert len(await answer_of(adapter.queues.take(ONE.id, 10))) == 1
        server.client.delete(f"iii-state:busy:{QUEUE}")
        for name in server.client.keys(f"iii-state:wait:{QUEUE}:*"):
            server.client.delete(name)
            server.client.set(name, "in the way")
        await adapter.checking._mending.mend(QUEUE.encode(), was_counted=False)
        await fill(adapter, 3, 1)
        assert await answer_of(adapter.queues.take(ONE.id, 10)) == []
