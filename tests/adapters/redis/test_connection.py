"""The shared connection: no call is applied twice or lost, whatever happens to connections and servers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import msgspec
import pytest
import uvloop

from iii_state import values
from iii_state.adapters.base import Updated
from iii_state.adapters.redis import RedisAdapter
from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.call import SessionCommand
from iii_state.adapters.redis.connection.socket import open_server
from iii_state.adapters.redis.scripts.loader import names
from iii_state.adapters.redis.scripts.packing import pack
from iii_state.config import RedisSettings
from iii_state.errors import OutcomeUnknown, RequestFenced, SessionLost, StoreError
from iii_state.events import QueueLimits, Subscription
from iii_state.sessions import Request
from tests.support.redis.adapters import INCREMENT, adapter_on, increments, until_answers
from tests.support.redis.proxy import Proxy, proxy_to
from tests.support.redis.server import RedisServer
from tests.support.slow import slow
from tests.support.waiting import answer_of, until


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer("--appendonly", "yes", "--appendfsync", "always") as running:
        yield running


@pytest.fixture
async def proxy(server: RedisServer) -> AsyncIterator[Proxy]:
    await asyncio.to_thread(server.client.flushall)
    async with proxy_to(server.port) as running:
        yield running


@pytest.fixture
async def adapter(proxy: Proxy) -> AsyncIterator[RedisAdapter]:
    async with adapter_on(proxy.url) as started:
        yield started


def assert_once_each(server: RedisServer, made: list[Updated]) -> None:
    """Every increment has been applied exactly once, and every answer was that of its own application."""
    expected = [values.to_stored(b'{"n":%d}' % number) for number in range(1, len(made) + 1)]
    assert server.client.hget("state:s", "k") == expected[-1]
    assert sorted(made, key=lambda updated: expected.index(updated.new)) == [
        Updated(old, new, []) for old, new in zip([None, *expected], expected, strict=False)
    ]


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_what_is_written_to_a_connection_that_has_ended_is_no_error(
    server: RedisServer, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def write_when_it_has_ended() -> None:
        socket = await open_server(Address.parse(server.url), "test")
        socket.abort()
        socket.write(pack((b"PING",)))
        await socket.closed
        socket.write(pack((b"PING",)))

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(write_when_it_has_ended())


@pytest.mark.parametrize("seed", [0, slow(1), slow(2)])
async def test_cut_before_inside_and_after_replies_every_increment_counts_once(
    server: RedisServer, proxy: Proxy, seed: int
) -> None:
    chance = random.Random(seed)
    async with adapter_on(proxy.url, call_timeout_ms=30_000) as adapter:
        proxy.reply_bytes = lambda: chance.choice((0, 700, 1500, chance.randrange(20_000)))
        proxy.cut_all()
        made = await increments(adapter, 64, 20)
        assert proxy.cuts > 3
        proxy.reply_bytes = lambda: None
        assert_once_each(server, made)


async def test_stragglers_that_redis_executes_after_their_retry_change_nothing(
    server: RedisServer, proxy: Proxy, adapter: RedisAdapter
) -> None:
    await answer_of(adapter.values.get("s", "k"))
    proxy.hold = True
    calls = [asyncio.ensure_future(answer_of(adapter.values.update("s", "k", INCREMENT, 1000))) for _ in range(400)]
    await until(lambda: proxy.calls_held() >= 400)
    proxy.hold = False
    proxy.cut_all()
    made = await asyncio.gather(*calls)
    assert_once_each(server, made)
    await proxy.release()
    assert_once_each(server, made)
    assert server.client.info("commandstats")["cmdstat_evalsha"]["calls"] >= 800


async def test_stragglers_that_race_with_their_retries_change_nothing(
    server: RedisServer, proxy: Proxy, adapter: RedisAdapter
) -> None:
    made: list[Updated] = []
    for _ in range(10):
        await answer_of(adapter.values.get("s", "k"))
        proxy.hold = True
        calls = [asyncio.ensure_future(answer_of(adapter.values.update("s", "k", INCREMENT, 1000))) for _ in range(50)]
        await until(lambda: proxy.calls_held() >= 50)
        proxy.hold = False
        proxy.cut_all()
        await proxy.release()
        made += await asyncio.gather(*calls)
    assert_once_each(server, made)


async def test_calls_apply_in_the_order_in_which_they_were_made_across_reconnects(proxy: Proxy) -> None:
    async with adapter_on(proxy.url, call_timeout_ms=30_000) as adapter:
        chance = random.Random(4)
        proxy.reply_bytes = lambda: 1000 + chance.randrange(10_000)
        proxy.cut_all()
        calls = [adapter.values.set("s", "k", b"%d" % number) for number in range(2000)]
        answers = [await answer_of(call) for call in calls]
        assert answers == [None, *(b"%d" % number for number in range(1999))]
        proxy.reply_bytes = lambda: None


async def test_a_flush_of_the_scripts_in_mid_traffic_costs_no_call(
    server: RedisServer, proxy: Proxy, adapter: RedisAdapter
) -> None:
    done = asyncio.Event()

    def loads() -> int:
        count: int = server.client.info("commandstats").get("cmdstat_script|load", {"calls": 0})["calls"]
        return count

    def is_loaded_again(before: int) -> bool:
        return done.is_set() or loads() > before

    async def flush() -> int:
        flushes = 0
        while not done.is_set():
            await asyncio.to_thread(server.client.script_flush)
            flushes += 1
            await until(partial(is_loaded_again, loads()))
        return flushes

    flushing = asyncio.create_task(flush())
    made = await increments(adapter, 64, 50)
    done.set()
    assert await flushing > 0
    assert_once_each(server, made)


async def test_scripts_are_loaded_once_however_many_calls_miss_them(
    server: RedisServer, proxy: Proxy, adapter: RedisAdapter
) -> None:
    server.client.script_flush()
    server.client.config_resetstat()
    await increments(adapter, 500, 1)
    stats = server.client.info("commandstats")
    loads = stats.get("cmdstat_script|load") or stats["cmdstat_script"]  # Redis 6.2 counts all of SCRIPT together
    assert loads["calls"] == len(names())


async def test_a_restart_of_redis_in_mid_traffic_costs_no_call(server: RedisServer, proxy: Proxy) -> None:
    async with adapter_on(proxy.url, call_timeout_ms=20_000) as adapter:
        working = asyncio.create_task(increments(adapter, 64, 30))

        def has_counted(number: int) -> bool:
            counted: int = msgspec.json.decode(server.client.hget("state:s", "k") or b'{"n":0}')["n"]
            return counted > number

        for at in (300, 900):
            await until(partial(has_counted, at))
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        assert_once_each(server, await working)


async def test_a_flushed_session_is_an_error_for_what_was_in_flight_and_only_for_that(
    server: RedisServer, proxy: Proxy, adapter: RedisAdapter
) -> None:
    assert await answer_of(adapter.values.set("s", "before", b"1")) is None
    proxy.reply_bytes = lambda: 100_000
    proxy.mute = True
    pairs = [pair for pair in proxy.pairs if not pair.is_cut]
    for pair in pairs:
        pair.reply_bytes = 0
    proxy.mute = False
    flight = [asyncio.ensure_future(answer_of(adapter.values.set("s", "lost", b"1"))) for _ in range(5)]
    await until(lambda: all(pair.is_cut for pair in pairs))
    server.client.flushall()
    outcomes = await asyncio.gather(*flight, return_exceptions=True)
    assert all(outcome is None or isinstance(outcome, OutcomeUnknown) or outcome == b"1" for outcome in outcomes)
    assert await answer_of(adapter.values.set("s", "after", b"1")) is None
    assert await answer_of(adapter.values.set("s", "after", b"2")) == b"1"


async def test_a_session_that_expired_unnoticed_costs_no_call(server: RedisServer, adapter: RedisAdapter) -> None:
    for name in server.client.keys("iii-state:session:*"):
        server.client.delete(name)
    made = await increments(adapter, 10, 10)
    assert_once_each(server, made)


async def test_a_session_goes_with_its_engine(server: RedisServer, proxy: Proxy) -> None:
    async with adapter_on(proxy.url) as adapter:
        await increments(adapter, 3, 3)
        assert len(server.client.keys("iii-state:session:*")) == 1
        assert server.client.pttl(server.client.keys("iii-state:session:*")[0]) > 0
    assert server.client.keys("iii-state:session:*") == []


async def test_a_redis_that_does_not_answer_is_an_error_in_words_and_calls_work_when_it_does(proxy: Proxy) -> None:
    async with adapter_on(proxy.url, call_timeout_ms=300) as adapter:
        await answer_of(adapter.values.set("s", "k", b"1"))
        proxy.mute = True
        with pytest.raises(
            OutcomeUnknown, match=r"Redis at 127\.0\.0\.1:\d+ .* given up after 300 ms; whether the change was made is not"
        ):
            await answer_of(adapter.values.set("s", "k", b"2"))
        with pytest.raises(StoreError, match="given up after 300 ms"):
            await answer_of(adapter.values.get("s", "k"))
        assert "Redis at" in (await adapter.health() or "")
        proxy.mute = False
        proxy.cut_all()
        await until_answers(adapter)


def fill(adapter: RedisAdapter, calls: list[Any]) -> None:
    """Make calls until one is refused."""
    for _ in range(1000):
        calls.append(adapter.values.set("s", "k", b"1"))


async def test_waiting_calls_are_bounded_and_refused_at_once_beyond(proxy: Proxy) -> None:
    async with adapter_on(proxy.url, call_timeout_ms=2000, max_in_flight=16) as adapter:
        await answer_of(adapter.values.get("s", "k"))
        proxy.hold = True
        calls = [adapter.values.set("s", "k", b"1") for _ in range(16 * 63)]
        with pytest.raises(StoreError, match=r"1024 calls wait for Redis .* already: .* nothing was changed"):
            fill(adapter, calls)
        await until(lambda: proxy.calls_held() >= 14)
        sent = proxy.calls_held()  # the scan for scopes may have a call in flight, too
        outcomes = await asyncio.gather(*map(answer_of, calls), return_exceptions=True)
        assert all(isinstance(outcome, StoreError) for outcome in outcomes)
        assert sum("nothing was changed" in str(outcome) for outcome in outcomes) == len(calls) - sent
        unknown = [outcome for outcome in outcomes if isinstance(outcome, OutcomeUnknown)]
        assert len(unknown) == sent
        assert all("is not known" in str(outcome) for outcome in unknown)
        proxy.hold = False
        proxy.cut_all()
        await until_answers(adapter)


async def test_what_is_in_flight_is_bounded_in_bytes(proxy: Proxy) -> None:
    async with adapter_on(proxy.url, call_timeout_ms=30_000) as adapter:
        await answer_of(adapter.values.get("s", "k"))
        proxy.hold = True
        big = b'"%b"' % (b"x" * 5_000_000)
        calls = [adapter.values.set("s", str(number), big) for number in range(20)]
        await until(lambda: 32 * 1024 * 1024 < proxy.held_bytes < 36_000_000)
        proxy.hold = False
        proxy.cut_all()
        assert await asyncio.gather(*map(answer_of, calls)) == [None] * 20


async def test_a_cancelled_call_leaves_the_others_alone(proxy: Proxy, adapter: RedisAdapter) -> None:
    calls = [adapter.values.set("s", "k", b"%d" % number) for number in range(100)]
    for call in calls[::3]:
        assert asyncio.isfuture(call)
        call.cancel()
    await asyncio.sleep(0)
    for call in calls[1::3]:
        assert asyncio.isfuture(call)
        call.cancel()
    proxy.cut_all()
    outcomes = await asyncio.gather(*map(answer_of, calls), return_exceptions=True)
    assert not any(isinstance(outcome, StoreError) for outcome in outcomes)
    assert (await answer_of(adapter.values.get("s", "k"))) == b"98"


# -- tickets of callers

EVERYTHING = Subscription("everything")


def increment(adapter: RedisAdapter, slot: int, seq: int, epoch: int = 1) -> asyncio.Future[Updated]:
    answer = adapter.values.update("s", "k", INCREMENT, 1000, request=Request("session-1", epoch, slot, seq))
    assert asyncio.isfuture(answer)
    return answer


async def test_calls_with_tickets_of_their_caller_count_once_each_wherever_they_are(server: RedisServer, proxy: Proxy) -> None:
    chance = random.Random(7)
    async with adapter_on(proxy.url, call_timeout_ms=30_000) as adapter:
        await answer_of(adapter.queues.subscribe(EVERYTHING))
        await answer_of(adapter.sessions.open("session-1", 0, 1))
        proxy.reply_bytes = lambda: chance.choice((0, 700, 1500, chance.randrange(20_000)))
        proxy.cut_all()

        async def caller(slot: int) -> list[Updated]:
            return [await answer_of(increment(adapter, slot, seq)) for seq in range(1, 21)]

        made = [updated for each in await asyncio.gather(*map(caller, range(64))) for updated in each]
        assert proxy.cuts > 3
        proxy.reply_bytes = lambda: None
        assert_once_each(server, made)
        (stats,) = await answer_of(adapter.admin.stats())
        assert stats.waiting == len(made)


async def test_stragglers_with_tickets_of_their_caller_change_nothing_after_their_retry(
    server: RedisServer,
    proxy: Proxy,
    adapter: RedisAdapter,
) -> None:
    await answer_of(adapter.sessions.open("session-1", 0, 1))
    proxy.hold = True
    calls = [increment(adapter, slot, 1) for slot in range(400)]
    await until(lambda: proxy.calls_held() >= 400)
    proxy.hold = False
    proxy.cut_all()
    made = await asyncio.gather(*calls)
    made += await asyncio.gather(*(increment(adapter, slot, 2) for slot in range(100)))
    assert_once_each(server, made)
    await proxy.release()
    assert_once_each(server, made)
    assert server.client.info("commandstats")["cmdstat_evalsha"]["calls"] >= 900


async def test_a_lost_session_of_a_caller_is_no_matter_of_the_connection(
    server: RedisServer,
    proxy: Proxy,
    adapter: RedisAdapter,
) -> None:
    await answer_of(adapter.sessions.open("session-1", 0, 1))
    with pytest.raises(RequestFenced):
        await increment(adapter, 0, 1, epoch=2)
    server.client.delete(*server.client.keys("iii-state:session:caller:*"))
    with pytest.raises(SessionLost):
        await increment(adapter, 0, 1)
    assert proxy.cuts == 0, "the connection goes on"
    proxy.hold = True
    call = increment(adapter, 0, 1)
    await until(lambda: proxy.calls_held() >= 1)
    proxy.hold = False
    proxy.cut_all()
    with pytest.raises(OutcomeUnknown, match="whether the change was made is not known") as raised:
        await call
    assert not isinstance(raised.value, SessionLost), "its caller must not take it for a first attempt that changed nothing"


async def test_a_refusal_of_what_an_earlier_connection_carried_too_does_not_say_that_nothing_changed(
    server: RedisServer,
    proxy: Proxy,
) -> None:
    adapter = RedisAdapter(RedisSettings(redis_url=proxy.url), limits=QueueLimits(max_queue_length=1))
    await adapter.start(lambda subscription_id: None)
    try:
        await answer_of(adapter.queues.subscribe(EVERYTHING))
        await answer_of(adapter.sessions.open("session-1", 0, 1))
        await answer_of(adapter.values.set("s", "other", b"1"))
        with pytest.raises(StoreError, match=r"is full \(max_queue_length 1\); its handler does not keep up, or nobody serves it$"):
            await increment(adapter, 0, 1)
        proxy.hold = True
        call = increment(adapter, 0, 1)
        await until(lambda: proxy.calls_held() >= 1)
        proxy.hold = False
        proxy.cut_all()
        with pytest.raises(OutcomeUnknown, match=r"is full .* whether the change was made is not known"):
            await call
        async with asyncio.timeout(20):  # after a break, nothing is taken before the queue is hosted for certain
            while not (taken := await answer_of(adapter.queues.take(EVERYTHING.id, 1))):
                await asyncio.sleep(0.002)
        await answer_of(adapter.queues.ack(taken))
        await proxy.release()
        assert server.client.hget("state:s", "k") is not None, "this is why"
    finally:
        await adapter.stop()


async def test_what_was_sent_before_the_engine_stopped_is_not_said_to_have_changed_nothing(
    server: RedisServer, proxy: Proxy
) -> None:
    """Redis may carry it out yet: `OUTCOME_UNKNOWN`. A read, and what was never sent, has changed nothing."""
    async with adapter_on(proxy.url) as adapter:
        await answer_of(adapter.values.set("s", "k", b"1"))
        proxy.loses_replies = True
        written = asyncio.ensure_future(answer_of(adapter.values.set("s", "k", b"2")))
        read = asyncio.ensure_future(answer_of(adapter.values.get("s", "k")))
        await until(lambda: server.client.hget("state:s", "k") == b"2")
        await adapter._shared.connection._pipeline.close()
        await asyncio.wait([written, read])
    assert type(written.exception()) is OutcomeUnknown
    assert type(read.exception()) is StoreError


async def test_a_connection_that_breaks_while_its_session_is_refreshed_is_replaced_at_once(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iii_state.adapters.redis.connection.connection.SESSION_SECONDS", 0.25)
    async with adapter_on(proxy.url, call_timeout_ms=600_000) as adapter:
        in_flight = adapter._shared.connection._pipeline._in_flight
        proxy.loses_replies = True
        await until(lambda: any(isinstance(call, SessionCommand) for call in in_flight))
        proxy.loses_replies = False
        proxy.cut_all()
        assert await answer_of(adapter.values.set("s", "k", b"1")) is None
