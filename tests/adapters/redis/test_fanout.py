"""Several adapters on one Redis: registrations that no write misses, connections that break, queues that end."""

from __future__ import annotations

import asyncio

import pytest

from iii_state.adapters.redis import RedisAdapter
from iii_state.config import RedisSettings
from iii_state.events import Delivery, QueueLimits, Subscription
from iii_state.tasks import maintenance as maintenance
from tests.support.redis.adapters import Open, drain
from tests.support.redis.proxy import Proxy
from tests.support.redis.server import RedisServer
from tests.support.stores import ALL, FAILED
from tests.support.waiting import answer_of, until


async def test_a_registration_that_has_answered_is_missed_by_no_write_of_any_engine(opened: Open) -> None:
    adapters = [await opened() for _ in range(3)]
    for number in range(30):
        subscription = Subscription(f"f{number}", scope="s")
        await answer_of(adapters[number % 3].queues.subscribe(subscription))
        await answer_of(adapters[(number + 1) % 3].values.set("s", "k", b"1"))
        assert len(await drain(adapters[number % 3], subscription)) == 1


async def test_an_engines_own_write_is_taken_right_behind_it_and_that_of_another_when_the_bell_is_heard(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "SWEEP_SECONDS", 3600)
    taken: list[Delivery] = []

    def take(subscription_id: str) -> None:
        answer = hosting.queues.take(subscription_id, 10)
        if asyncio.isfuture(answer):
            answer.add_done_callback(lambda answered: taken.extend(answered.result()))

    hosting, other = await opened(bell=take), await opened()
    await answer_of(hosting.queues.subscribe(ALL))
    await answer_of(other.values.set("s", "another's", b"1"))
    async with asyncio.timeout(20):
        while not taken:
            await asyncio.sleep(0.005)
    hosting._shared.pubsub.ignore(hosting._shared.keys.stream(ALL.id.encode()))  # the second is taken by who hears no bell
    await answer_of(hosting.values.set("s", "own", b"1"))
    await answer_of(hosting.values.get("s", "own"))  # behind the take, on the same connection
    assert [delivery.event.key for delivery in taken] == ["another's", "own"]


async def test_an_engine_knows_the_routes_that_it_has_registered_itself(opened: Open, server: RedisServer) -> None:
    adapter = await opened()
    await asyncio.gather(*(answer_of(adapter.queues.subscribe(Subscription(f"f{number}", scope="s"))) for number in range(10)))
    server.client.config_resetstat()
    await answer_of(adapter.values.set("s", "k", b"1"))
    assert "cmdstat_hgetall" not in server.client.info("commandstats")  # no call was stale
    for number in range(10):
        assert len(await drain(adapter, Subscription(f"f{number}", scope="s"))) == 1


async def test_calls_that_are_stale_together_read_the_routes_once(opened: Open, server: RedisServer) -> None:
    writing, registering = await opened(), await opened()
    await asyncio.gather(*(answer_of(registering.queues.subscribe(Subscription(f"f{number}", scope="s"))) for number in range(10)))
    server.client.delete("iii-state:routes:log")
    with server.client.monitor() as monitor:
        await asyncio.gather(*(answer_of(writing.values.set("s", f"k{number}", b"1")) for number in range(200)))
        server.client.echo("over")
        asked = list(iter(lambda: monitor.next_command()["command"].split(), ["ECHO", "over"]))
    assert asked.count(["HGETALL", "iii-state:routes"]) == 1
    for number in range(10):
        assert len(await drain(registering, Subscription(f"f{number}", scope="s"))) == 200


async def test_ten_thousand_triggers_registered_under_traffic_starve_no_writer(opened: Open) -> None:
    registering, writing = await opened(), await opened()
    stop = False
    writes = 0

    async def write() -> None:
        nonlocal writes
        while not stop:
            await answer_of(writing.values.set("s", "k", b"%d" % writes))
            writes += 1

    writers = [asyncio.create_task(write()) for _ in range(4)]
    for number in range(200):  # each a change of its own, then the rest at once
        await answer_of(registering.queues.subscribe(Subscription(f"one{number}", scope="other", key=f"k{number}")))
    before = writes
    await asyncio.gather(
        *(answer_of(registering.queues.subscribe(Subscription(f"f{n}", scope="other", key=f"k{n}"))) for n in range(9_799)),
    )
    assert writes > before
    await answer_of(registering.queues.subscribe(ALL))
    stop = True
    await asyncio.gather(*writers)
    await drain(registering)
    await answer_of(writing.values.set("s", "k", b"1"))
    await answer_of(writing.values.set("other", "k7", b"1"))
    assert len(await drain(registering)) == 2
    assert len(await drain(registering, Subscription("f7", scope="other", key="k7"))) == 1


