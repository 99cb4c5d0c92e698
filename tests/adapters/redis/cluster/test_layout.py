"""How a store is laid out in a cluster: fixed by its first engine, found by the others, and made good where it is gone."""

from __future__ import annotations

import logging

import pytest

from iii_state.adapters.redis import RedisAdapter
from iii_state.adapters.redis.cluster.layout import Layout
from iii_state.adapters.redis.cluster.partitions import ranges
from iii_state.adapters.redis.cluster.tags import tags
from iii_state.adapters.redis.keys import Keys, caller_session
from iii_state.adapters.redis.opening import inspection, open_redis, reading
from iii_state.config import RedisSettings
from iii_state.errors import ConfigError, RequestFenced, SessionLost, SessionTaken, StoreError
from iii_state.events import Failure, Subscription
from iii_state.sessions import Request
from tests.support.redis.nodes import Nodes
from tests.support.redis.server import RedisServer, default_version
from tests.support.redis.stores_in_clusters import gathered, keys_of, store_on
from tests.support.stores import ALL, PARTITIONS, stored
from tests.support.waiting import answer_of, until

FORMAT = Keys().format
IS_SHARDED = default_version() >= (7, 0)


async def test_the_first_engine_fixes_the_number_of_partitions(nodes: Nodes) -> None:
    async with store_on(nodes.url, partitions=8):
        with pytest.raises(ConfigError, match="partitions is 16 here, and the store has 8"):
            async with store_on(nodes.seeds, partitions=16):
                pass
        async with store_on(nodes.seeds, partitions=None) as other:
            await answer_of(other.values.set("s", "k", stored(1)))
        assert nodes.client().get(FORMAT) == str(Layout(8, IS_SHARDED)).encode()
        assert nodes.client().hgetall(keys_of("s", 8).values(b"s")) == {b"k": b"1"}


async def test_an_engine_takes_64_partitions_where_it_is_told_nothing(nodes: Nodes) -> None:
    async with store_on(nodes.url, partitions=None) as adapter:
        await answer_of(adapter.values.set("s", "k", stored(1)))
    assert nodes.client().get(FORMAT) == b"cluster 1: 64 partitions, %b wake-ups" % (b"sharded" if IS_SHARDED else b"plain")
    assert nodes.client().exists(keys_of("s", 64).values(b"s"))


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (b"1", "the state of a single Redis"),
        (b"cluster 2: 64 partitions, plain wake-ups", "a newer version"),
        (b"cluster 1: 0 partitions, plain wake-ups", "a newer version"),
    ],
)
async def test_what_is_laid_out_otherwise_is_refused(nodes: Nodes, held: bytes, words: str) -> None:
    nodes.client().set(FORMAT, held)
    with pytest.raises(StoreError, match=words):
        async with store_on(nodes.url):
            pass
    assert nodes.client().get(FORMAT) == held


async def test_a_single_redis_that_holds_the_layout_of_a_cluster_is_refused(server: RedisServer) -> None:
    server.client.set(FORMAT, str(Layout(8)))
    adapter = RedisAdapter(RedisSettings(redis_url=server.url))
    with pytest.raises(StoreError, match="has format cluster 1: 8 partitions"):
        await adapter.start(lambda subscription_id: None)


async def test_a_cluster_is_recognised(nodes: Nodes, server: RedisServer) -> None:
    async with store_on(nodes.url):
        assert (await open_redis(RedisSettings(redis_url=nodes.url))).store is None
        with pytest.raises(ConfigError, match="is no part of a Redis Cluster"):
            await open_redis(RedisSettings(redis_url=server.url, cluster=True))
        with pytest.raises(ConfigError, match="partitions is given"):
            await open_redis(RedisSettings(redis_url=server.url, partitions=8))
        with pytest.raises(StoreError, match="part of a Redis Cluster"):
            await (await open_redis(RedisSettings(redis_url=nodes.url, cluster=False))).start(lambda subscription_id: None)


