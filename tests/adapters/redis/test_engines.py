"""Two engine processes on one Redis, with workers at both: they behave as one, whatever happens to either."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

from iii_state.adapters.redis.runs import MOST_AHEAD
from tests.support.redis.cluster import Cluster, by_key, write
from tests.support.waiting import until


async def test_a_write_through_one_engine_runs_the_handler_once_where_it_is(cluster: Cluster) -> None:
    one, two = await cluster.engine(), await cluster.engine()
    handler = await cluster.handler(one)
    writer = await cluster.worker(two)
    await write(writer, 3, 20)
    await until(lambda: len(handler.calls) >= 60)
    assert by_key(handler.calls) == {f"k{key}": list(range(20)) for key in range(3)}
    await until(lambda: not cluster.keys("iii-state:wait:*", "iii-state:busy:*"))


async def test_the_same_trigger_at_two_engines_is_one_and_in_order(cluster: Cluster) -> None:
    one, two = await cluster.engine(), await cluster.engine()
    handlers = [await cluster.handler(one), await cluster.handler(two)]
    await cluster.hosted("f", 2)
    order: list[dict[str, Any]] = []
    for handler in handlers:
        handler.calls = order
    await write(await cluster.worker(one), 3, 30)
    await until(lambda: len(order) >= 90)
    assert by_key(order) == {f"k{key}": list(range(30)) for key in range(3)}


async def test_a_broadcast_reaches_every_engine(cluster: Cluster) -> None:
    one, two = await cluster.engine(), await cluster.engine()
    handlers = [await cluster.handler(engine, delivery="broadcast") for engine in (one, two)]
    await cluster.hosted("f", 2)
    await write(await cluster.worker(one), 1, 5)
    await until(lambda: all(len(handler.calls) >= 5 for handler in handlers))
    assert [handler.news() for handler in handlers] == [[0, 1, 2, 3, 4]] * 2
    await asyncio.to_thread(two.stop)
    await until(lambda: len(cluster.keys("iii-state:sub:*")) == 1)


async def test_what_a_killed_engine_held_is_handled_by_the_other_in_order(cluster: Cluster) -> None:
    one, two = await cluster.engine(), await cluster.engine()
    doomed = await cluster.handler(one, answers=7)
    writer = await cluster.worker(two)
    await write(writer, 5, 4)
    await until(lambda: len(doomed.calls) >= 11)
    await asyncio.to_thread(one.kill)
    other = await cluster.handler(two)
    await write(writer, 5, 4, first=4)
    await until(lambda: sum(map(len, by_key(other.calls).values())) >= 40 - 7)
    await until(lambda: not cluster.keys("iii-state:wait:*"))
    done = by_key(doomed.answered)
    for key, news in by_key(other.calls).items():
        begun = len(done.get(key, []))
        assert news == list(range(news[0], 8))
        assert begun - MOST_AHEAD <= news[0] <= begun  # the last answers may not have been acknowledged
    assert max(frame["metadata"]["iii_state"]["fence"] for frame in other.calls) == 1
    for key in by_key(other.calls):  # what was ready and had not been taken by the dead engine may have come before the takeover
        fences = [frame["metadata"]["iii_state"]["fence"] for frame in other.calls if frame["data"]["key"] == key]
        assert fences == sorted(fences)
    await until(lambda: cluster.server.client.hlen("iii-state:engines") == 1)
    await until(lambda: not cluster.keys("iii-state:fenced", "iii-state:wait:*"))


async def test_an_engine_that_was_stopped_begins_afresh(cluster: Cluster) -> None:
    one, two = await cluster.engine(), await cluster.engine()
    slow = await cluster.handler(one, answers=0)
    writer = await cluster.worker(two)
    await write(writer, 2, 2)
    await until(lambda: len(slow.calls) >= 2)
    one.process.send_signal(signal.SIGSTOP)
    try:
        other = await cluster.handler(two)
        await until(lambda: len(other.calls) >= 4)
        await cluster.hosted("f", 1)
    finally:
        one.process.send_signal(signal.SIGCONT)
    for frame in slow.calls:
        await slow.worker.answer(frame, result=None)
    slow.answers = None
    await cluster.hosted("f", 2)
    await until(lambda: "begins afresh" in one.stderr.text())
    await other.leave()
    await cluster.hosted("f", 1)
    before = len(slow.calls)
    await write(writer, 2, 2, first=2)
    await until(lambda: len(slow.calls) >= before + 4)
    assert by_key(slow.calls[before:]) == {"k0": [2, 3], "k1": [2, 3]}
    assert by_key(other.calls) == {"k0": [0, 1], "k1": [0, 1]}


async def test_a_worker_that_leaves_finds_what_was_written_when_it_comes_back_at_another_engine(cluster: Cluster) -> None:
    one, two = await cluster.engine(), await cluster.engine()
    handler = await cluster.handler(one)
    await handler.leave()
    await cluster.hosted("f", 0)
    await write(await cluster.worker(one), 2, 5)
    back = await cluster.handler(two)
    await until(lambda: len(back.calls) >= 10)
    assert by_key(back.calls) == {"k0": [0, 1, 2, 3, 4], "k1": [0, 1, 2, 3, 4]}
    assert handler.calls == []


async def test_unregistering_removes_the_queue_with_all_it_holds(cluster: Cluster) -> None:
    one, two = await cluster.engine(), await cluster.engine()
    handler = await cluster.handler(one, answers=0)
    writer = await cluster.worker(two)
    await write(writer, 3, 5)
    await handler.worker.send("unregistertrigger", id="t-f", trigger_type="state")
    await until(lambda: not cluster.keys("iii-state:q:*", "iii-state:busy:*", "iii-state:wait:*", "iii-state:sub:*"))
    await write(writer, 1, 1)
    assert cluster.keys("iii-state:q:*") == []


@pytest.mark.parametrize("gracefully", [True, False])
async def test_a_restart_of_all_engines_loses_nothing(cluster: Cluster, gracefully: bool) -> None:
    engines = [await cluster.engine(), await cluster.engine()]
    handlers = [await cluster.handler(engine, answers=3) for engine in engines]
    await write(await cluster.worker(engines[0]), 5, 6)
    await until(lambda: any(len(handler.answered) == 3 for handler in handlers))  # then it may hold all lanes
    if gracefully:
        for handler in handlers:
            await handler.leave()
    for engine in engines:
        await asyncio.to_thread(engine.stop if gracefully else engine.kill)
    after = await cluster.handler(await cluster.engine())
    await cluster.engine()
    await until(lambda: len(by_key(after.calls)) == 5 and all(news[-1] == 5 for news in by_key(after.calls).values()))
    done = by_key(handlers[0].answered + handlers[1].answered)
    for key, news in by_key(after.calls).items():
        assert news == list(range(news[0], 6))
        assert news[0] <= len(done.get(key, []))


async def test_of_a_hot_key_a_death_repeats_no_more_than_a_run_in_order_and_with_a_higher_fence(cluster: Cluster) -> None:
    events = 60
    one, two = await cluster.engine(), await cluster.engine()
    writer = await cluster.worker(two)
    doomed = await cluster.handler(one, answers=0)
    await write(writer, 1, events)
    (busy,) = cluster.keys("iii-state:busy:*")
    client = cluster.server.client

    def acknowledged() -> int:
        return events - int(client.hget(busy, "entries") or 0)

    (first,) = doomed.calls
    doomed.answers = None
    await doomed.worker.answer(first, result=None)
    doomed.answered.append(first)
    await until(lambda: acknowledged() > 10)
    client.client_pause(20_000, all=False)  # what is acknowledged from now on does not come through
    try:
        await until(lambda: len(doomed.answered) - acknowledged() > 5)
        await asyncio.to_thread(one.kill)
        handled, done = by_key(doomed.calls)["k0"], acknowledged()
    finally:
        client.client_unpause()
    assert handled == list(range(len(handled)))
    assert len(handled) - done <= MOST_AHEAD
    other = await cluster.handler(two)
    await until(lambda: len(other.calls) == events - done)
    assert by_key(other.calls)["k0"] == list(range(done, events))
    assert {frame["metadata"]["iii_state"]["fence"] for frame in doomed.calls} == {0}
    assert {frame["metadata"]["iii_state"]["fence"] for frame in other.calls} == {1}
