"""The queues of a store in a cluster: nothing lost, in order per key, and a partition that is slow keeps only its own waiting."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections import defaultdict

import pytest

from iii_state.adapters.redis.cluster.adapter import ClusterAdapter
from iii_state.adapters.redis.cluster.gathering import shares
from iii_state.adapters.redis.cluster.tags import partition_of
from iii_state.adapters.redis.mutations import wake_ups
from iii_state.events import Delivery, Subscription
from tests.support import ROOT
from tests.support.redis.nodes import Nodes
from tests.support.redis.stores_in_clusters import gathered, keys_of, store_on
from tests.support.stores import ALL, PARTITIONS, stored
from tests.support.waiting import SECONDS, answer_of, until


@pytest.mark.parametrize(("count", "among", "wanted"), [(5, 2, [3, 2]), (2, 5, [1, 1]), (0, 3, []), (3, 0, []), (4, 4, [1] * 4)])
def test_shares_are_even_and_none_is_empty(count: int, among: int, wanted: list[int]) -> None:
    assert shares(count, among) == wanted


async def handled(adapter: ClusterAdapter, woken: asyncio.Event, found: list[Delivery], until_count: int) -> None:
    """What a dispatcher does: take when it is woken, and acknowledge with what is wanted next."""
    while len(found) < until_count:
        await woken.wait()
        woken.clear()
        deliveries = await answer_of(adapter.queues.take(ALL.id, 20))
        while deliveries:
            found += deliveries
            deliveries = await answer_of(adapter.queues.ack(deliveries, 20))


@pytest.mark.parametrize("partitions", [PARTITIONS, 64])
async def test_each_event_of_all_scopes_is_handled_once_and_in_the_order_of_its_key(nodes: Nodes, partitions: int) -> None:
    """Only wake-ups are gone by: none of them, and no partition, is forgotten."""
    one_woken, two_woken = asyncio.Event(), asyncio.Event()
    found: list[Delivery] = []
    scopes, each = 100, 6
    async with (
        store_on(nodes.url, partitions=partitions, wake=lambda _: one_woken.set()) as one,
        store_on(nodes.url, partitions=None, wake=lambda _: two_woken.set()) as two,
    ):
        await answer_of(one.queues.subscribe(ALL))
        await answer_of(two.queues.subscribe(ALL))
        writes = [
            asyncio.ensure_future(answer_of((one, two)[number % 2].values.set(f"scope {scope}", "k", stored(number))))
            for scope in range(scopes)
            for number in (0,)
        ]
        await asyncio.gather(*writes)

        async def write(scope: int) -> None:
            for number in range(1, each):
                await answer_of(two.values.set(f"scope {scope}", "k", stored(number)))

        handlers = [
            asyncio.create_task(handled(adapter, woken, found, scopes * each))
            for adapter, woken in ((one, one_woken), (two, two_woken))
        ]
        try:
            await asyncio.gather(*map(write, range(scopes)))
            await until(lambda: len(found) >= scopes * each)
        finally:
            for handler in handlers:
                handler.cancel()
            await asyncio.gather(*handlers, return_exceptions=True)
        by_scope: defaultdict[str, list[bytes | None]] = defaultdict(list)
        for delivery in found:
            by_scope[delivery.event.scope].append(delivery.event.new)
        assert by_scope == {f"scope {scope}": [stored(number) for number in range(each)] for scope in range(scopes)}
        (stats,) = await one.admin.stats()
        assert (stats.waiting, stats.pending, len(stats.hosts)) == (0, 0, 1)


@pytest.mark.parametrize("scope", ["s", None])
async def test_what_follows_in_a_hot_lane_may_start_before_the_acknowledgement_is_written(nodes: Nodes, scope: str | None) -> None:
    subscription = Subscription("hot", scope=scope)
    seen: list[bytes | None] = []
    ahead = 0
    async with store_on(nodes.url) as adapter:
        queues = adapter.queues
        await answer_of(queues.subscribe(subscription))
        for number in range(40):
            await answer_of(adapter.values.set("s", "k", stored(number)))
        ready = await until(lambda: answer_of(queues.take(subscription.id, 1)))
        acknowledged: list[asyncio.Future[list[Delivery]]] = []
        while len(seen) < 40:
            if not ready:
                ready = await answer_of(acknowledged.pop(0)) if acknowledged else await answer_of(queues.take(subscription.id, 1))
                continue
            delivery = ready.pop(0)
            assert queues.holds(delivery)
            delivery.begun = delivery.returned = True
            seen.append(delivery.event.new)
            following, delivery.following = delivery.following, None
            acknowledged.append(asyncio.ensure_future(answer_of(queues.ack([delivery], 1, ahead=True))))
            if following is not None:
                ahead += 1
                ready = [following]
        for answer in acknowledged:
            assert await answer == []
        assert seen == [stored(number) for number in range(40)]
        assert ahead > 20
        (stats,) = await adapter.admin.stats()
        assert (stats.waiting, stats.pending) == (0, 0)


def scope_at(nodes: Nodes, master: int) -> str:
    """A scope whose partition lies at a master, as the cluster began."""
    return next(name for name in map("scope {}".format, range(100)) if partition_of(name.encode(), PARTITIONS) // 6 == master)


async def test_a_master_that_is_silent_delays_only_what_lies_there(nodes: Nodes) -> None:
    silent, speaking = scope_at(nodes, 0), scope_at(nodes, 2)
    woken = asyncio.Event()
    async with store_on(nodes.url, call_timeout_ms=3000, wake=lambda _: woken.set()) as adapter:
        await answer_of(adapter.queues.subscribe(ALL))
        for scope in (silent, speaking):
            await answer_of(adapter.values.set(scope, "k", stored(0)))
        master = nodes.master(nodes.shard_of(keys_of(silent).scopes))
        assert master is not nodes.master(nodes.shard_of(keys_of(speaking).scopes))
        master.pause()
        try:
            for number in range(1, 6):
                await answer_of(adapter.values.set(speaking, "k", stored(number)))
            found: list[Delivery] = []
            async with asyncio.timeout(SECONDS):
                while len(found) < 6:
                    if taken := await answer_of(adapter.queues.take(ALL.id, 1)):
                        found += taken
                        await answer_of(adapter.queues.ack(taken))
            assert {delivery.event.scope for delivery in found} == {speaking}
        finally:
            master.resume()
        (late,) = await gathered(adapter, ALL.id, 1)
        assert late.event.scope == silent


async def test_a_trigger_is_registered_when_all_partitions_have_it(nodes: Nodes) -> None:
    async with store_on(nodes.url, call_timeout_ms=1000) as adapter:
        master = nodes.masters()[0]
        master.pause()
        registering = asyncio.ensure_future(answer_of(adapter.queues.subscribe(ALL)))
        try:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(registering), 2)
        finally:
            master.resume()
        await registering
        for master_number in range(3):
            await answer_of(adapter.values.set(scope_at(nodes, master_number), "k", stored(1)))
        assert len(await gathered(adapter, ALL.id, 3)) == 3


DYING = """
import asyncio, sys
from tests.support.redis.stores_in_clusters import gathered, store_on
from tests.support.stores import ALL
from tests.support.waiting import answer_of

