"""A failover to a replica that had fallen behind: what it had not heard of is lost and counted, nothing is made twice, and from
then on everything is as it always was."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.sdk.workers import PYTHON_NEW, PYTHON_OLD
from tests.torture.arena import Arena
from tests.torture.chains import wrong_values
from tests.torture.check import check
from tests.torture.ending import note_what_there_is, until_settled
from tests.torture.history import Place, Value, Write, load
from tests.torture.journal import Journal
from tests.torture.looks import RedisLook
from tests.torture.plan import PLANS
from tests.torture.run import READY_SECONDS, REST_SECONDS, rest, writing
from tests.torture.subscriptions import SPECS
from tests.torture.writes import COUNTERS, MAIN

WRITTEN_BEFORE, WRITTEN_AFTER = 300, 600


def answered(directory: Path, writers: str) -> int:
    """How many writes have been acknowledged."""
    return sum(write.outcome == "ok" for write in load(directory, writers).writes)


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition, bounded."""
    async with asyncio.timeout(READY_SECONDS):
        while not await asyncio.to_thread(holds):
            await asyncio.sleep(0.2)


def loss(writes: list[Write], found: dict[Place, Value]) -> int:
    """How many acknowledged increments and appends are not there any more. None may be there twice."""
    lost = 0
    for problem in wrong_values(writes, {}, found):
        assert problem.startswith(("lost write", "wrong sum")), problem
        lost += problem.startswith("lost write")
    for key in COUNTERS:
        made = [write.outcome for write in writes if write.place == (MAIN, key)]
        held = (found[MAIN, key] or {})["n"]
        assert held <= len(made) - made.count("refused")
        lost += max(0, made.count("ok") - held)
    return lost


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
@pytest.mark.skipif(
    bool(PYTHON_OLD.missing() or PYTHON_NEW.missing()), reason="the SDKs are not installed (scripts/test does that)"
)
async def test_a_failover_loses_what_the_replica_had_not_heard_of_and_nothing_else(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    journal = Journal(tmp_path / "run.jsonl")
    async with Arena(PLANS["redis"], 1, tmp_path, journal, replicated=True) as arena:
        assert arena.redis is not None
        await until_settled(RedisLook(arena.plan, arena.redis.client).not_hosted, READY_SECONDS)
        async with writing(arena, 1, tmp_path, "before"):
            await until(lambda: answered(tmp_path, "before*") > WRITTEN_BEFORE)
            await until(lambda: arena.replica.client.info("replication")["master_link_status"] == "up")
            await arena.fail_over(0.5)
            await until(lambda: answered(tmp_path, "before*") > WRITTEN_AFTER)
        look = RedisLook(arena.plan, arena.replica.client)
        await until_settled(look.not_hosted, READY_SECONDS)
        await until_settled(look.not_empty, REST_SECONDS)
        found: dict[Place, Value] = {(scope, key): value for scope, key, value in await look.values()}

        since = time.monotonic_ns()
        async with writing(arena, 2, tmp_path, "after"):
            await until(lambda: answered(tmp_path, "after*") > WRITTEN_BEFORE)
        await rest(arena, look, tmp_path)
        await note_what_there_is(look, journal)
        tracebacks = [found for engine in arena.engines for found in engine.tracebacks]
    journal.close()

    lost = loss(load(tmp_path, "before*").writes, found)
    record_property("acknowledged writes of counters and lists that were lost", lost)
    assert lost > 0, "the replica had fallen behind by nothing: this test shows nothing"

    history = load(tmp_path, "after*")
    history.writes += load(tmp_path, "end").writes
    history.deliveries = [delivery for delivery in history.deliveries if delivery.begun >= since]
    history.initial = found
    assert check(history, SPECS["redis"]).problems == []
    assert tracebacks == []
