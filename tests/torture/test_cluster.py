"""Engines on a Redis Cluster: nothing is lost whatever is hurt, but what a replica had not heard of that was failed over to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from tests.torture.arena import Arena
from tests.torture.check import check
from tests.torture.command import NEEDS, done, started
from tests.torture.ending import note_what_there_is, until_settled
from tests.torture.history import Place, Value, load
from tests.torture.journal import Journal
from tests.torture.looks import EngineLook
from tests.torture.plan import PLANS
from tests.torture.run import READY_SECONDS, REST_SECONDS, rest, writing
from tests.torture.subscriptions import SPECS
from tests.torture.test_failover import WRITTEN_AFTER, WRITTEN_BEFORE, answered, loss, until
from tests.torture.writers import SocketCaller
from tests.torture.writes import MAIN

pytestmark = NEEDS


def test_nothing_is_lost_on_a_cluster_whatever_is_hurt() -> None:
    figures = json.loads(done(started("--adapter", "cluster", "--minutes", "1", "--seed", "1", "--json")))
    assert figures["problems"] == []
    assert {"kill master", "move slot", "add node and empty it"} <= figures["faults"].keys()
    assert figures["writes"]["ok"] > 500
    assert all(figures["deliveries_by_trigger"].values())


async def test_a_failover_loses_what_the_replica_had_not_heard_of_and_nothing_else(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    journal = Journal(tmp_path / "run.jsonl")
    async with Arena(PLANS["cluster"], 1, tmp_path, journal, replicated=True) as arena:
        callers = [SocketCaller([url], 0, "look") for url in arena.writer_urls]
        look = EngineLook(arena.plan, callers)
        await until_settled(look.not_hosted, READY_SECONDS)
        async with writing(arena, 1, tmp_path, "before"):
            await until(lambda: answered(tmp_path, "before*") > WRITTEN_BEFORE)
            begun = time.monotonic_ns()
            await arena.nodes.lose(MAIN, 0.5)
            journal.note(fault="fail over", target="node", begun=begun)
            await until(lambda: answered(tmp_path, "before*") > WRITTEN_AFTER)
        await until_settled(look.not_hosted, READY_SECONDS)
        await until_settled(look.not_empty, REST_SECONDS)
        found: dict[Place, Value] = {(scope, key): value for scope, key, value in await look.values()}

        since = time.monotonic_ns()
        async with writing(arena, 2, tmp_path, "after"):
            await until(lambda: answered(tmp_path, "after*") > WRITTEN_BEFORE)
        await rest(arena, look, tmp_path)
        await note_what_there_is(look, journal)
        tracebacks = [found for engine in arena.engines for found in engine.tracebacks]
        for caller in callers:
            await caller.close()
    journal.close()

    lost = loss(load(tmp_path, "before*").writes, found)
    record_property("acknowledged writes of counters and lists that were lost", lost)
    assert lost > 0, "the replica had fallen behind by nothing: this test shows nothing"

    history = load(tmp_path, "after*")
    history.writes += load(tmp_path, "end").writes
    history.deliveries = [delivery for delivery in history.deliveries if delivery.begun >= since]
    history.initial = found
    assert check(history, SPECS["cluster"]).problems == []
    assert tracebacks == []
