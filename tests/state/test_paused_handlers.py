"""A paused function: handlers that run come to their end, none begins, and everything is handled once when it is resumed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from iii_state import Engine
from tests.support.engines.embedded import engine_over
from tests.support.waiting import until

KINDS = ["kv-memory", "kv-file", "redis", "bridge-kv"]


class Handler:
    """Counts what it begins, and waits to be let go."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.begun: list[Any] = []
        self.done: list[Any] = []
        self.go_on = asyncio.Event()
        engine.register_function("slow", self.handle)

    async def handle(self, event: dict[str, Any]) -> None:
        events = [each["event"] for each in event["events"]] if event["type"] == "state:batch" else [event]
        self.begun += [each["key"] for each in events]
        await self.go_on.wait()
        self.done += [each["key"] for each in events]

    async def call(self, function_id: str, payload: dict[str, Any]) -> Any:
        return await self.engine.trigger({"function_id": function_id, "payload": payload})

    async def set(self, *keys: str) -> None:
        for key in keys:
            await self.call("state::set", {"scope": "s", "key": key, "value": 1})

    async def row(self) -> dict[str, Any]:
        (row,) = (await self.call("iii-state::triggers", {}))["triggers"]
        return dict(row)

    async def waits(self, waiting: int, out: int) -> None:
        async def so_many() -> bool:
            row = await self.row()
            return (row["waiting"], row["pending"]) == (waiting, out)

        await until(so_many)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.mark.parametrize("more", [{}, {"batch": {"max": 2}}], ids=["one", "batch"])
async def test_handlers_that_run_finish_and_none_begins(kind: str, more: dict[str, Any], tmp_path: Path) -> None:
    async with engine_over(kind, tmp_path) as engine:
        handler = Handler(engine)
        config = {"scope": "s", "concurrency": 1, **more}
        await engine.register_trigger({"type": "state", "function_id": "slow", "config": config})
        handler.go_on.set()
        await handler.set("warm")  # from then on the size of events is known, and many are taken ahead
        await until(lambda: handler.done)
        handler.go_on.clear()
        await handler.call("iii-state::trigger_pause", {"function_id": "slow"})
        keys = [f"k{number}" for number in range(10)]
        await handler.set(*keys)
        await handler.call("iii-state::trigger_resume", {"function_id": "slow"})
        await until(lambda: len(handler.begun) > 1)
        started = handler.begun[1:]
        answer = await handler.call("iii-state::trigger_pause", {"function_id": "slow"})
        assert (answer["paused"], 1 <= answer["out"] <= 10) == (1, True)
        await handler.waits(10 - len(started), len(started))
        handler.go_on.set()
        await until(lambda: len(handler.done) > 1)
        await handler.set("more")
        await handler.waits(11 - len(started), 0)
        assert handler.begun == handler.done == ["warm", *started]
        assert (await handler.row())["paused_at_ms"] > 0
        assert await handler.call("iii-state::trigger_resume", {"function_id": "slow"}) == {"resumed": 1}
        await until(lambda: len(handler.done) >= 12)
        assert sorted(handler.done) == sorted(["warm", "more", *keys])


async def test_a_paused_function_is_paused_for_an_engine_that_is_started_again(tmp_path: Path) -> None:
    config = {"scope": "s", "retention_ms": "forever"}
    async with engine_over("kv-file", tmp_path) as engine:
        handler = Handler(engine)
        await engine.register_trigger({"type": "state", "function_id": "slow", "config": config})
        await handler.call("iii-state::trigger_pause", {"function_id": "slow"})
        await handler.set("a")
    async with engine_over("kv-file", tmp_path) as engine:
        handler = Handler(engine)
        handler.go_on.set()
        await engine.register_trigger({"type": "state", "function_id": "slow", "config": config})
        await handler.set("b")
        await handler.waits(2, 0)
        assert handler.begun == []
        assert await handler.call("iii-state::trigger_purge", {"function_id": "slow"}) == {"purged": 1, "dropped": 2}
        await handler.set("c")
        await handler.call("iii-state::trigger_resume", {"function_id": "slow"})
        await until(lambda: handler.done)
        assert handler.done == ["c"]


async def test_what_is_meant_has_to_be_said_and_to_be_there(tmp_path: Path) -> None:
    async with engine_over("kv-memory", tmp_path) as engine:
        handler = Handler(engine)
        for payload, words in (({}, "function_id or id"), ({"function_id": 1}, "function_id"), ({"id": "no"}, "the id no")):
            with pytest.raises(Exception, match=words):
                await handler.call("iii-state::trigger_pause", payload)