async def test_a_master_that_was_emptied_is_noticed_and_made_good(nodes: Nodes, caplog: pytest.LogCaptureFixture) -> None:
    async with store_on(nodes.url, heartbeat_ttl_ms=600) as adapter:
        before = adapter.store
        await answer_of(adapter.queues.subscribe(ALL))
        nodes.master(nodes.shard_of(FORMAT)).client.flushall()
        await until(lambda: nodes.client().get(FORMAT) == str(Layout(PARTITIONS, IS_SHARDED)).encode())
        await until(lambda: adapter.store not in (before, None))
        for number in range(40):
            await answer_of(adapter.values.set(f"scope {number}", "k", stored(number)))
        found = await gathered(adapter, ALL.id, 40)
        assert {delivery.event.scope for delivery in found} == {f"scope {number}" for number in range(40)}
    assert "the database has been emptied" in caplog.text


async def test_what_a_stock_engine_wrote_is_not_seen_and_is_said_once(nodes: Nodes, caplog: pytest.LogCaptureFixture) -> None:
    nodes.client().hset("state:users", "ada", "1")
    nodes.client().hset("state:others", "ada", "1")
    async with store_on(nodes.url) as adapter:
        assert await answer_of(adapter.values.scopes()) == []
        await until(lambda: "which has no hash tag" in caplog.text)
    assert caplog.text.count("which has no hash tag") == 1


async def test_what_another_program_put_into_a_partition_is_found(nodes: Nodes) -> None:
    client = nodes.client()
    for number in range(20):
        client.hset(keys_of(f"scope {number}").values(f"scope {number}".encode()), "k", "1")
    async with store_on(nodes.url) as adapter:
        assert sorted(await answer_of(adapter.values.scopes())) == sorted(f"scope {number}" for number in range(20))
        async with reading(RedisSettings(redis_url=nodes.url)) as reader:
            assert sorted(await reader.scopes()) == sorted(f"scope {number}" for number in range(20))
            assert await reader.count(["scope 1", "scope 2", "none"]) == 2
            assert reader.store == adapter.store


async def test_a_cluster_that_holds_nothing_can_be_read_and_has_no_queues(nodes: Nodes) -> None:
    async with reading(RedisSettings(redis_url=nodes.url)) as reader:
        assert (await reader.scopes(), reader.store) == ([], None)
    with pytest.raises(StoreError, match="holds nothing of iii-state"):
        async with inspection(RedisSettings(redis_url=nodes.url)):
            pass


async def test_dead_letters_are_found_in_their_partitions(nodes: Nodes) -> None:
    async with store_on(nodes.url) as adapter:
        await answer_of(adapter.queues.subscribe(ALL))
        for number in range(8):
            await answer_of(adapter.values.set(f"scope {number}", "k", stored(number)))
        for delivery in await gathered(adapter, ALL.id, 8, done=False):
            await answer_of(adapter.queues.dead_letter(delivery, Failure("invocation_failed", "boom")))
        async with inspection(RedisSettings(redis_url=nodes.seeds)) as admin:
            dead = await admin.dead_letters("all")
            assert sorted(letter.event.scope for letter in dead) == [f"scope {number}" for number in range(8)]
            assert dead == await adapter.admin.dead_letters()
            (stats,) = await admin.stats()
            assert (stats.dead, stats.waiting, stats.pending, len(stats.hosts)) == (8, 0, 0, 1)
            assert await admin.dead_retry(dead[0].id)
            assert await admin.dead_drop(dead[1].id)
            assert not await admin.dead_drop(dead[1].id)
            for wrong in ("99/1-0:x", dead[2].id.partition("/")[2], "", "1/"):
                assert not await admin.dead_retry(wrong)
            (again,) = await gathered(adapter, ALL.id, 1)
            assert again.event.scope == dead[0].event.scope
            assert len(await admin.dead_letters()) == 6


