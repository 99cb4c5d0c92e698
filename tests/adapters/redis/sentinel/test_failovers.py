"""Failovers by Sentinels under traffic: what the promoted replica had is there, what it had not is counted, nothing is made twice,
and from then on everything is as it always was."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest

from iii_state import values
from iii_state.adapters.base import Updated
from iii_state.adapters.redis import RedisAdapter
from iii_state.errors import OutcomeUnknown
from tests.adapters.redis.sentinel.traffic import Traffic, elements, lost, problems, settled_values, traffic_on, values_on
from tests.support.redis.adapters import INCREMENT, adapter_on
from tests.support.redis.proxy import Proxy, proxy_to
from tests.support.redis.sentinels import PATIENT_MS, SentinelGroup
from tests.support.redis.server import RedisServer
from tests.support.waiting import answer_of, until

BEFORE, AFTER = 150, 300
LIMIT = values.MAX_VALUE_BYTES


class Arena:
    """Sentinels, the Redis that they watch, and a proxy in front of its first primary, through which everybody reaches that."""

    def __init__(self, group: SentinelGroup, front: Proxy) -> None:
        self.group = group
        self.front = front
        self.before_engines = len(front.pairs)
        self.dead_since = 0

    async def hurt(self, how: str) -> None:
        """Take the primary away; returns when another one has its place."""
        first = self.group.first
        await asyncio.to_thread(self.group.set_down_after)
        match how:
            case "killed":
                await asyncio.to_thread(first.kill)
                self.dead_since = time.monotonic_ns()
                self.front.cut_all()
            case "stopped":
                first.process.send_signal(signal.SIGSTOP)
            case "cut off":
                self.front.mute = True
            case "told":
                await asyncio.to_thread(self.group.fail_over)
        await until(lambda: asyncio.to_thread(lambda: self.group.primary() is not first), "no replica was promoted")
        await asyncio.to_thread(self.group.set_down_after, PATIENT_MS)

    async def cut_replicas(self) -> None:
        """No replica hears anything more from the primary, but has what was written before; who is connected to it stays so."""
        replicas = self.group.servers[1:]
        so_far = self.group.first.client.info("replication")["master_repl_offset"]
        for replica in replicas:
            await until(lambda at=replica: at.client.info("replication")["slave_repl_offset"] >= so_far)  # type: ignore[misc]
        for pair in self.front.pairs[: len(replicas)]:  # the first that came
            pair.reply_bytes = 0
        self.front.reply_bytes = lambda: 0
        self.group.first.client.publish("anything", "said")  # what cuts them
        for replica in replicas:
            await until(lambda at=replica: at.client.info("replication")["master_link_status"] != "up")  # type: ignore[misc]

    async def heal(self, how: str) -> None:
        """Let the first primary come back; returns when it follows the new one."""
        first = self.group.first
        match how:
            case "killed":
                await asyncio.to_thread(first.start)
            case "stopped":
                first.process.send_signal(signal.SIGCONT)
            case "cut off":
                self.front.mute = False
                self.front.cut_all()
        await until(lambda: asyncio.to_thread(lambda: first.client.info("replication")["role"] == "slave"), "it follows nobody")


@asynccontextmanager
async def arena(*options: str) -> AsyncIterator[Arena]:
    with ExitStack() as stack:
        first = await asyncio.to_thread(RedisServer, *options)
        async with proxy_to(first.port) as front:
            # The proxy runs in this loop.
            group = await asyncio.to_thread(SentinelGroup, stack, *options, primary=first, front=front.port)
            yield Arena(group, front)
            await asyncio.to_thread(stack.close)


async def judged_afterwards(traffic: Traffic, server: RedisServer) -> list[str]:
    """What is wrong with traffic that begins now."""
    initial, since = await settled_values(server), time.monotonic_ns()
    async with traffic.writing():
        await traffic.until_acknowledged(BEFORE)
    return problems(traffic, since, initial, await settled_values(server))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "wait_replicas"),
    [("killed", 1), ("killed", 2), ("stopped", 0), ("stopped", 2), ("cut off", 2), ("told", 0), ("told", 2)],
)
async def test_traffic_goes_on_at_the_promoted_replica(
    how: str, wait_replicas: int, record_property: Callable[[str, object], None]
) -> None:
    async with arena() as hurt, traffic_on(hurt.group.url, wait_replicas=wait_replicas) as traffic:
        async with traffic.writing():
            await traffic.until_acknowledged(BEFORE)
            await hurt.hurt(how)
            promoted = hurt.group.primary()
            await hurt.heal(how)
            await traffic.until_acknowledged(AFTER)
        found = await settled_values(promoted)
        count = lost(traffic.writes, found)
        record_property("acknowledged writes of counters and lists that were lost", count)
        if wait_replicas:
            assert count == 0
        judged = "CONDITION_FAILED: "  # by the store, which was there
        refused = [write.error for write in traffic.writes if write.outcome == "refused" and not write.error.startswith(judged)]
        assert refused == [], "calls wait while there is no primary"
        assert await judged_afterwards(traffic, promoted) == []
        assert hurt.group.primary() is promoted


@pytest.mark.slow
async def test_what_the_promoted_replica_had_not_heard_of_is_lost_and_nothing_else(
    record_property: Callable[[str, object], None],
) -> None:
    async with arena() as hurt, traffic_on(hurt.group.url) as traffic:
        async with traffic.writing():
            await traffic.until_acknowledged(BEFORE)
            await hurt.cut_replicas()
            had = [await values_on(replica) for replica in hurt.group.servers[1:]]
            await traffic.until_acknowledged(BEFORE)
            await hurt.hurt("killed")
            promoted = hurt.group.primary()
            await traffic.until_acknowledged(AFTER)
        found = await settled_values(promoted)
        count = lost(traffic.writes, found)
        record_property("acknowledged writes of counters and lists that were lost", count)
        assert count > 0, "the replica had fallen behind by nothing: this test shows nothing"
        held, held_before = elements(found), elements(had[hurt.group.servers.index(promoted) - 1])
        assert held_before
        for place, there in held_before.items():
            assert held[place][: len(there)] == there, "what it had is there"
        appended = [write for write in traffic.writes if write.kind == "append" and write.key.startswith("l")]
        gone = [write for write in appended if write.outcome == "ok" and write.id not in held.get(write.place, [])]
        assert all(write.begun < hurt.dead_since for write in gone), "what was acknowledged by the promoted one is there"
        assert await judged_afterwards(traffic, promoted) == []


CALLS = 50


async def in_flight(hurt: Arena, adapter: RedisAdapter) -> asyncio.Future[list[Any]]:
    """Increments that the primary has made, and whose answers are on their way for ever."""
    await answer_of(adapter.values.get("s", "k"))
    for pair in hurt.front.pairs[hurt.before_engines :]:
        pair.loses_replies = True
    calls = [answer_of(adapter.values.update("s", "k", INCREMENT, LIMIT)) for _ in range(CALLS)]
    made = asyncio.gather(*calls, return_exceptions=True)
    await until(lambda: counted(hurt.group.first) == CALLS)
    assert hurt.group.primary() is hurt.group.first
    return made


def counted(server: RedisServer) -> int:
    return int(json.loads(server.client.hget("state:s", "k") or b'{"n":0}')["n"])


@pytest.mark.slow
@pytest.mark.parametrize("are_replicated", [True, False])
async def test_calls_in_flight_are_recognised_where_they_had_been_replicated_and_made_once_where_not(are_replicated: bool) -> None:
    async with arena() as hurt, adapter_on(hurt.group.url, call_timeout_ms=20_000) as adapter:
        if not are_replicated:
            await hurt.cut_replicas()
        answers = await in_flight(hurt, adapter)
        if are_replicated:
            await until(lambda: [counted(replica) for replica in hurt.group.servers[1:]] == [CALLS, CALLS])
        assert not answers.done()
        await hurt.hurt("killed")
        made = [answer for answer in await answers if isinstance(answer, Updated)]
        assert sorted(json.loads(updated.new or b"")["n"] for updated in made) == list(range(1, CALLS + 1))
        assert counted(hurt.group.primary()) == CALLS


@pytest.mark.slow
async def test_the_outcome_of_calls_in_flight_is_unknown_where_their_session_had_not_been_replicated() -> None:
    async with arena() as hurt:
        await hurt.cut_replicas()
        hurt.front.reply_bytes = lambda: None
        for replica in hurt.group.servers[1:]:
            replica.client.replicaof("127.0.0.1", 1)  # the engine comes through; they stay behind
        async with adapter_on(hurt.group.url, call_timeout_ms=20_000) as adapter:
            answers = await in_flight(hurt, adapter)
            await hurt.hurt("killed")
            assert {type(answer) for answer in await answers} == {OutcomeUnknown}
            assert counted(hurt.group.primary()) == 0
            assert json.loads((await answer_of(adapter.values.update("s", "k", INCREMENT, LIMIT))).new)["n"] == 1
