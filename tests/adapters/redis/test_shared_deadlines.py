"""Deadlines on a Redis that several engines share: one event, whoever lives or is killed; and what all of them have to know."""

from __future__ import annotations

import asyncio
import signal
from typing import Any, cast

import pytest

from iii_state.adapters.base import Updated
from iii_state.adapters.redis import RedisAdapter
from iii_state.adapters.redis.mutations.commands import Replace
from iii_state.adapters.redis.mutations.routes import deadlines_setting
from iii_state.adapters.redis.scripts.packing import pack
from iii_state.config import RedisSettings
from iii_state.events import Delivery
from tests.support.redis.adapters import Open, drain
from tests.support.redis.cluster import Cluster, Handler
from tests.support.redis.proxy import Proxy
from tests.support.redis.server import RedisServer
from tests.support.stores import ALL, LIMIT, plan, seen, stored
from tests.support.waiting import answer_of, until

LONG = 3_600_000
INCREMENT = plan({"type": "increment", "path": "n", "by": 1})


async def gathered(adapter: RedisAdapter, count: int) -> list[Delivery]:
    """So many deliveries, acknowledged."""
    came: list[Delivery] = []

    async def enough() -> bool:
        came.extend(await drain(adapter))
        return len(came) >= count

    await until(enough)
    return came


def scopes_with_deadlines(server: RedisServer) -> list[bytes]:
    names = cast("list[bytes]", server.client.hkeys("iii-state:routes"))
    return [name for name in names if name.startswith(deadlines_setting(b""))]


async def test_of_several_engines_one_removes_a_value(opened: Open) -> None:
    engines = [await opened() for _ in range(3)]
    await answer_of(engines[0].queues.subscribe(ALL))
    await asyncio.gather(*(answer_of(engines[n % 3].values.set(f"s{n % 7}", f"k{n}", b"1", ttl_ms=30 + n)) for n in range(200)))
    came = await gathered(engines[0], 400)
    deleted = [event[2] for event in seen(came) if event[0] == "deleted"]
    assert sorted(deleted) == sorted(f"k{n}" for n in range(200))
    assert len({delivery.event_id for delivery in came}) == 400
    assert [await answer_of(engine.values.scopes()) for engine in engines] == [[], [], []]
    assert await drain(engines[0]) == []


async def test_an_engine_that_has_stopped_leaves_its_deadlines_to_others(opened: Open, server: RedisServer) -> None:
    other = await opened()
    await answer_of(other.queues.subscribe(ALL))
    stopping = RedisAdapter(RedisSettings(redis_url=server.url))
    await stopping.start(lambda subscription_id: None)
    await answer_of(stopping.values.set("s", "k", b"1", ttl_ms=200))
    await stopping.stop()
    assert [event[0] for event in seen(await gathered(other, 2))] == ["created", "deleted"]


async def test_a_claim_of_an_engine_that_died_ends_by_itself(opened: Open, server: RedisServer) -> None:
    adapter = await opened()
    await answer_of(adapter.queues.subscribe(ALL))
    await answer_of(adapter.values.set("s", "k", b"1", ttl_ms=LONG))
    server.elapse(LONG)
    server.client.zadd("iii-state:deadlines", {"s": server.client.time()[0] * 1000 + 300})  # what a claim leaves there
    adapter._deadlines.look()
    assert [event[0] for event in seen(await gathered(adapter, 2))] == ["created", "deleted"]


async def test_the_first_deadline_of_a_scope_keeps_the_order_of_calls(opened: Open) -> None:
    adapter = await opened()
    for number in range(20):
        scope = f"s{number}"
        answers = [
            adapter.values.set(scope, "k", b"1"),
            adapter.values.set(scope, "k", b"2", ttl_ms=LONG),
            adapter.values.set(scope, "k", b"3"),
            adapter.values.set(scope, "k", b"4", ttl_ms=LONG),
        ]
        assert [await answer_of(answer) for answer in answers] == [None, b"1", b"2", b"3"]
        assert await answer_of(adapter.values.get(scope, "k")) == b"4"


async def test_the_first_deadlines_of_many_scopes_at_once(opened: Open, server: RedisServer) -> None:
    one, two = await opened(), await opened()
    await asyncio.gather(*(answer_of((one, two)[n % 2].values.set(f"s{n // 2}", f"k{n}", b"1", ttl_ms=LONG)) for n in range(600)))
    assert len(scopes_with_deadlines(server)) == 300
    assert len(await answer_of(one.values.scopes())) == 300
    server.elapse(LONG)
    assert await answer_of(one.values.scopes()) == []


async def test_a_first_deadline_waits_while_the_routes_hold_still(opened: Open, server: RedisServer) -> None:
    adapter = await opened()
    server.client.set("iii-state:routes:hold", "1", px=300)
    assert await answer_of(adapter.values.set("s", "k", b"1", ttl_ms=LONG)) is None
    assert await answer_of(adapter.values.update("t", "k", INCREMENT, LIMIT, ttl_ms=LONG)) == Updated(None, stored({"n": 1}), [])
    assert sorted(scopes_with_deadlines(server)) == [deadlines_setting(b"s"), deadlines_setting(b"t")]


