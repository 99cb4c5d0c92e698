"""`iii-state doctor` on a cluster: it looks at each master and each partition, says where something is, and repairs there."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from click.testing import CliRunner

from iii_state.adapters.redis.cluster.tags import partition_of
from iii_state.cli import main
from tests.support.engines.processes import running_engine
from tests.support.redis.nodes import Nodes
from tests.support.redis.stores_in_clusters import keys_of, store_on
from tests.support.stores import ALL, PARTITIONS, stored
from tests.support.waiting import answer_of

KEPT_NOWHERE = {"no-persistence"}
"""The servers of these tests keep nothing on disk, and are said to."""


async def findings(nodes: Nodes, *arguments: str) -> dict[str, str]:
    """What is found, by its id; the exit code says whether one is a fault."""
    asked = ["doctor", "--redis-url", nodes.url, *arguments, "--json"]
    result = await asyncio.to_thread(CliRunner().invoke, main, asked)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)["findings"]
    assert result.exit_code == any(each["severity"] == "fault" for each in found)
    return {each["id"]: each["what"] for each in found}


async def test_nothing_is_wrong_with_a_healthy_fleet(nodes: Nodes) -> None:
    assert set(await findings(nodes)) == {"nothing-there"}
    async with store_on(nodes.url) as adapter:
        await answer_of(adapter.queues.subscribe(ALL))
        for number in range(20):
            await answer_of(adapter.values.set(f"s{number}", "k", stored({"n": number})))
        found = await findings(nodes)
        assert set(found) == KEPT_NOWHERE
        assert all(what.startswith("at 127.0.0.1:") for what in found.values())


async def test_an_engine_that_was_killed_is_told_of_once_for_all_partitions(nodes: Nodes) -> None:
    with running_engine(["--redis-url", nodes.url]) as engine:
        engine.kill()
        async with asyncio.timeout(30):  # until its heartbeats are over, in each partition
            while (await findings(nodes, "--no-values")).get("engines-gone") != "1 engine is gone without a word":
                await asyncio.sleep(0.2)


async def test_values_that_engines_do_not_see_are_told(nodes: Nodes) -> None:
    async with store_on(nodes.url) as adapter:
        await answer_of(adapter.values.set("s", "k", stored(1)))
    nodes.client().hset("state:plain", "k", "1")
    assert "1 hash of values without a hash tag: state:plain" in (await findings(nodes))["plain-keys"]
    assert "plain-keys" not in await findings(nodes, "--no-values")


async def test_what_cannot_be_read_is_told_with_its_partition(nodes: Nodes) -> None:
    async with store_on(nodes.url) as adapter:
        await answer_of(adapter.values.set("s", "k", stored(1)))
    nodes.client().hset(keys_of("s").values(b"s"), "broken", "{no json")
    told = (await findings(nodes))["values-unreadable"]
    assert told.startswith(f"partition {partition_of(b's', PARTITIONS)}: ")


async def test_a_damaged_queue_is_repaired_where_it_is(nodes: Nodes) -> None:
    async with store_on(nodes.url) as adapter:
        await answer_of(adapter.queues.subscribe(ALL))
        for number in range(3):
            await answer_of(adapter.values.set("s", "k", stored(number)))
        await answer_of(adapter.queues.abandon(ALL.id))
    nodes.client().hdel(keys_of("s").busy(ALL.id.encode()), "entries", "bytes")
    told = (await findings(nodes))["queues-damaged"]
    assert told.startswith(f"partition {partition_of(b's', PARTITIONS)}: ")
    assert "queues-damaged" not in await findings(nodes, "--repair")
    assert "queues-damaged" not in await findings(nodes)