async def test_routes_that_have_changed_more_often_than_the_log_remembers_are_read_anew(opened: Open, server: RedisServer) -> None:
    registering, writing = await opened(), await opened()
    await answer_of(registering.queues.subscribe(ALL))
    for number in range(3):
        await answer_of(registering.queues.subscribe(Subscription(f"f{number}")))
    server.client.xtrim("iii-state:routes:log", maxlen=1)
    await answer_of(writing.values.set("s", "k", b"1"))
    assert len(await drain(registering)) == 1


async def test_a_write_waits_for_nobody_when_the_routes_hold_still(opened: Open, server: RedisServer) -> None:
    adapter = await opened()
    server.client.set("iii-state:routes:hold", "1", px=300)
    registration = adapter.queues.subscribe(ALL)
    await answer_of(adapter.values.set("s", "k", b"1"))
    await answer_of(registration)
    await answer_of(adapter.values.set("s", "k", b"2"))
    assert [delivery.event.new for delivery in await drain(adapter)][-1] == b"2"


async def test_two_engines_share_a_queue_and_the_last_to_leave_ends_it(opened: Open) -> None:
    one, two = await opened(), await opened()
    await answer_of(one.queues.subscribe(ALL))
    await answer_of(two.queues.subscribe(ALL))
    await answer_of(one.queues.unsubscribe(ALL.id))
    await answer_of(one.values.set("s", "k", b"1"))
    assert await answer_of(one.queues.take(ALL.id, 10)) == []
    assert len(await drain(two)) == 1
    await answer_of(two.queues.unsubscribe(ALL.id))
    assert await answer_of(one.admin.stats()) == []


async def test_a_queue_that_ends_takes_all_its_lanes_with_it(opened: Open, server: RedisServer) -> None:
    adapter = await opened()
    await answer_of(adapter.queues.subscribe(ALL))
    await asyncio.gather(*(answer_of(adapter.values.set("s", f"k{number % 1500}", b"1")) for number in range(3000)))
    assert len(server.client.keys("iii-state:wait:*")) == 1500
    await answer_of(adapter.queues.unsubscribe(ALL.id))
    kinds = ("q:*", "busy:*", "wait:*", "sub:*", "orphans")
    assert [key for kind in kinds for key in server.client.keys(f"iii-state:{kind}")] == []
    await answer_of(adapter.queues.subscribe(ALL))
    await answer_of(adapter.values.set("s", "k0", b"2"))
    assert [delivery.event.new for delivery in await drain(adapter)] == [b"2"]


async def test_a_removal_that_was_interrupted_is_finished_by_who_registers_again(opened: Open, server: RedisServer) -> None:
    adapter = await opened()
    await answer_of(adapter.queues.subscribe(ALL))
    await answer_of(adapter.values.set("s", "k", b"1"))
    await answer_of(adapter.values.set("s", "k", b"2"))
    server.client.hset(f"iii-state:sub:{ALL.id}", "ending", "1")
    await answer_of(adapter.queues.subscribe(ALL))
    await answer_of(adapter.values.set("s", "k", b"3"))
    assert [delivery.event.new for delivery in await drain(adapter)] == [b"3"]


async def test_an_engine_that_stops_leaves_a_retry_to_another(opened: Open, server: RedisServer) -> None:
    other = await opened()
    stopping = RedisAdapter(RedisSettings(redis_url=server.url))
    await stopping.start(lambda subscription_id: None)
    await answer_of(stopping.queues.subscribe(ALL))
    await answer_of(other.values.set("s", "k", b"1"))
    (delivery,) = await answer_of(stopping.queues.take(ALL.id, 1))
    await answer_of(stopping.queues.retry(delivery, 300, FAILED))
    await stopping.stop()
    await answer_of(other.queues.subscribe(ALL))
    taken: list[Delivery] = []

    async def came() -> bool:
        taken.extend(await answer_of(other.queues.take(ALL.id, 10)))
        return bool(taken)

    await until(came)
    assert (taken[0].attempt, taken[0].event_id) == (2, delivery.event_id)
    await answer_of(other.queues.ack(taken))
    assert not server.client.exists("iii-state:later", f"iii-state:busy:{ALL.id}")


