"""The functions `engine::…`, and health."""

from __future__ import annotations

import asyncio

from iii_state.engine import Engine
from tests.support.engines.dict_module import DictModule
from tests.support.engines.raw_worker import Port, RawWorker


async def test_functions_are_listed_with_who_serves_them(worker: RawWorker, port: Port) -> None:
    server = await port.connect(name="w1", pid=1)
    await server.send("registerfunction", id="orders::f", description="an order", metadata={"m": 1})
    await server.settled()
    rows = (await worker.call("engine::functions::list", {}))["result"]["functions"]
    assert [row["function_id"] for row in rows] == ["echo", "orders::f", "slow::get", "state::fail", "state::get", "state::set"]
    row = {"function_id": "orders::f", "namespace": "default", "worker_name": "w1", "description": "an order", "metadata": {"m": 1}}
    assert rows[1] == row
    assert rows[4] == {
        "function_id": "state::get",
        "namespace": "default",
        "worker_name": "dict",
        "description": "Get a value",
    }
    for wanted in ({"prefix": "orders"}, {"search": "AN ORDER"}, {"worker": "w1"}, {"workers": ["w1", "w2"]}):
        assert (await worker.call("engine::functions::list", wanted))["result"]["functions"] == [row]
    everything = (await worker.call("engine::functions::list", {"include_internal": True}))["result"]["functions"]
    assert "engine::channels::create" in {row["function_id"] for row in everything}


async def test_a_function_is_described_with_its_triggers(worker: RawWorker) -> None:
    await worker.send("registerfunction", id="f", request_format={"type": "object"}, response_format={"type": "null"})
    await worker.send("registertrigger", id="t", trigger_type="state", function_id="f", config={"scope": "s"})
    info = (await worker.call("engine::functions::info", {"function_id": "f"}))["result"]
    assert info["request_schema"] == {"type": "object"}
    assert info["response_schema"] == {"type": "null"}
    assert info["registered_triggers"] == [{"id": "t", "trigger_type": "state", "config": {"scope": "s"}}]
    assert (await worker.call("engine::functions::info", {"function_id": "state::set"}))["result"]["metadata"] == {"m": 1}
    assert (await worker.call("engine::functions::info", {"function_id": "g"}))["error"]["code"] == "NOT_FOUND"
    assert (await worker.call("engine::functions::info", {}))["error"]["code"] == "deserialization_error"


async def test_workers_are_listed_that_have_told_a_pid(worker: RawWorker, port: Port) -> None:
    await port.connect(name="hidden")
    shown = await port.connect(
        name="w1", pid=7, runtime="node", version="0.22.1", os="Linux", isolation=None, telemetry={"x": 1}, description="d"
    )
    await shown.send("registerfunction", id="f")
    await shown.settled()
    (row,) = (await worker.call("engine::workers::list", None))["result"]["workers"]
    assert row["id"] == shown.id
    assert (row["name"], row["pid"], row["runtime"], row["version"], row["status"]) == ("w1", 7, "node", "0.22.1", "connected")
    assert (row["function_count"], row["active_invocations"], row["ip_address"]) == (1, 0, "127.0.0.1")
    assert row["connected_at_ms"] > 1_700_000_000_000


async def test_trigger_types_and_triggers_are_listed(worker: RawWorker, port: Port) -> None:
    provider = await port.connect(name="p")
    await provider.send("registertriggertype", id="my.type", description="mine")
    await provider.settled()
    await worker.send("registertrigger", id="t", trigger_type="state", function_id="f", config={"scope": "s"})
    await worker.send("registertrigger", id="u", trigger_type="later", function_id="g")
    types = (await worker.call("engine::triggers::list", {}))["result"]["triggers"]
    assert types == [
        {"id": "my.type", "namespace": "default", "worker_name": "p", "description": "mine"},
        {"id": "state", "namespace": "default", "worker_name": "dict", "description": "State trigger"},
    ]
    rows = (await worker.call("engine::registered-triggers::list", {"trigger_type": "state"}))["result"]["registered_triggers"]
    assert [(row["id"], row["function_id"], row["config"]) for row in rows] == [("t", "f", {"scope": "s"})]
    rows = (await worker.call("engine::registered-triggers::list", {"function_id": "g"}))["result"]["registered_triggers"]
    assert [(row["id"], row["served"]) for row in rows] == [("u", False)]


async def test_health_says_what_is_wrong(port: Port, module: DictModule, engine: Engine) -> None:
    answer = await port.session.get(f"{port.url}/healthz")
    assert (answer.status, (await answer.json())["status"]) == (200, "ok")
    module.failing = "the disk is full"
    answer = await port.session.get(f"{port.url}/healthz")
    assert answer.status == 503
    assert await answer.json() == {"status": "failing", "reasons": {"dict": "the disk is full"}}


async def test_a_browser_is_told_what_this_is(port: Port) -> None:
    answer = await port.session.get(port.url)
    assert (answer.status, answer.content_type) == (200, "text/html")
    assert "iii-state" in await answer.text()


async def test_a_function_is_described_by_whoever_serves_it_now(port: Port) -> None:
    asking, first, second = [await port.connect(name=name, runtime="x", pid=1) for name in ("asking", "first", "second")]
    for worker in (first, second):
        await worker.send("registertriggertype", id=f"type-{worker.id}", description="makes its functions its own")
        await worker.send("registerfunction", id="shared", description=worker.id, metadata={"of": worker.id})
        await worker.settled()

    async def described() -> tuple[str, object]:
        info = (await asking.call("engine::functions::info", {"function_id": "shared"}))["result"]
        return info["description"], info["metadata"]

    assert await described() == (first.id, {"of": first.id})
    await first.socket.close()
    async with asyncio.timeout(10):
        while await described() != (second.id, {"of": second.id}):
            await asyncio.sleep(0.01)