async def test_an_engine_that_only_reads_hears_of_a_scope_with_deadlines(opened: Open, server: RedisServer) -> None:
    writing, reading = await opened(), await opened()
    await answer_of(writing.values.set("s", "k", b"1", ttl_ms=LONG))

    async def has_heard() -> bool:
        return "s" in reading._shared.fanout.routes.with_deadlines

    await until(has_heard)
    assert await answer_of(reading.values.get("s", "k")) == b"1"
    server.elapse(LONG)
    assert await answer_of(reading.values.get("s", "k")) is None
    assert (await answer_of(reading.values.entries("s"))).rows == []


async def test_every_engine_keeps_a_deadline_that_another_one_sets(opened: Open) -> None:
    one, two = await opened(), await opened()
    await answer_of(one.values.set("s", "k", b"1"))
    await answer_of(two.values.set("s", "k", b"2", ttl_ms=LONG))
    await answer_of(one.values.update("s", "other", INCREMENT, LIMIT))
    await answer_of(one.values.set("s", "k", b"3"))  # takes it away
    await answer_of(two.values.set("s", "k2", b"2", ttl_ms=20))

    async def only_the_others() -> bool:
        return sorted((await answer_of(one.values.entries("s"))).rows) == [("k", b"3"), ("other", stored({"n": 1}))]

    await until(only_the_others)


async def test_connections_that_break_lose_no_deadline_and_apply_nothing_twice(proxy: Proxy, opened: Open) -> None:
    adapter, other = await opened(proxy.url), await opened()
    await answer_of(other.queues.subscribe(ALL))
    for turn in range(10):
        answers: list[Any] = [adapter.values.update("s", "n", INCREMENT, LIMIT, ttl_ms=LONG) for _ in range(20)]
        answers += [adapter.values.set("s", f"{turn}:{number}", b"1", ttl_ms=40) for number in range(20)]
        await asyncio.sleep(0)
        proxy.cut_all()
        for answer in answers:
            await answer_of(answer)
    came = seen(await gathered(other, 600))
    assert await answer_of(other.values.get("s", "n")) == stored({"n": 200})
    assert sum(event[0] == "deleted" for event in came) == 200
    assert (await answer_of(other.values.entries("s"))).rows == [("n", stored({"n": 200}))]


async def test_a_first_deadline_whose_connection_breaks_before_it_is_made_known_is_applied_once(opened: Open) -> None:
    """Another call may have made it known when it is sent again: then it is sent as what it is, and its reply is that of this."""
    adapter = await opened()
    fanout = adapter.values._fanout
    change = Replace(fanout, "s", "k", (b"1",), ttl_ms=LONG)
    change.can_be_held = True
    known = pack((b"EVALSHA", fanout.scripts.of("fleet/change_settings").sha1))[len(b"*2\r\n") :]
    assert known in change.command(b"session", 1)
    fanout.routes.with_deadlines.add("s")
    assert known not in change.command(b"session", 1)
    assert change.result([b"OK", None]) is None


async def test_a_scope_without_deadlines_is_forgotten_and_can_have_some_again(opened: Open, server: RedisServer) -> None:
    one, two = await opened(), await opened()
    for adapter in (one, two):
        adapter._deadlines._forget_ms = 40
    for _ in range(3):
        await answer_of(one.values.set("s", "k", b"1", ttl_ms=20))

        async def forgotten() -> bool:
            return not scopes_with_deadlines(server) and not server.client.exists("iii-state:deadlines")

        await until(forgotten)
        assert await answer_of(two.values.set("s", "k", b"2")) is None
        assert await answer_of(one.values.delete("s", "k")) == b"2"
    await answer_of(two.values.set("s", "k", b"1", ttl_ms=LONG))
    assert await answer_of(one.values.set("s", "k", b"2")) == b"1"
    assert server.client.zcard("iii-state:deadlines:s") == 0


async def test_scopes_without_deadlines_do_nothing_for_them(opened: Open, server: RedisServer) -> None:
    adapter = await opened()
    await answer_of(adapter.queues.subscribe(ALL))
    await answer_of(adapter.values.set("s", "k", b"1", ttl_ms=LONG))
    server.client.config_resetstat()
    for _ in range(10):
        await answer_of(adapter.values.set("other", "k", b"1"))
        await answer_of(adapter.values.update("other", "k", plan({"type": "increment", "path": "", "by": 1}), LIMIT))
        await answer_of(adapter.values.get("other", "k"))
        await answer_of(adapter.values.delete("other", "k"))
    called = server.client.info("commandstats")
    assert called["cmdstat_hget"]["calls"] == 10 * 4
    assert "cmdstat_zscore" not in called


async def test_after_a_flush_deadlines_begin_anew(opened: Open, server: RedisServer) -> None:
    adapter = await opened()
    await answer_of(adapter.values.set("s", "k", b"1", ttl_ms=LONG))
    server.client.flushall()
    await answer_of(adapter.values.set("s", "k", b"1", ttl_ms=30))
    assert server.client.hget("iii-state:routes", deadlines_setting(b"s")) == b"1"

    async def gone() -> bool:
        return not await answer_of(adapter.values.scopes())

    await until(gone)


