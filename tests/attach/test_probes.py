"""`/livez`, `/healthz` and `/readyz` of an attached worker, on its --metrics-port."""

from __future__ import annotations

import re
from typing import Any

import aiohttp

from tests.support.engines.attached import AttachProcess, attached
from tests.support.engines.processes import free_port, running_engine
from tests.support.redis.server import RedisServer
from tests.support.waiting import until

ON_A_PORT = ("--metrics-port", "0")


async def asked(worker: AttachProcess, path: str) -> tuple[int, dict[str, Any]]:
    """What a worker answers."""
    worker.wait_for("metrics at ")
    found = re.search(r"metrics at (\S+)/metrics", worker.stderr.text())
    assert found is not None
    async with aiohttp.ClientSession() as session, session.get(f"{found[1]}/{path}") as answer:
        return answer.status, await answer.json()


async def test_a_leader_and_a_standby_are_ready_and_say_what_they_are() -> None:
    with (
        RedisServer() as redis,
        running_engine(["--no-state"]) as engine,
        attached(engine.url, "--redis-url", redis.url, *ON_A_PORT) as first,
        attached(engine.url, "--redis-url", redis.url, *ON_A_PORT) as second,
    ):
        await until(lambda: _roles(first, second), "no leader and no standby")
        roles = {(await asked(each, "readyz"))[1]["role"]: each for each in (first, second)}
        for role, worker in roles.items():
            assert await asked(worker, "readyz") == (200, {"status": "ready", "role": role})
            assert await asked(worker, "healthz") == (200, {"status": "ok", "role": role})
        roles["leader"].kill()
        await until(lambda: _is(roles["standby"], 200, "leader"), "the standby does not lead")
        redis.stop()
        await until(lambda: _is(roles["standby"], 503, "leader"), "ready without a store")
        status, told = await asked(roles["standby"], "readyz")
        assert (status, list(told["reasons"])) == (503, ["iii-state"])
        assert (await asked(roles["standby"], "livez"))[0] == 200


async def _roles(first: AttachProcess, second: AttachProcess) -> bool:
    return sorted([(await asked(each, "readyz"))[1]["role"] for each in (first, second)]) == ["leader", "standby"]


async def _is(worker: AttachProcess, status: int, role: str) -> bool:
    found, told = await asked(worker, "readyz")
    return (found, told["role"]) == (status, role)


async def test_a_worker_without_an_engine_is_healthy_and_not_ready() -> None:
    with attached(f"ws://127.0.0.1:{free_port()}", *ON_A_PORT) as worker:
        await until(lambda: _is(worker, 503, "waiting"))
        status, told = await asked(worker, "readyz")
        assert (status, told["status"]) == (503, "not ready")
        assert "there is no connection to ws://127.0.0.1:" in told["reasons"]["engine"]
        await until(lambda: _is_healthy(worker))


async def _is_healthy(worker: AttachProcess) -> bool:
    return (await asked(worker, "healthz"))[0] == 200
