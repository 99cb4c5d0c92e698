"""A Redis that somebody else runs: it refuses CONFIG and INFO, closes idle connections, and fails over behind one name."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from iii_state import Engine, StateModule
from tests.support.engines.calls import call
from tests.support.engines.processes import EngineProcess
from tests.support.redis.adapters import SMALLEST_RULES, adapter_on, increments
from tests.support.redis.proxy import Proxy, proxy_to
from tests.support.redis.server import RedisServer
from tests.support.waiting import until


class Fleet:
    """Two engines in this process at one Redis, and the events that their handler got."""

    def __init__(self, engines: list[Engine]) -> None:
        self.engines = engines
        self.events: list[dict[str, Any]] = []

    async def call(self, function: str, engine: int = 0, **payload: Any) -> Any:
        return await self.engines[engine].trigger({"function_id": f"state::{function}", "payload": payload})

    def values(self, key: str) -> list[Any]:
        return [event["new_value"] for event in self.events if event["key"] == key]


@asynccontextmanager
async def fleet_on(url: str, **settings: Any) -> AsyncIterator[Fleet]:
    async with Engine() as one, Engine() as other:
        fleet = Fleet([one, other])

        async def handle(event: dict[str, Any]) -> None:
            fleet.events.append(event)

        for engine in fleet.engines:
            await engine.add_module(StateModule({"adapter": {"name": "redis", "config": {"redis_url": url, **settings}}}))
            engine.register_function("test::changed", handle)
            await engine.register_trigger({"type": "state", "function_id": "test::changed", "config": {"scope": "s"}})
        yield fleet


@pytest.mark.parametrize("watched", [False, True])
async def test_a_user_without_config_and_info_has_everything(
    own_server: RedisServer, watched: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Values, events, deadlines, writes of other programs: where Redis tells of nothing, by looking."""
    refused = ("-info", "-config", "-role", "-wait", "-slowlog", "-debug", "-acl")
    rules = (*SMALLEST_RULES.split(), *refused, *(("&__keyspace@0__:state:*",) if watched else ()))
    own_server.client.execute_command("ACL", "SETUSER", "app", "reset", "resetchannels", "on", ">pw", *rules)
    url = f"redis://app:pw@127.0.0.1:{own_server.port}"
    async with fleet_on(url, foreign_writes=watched, heartbeat_ttl_ms=1000) as fleet:
        await until(lambda: caplog.text.count("does not tell what happens to keys") == 2)
        assert await fleet.call("set", scope="s", key="k", value=1) == {"old_value": None, "new_value": 1}
        await fleet.call("update", 1, scope="s", key="k", ops=[{"type": "increment", "by": 1}])
        await until(lambda: fleet.values("k") == [1, 2])
        await fleet.call("set", scope="s", key="short", value=1, ttl_ms=50)
        await until(lambda: fleet.values("short") == [1, None])
        assert await fleet.call("list_groups") == {"groups": ["s"]}
    if watched:
        own_server.client.hset("state:s", "foreign", "7")
        async with fleet_on(url, foreign_writes=True, heartbeat_ttl_ms=1000) as fleet:
            await until(lambda: fleet.values("foreign") == [7])


async def test_connections_that_are_closed_when_idle_cost_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer() as primary, RedisServer("--replicaof", "127.0.0.1", str(primary.port)) as replica:
        await until(lambda: replica.client.info("replication")["master_link_status"] == "up")
        async with proxy_to(primary.port) as proxy, fleet_on(proxy.url, wait_replicas=1, heartbeat_ttl_ms=20_000) as fleet:
            for number in range(1, 8):
                before = proxy.cuts
                await until(lambda: _cut_idle(proxy) > before)  # noqa: B023
                engine = number % 2
                assert (await fleet.call("set", engine, scope="s", key="k", value=number))["new_value"] == number
            await until(lambda: fleet.values("k") == list(range(1, 8)))
            assert proxy.cuts > 7, "more than one connection was idle, and cut, each time"


def _cut_idle(proxy: Proxy) -> int:
    proxy.cut_idle(0.05)
    return proxy.cuts


# -- a failover behind a name


@pytest.fixture
def pair() -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary and its replica."""
    with RedisServer() as first, RedisServer("--replicaof", "127.0.0.1", str(first.port)) as second:
        yield first, second


def follows(server: RedisServer) -> bool:
    return bool(server.client.info("replication").get("master_link_status") == "up")


async def test_a_primary_that_turns_into_a_replica_is_left_and_no_call_fails(pair: tuple[RedisServer, RedisServer]) -> None:
    """Behind the name there is another server now, and connections to the first go on: as a managed Redis is upgraded."""
    first, second = pair
    await until(lambda: follows(second))
    async with proxy_to(first.port) as name, adapter_on(name.url, call_timeout_ms=20_000) as adapter:
        await until(lambda: connections(first) == 2)
        working = asyncio.create_task(increments(adapter, 16, 20))
        await until(lambda: first.client.hget("state:s", "k") is not None)
        first.client.client_pause(20_000, all=False)  # no write gets in between, as where a managed one is switched over
        await until(lambda: follows(second) and offset(first) == offset(second))
        second.client.replicaof("NO", "ONE")
        name.target = second.port
        first.client.replicaof("127.0.0.1", str(second.port))
        first.client.client_unpause()
        made = await working
        assert len({updated.new for updated in made}) == len(made) == 320, "each was made once"
        await until(lambda: (connections(first), connections(second)) == (0, 2))
        assert b'"n":320' in second.client.hget("state:s", "k")


def offset(server: RedisServer) -> int:
    told = server.client.info("replication")
    return int(told["master_repl_offset"])


def connections(server: RedisServer) -> int:
    return sum(client["name"].startswith("iii-state:") for client in server.client.client_list())


@pytest.mark.slow
async def test_a_name_that_leads_to_another_address_later(tmp_path: Path) -> None:
    """The engine asks the system's resolver at each connect; here it is a file that says where the name leads."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("a resolver of the test's own takes Linux and a C compiler")
    library, record = tmp_path / "resolver_shim.so", tmp_path / "record"
    source = Path(__file__).parents[2] / "support" / "redis" / "resolver_shim.c"
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", str(library), str(source), "-ldl"]
    await asyncio.to_thread(subprocess.check_call, command)
    record.write_text("127.0.0.1\n")
    environment = {
        "LD_PRELOAD": str(library),
        "RESOLVER_SHIM_NAME": "redis.test",
        "RESOLVER_SHIM_FILE": str(record),
        "PATH": os.environ["PATH"],
    }
    with ExitStack() as stack:
        first = stack.enter_context(RedisServer())
        replica = ("--replicaof", "127.0.0.1", str(first.port))
        second = stack.enter_context(RedisServer(*replica, host="127.0.0.2", port=first.port))
        await until(lambda: follows(second))
        engine = EngineProcess(["--redis-url", f"redis://redis.test:{first.port}"], environment=environment)
        stack.callback(engine.kill)
        assert await asyncio.to_thread(call, engine.url, "state::set", {"scope": "s", "key": "k", "value": 1}) is not None
        await until(lambda: second.client.hget("state:s", "k") == b"1")
        record.write_text("127.0.0.2\n")
        second.client.replicaof("NO", "ONE")
        first.process.send_signal(signal.SIGSTOP)  # it accepts connections, and says nothing
        stack.callback(lambda: first.process.send_signal(signal.SIGCONT))
        told = await asyncio.to_thread(call, engine.url, "state::set", {"scope": "s", "key": "k", "value": 2})
        assert told == {"old_value": 1, "new_value": 2}
        assert second.client.hget("state:s", "k") == b"2"
