"""Pauses and engines of an earlier version on one Redis: refused while one is there, found by the doctor where one comes later."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from iii_state import Engine, StateModule
from iii_state.cli import main
from tests.support.redis.server import RedisServer
from tests.support.waiting import until
from tests.upgrade.versions import earlier, engine

pytestmark = pytest.mark.slow


async def ask(redis: RedisServer, *arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, [*arguments, "--redis-url", redis.url])


async def test_a_pause_is_refused_while_an_earlier_engine_is_there(tmp_path: Path) -> None:
    old = earlier("0.2.0", tmp_path)
    if isinstance(old, str):
        pytest.skip(old)
    with RedisServer("--appendonly", "yes") as redis:
        config: dict[str, Any] = {
            "adapter": {"name": "redis", "config": {"redis_url": redis.url, "heartbeat_ttl_ms": 1000}},
        }
        seat = engine("old", config=config)
        async with Engine() as new:
            await new.add_module(StateModule(config))
            new.register_function("orders::changed", lambda event: None)
            await new.register_trigger({"type": "state", "function_id": "orders::changed", "config": {"scope": "orders"}})
            await asyncio.to_thread(seat.start, old)
            try:
                refused = await ask(redis, "triggers", "pause", "orders::changed")
                assert (refused.exit_code, "knows of no pause" in refused.stderr) == (1, True), refused.output
                await asyncio.to_thread(seat.end)

                async def paused() -> bool:
                    return (await ask(redis, "triggers", "pause", "orders::changed")).exit_code == 0

                await until(paused)
                await asyncio.to_thread(seat.start, old)
                found = json.loads((await ask(redis, "doctor", "--json")).stdout)["findings"]
                severities = {finding["id"]: finding["severity"] for finding in found}
                assert severities["engines-older"] == "warning"
            finally:
                await asyncio.to_thread(seat.close)
