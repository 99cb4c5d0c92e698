"""`iii-state doctor` finds what is wrong with servers, disks and stores: each illness is planted in a real one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from iii_state import Engine, StateModule
from iii_state.guard import Guard
from iii_state.observe.doctor.redis import server as server_look
from tests.support.certificates import Authority
from tests.support.clock import HOUR, Clock, compile_shim
from tests.support.doctor import findings, found_in
from tests.support.redis.server import RedisServer
from tests.support.waiting import until


def config_of(server: RedisServer, **more: Any) -> dict[str, Any]:
    return {"adapter": {"name": "redis", "config": {"redis_url": server.url, "heartbeat_ttl_ms": 1000, **more}}}


async def used_by_an_engine(server: RedisServer) -> None:
    """As an engine has left it."""
    async with Engine() as engine:
        await engine.add_module(StateModule(config_of(server)))
        await engine.trigger({"function_id": "state::set", "payload": {"scope": "orders", "key": "k", "value": 1}})


def told(server: RedisServer, name: str) -> Callable[[], object]:
    return lambda: server.client.info().get(name)


async def test_replicas_that_lag_and_primaries_that_are_gone_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with RedisServer("--appendonly", "yes") as primary, RedisServer("--appendonly", "yes") as replica:
        await used_by_an_engine(primary)
        replica.client.replicaof("127.0.0.1", primary.port)
        await until(lambda: replica.client.info()["master_link_status"] == "up", "the replica does not follow")
        assert set(await found_in(primary)) == set()
        found = await found_in(replica)
        assert "is-replica" in found
        assert "primary-away" not in found
        assert "name the primary" in found["is-replica"]["remedy"]

        monkeypatch.setattr(server_look, "LAG_SECONDS", 2)
        os.kill(replica.process.pid, signal.SIGSTOP)
        try:
            await until(lambda: primary.client.info()["slave0"]["lag"] >= 2, "no lag")
            found = await found_in(primary)
            assert set(found) == {"replica-lags"}
            assert "has not answered for" in found["replica-lags"]["what"]
            assert "wait_replicas" in found["replica-lags"]["meaning"]
        finally:
            os.kill(replica.process.pid, signal.SIGCONT)

        primary.kill()
        await until(lambda: replica.client.info()["master_link_status"] == "down", "the replica has not noticed")
        found = await found_in(replica)
        assert {"is-replica", "primary-away"} <= set(found)
        assert "lost its primary" in found["primary-away"]["what"]


async def test_a_disk_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with RedisServer("--dir", str(folder)) as server:
        server.client.config_set("save", "3600 1")
        await used_by_an_engine(server)
        assert set(await found_in(server)) == set()
        shutil.rmtree(folder)
        server.client.bgsave()
        await until(lambda: server.client.info()["rdb_last_bgsave_status"] == "err", "the snapshot did not fail")
        found = await found_in(server)
        assert "rdb_last_bgsave_status" in found["saving-fails"]["what"]
        assert "disk" in found["saving-fails"]["remedy"]
        assert set(found) == {"saving-fails", "writes-refused"}
        assert "MISCONF" in found["writes-refused"]["what"]


@pytest.mark.parametrize(("shift", "word"), [(HOUR, "more"), (-HOUR, "less")])
async def test_a_clock_that_differs_is_told(tmp_path: Path, shift: float, word: str) -> None:
    clock = Clock(compile_shim(tmp_path), tmp_path / "shift")
    with RedisServer("--appendonly", "yes", environment=clock.environment) as server:
        await used_by_an_engine(server)
        assert set(await found_in(server)) == set()
        clock.set(shift)
        found = await found_in(server)
        assert "clock-skew" in found
        assert word in found["clock-skew"]["what"]
        assert any(f"shows {seconds} s" in found["clock-skew"]["what"] for seconds in range(3590, 3611))


async def test_settings_that_the_user_may_not_see_are_told() -> None:
    with RedisServer("--appendonly", "yes") as server:
        await used_by_an_engine(server)
        server.client.execute_command("ACL", "SETUSER", "small", "on", ">pass", "~*", "&*", "+@all", "-config", "-info")
        found = await findings("--redis-url", server.url.replace("redis://", "redis://small:pass@"))
        assert set(found) == {"settings-unseen"}
        assert "maxmemory-policy, role" in found["settings-unseen"]["what"]


async def test_queues_that_take_most_of_the_memory_are_told() -> None:
    with RedisServer("--appendonly", "yes") as server:
        async with Engine() as engine:
            await engine.add_module(StateModule(config_of(server)))
            engine.register_function("orders::changed", lambda event: None)
            await engine.register_trigger({"type": "state", "function_id": "orders::changed", "config": {"scope": "orders"}})
            await engine.trigger({"function_id": "iii-state::trigger_pause", "payload": {"function_id": "orders::changed"}})
            for number in range(45):
                value = f"{number}" + "x" * 1_000_000
                await engine.trigger({"function_id": "state::set", "payload": {"scope": "orders", "key": "k", "value": value}})
            found = await found_in(server, "--no-values")
            assert set(found) == {"queues-large", "subscription-paused"}
            assert "MiB of" in found["queues-large"]["what"]
            assert "max_queue_bytes" in found["queues-large"]["remedy"]


async def test_an_engine_without_its_store_says_so() -> None:
    with RedisServer("--appendonly", "yes") as server:
        async with Engine() as engine:
            await engine.add_module(StateModule(config_of(server, call_timeout_ms=500)))
            host, port = await engine.serve("127.0.0.1", 0)
            url = f"ws://{host}:{port}"
            assert await findings("--url", url) == {}
            server.kill()
            found = await findings("--url", url)
            assert set(found) == {"store-away"}
            assert "does not answer" in found["store-away"]["what"]
            server.start()


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of 8 MB. Skips the test where none can be mounted."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, check=False, timeout=20
    )
    if mounted.returncode != 0:
        pytest.skip("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=20)


async def test_a_disk_that_is_nearly_full_is_told(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as folder:
        async with Engine() as engine:
            adapter = {"name": "kv", "config": {"store_method": "file_based", "file_path": str(folder)}}
            await engine.add_module(StateModule({"adapter": adapter}))
            await engine.trigger({"function_id": "state::set", "payload": {"scope": "orders", "key": "k", "value": 1}})
        found = await findings("--file-path", str(folder))
        assert set(found) == {"disk-nearly-full"}
        assert f"the disk of {folder} has" in found["disk-nearly-full"]["what"]


async def test_certificates_that_end_soon_or_are_not_trusted_are_told(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    certificate, key = authority.issue("localhost", not_after=datetime.now(UTC) + timedelta(days=5))
    async with Engine(guard=Guard.of({"tls": {"cert": str(certificate), "key": str(key)}})) as engine:
        await engine.add_module(StateModule())
        _, port = await engine.serve("127.0.0.1", 0)
        url = f"wss://localhost:{port}"
        found = await findings("--url", url, "--ca-file", str(authority.file))
        assert set(found) == {"certificate-expires"}
        assert f"localhost:{port} ends on" in found["certificate-expires"]["what"]
        found = await findings("--url", url, "--ca-file", str(other.file))
        assert set(found) == {"certificate-refused"}
        assert "--ca-file" in found["certificate-refused"]["remedy"]


async def test_a_function_that_leads_to_itself_is_told() -> None:
    with RedisServer("--appendonly", "yes") as server:
        async with Engine() as engine:
            await engine.add_module(StateModule(config_of(server)))
            is_over = False

            async def counts(event: Any) -> None:
                if not is_over:
                    value = {"scope": "orders", "key": "k", "ops": [{"type": "increment", "path": "n", "by": 1}]}
                    await engine.trigger({"function_id": "state::update", "payload": value})

            engine.register_function("orders::counts", counts)
            await engine.register_trigger({"type": "state", "function_id": "orders::counts", "config": {"scope": "orders"}})
            await engine.trigger({"function_id": "state::set", "payload": {"scope": "orders", "key": "k", "value": {"n": 0}}})

            async def is_looping() -> bool:
                rows = (await engine.trigger({"function_id": "iii-state::triggers", "payload": {}}))["triggers"]
                return bool(rows[0].get("looping"))

            await until(is_looping, "the loop is not seen")
            is_over = True
            found = await found_in(server)
            assert set(found) == {"function-looping"}
            assert "orders::counts" in found["function-looping"]["what"]
            assert "dispatch.loop_limit" in found["function-looping"]["remedy"]
