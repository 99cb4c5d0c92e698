"""`/livez`, `/healthz` and `/readyz` of an engine: what each answers while its store, its triggers or its end are in the way."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from iii_state import Engine, Guard, StateModule
from iii_state.adapters.redis import RedisAdapter
from iii_state.host import Host
from tests.support.engines.dict_module import DictModule
from tests.support.engines.raw_worker import Port
from tests.support.http import answer_to
from tests.support.redis.server import RedisServer
from tests.support.waiting import until

TOKEN = "iii_the-token-of-these-tests_0123456789"


class Probed:
    """An engine in this process with a state module on Redis, asked over its port."""

    def __init__(self, engine: Engine, module: StateModule, url: str, session: aiohttp.ClientSession) -> None:
        self.engine = engine
        self.module = module
        self._url = url
        self._session = session

    async def ask(self, path: str) -> tuple[int, dict[str, Any]]:
        async with self._session.get(f"{self._url}/{path}") as answer:
            return answer.status, await answer.json()

    async def is_ready(self) -> bool:
        return (await self.ask("readyz"))[0] == 200


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server
        server.process.send_signal(signal.SIGCONT)


@pytest.fixture
async def probed(redis: RedisServer, session: aiohttp.ClientSession) -> AsyncIterator[Probed]:
    async with Engine() as engine:
        module = StateModule({"adapter": {"name": "redis", "config": {"redis_url": redis.url}}})
        await engine.add_module(module)
        host, port = await engine.serve("127.0.0.1", 0)
        yield Probed(engine, module, f"http://{host}:{port}", session)


async def test_an_engine_is_ready_while_its_store_answers(probed: Probed, redis: RedisServer) -> None:
    assert await probed.ask("readyz") == (200, {"status": "ready", "workers": 0})
    redis.process.send_signal(signal.SIGSTOP)
    status, told = await probed.ask("readyz")
    assert (status, told["status"]) == (503, "not ready")
    assert "has not answered" in told["reasons"]["iii-state"]
    assert (await probed.ask("healthz"))[0] == 503
    assert await probed.ask("livez") == (200, {"status": "ok"}), "a store that is away is no reason to start an engine anew"
    redis.process.send_signal(signal.SIGCONT)
    await until(probed.is_ready)


async def test_a_trigger_counts_until_the_store_has_confirmed_it(probed: Probed, redis: RedisServer) -> None:
    redis.process.send_signal(signal.SIGSTOP)
    trigger = {"type": "state", "function_id": "f", "config": {"scope": "s"}}
    registering = asyncio.create_task(probed.engine.register_trigger(trigger))
    await until(lambda: probed.module.triggers.registering == 1)
    redis.process.send_signal(signal.SIGCONT)
    await registering
    assert probed.module.triggers.registering == 0
    await until(probed.is_ready)


async def test_triggers_that_are_being_registered_are_a_reason(probed: Probed) -> None:
    for count, words in ((1, "1 trigger is being registered"), (2, "2 triggers are being registered")):
        probed.module.triggers.registering = count
        assert await probed.ask("readyz") == (503, {"status": "not ready", "reasons": {"iii-state": words}, "workers": 0})
        assert (await probed.ask("healthz"))[0] == 200
    probed.module.triggers.registering = 0


async def test_an_engine_that_was_taken_for_dead_is_not_ready_before_it_is_back(probed: Probed, redis: RedisServer) -> None:
    adapter = probed.module.adapter
    assert isinstance(adapter, RedisAdapter)
    engine = adapter._shared.engine
    engine.lost(engine.id)
    assert await probed.module.readiness() == "this engine was taken for dead, and is joining the others again"
    await until(probed.is_ready)
    assert redis.client.hlen("iii-state:engines") == 1
    engine.lease_until = 0
    assert adapter.absence() == "the last heartbeat of this engine is too old: others may take it for dead"


async def test_it_is_not_ready_while_it_is_being_stopped() -> None:
    runs, may_end = asyncio.Event(), asyncio.Event()

    class Slow(DictModule):
        async def stop(self) -> None:
            runs.set()
            await may_end.wait()

    async with Engine() as engine:
        await engine.add_module(Slow())
        assert await engine.readiness() == {}
        stopping = asyncio.create_task(engine.stop())
        await runs.wait()
        assert await engine.readiness() == {"engine": "it is being stopped"}
        may_end.set()
        await stopping


async def test_a_module_that_is_being_started_is_a_reason(engine: Engine, port: Port) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    class Slow(DictModule):
        name = "slow"

        async def start(self, host: Host) -> None:
            begun.set()
            await may_end.wait()

    starting = asyncio.create_task(engine.add_module(Slow()))
    await begun.wait()
    answer = await port.session.get(f"{port.url}/readyz")
    assert (answer.status, (await answer.json())["reasons"]) == (503, {"slow": "it is being started"})
    may_end.set()
    await starting
    assert (await port.session.get(f"{port.url}/readyz")).status == 200


async def test_a_state_module_that_has_ended_is_not_ready() -> None:
    module = StateModule()
    assert await module.readiness() == "it is not running"


@pytest.mark.parametrize("path", ["/readyz", "/healthz"])
async def test_reasons_want_a_token_and_the_status_does_not(path: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    module = DictModule()
    async with Engine(guard=Guard.of({"token_file": str(file)})) as engine:
        await engine.add_module(module)
        place = await engine.serve("127.0.0.1", 0)
        module.failing = "the disk of /secret/place is full"
        without = await answer_to(place, target=path)
        assert (without.status, list(json.loads(without.rest))) == (503, ["status"])
        told = await answer_to(place, f"Authorization: Bearer {TOKEN}", target=path)
        assert json.loads(told.rest)["reasons"] == {"dict": "the disk of /secret/place is full"}
        assert (await answer_to(place, f"Authorization: Bearer {TOKEN}0", target=path)).status == 401
        assert (await answer_to(place, target="/livez")).status == 200
        assert (await answer_to(place, target=path, host="evil.example")).status == 403