async def test_what_another_program_writes_over_a_value_goes_at_its_deadline(opened: Open, server: RedisServer) -> None:
    adapter = await opened()
    await answer_of(adapter.queues.subscribe(ALL))
    await answer_of(adapter.values.set("s", "k", b"1", ttl_ms=LONG))
    server.client.hset("state:s", "k", "[1, 2]")
    server.elapse(LONG)
    assert seen(await gathered(adapter, 2))[1] == ("deleted", "s", "k", b"[1,2]", None)


async def test_where_foreign_writes_are_watched_a_deadline_is_no_foreign_write(opened: Open, server: RedisServer) -> None:
    adapter, other = await opened(foreign_writes=True), await opened(foreign_writes=True)
    await answer_of(other.queues.subscribe(ALL))
    await answer_of(adapter.values.set("s", "k", b"1", ttl_ms=30))
    await answer_of(adapter.values.set("s", "always", b"1"))
    await answer_of(adapter.values.set("s", "k2", b"1", ttl_ms=LONG))
    came = seen(await gathered(other, 4))
    server.elapse(LONG)
    assert await answer_of(other.values.set("s", "k2", b"2")) is None
    server.client.hset("state:s", "k2", "3")
    came += seen(await gathered(other, 3))
    assert [event for event in came if event[2] == "k"] == [("created", "s", "k", None, b"1"), ("deleted", "s", "k", b"1", None)]
    assert [event[0] for event in came if event[2] == "k2"] == ["created", "deleted", "created", "updated"]
    assert sorted((await answer_of(adapter.values.entries("s"))).rows) == [("always", b"1"), ("k2", b"3")]
    assert await drain(other) == []


async def test_where_foreign_writes_are_watched_what_they_removed_has_no_second_event(opened: Open, server: RedisServer) -> None:
    adapter = await opened(foreign_writes=True)
    await answer_of(adapter.queues.subscribe(ALL))
    await answer_of(adapter.values.set("s", "k", b"1", ttl_ms=LONG))
    server.client.hdel("state:s", "k")
    assert [event[0] for event in seen(await gathered(adapter, 2))] == ["created", "deleted"]
    server.elapse(LONG)
    adapter._deadlines.look()

    async def gone() -> bool:
        return not server.client.exists("iii-state:deadlines:s")

    await until(gone)
    assert await drain(adapter) == []


@pytest.mark.parametrize("ttl_ms", [10**13, 60_001])
async def test_a_far_deadline_is_kept(opened: Open, server: RedisServer, ttl_ms: int) -> None:
    adapter = await opened()
    await answer_of(adapter.values.set("s", "k", b"1", ttl_ms=ttl_ms))
    score = server.client.zscore("iii-state:deadlines:s", "k")
    assert score is not None
    assert abs(score - server.client.time()[0] * 1000 - ttl_ms) < 10_000
    await adapter._deadlines.sweep()
    assert await answer_of(adapter.values.get("s", "k")) == b"1"


# -- engines in processes of their own


def deleted(handler: Handler) -> list[Any]:
    """The keys that a handler has been told are gone."""
    return [frame["data"]["key"] for frame in handler.calls if frame["data"]["event_type"] == "state:deleted"]


async def test_a_deadline_of_an_engine_that_was_killed_is_kept_by_another(cluster: Cluster) -> None:
    doomed, other = await cluster.engine(), await cluster.engine()
    handler = await cluster.handler(other)
    writer = await cluster.worker(doomed)
    for number in range(20):
        await writer.call("state::set", {"scope": f"s{number % 3}", "key": f"k{number}", "value": 1, "ttl_ms": 800})
    doomed.process.send_signal(signal.SIGKILL)
    await until(lambda: len(deleted(handler)) == 20)
    assert sorted(deleted(handler)) == sorted(f"k{number}" for number in range(20))
    assert cluster.keys("state:*") == []


async def test_deadlines_that_pass_while_no_engine_lives_are_kept_by_the_next_once(cluster: Cluster) -> None:
    first = await cluster.engine()
    handler = await cluster.handler(first, retention_ms=600_000)
    writer = await cluster.worker(first)
    for number in range(20):
        await writer.call("state::set", {"scope": "s", "key": f"k{number}", "value": 1, "ttl_ms": 600})
    await until(lambda: len(handler.answered) == 20)
    first.process.send_signal(signal.SIGKILL)
    await until(lambda: first.process.poll() is not None)
    second, third = await cluster.engine(), await cluster.engine()
    handlers = [handler, await cluster.handler(second)]
    await until(lambda: len({key for handler in handlers for key in deleted(handler)}) == 20)
    await until(lambda: not cluster.keys("iii-state:deadlines:*"))
    ends = [frame for handler in handlers for frame in handler.calls if frame["data"]["event_type"] == "state:deleted"]
    assert len({frame["metadata"]["iii_state"]["event_id"] for frame in ends}) == 20
    worker = await cluster.worker(third)
    assert (await worker.call("state::list", {"scope": "s"}))["result"] == []
