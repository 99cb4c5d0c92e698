"""What a Redis may forget by its own settings is told at the start, in one line each, and again of another server only."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from iii_state.adapters.redis import RedisAdapter
from iii_state.adapters.redis.connection.durability import SETTINGS, Findings
from iii_state.errors import StoreError
from tests.support.redis.adapters import SMALLEST_RULES, adapter_on, drain
from tests.support.redis.server import KINDS, RedisServer, binary
from tests.support.slow import slow
from tests.support.stores import ALL
from tests.support.waiting import answer_of, until

KEPT = ("--appendonly", "yes")


@pytest.fixture(params=["7", *map(slow, ("6.2", "valkey"))])
def executable(request: pytest.FixtureRequest) -> str:
    assert request.param in KINDS
    found = binary(request.param)
    if found is None:
        pytest.skip(f"there is no server of the kind {request.param} here")
    return found


@asynccontextmanager
async def engine_on(server: RedisServer, url: str | None = None) -> AsyncIterator[RedisAdapter]:
    async with adapter_on(url or server.url, call_timeout_ms=2000) as adapter:
        yield adapter


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of the server, without its address."""
    records = [record for record in caplog.records if record.name.endswith(".durability")]
    assert all(record.levelno == logging.WARNING for record in records)
    return [record.getMessage().split(" ", 3)[3] for record in records]


async def test_a_server_that_keeps_everything_is_no_news(executable: str, caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(*KEPT, executable=executable) as server:
        async with engine_on(server):
            assert told(caplog) == []


async def test_snapshots_are_persistence_too(executable: str, caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(executable=executable) as server:
        server.client.config_set("save", "3600 1")
        async with engine_on(server):
            assert told(caplog) == []


@pytest.mark.parametrize(
    ("policy", "lost"), [("allkeys-lru", "values, triggers"), ("volatile-ttl", "heartbeats and records of calls")]
)
async def test_a_server_that_evicts_is_told_of(executable: str, policy: str, lost: str, caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(*KEPT, "--maxmemory", "100mb", "--maxmemory-policy", policy, executable=executable) as server:
        async with engine_on(server):
            (warning,) = told(caplog)
    assert warning.startswith(f"has maxmemory-policy {policy}: when it is full (maxmemory 104857600) it removes {lost}")
    assert "Set maxmemory-policy noeviction" in warning


async def test_a_server_that_will_evict_when_it_gets_a_limit_is_told_of(executable: str, caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(*KEPT, "--maxmemory-policy", "allkeys-random", executable=executable) as server:
        async with engine_on(server):
            (warning,) = told(caplog)
    assert "if it gets a limit (maxmemory)" in warning


async def test_a_server_that_keeps_nothing_is_told_of(executable: str, caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(executable=executable) as server:
        async with engine_on(server):
            (warning,) = told(caplog)
    assert warning.startswith("keeps nothing on disk")
    assert "Set appendonly yes" in warning


async def test_a_replica_is_refused_or_told_of(executable: str, caplog: pytest.LogCaptureFixture) -> None:
    with (
        RedisServer(*KEPT, executable=executable) as primary,
        RedisServer(*KEPT, "--replicaof", "127.0.0.1", str(primary.port), executable=executable) as replica,
    ):
        await until(lambda: replica.client.info("replication")["master_link_status"] == "up")
        with pytest.raises(StoreError, match="read-only replica; redis_url has to name its primary"):
            async with engine_on(replica):
                pass
        assert told(caplog) == []
        replica.client.config_set("replica-read-only", "no")
        async with engine_on(replica):
            (warning,) = told(caplog)
    assert warning.startswith("is a replica that takes writes")
    assert "has to name the primary" in warning


async def test_where_config_is_refused_info_tells_what_it_can(executable: str, caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(*KEPT, "--maxmemory-policy", "allkeys-lru", executable=executable) as server:
        server.client.execute_command(
            "ACL", "SETUSER", "app", "reset", "resetchannels", "on", ">pw", *SMALLEST_RULES.split(), "+info"
        )
        async with engine_on(server, server.url.replace("//", "//app:pw@")):
            (warning,) = told(caplog)
    assert warning.startswith("has maxmemory-policy allkeys-lru")


async def test_where_nothing_can_be_looked_at_one_line_says_so(executable: str, caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(executable=executable) as server:
        server.client.execute_command("ACL", "SETUSER", "app", "reset", "resetchannels", "on", ">pw", *SMALLEST_RULES.split())
        async with engine_on(server, server.url.replace("//", "//app:pw@")) as adapter:
            (warning,) = told(caplog)
            await answer_of(adapter.values.set("s", "k", b"1"))
    assert warning.startswith("does not let this user see whether it removes keys")
    assert "whether it keeps its data on disk" in warning
    assert "whether it is a replica" in warning


async def test_it_is_told_once_of_a_server_and_again_of_the_next(executable: str, caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(executable=executable) as server:
        async with engine_on(server) as adapter:
            await answer_of(adapter.values.set("s", "k", b"1"))
            for _ in range(3):
                server.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                await answer_of(adapter.values.set("s", "k", b"1"))
            assert len(told(caplog)) == 1
            server.client.config_set("maxmemory-policy", "allkeys-lru")
            server.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await until(lambda: len(told(caplog)) == 2)
            assert "allkeys-lru" in told(caplog)[1]
            server.kill()
            server.start()
            await until(lambda: len(told(caplog)) == 3)
            assert told(caplog)[2].startswith("keeps nothing on disk")


def test_an_append_only_file_is_enough_to_know_where_only_info_answers() -> None:
    info = b"# Server\r\nrun_id:abc\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\naof_enabled:1\r\nrole:master\r\n"
    assert Findings.read(info, [None] * len(SETTINGS)).warnings() == []
    (unseen,) = Findings.read(info.replace(b"aof_enabled:1", b"aof_enabled:0"), [None] * len(SETTINGS)).warnings()
    assert "whether it keeps its data on disk" in unseen


async def test_of_a_write_that_a_kill_has_torn_nothing_comes_back_later() -> None:
    with RedisServer(*KEPT, "--appendfsync", "always", executable=binary("7")) as server:
        async with engine_on(server) as adapter:
            await answer_of(adapter.queues.subscribe(ALL))
            await answer_of(adapter.values.set("s", "k", b'"torn"'))
        server.kill()
        (log,) = server.folder.glob("appendonlydir/*.incr.aof")
        os.truncate(log, log.read_bytes().rindex(b'"torn"') + 3)  # the event was written whole, and the value not
        server.start()
        async with engine_on(server) as adapter:
            await answer_of(adapter.queues.subscribe(ALL))
            assert await answer_of(adapter.values.get("s", "k")) is None
            await answer_of(adapter.values.set("s", "k", b'"again"'))
            assert [delivery.event.new for delivery in await drain(adapter)] == [b'"again"']
        server.kill()
        server.start()
        async with engine_on(server) as adapter:
            await answer_of(adapter.queues.subscribe(ALL))
            assert server.client.xlen(f"iii-state:q:{ALL.id}") == 0
