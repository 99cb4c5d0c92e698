"""`iii-state doctor` finds each illness that was planted, says what to do, and finds nothing on a healthy fleet."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from iii_state import Engine, StateModule
from iii_state.cli.doctor import doctor as command
from tests.support import ROOT
from tests.support.doctor import FAULTS, ask, findings, found_in
from tests.support.redis.server import RedisServer
from tests.support.waiting import until


@pytest.fixture(scope="module")
def healthy_server() -> Iterator[RedisServer]:
    with RedisServer("--appendonly", "yes") as server:
        yield server


@pytest.fixture
def server(healthy_server: RedisServer) -> RedisServer:
    healthy_server.client.flushall()
    return healthy_server


@asynccontextmanager
async def engine_with(config: dict[str, Any]) -> AsyncIterator[Engine]:
    async with Engine() as engine:
        await engine.add_module(StateModule({"dispatch": {"max_attempts": 1}, **config}))
        yield engine


def on(server: RedisServer, **more: Any) -> dict[str, Any]:
    return {"adapter": {"name": "redis", "config": {"redis_url": server.url, "heartbeat_ttl_ms": 1000, **more}}}


async def call(engine: Engine, function_id: str, /, **payload: Any) -> Any:
    return await engine.trigger({"function_id": function_id, "payload": payload})


async def subscribe(engine: Engine, function_id: str, handler: Callable[[Any], Any], **config: Any) -> None:
    engine.register_function(function_id, handler)
    await engine.register_trigger({"type": "state", "function_id": function_id, "config": {"scope": "orders", **config}})


async def is_idle(engine: Engine) -> bool:
    return not any(row["waiting"] or row["pending"] for row in (await call(engine, "iii-state::triggers"))["triggers"])


async def test_a_healthy_fleet_has_nothing(server: RedisServer) -> None:
    async with engine_with(on(server)) as one, engine_with(on(server)) as two:
        for engine in (one, two):
            await subscribe(engine, "orders::changed", lambda event: None)
        for number in range(50):
            await call(one, "state::set", scope="orders", key=f"k{number % 7}", value={"n": number})
            await call(two, "state::set", scope="plain", key=f"k{number}", value=number)
        assert await found_in(server) == {}
        await until(lambda: is_idle(one))
        assert await found_in(server) == {}
        table = await asyncio.to_thread(ask, "--redis-url", server.url)
        assert (table.exit_code, table.stdout) == (0, "SEVERITY\tFINDING\tWHAT\tMEANS\tTO DO\n")


async def test_a_server_that_may_forget_is_told(server: RedisServer) -> None:
    async with engine_with(on(server)):
        for settings, finding in (
            ({"maxmemory-policy": "allkeys-lru"}, "eviction-policy"),
            ({"appendonly": "no", "save": ""}, "no-persistence"),
            ({"maxmemory": "1mb"}, "memory-nearly-full"),
            ({"notify-keyspace-events": ""}, "notifications"),
        ):
            before = {name: server.client.config_get(name)[name] for name in settings}
            for name, value in settings.items():
                server.client.config_set(name, value)
            try:
                assert set(await found_in(server)) == {finding}
            finally:
                for name, value in before.items():
                    server.client.config_set(name, value)


async def test_an_empty_redis_and_scripts_that_are_gone_are_told(server: RedisServer) -> None:
    server.client.script_flush()
    server.client.config_set("notify-keyspace-events", "Kx")
    assert set(await found_in(server)) == {"nothing-there", "scripts-missing"}


async def test_a_user_without_permissions_is_told(server: RedisServer) -> None:
    async with engine_with(on(server)):
        server.client.execute_command(
            "ACL", "SETUSER", "small", "on", ">pass", "~*", "&*", "+@all", "-config", "-xautoclaim", "-xadd"
        )
        url = server.url.replace("redis://", "redis://small:pass@")
        found = await findings("--redis-url", url)
        assert "XADD" in found["permissions"]["what"]
        assert set(found) == {"permissions"}


async def test_what_another_program_wrote_among_the_values_is_told(server: RedisServer) -> None:
    async with engine_with(on(server)) as engine:
        await call(engine, "state::set", scope="orders", key="fine", value={"a": 1})
        await call(engine, "state::set", scope="orders", key="large", value={"a": "x" * 1_100_000})
        server.client.hset("state:orders", "bad", "{no json")
        server.client.hset("state:orders", "cut", b'{\t\n"a":1,\n"b"')
        server.client.hset("state:orders", "latin", b'"\xff"')
        server.client.hset("state:orders", "theirs", '{"a": 1}')
        server.client.hset("state:orders", "number", "5")
        server.client.hset("state:new", "k", "1")
        found = await found_in(server)
        assert set(found) - {"scopes-unlisted"} == {"values-unreadable", "values-unframed", "values-large"}
        assert all(key in found["values-unreadable"]["what"] for key in ("3 values", "'bad'", "'cut'", "'latin'"))
        assert "1 objects" in found["values-unframed"]["what"]
        assert "theirs" in found["values-unframed"]["what"]
        assert set(await found_in(server, "--no-values")) == set()


async def test_subscriptions_and_engines_that_are_left_are_told(server: RedisServer) -> None:
    def fail(event: Any) -> None:
        raise RuntimeError("no")

    async with engine_with(on(server)) as engine:
        async with engine_with(on(server)) as gone:
            await subscribe(gone, "orders::left", lambda event: None)
            await subscribe(gone, "orders::idle", lambda event: None, scope="other")
        await subscribe(engine, "orders::failing", fail)
        await subscribe(engine, "orders::full", lambda event: None, max_queue_length=2, concurrency=1)
        await call(engine, "iii-state::trigger_pause", function_id="orders::full")
        await call(engine, "state::set", scope="orders", key="a", value=1)
        await call(engine, "state::set", scope="orders", key="b", value=1)

        async def dead() -> bool:
            return bool((await call(engine, "iii-state::dead_list"))["total"] == 2)

        await until(dead)
        server.client.hset("iii-state:engines", "ghost", "no heartbeat")
        server.client.hset("iii-state:session:ghost", "epoch", "1")
        found = await found_in(server)
        assert set(found) - {"engines-gone"} == {
            *("backlog-unserved", "subscription-unserved", "subscription-paused", "queue-nearly-full", "dead-letters"),
            "sessions-staying",
        }
        assert "orders::left" in found["backlog-unserved"]["what"]
        assert "orders::idle" in found["subscription-unserved"]["what"]
        assert "orders::failing (2)" in found["dead-letters"]["what"]
        assert "orders::full" in found["queue-nearly-full"]["what"]


async def test_engines_that_are_gone_or_older_are_told(server: RedisServer) -> None:
    async with engine_with(on(server)) as engine:
        await subscribe(engine, "orders::changed", lambda event: None)
        await call(engine, "iii-state::trigger_pause", function_id="orders::changed")
        (name,) = server.client.hkeys("iii-state:features")
        server.client.hset("iii-state:features", name, "lineages")
        found = await found_in(server)
        assert (found["engines-older"]["severity"], set(found)) == ("warning", {"engines-older", "subscription-paused"})
        server.client.delete("iii-state:paused")
        assert (await found_in(server))["engines-older"]["severity"] == "note"
    server.client.hset("iii-state:engines", "ghost", "1000 1")
    assert "no engine lives" in (await found_in(server))["engines-gone"]["meaning"]


DAMAGE: dict[str, Callable[[redis.Redis, str], object]] = {
    "group": lambda client, queue: client.xgroup_destroy(f"iii-state:q:{queue}", "engines"),
    "stream": lambda client, queue: client.delete(f"iii-state:q:{queue}"),
    "busy": lambda client, queue: client.delete(f"iii-state:busy:{queue}"),
    "count": lambda client, queue: client.hincrby(f"iii-state:busy:{queue}", "entries", 5),
    "waiting": lambda client, queue: client.delete(f"iii-state:wait:{queue}:6:ordershot"),
    "cut": lambda client, queue: client.rpop(f"iii-state:wait:{queue}:6:ordershot"),
    "subscription": lambda client, queue: client.delete(f"iii-state:sub:{queue}"),
    "type": lambda client, queue: (client.delete(f"iii-state:q:{queue}"), client.set(f"iii-state:q:{queue}", "x")),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_damaged_queue_is_told_and_repaired(server: RedisServer, damage: str) -> None:
    """Nobody runs: an engine would repair it by itself."""
    async with engine_with(on(server)) as engine:
        await subscribe(engine, "orders::changed", lambda event: None, retention_ms="forever")
        await call(engine, "iii-state::trigger_pause", function_id="orders::changed")
        for number in range(4):
            await call(engine, "state::set", scope="orders", key="hot", value=number)
            await call(engine, "state::set", scope="orders", key=f"k{number}", value=number)
    (queue,) = [name.decode() for name in server.client.hkeys("iii-state:routes") if not name.startswith(b":")]
    assert "queues-damaged" not in await found_in(server)
    DAMAGE[damage](server.client, queue)
    dump = {name: server.client.dump(name) for name in server.client.keys("*")}
    found = await found_in(server)
    assert queue in found["queues-damaged"]["what"]
    assert {name: server.client.dump(name) for name in server.client.keys("*")} == dump  # looking has changed nothing
    repaired = await found_in(server, "--repair")
    assert "queues-damaged" not in repaired
    again = await found_in(server)
    assert not {"queues-damaged", "events-lost"} & set(again)
    if damage in ("stream", "waiting", "cut", "type"):
        assert "events-lost" in repaired


# -- files


@pytest.fixture
async def directory(tmp_path: Path) -> Path:
    """A healthy file of a kv store, in which an event waits."""
    config = {"adapter": {"name": "kv", "config": {"store_method": "file_based", "file_path": str(tmp_path)}}}
    async with engine_with(config) as engine:
        for number in range(20):
            await call(engine, "state::set", scope="orders", key=f"k{number}", value={"n": number})
    return tmp_path


async def in_file(directory: Path) -> dict[str, dict[str, str]]:
    found = await findings("--file-path", str(directory))
    found.pop("disk-nearly-full", None)  # it may be so here
    return found


def change(directory: Path, *statements: tuple[str, tuple[Any, ...]]) -> None:
    with sqlite3.connect(directory / "state.sqlite3") as connection:
        for statement, values in statements:
            connection.execute(statement, values)
    connection.close()


async def test_a_healthy_file_has_nothing_and_each_illness_is_told(directory: Path) -> None:
    assert await in_file(directory) == {}
    value = "INSERT INTO state VALUES (?,?,?)"
    change(
        directory,
        (value, (b"s", b"bad", b"{no json")),
        (value, (b"s", b"large", b'"%b"' % (b"x" * 2_000_000))),
        ("UPDATE meta SET value = value + 3600000 WHERE name='clock'", ()),
    )
    (directory / "users.bin").write_bytes(b"x")
    found = await in_file(directory)
    assert set(found) == {"values-unreadable", "values-large", "clock-skew", "stock-files"}


async def test_what_waits_in_a_file_is_told(tmp_path: Path) -> None:
    config = {"adapter": {"name": "kv", "config": {"store_method": "file_based", "file_path": str(tmp_path)}}}

    def fail(event: Any) -> None:
        raise RuntimeError("no")

    async with engine_with(config) as engine:
        await subscribe(engine, "orders::failing", fail)
        await subscribe(engine, "orders::paused", lambda event: None)
        await call(engine, "iii-state::trigger_pause", function_id="orders::paused")
        await call(engine, "state::set", scope="orders", key="a", value=1)

        async def dead() -> bool:
            return bool((await call(engine, "iii-state::dead_list"))["total"])

        await until(dead)
        in_use = await asyncio.to_thread(ask, "--file-path", str(tmp_path))
        assert (in_use.exit_code, "in use" in in_use.stderr) == (1, True)
    found = await in_file(tmp_path)
    assert set(found) == {"backlog", "dead-letters", "subscription-paused"}


async def test_a_damaged_file_is_told(directory: Path) -> None:
    path = directory / "state.sqlite3"
    content = bytearray(path.read_bytes())
    for start in range(4096, len(content), 4096):
        content[start + 8 : start + 3000] = b"\xee" * 2992
    path.write_bytes(content)
    assert set(await in_file(directory)) == {"file-damaged"}
    path.write_bytes(b"no database at all" * 1000)
    assert set(await in_file(directory)) == {"file-damaged"}


# -- engines


async def test_an_engine_tells_of_itself(server: RedisServer) -> None:
    async with engine_with(on(server)) as engine:
        host, port = await engine.serve("127.0.0.1", 0)
        url = f"ws://{host}:{port}"
        await subscribe(engine, "orders::changed", lambda event: None)
        assert await findings("--url", url) == {}
        await call(engine, "iii-state::trigger_pause", function_id="orders::changed")
        assert set(await findings("--url", url)) == {"subscription-paused"}


def test_the_docs_name_every_finding() -> None:
    source = "".join(path.read_text("utf-8") for path in (ROOT / "iii_state" / "observe" / "doctor").rglob("*.py"))
    made = set(re.findall(r'Finding\(\s+"(fault|warning|note)",\s+"([a-z-]+)"', source))
    page = (ROOT / "iii_state" / "docs" / "operating.md").read_text("utf-8")
    told = {
        (severity, finding)
        for severity, findings in re.findall(r"^\| (fault|warning|note) \| (.*) \|$", page, re.MULTILINE)
        for finding in re.findall(r"`([a-z-]+)`", findings)
    }
    assert made == told
    assert {finding for severity, finding in made if severity == "fault"} == FAULTS


def test_only_one_place_is_looked_at() -> None:
    for arguments in (("--redis-url", "redis://x", "--file-path", "y"), ("--repair",), ("--prefix", "p")):
        assert ask(*arguments).exit_code == 2
    assert command.params