async def test_a_scope_of_its_own_takes_one_partition_and_none_takes_all(nodes: Nodes) -> None:
    async with store_on(nodes.url) as adapter:
        await answer_of(adapter.queues.subscribe(Subscription("one", scope="s")))
        await answer_of(adapter.queues.subscribe(ALL))
        client = nodes.client()
        routed = {tag: client.hkeys(Keys(tag=tag).routes) for tag in tags(PARTITIONS)}
        one, everything = Subscription("one", scope="s").id.encode(), ALL.id.encode()
        assert all(everything in fields for fields in routed.values())
        assert [tag for tag, fields in routed.items() if one in fields] == [keys_of("s").scopes.removesuffix(b"iii-state:scopes")]
        await answer_of(adapter.queues.unsubscribe(ALL.id))
        await answer_of(adapter.queues.unsubscribe(one.decode()))
        assert await adapter.admin.stats() == []


@pytest.mark.parametrize(
    ("numbers", "words"), [([3], "partition 3"), ([0, 1, 2, 5, 7, 8], "partitions 0-2, 5, 7-8"), ([1, 3], "partitions 1, 3")]
)
def test_partitions_in_words(numbers: list[int], words: str) -> None:
    assert ranges(numbers) == words


async def test_partitions_that_do_not_answer_are_named(nodes: Nodes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    async with store_on(nodes.url, call_timeout_ms=1500) as adapter:
        master = nodes.masters()[1]
        master.pause()
        try:
            with pytest.raises(StoreError, match=rf"^partitions 5-10 of 16 \(at 127.0.0.1:{master.port}\): "):
                await adapter.admin.stats()
            with pytest.raises(StoreError, match=r"^partitions .* of 16"):
                await answer_of(adapter.values.scopes())
            assert str(await adapter.health()).startswith("partitions ")
        finally:
            master.resume()

        async def is_well() -> bool:
            return await adapter.health() is None

        await until(is_well)


async def test_a_session_is_there_in_all_partitions_and_stays_while_any_is_used(nodes: Nodes) -> None:
    async with store_on(nodes.url) as adapter:
        await answer_of(adapter.sessions.open("session-1", 0, 1))
        client = nodes.client()
        held = [Keys(tag=tag).session(caller_session("session-1")) for tag in tags(PARTITIONS)]
        assert [client.hget(key, "epoch") for key in held] == [b"1"] * PARTITIONS
        for key in held:
            client.pexpire(key, 50_000)
        await answer_of(adapter.values.set("s", "k", stored(1), request=Request("session-1", 1, 0, 1)))
        await until(lambda: all(client.pttl(key) > 50_000 for key in held))
        await answer_of(adapter.sessions.open("session-1", 1, 2))
        assert [client.hget(key, "epoch") for key in held] == [b"2"] * PARTITIONS
        for scope in map("scope {}".format, range(40)):
            with pytest.raises(RequestFenced):
                await answer_of(adapter.values.set(scope, "k", stored(1), request=Request("session-1", 1, 1, 1)))
        with pytest.raises(SessionTaken):
            await answer_of(adapter.sessions.open("session-1", 0, 1))
        client.delete(held[3])
        with pytest.raises(SessionLost):
            await answer_of(adapter.sessions.open("session-1", 2, 3))


async def test_a_session_that_was_opened_in_some_partitions_only_can_be_opened_again(nodes: Nodes) -> None:
    async with store_on(nodes.url, call_timeout_ms=1000) as adapter:
        master = nodes.masters()[2]
        master.pause()
        try:
            with pytest.raises(StoreError, match=r"partitions .* of 16"):
                await answer_of(adapter.sessions.open("session-1", 0, 1))
        finally:
            master.resume()

        async def is_well() -> bool:
            return await adapter.health() is None

        await until(is_well)
        first = Keys(tag=tags(PARTITIONS)[0]).session(caller_session("session-1"))
        assert not nodes.client().exists(first)
