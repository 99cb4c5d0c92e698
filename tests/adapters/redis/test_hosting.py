"""Hosting a subscription: whatever happens to Redis, the connection or the engine's id, what is hosted stays hosted, what is let go
is let go, and no event is left lying at an engine that has forgotten it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from iii_state.adapters.redis import RedisAdapter
from iii_state.adapters.redis.fleet import subscriptions
from iii_state.config import RedisSettings
from iii_state.errors import StoreError
from iii_state.events import Delivery, QueueLimits, Subscription
from tests.support.redis.adapters import adapter_on
from tests.support.redis.proxy import Proxy
from tests.support.redis.server import RedisServer
from tests.support.store_process import script
from tests.support.waiting import answer_of, until

ONE, TWO = (Subscription(name, scope="s", key=name) for name in ("one", "two"))
PREFIX = "iii-state:"


@pytest.fixture
def other_server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as running:
        yield running


async def until_written(adapter: RedisAdapter, key: str, value: bytes) -> None:
    """Write over a connection that may be about to break."""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(StoreError):
                await answer_of(adapter.values.set("s", key, value))
                return


async def take_one(adapter: RedisAdapter, subscription: Subscription) -> Delivery:
    """The next delivery of a subscription, which has to come."""
    deliveries: list[Delivery] = await until(lambda: adapter.queues.take(subscription.id, 1))
    return deliveries[0]


def hosts(server: RedisServer, subscription: Subscription) -> list[str]:
    """The engines that host it, as Redis has it."""
    fields = server.client.hkeys(f"{PREFIX}sub:{subscription.id}")
    return [field[3:].decode() for field in fields if field.startswith(b"at:")]


def declare_dead(server: RedisServer) -> None:
    """Do to every engine what others do to one whose heart has stopped, but for taking over."""
    server.client.delete(*[f"{PREFIX}engine:{name.decode()}" for name in server.client.hkeys(f"{PREFIX}engines")])
    server.client.delete(f"{PREFIX}engines")


async def test_an_engine_with_a_new_id_hosts_again_although_it_could_not_at_first(
    server: RedisServer, stack: AsyncExitStack
) -> None:
    adapter = await stack.enter_async_context(adapter_on(server.url, heartbeat_ttl_ms=300))
    await answer_of(adapter.queues.subscribe(ONE))
    before = hosts(server, ONE)
    server.client.set(f"{PREFIX}orphans", "in the way")
    declare_dead(server)
    await until(lambda: server.client.hlen(f"{PREFIX}engines"))
    await answer_of(adapter.values.set("s", "one", b"1"))
    server.client.delete(f"{PREFIX}orphans")
    await until(lambda: hosts(server, ONE) not in ([], before))
    assert (await take_one(adapter, ONE)).event.new == b"1"


async def test_nothing_is_taken_under_an_id_that_does_not_host_the_queue(server: RedisServer, stack: AsyncExitStack) -> None:
    """Whoever takes it over goes by what it hosts, and would not find it."""
    adapter = await stack.enter_async_context(adapter_on(server.url, heartbeat_ttl_ms=300))
    await answer_of(adapter.queues.subscribe(ONE))
    await answer_of(adapter.values.set("s", "one", b"1"))
    server.client.set(f"{PREFIX}orphans", "in the way")
    declare_dead(server)
    await until(lambda: server.client.hlen(f"{PREFIX}engines"))
    (now,) = server.client.hkeys(f"{PREFIX}engines")
    assert await answer_of(adapter.queues.take(ONE.id, 1)) == []
    assert server.client.smembers(f"{PREFIX}hosts:{now.decode()}") == set()
    server.client.delete(f"{PREFIX}orphans")


async def test_what_was_taken_unheard_is_given_back_although_its_subscription_was_let_go(
    server: RedisServer, proxy: Proxy, stack: AsyncExitStack
) -> None:
    adapter = await stack.enter_async_context(adapter_on(proxy.url))
    other = await stack.enter_async_context(adapter_on(server.url))
    await answer_of(adapter.queues.subscribe(ONE))
    await answer_of(other.values.set("s", "one", b"1"))
    for pair in proxy.pairs:  # what Redis answers next does not arrive
        pair.reply_bytes = 0
    taken = adapter.queues.take(ONE.id, 1)
    await answer_of(adapter.queues.abandon(ONE.id))
    assert await answer_of(taken) == []
    await answer_of(other.queues.subscribe(ONE))
    assert (await take_one(other, ONE)).event.new == b"1"


@pytest.mark.parametrize("request_", ["subscribe", "abandon", "unsubscribe"])
async def test_a_request_waits_for_a_redis_that_is_away_for_long(
    server: RedisServer, proxy: Proxy, stack: AsyncExitStack, request_: str
) -> None:
    adapter = await stack.enter_async_context(adapter_on(proxy.url, call_timeout_ms=300))
    if request_ != "subscribe":
        await answer_of(adapter.queues.subscribe(ONE))
    proxy.mute = True
    proxy.cut_all()
    answer = asyncio.ensure_future(
        answer_of(adapter.queues.subscribe(ONE) if request_ == "subscribe" else getattr(adapter.queues, request_)(ONE.id))
    )
    for _ in range(3):  # other calls give up meanwhile
        with pytest.raises(StoreError, match="given up"):
            await answer_of(adapter.values.get("s", "one"))
    assert not answer.done()
    proxy.mute = False
    proxy.cut_all()
    await asyncio.wait_for(answer, 20)
    assert bool(hosts(server, ONE)) == (request_ == "subscribe")
    assert server.client.exists(f"{PREFIX}sub:{ONE.id}") == (request_ != "unsubscribe")


async def test_a_flushed_database_has_other_versions_of_the_routes(server: RedisServer, stack: AsyncExitStack) -> None:
    async with adapter_on(server.url) as first:
        await answer_of(first.queues.subscribe(ONE))
    writer = await stack.enter_async_context(adapter_on(server.url))
    await answer_of(writer.values.set("s", "two", b"0"))
    server.client.flushall()
    second = await stack.enter_async_context(adapter_on(server.url))
    await answer_of(second.queues.subscribe(TWO))
    await answer_of(writer.values.set("s", "two", b"1"))
    assert (await take_one(second, TWO)).event.new == b"1"


async def test_a_server_behind_the_same_address_may_have_other_routes_of_the_same_version(
    server: RedisServer, other_server: RedisServer, proxy: Proxy, stack: AsyncExitStack
) -> None:
    """As after a failover to a replica that had not heard of the latest change, and another one since."""
    first = await stack.enter_async_context(adapter_on(server.url))
    await answer_of(first.queues.subscribe(ONE))
    writer = await stack.enter_async_context(adapter_on(proxy.url))
    second = await stack.enter_async_context(adapter_on(other_server.url))
    await answer_of(second.queues.subscribe(TWO))
    version = server.client.get(f"{PREFIX}routes:version")
    assert version is not None
    other_server.client.set(f"{PREFIX}routes:version", version)
    await answer_of(writer.values.set("s", "two", b"0"))
    proxy.target = other_server.port
    proxy.cut_all()
    await until_written(writer, "two", b"1")
    assert (await take_one(second, TWO)).event.new == b"1"


async def test_what_is_hosted_is_registered_at_a_server_that_has_not_heard_of_it(
    server: RedisServer, other_server: RedisServer, proxy: Proxy, stack: AsyncExitStack
) -> None:
    """As after a failover to a replica that had not heard of the latest registration."""
    adapter = await stack.enter_async_context(adapter_on(proxy.url))
    await answer_of(adapter.queues.subscribe(ONE))
    engines = server.client.hgetall(f"{PREFIX}engines")
    other_server.client.hset(f"{PREFIX}engines", mapping=engines)  # it knows the engine, so its heartbeat finds nothing amiss
    proxy.target = other_server.port
    proxy.cut_all()
    await until(lambda: hosts(other_server, ONE))
    await until_written(adapter, "one", b"1")
    assert (await take_one(adapter, ONE)).event.new == b"1"


async def test_the_full_queue_of_an_engine_that_is_gone_refuses_no_write(
    own_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody will ever serve what was broadcast to it."""
    dying = script(
        f"""
        from iii_state.adapters.redis import RedisAdapter
        from iii_state.config import RedisSettings
        adapter = RedisAdapter(RedisSettings(redis_url={own_server.url!r}, heartbeat_ttl_ms=300))
        await adapter.start(lambda subscription_id: None)
        await adapter.queues.subscribe(Subscription("all", delivery="broadcast", retention_ms="forever"))
        await adapter.queues.subscribe(Subscription("once"))
        say("subscribed")
        await asyncio.sleep(60)
        """,
        Path("/"),
    )
    assert dying.stdout is not None
    assert await asyncio.to_thread(dying.stdout.readline) == "subscribed\n"
    settings = RedisSettings(redis_url=own_server.url, heartbeat_ttl_ms=300)
    adapter = RedisAdapter(settings, limits=QueueLimits(max_queue_length=3))
    await adapter.start(lambda subscription_id: None)
    try:
        for number in range(3):
            await answer_of(adapter.values.set("s", "k", b"%d" % number))
        with pytest.raises(StoreError, match=r"the queue of (all|once) is full"):
            await answer_of(adapter.values.set("s", "k", b"3"))
        assert len(await answer_of(adapter.admin.stats())) == 2, "it lives: its queue stays"
        dying.kill()
        await asyncio.to_thread(dying.communicate)

        async def both_are_orphans() -> bool:
            return all(not queue.hosts for queue in await answer_of(adapter.admin.stats()))

        await until(both_are_orphans)
        with pytest.raises(StoreError, match="the queue of once is full"):  # that one waits for an engine that serves it
            await answer_of(adapter.values.set("s", "k", b"3"))
        assert "the queue of all, of an engine that is gone, is full: it is removed" in caplog.text
        await answer_of(adapter.queues.subscribe(Subscription("once")))
        await answer_of(adapter.queues.ack(await answer_of(adapter.queues.take(Subscription("once").id, 1))))
        await answer_of(adapter.values.set("s", "k", b"3"))

        async def is_gone() -> bool:
            return not own_server.client.keys("iii-state:*:*-*")

        await until(is_gone)
    finally:
        await adapter.stop()


