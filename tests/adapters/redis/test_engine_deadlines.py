"""Deadlines and processes: an engine that is killed leaves its deadlines to the others."""

from __future__ import annotations

import signal
from typing import Any

from tests.support.redis.cluster import Cluster, Handler
from tests.support.waiting import until


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