async def main():
    async with store_on(sys.argv[1], partitions=None, heartbeat_ttl_ms=600) as adapter:
        await answer_of(adapter.queues.subscribe(ALL))
        print("registered", flush=True)
        await gathered(adapter, ALL.id, int(sys.argv[2]), done=False)
        print("taken", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_what_an_engine_had_that_was_killed_is_given_to_another_from_all_partitions(nodes: Nodes) -> None:
    scopes = [f"scope {number}" for number in range(60)]
    async with store_on(nodes.url, heartbeat_ttl_ms=600) as adapter:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", DYING, nodes.url, str(len(scopes)), cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(60):
                assert await process.stdout.readline() == b"registered\n"
                await asyncio.gather(*(answer_of(adapter.values.set(scope, "k", stored(1))) for scope in scopes))
                assert await process.stdout.readline() == b"taken\n"
        finally:
            process.send_signal(signal.SIGKILL)
            await process.wait()
        await answer_of(adapter.queues.subscribe(ALL))
        found = await gathered(adapter, ALL.id, len(scopes))
        assert sorted(delivery.event.scope for delivery in found) == sorted(scopes)
        assert all(delivery.fence > 0 for delivery in found)


async def test_what_other_programs_write_into_a_partition_has_events(nodes: Nodes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with store_on(nodes.url, foreign_writes=True) as adapter:
        await until(lambda: caplog.text.count("the writes of other programs have events from now on") == PARTITIONS)
        await answer_of(adapter.queues.subscribe(ALL))
        scopes = [f"scope {number}" for number in range(12)]
        for scope in scopes:
            await answer_of(adapter.values.set(scope, "own", stored(1)))
            nodes.client().hset(keys_of(scope).values(scope.encode()), "foreign", "2")
        found = await gathered(adapter, ALL.id, 2 * len(scopes))
        told = sorted((delivery.event.scope, delivery.event.key, delivery.event.cause) for delivery in found)
        assert told == sorted(
            [(scope, "own", None) for scope in scopes] + [(scope, "foreign", "foreign") for scope in scopes],
            key=lambda row: row[:2],
        )


async def test_acknowledgements_of_several_partitions_are_written_once_where_one_fails(nodes: Nodes) -> None:
    one, other = scope_at(nodes, 0), scope_at(nodes, 2)
    async with store_on(nodes.url, call_timeout_ms=1000) as adapter:
        await answer_of(adapter.queues.subscribe(ALL))
        for scope in (one, other):
            await answer_of(adapter.values.set(scope, "k", stored(0)))
        found = await gathered(adapter, ALL.id, 2, done=False)
        master = nodes.master(nodes.shard_of(keys_of(one).scopes))
        master.pause()
        try:
            with pytest.raises(Exception, match="has not answered"):
                await answer_of(adapter.queues.ack(found))
            await answer_of(adapter.values.set(other, "k", stored(1)))
            (next_one,) = await gathered(adapter, ALL.id, 1, done=False)
            assert next_one.event.scope == other
        finally:
            master.resume()

        async def acknowledged() -> bool:
            try:
                await answer_of(adapter.queues.ack(found))
            except Exception:
                return False
            return True

        await until(acknowledged)
        (stats,) = await adapter.admin.stats()
        assert (stats.pending, stats.waiting) == (1, 0)
        await answer_of(adapter.queues.ack([next_one]))


async def test_a_subscription_of_one_scope_costs_the_other_partitions_nothing(nodes: Nodes) -> None:
    async with store_on(nodes.url) as adapter:
        mine = Subscription("mine", scope="s")
        await answer_of(adapter.queues.subscribe(mine))
        await answer_of(adapter.values.set("s", "k", stored(1)))
        await answer_of(adapter.values.set("t", "k", stored(1)))
        (delivery,) = await gathered(adapter, mine.id, 1)
        assert delivery.event.scope == "s"
        assert await answer_of(adapter.queues.take(mine.id, 1)) == []


async def test_no_partition_that_was_woken_is_forgotten(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without sweeps, and with all wake-ups heard before the first is taken: what is left has to say so itself."""
    monkeypatch.setattr(wake_ups, "STREAMS_PER_SWEEP", 0)
    woken, wakes = asyncio.Event(), 0

    def wake(_: str) -> None:
        nonlocal wakes
        wakes += 1
        woken.set()

    async with store_on(nodes.url, wake=wake) as adapter:
        await answer_of(adapter.queues.subscribe(ALL))
        scopes = [f"scope {number}" for number in range(30)]
        await asyncio.gather(*(answer_of(adapter.values.set(scope, "k", stored(1))) for scope in scopes))
        before = -1
        while before != wakes:  # those that come from Redis, too
            before = wakes
            await asyncio.sleep(0.2)
        found: list[Delivery] = []
        woken.set()
        async with asyncio.timeout(SECONDS):
            while len(found) < len(scopes):
                await woken.wait()
                woken.clear()
                taken = await answer_of(adapter.queues.take(ALL.id, 2))
                found += taken
                if taken:
                    found += await answer_of(adapter.queues.ack(taken, 1))
        assert {delivery.event.scope for delivery in found} == set(scopes)