@pytest.mark.parametrize("name", [f"q:{ONE.id}", f"sub:{ONE.id}", "orphans", "routes:log"])
async def test_a_subscription_is_hosted_although_something_was_in_the_way_of_its_keys(
    server: RedisServer, stack: AsyncExitStack, name: str
) -> None:
    adapter = await stack.enter_async_context(adapter_on(server.url))
    server.client.delete(PREFIX + name)
    server.client.set(PREFIX + name, "in the way")
    async with asyncio.timeout(20):
        await asyncio.gather(answer_of(adapter.queues.subscribe(ONE)), answer_of(adapter.queues.subscribe(TWO)))
    assert [len(hosts(server, one)) for one in (ONE, TWO)] == [1, 1]
    await answer_of(adapter.values.set("s", "one", b"1"))
    assert (await take_one(adapter, ONE)).event.new == b"1"
    assert len(server.client.keys(f"{PREFIX}{name}:damaged:*")) == 1


async def test_what_cannot_be_moved_aside_refuses_a_subscription_in_the_end(
    server: RedisServer, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "DAMAGED_SECONDS", 0.3)
    adapter = await stack.enter_async_context(adapter_on(server.url))
    await adapter.checking.stop()
    server.client.delete(f"{PREFIX}orphans")
    server.client.set(f"{PREFIX}orphans", "in the way")
    async with asyncio.timeout(20):
        with pytest.raises(StoreError, match="WRONGTYPE"):
            await answer_of(adapter.queues.subscribe(ONE))
    server.client.delete(f"{PREFIX}orphans")
    await answer_of(adapter.queues.subscribe(ONE))
    assert len(hosts(server, ONE)) == 1
