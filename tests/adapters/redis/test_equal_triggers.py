"""Equal triggers that come and go at once: a registration that is on its way counts, whatever becomes of the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from iii_state import Engine, FunctionError, StateModule
from iii_state.adapters.redis.fleet import subscriptions
from iii_state.host import Trigger
from tests.support.redis.server import RedisServer, shared_server
from tests.support.waiting import answer_of


def trigger(name: str) -> Trigger:
    return Trigger(name, "state", "on", b'{"scope":"s"}', None, "default")


class Running:
    """An engine in this process, whose module is handed triggers as the engine does it."""

    def __init__(self, engine: Engine, module: StateModule, server: RedisServer) -> None:
        self.engine = engine
        self.module = module
        self.server = server
        self.handled: list[Any] = []
        engine.register_function("on", lambda event: self.handled.append(event["new_value"]))

    async def set(self, value: Any) -> None:
        await self.engine.trigger({"function_id": "state::set", "payload": {"scope": "s", "key": "k", "value": value}})

    async def until_handled(self, value: Any) -> None:
        async with asyncio.timeout(10):
            while value not in self.handled:
                await asyncio.sleep(0.005)

    def orphans(self) -> int:
        """How many queues wait for their retention."""
        return int(self.server.client.zcard("iii-state:orphans"))


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    server = shared_server()
    server.client.flushall()
    async with Engine() as engine:
        module = StateModule({"adapter": {"name": "redis", "config": {"redis_url": server.url}}})
        await engine.add_module(module)
        yield Running(engine, module, server)


@pytest.mark.parametrize("disconnected", [False, True], ids=["unregistered", "disconnected"])
async def test_a_trigger_that_is_being_registered_keeps_the_queue_that_the_last_equal_one_leaves(
    running: Running, disconnected: bool
) -> None:
    await answer_of(running.module.triggers.register(trigger("old")))
    await running.set(1)
    await running.until_handled(1)
    begun = running.module.triggers.register(trigger("new"))
    left = running.module.triggers.unregister(trigger("old"), disconnected=disconnected)
    await answer_of(begun)
    await answer_of(left)
    await running.set(2)
    await running.until_handled(2)
    assert running.orphans() == 0


async def test_a_registration_that_fails_holds_no_queue_that_the_last_equal_one_has_left(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "DAMAGED_SECONDS", 0.0)
    await answer_of(running.module.triggers.register(trigger("old")))
    redis = running.server.client
    redis.set("iii-state:orphans", "in the way")
    begun = running.module.triggers.register(trigger("new"))
    left = running.module.triggers.unregister(trigger("old"), disconnected=True)
    assert left is None
    with pytest.raises(FunctionError):
        await answer_of(begun)
    redis.delete("iii-state:orphans")
    again = running.module.triggers.register(trigger("old"))
    await answer_of(again)
    await answer_of(running.module.triggers.unregister(trigger("old"), disconnected=True))
    assert running.orphans() == 1


@pytest.mark.parametrize("delivery", ["once", "broadcast"])
async def test_a_registration_that_nobody_waits_for_any_more_leaves_no_queue_that_fills(running: Running, delivery: str) -> None:
    config = {"scope": "s", "delivery": delivery, "retention_ms": 0}
    begun = asyncio.ensure_future(running.engine.register_trigger({"type": "state", "function_id": "on", "config": config}))
    await asyncio.sleep(0)
    begun.cancel()
    await asyncio.gather(begun, return_exceptions=True)
    await answer_of(running.module.triggers.register(trigger("other")))  # behind it
    redis = running.server.client
    async with asyncio.timeout(10):
        while len(redis.keys("iii-state:sub:*")) != 1:
            await asyncio.sleep(0.01)
    assert len(running.module.adapter._subscriptions.hosted) == 1  # type: ignore[attr-defined]