async def test_no_delivery_gets_lost_when_connections_break(proxy: Proxy, opened: Open) -> None:
    taking, writing = await opened(proxy.url), await opened()
    await answer_of(taking.queues.subscribe(ALL))
    handled: dict[str, list[int]] = {}
    held: list[Delivery] = []
    cuts = 0
    for number in range(400):
        await answer_of(writing.values.set("s", f"k{number % 7}", b"%d" % number))
        held = held + await answer_of(taking.queues.take(ALL.id, 3))
        if number % 20 == 19:
            waiting = [taking.queues.take(ALL.id, 5), taking.queues.ack(held[:1], 3)]  # their replies, or they themselves, are lost
            proxy.cut_all()
            cuts += 1
            done, held = held[:1], held[1:]
            for answer in waiting:
                held += await answer_of(answer)
        else:
            done, held = held[:2], held[2:]
            await answer_of(taking.queues.ack(done))
        for delivery in done:
            handled.setdefault(delivery.event.key, []).append(int(delivery.event.new or b""))

    async def everything_came() -> bool:
        nonlocal held
        held += await answer_of(taking.queues.take(ALL.id, 100))
        done, held = held, []
        await answer_of(taking.queues.ack(done))
        for delivery in done:
            handled.setdefault(delivery.event.key, []).append(int(delivery.event.new or b""))
        return sum(map(len, handled.values())) >= 400

    await until(everything_came)
    assert cuts == 20
    assert handled == {f"k{key}": list(range(key, 400, 7)) for key in range(7)}
    (stats,) = await answer_of(taking.admin.stats())
    assert (stats.waiting, stats.pending) == (0, 0)


async def test_after_a_flush_engines_register_again(opened: Open, server: RedisServer) -> None:
    adapter = await opened(heartbeat_ttl_ms=300)
    await answer_of(adapter.queues.subscribe(ALL))
    server.client.flushall()

    async def routed() -> bool:
        return any(not name.startswith(b":") for name in server.client.hkeys("iii-state:routes"))

    await until(routed)
    await answer_of(adapter.values.set("s", "k", b"1"))
    news: list[bytes | None] = []

    async def handled() -> bool:
        news.extend([delivery.event.new for delivery in await drain(adapter)])
        return bool(news)

    await until(handled)
    assert news == [b"1"]


async def test_a_full_queue_drops_what_waits_behind_others_too(opened: Open) -> None:
    adapter = await opened(limits=QueueLimits(max_queue_length=4, on_full="drop_oldest"))
    await answer_of(adapter.queues.subscribe(ALL))
    await answer_of(adapter.values.set("s", "a", b"0"))
    (out,) = await answer_of(adapter.queues.take(ALL.id, 1))
    for number in range(1, 4):
        await answer_of(adapter.values.set("s", "a", b"%d" % number))
    await answer_of(adapter.values.set("s", "b", b"0"))  # room can only come from behind the one that is out
    await answer_of(adapter.queues.ack([out]))
    assert sorted((d.event.key, d.event.new) for d in await drain(adapter)) == [("a", b"2"), ("a", b"3"), ("b", b"0")]


async def test_an_event_larger_than_a_queue_that_drops_is_kept_alone(opened: Open) -> None:
    adapter = await opened(limits=QueueLimits(max_queue_bytes=100, on_full="drop_oldest"))
    await answer_of(adapter.queues.subscribe(ALL))
    await answer_of(adapter.values.set("s", "a", b"1"))
    await answer_of(adapter.values.set("s", "b", b'"%b"' % (b"x" * 500)))
    assert [delivery.event.key for delivery in await drain(adapter)] == ["b"]


async def test_a_redis_that_is_killed_and_comes_back_has_every_event_of_every_acknowledged_write(opened: Open) -> None:
    with RedisServer("--appendonly", "yes", "--appendfsync", "always") as server:
        taking = RedisAdapter(RedisSettings(redis_url=server.url, heartbeat_ttl_ms=400))
        writing = RedisAdapter(RedisSettings(redis_url=server.url, heartbeat_ttl_ms=400))
        for adapter in (taking, writing):
            await adapter.start(lambda subscription_id: None)
        try:
            await answer_of(taking.queues.subscribe(ALL))
            for number in range(20):
                await answer_of(writing.values.set("s", f"k{number}", b"1"))
            held = await answer_of(taking.queues.take(ALL.id, 5))
            on_their_way = [writing.values.set("s", f"later{number}", b"1") for number in range(20)]
            server.kill()
            await asyncio.to_thread(server.start)
            for answer in on_their_way:
                await answer_of(answer)
            handled = list(held)
            await answer_of(taking.queues.ack(held))

            async def everything_came() -> bool:
                handled.extend(await drain(taking))
                return len({delivery.event.key for delivery in handled}) == 40

            await until(everything_came)
            assert len({delivery.event_id for delivery in handled}) == 40
        finally:
            for adapter in (taking, writing):
                await adapter.stop()
