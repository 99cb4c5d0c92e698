"""The functions that the page asks for beside the others: what they tell, and whom."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path

import aiohttp

from iii_state.engine import Engine
from iii_state.state.module import StateModule
from tests.support.engines.raw_worker import Port
from tests.support.engines.with_tokens import code, guarded, limited
from tests.support.redis.server import RedisServer


async def test_everybody_learns_what_he_may_do_and_no_more(tmp_path: Path) -> None:
    entries = {"root": {}, "reader": limited(scopes=["mine*"], read_only=True), "operator": limited(operate=True)}
    async with guarded(tmp_path / "tokens.json", entries) as engine:
        told = {name: (await (await engine.join(name)).call("iii-state::about"))["result"] for name in entries}
        assert told["root"]["rights"] is None
        assert told["root"]["adapter"] == "kv"
        assert told["root"]["store"] == told["reader"]["store"]
        expected = {"read_only": True, "operate": False, "scopes": ["mine*"], "functions": None}
        assert (told["reader"]["token"], told["reader"]["rights"]) == ("reader", expected)
        assert told["reader"]["engine"] is None, "the name of the machine is for operators"
        assert told["operator"]["engine"] == told["root"]["engine"] is not None
        reader, operator = await engine.join("reader"), await engine.join("operator")
        for function_id in ("iii-state::engines", "iii-state::figures"):
            assert code(await reader.call(function_id)) == "FORBIDDEN"
            assert code(await operator.call(function_id)) is None


async def test_the_engines_of_a_redis_are_told_with_how_long_each_has_been_silent() -> None:
    with RedisServer() as server:
        config = {"adapter": {"name": "redis", "config": {"redis_url": server.url, "heartbeat_ttl_ms": 3000}}}
        async with Engine() as first, Engine() as second:
            for engine in (first, second):
                await engine.add_module(StateModule(config))
            told = await first.trigger({"function_id": "iii-state::engines"})
            assert told["health"] is None
            assert len({row["id"] for row in told["engines"]}) == 2
            for row in told["engines"]:
                assert row["name"] == told["this"]
                assert "triggers.v2" in row["features"]
                assert 0 <= row["silent_ms"] <= row["gone_ms"] == 3000
            server.stop()
            away = await first.trigger({"function_id": "iii-state::engines"})
            assert away["engines"] == []
            assert isinstance(away["health"], str)


async def test_figures_are_those_of_the_metrics() -> None:
    async with Engine() as engine:
        await engine.add_module(StateModule())
        for _ in range(20):
            await engine.trigger({"function_id": "state::set", "payload": {"scope": "s", "key": "k", "value": 1}})
        told = await engine.trigger({"function_id": "iii-state::figures"})
        (calls,) = (
            row["value"]
            for row in told["figures"]
            if row["name"] == "iii_state_calls_total" and row["labels"] == {"function": "state::set", "adapter": "kv", "code": "ok"}
        )
        assert calls == 20
        (durations,) = (
            row["value"]
            for row in told["figures"]
            if row["name"] == "iii_state_call_duration_seconds" and row["labels"]["function"] == "state::set"
        )
        assert len(durations["buckets"]) == len(told["bounds"]) + 1
        assert sum(durations["buckets"]) == 1, "one call in sixteen is timed"


async def test_a_batch_tells_how_many_events_had_been_dropped_before_each() -> None:
    async with Engine() as engine, aiohttp.ClientSession() as session:
        await engine.add_module(StateModule())
        port = Port(session, *await engine.serve("127.0.0.1", 0))
        worker = await port.connect(name="w", runtime="x", pid=1)
        config = {"scope": "s", "batch": {"max": 100}, "on_full": "drop_oldest", "max_queue_length": 10, "concurrency": 1}
        await worker.send("registerfunction", id="iii-state::watch::t")
        function = {"trigger_type": "state", "function_id": "iii-state::watch::t", "config": config}
        await worker.send("registertrigger", id=str(uuid.uuid4()), **function)
        await worker.settled()
        writing = await port.connect(name="writer", runtime="x", pid=2)
        count = 60
        for number in range(count):
            await writing.call("state::set", {"scope": "s", "key": f"k{number}", "value": number})
        seen, dropped = 0, 0
        async with asyncio.timeout(15):
            while seen + dropped < count:
                call = await worker.expect("invokefunction", function_id="iii-state::watch::t")
                for row in call["data"]["events"]:
                    seen, dropped = seen + 1, max(dropped, row.get("dropped", 0))
                await worker.answer(call, result={})
        assert dropped > 0
        assert seen + dropped == count, json.dumps({"seen": seen, "dropped": dropped})
        await port.disconnect()
