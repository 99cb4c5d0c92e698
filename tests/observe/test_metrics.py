"""Metrics of an engine, over every adapter: calls, deliveries, what queues hold, and that promtool finds nothing to say."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from iii_state import Engine, FunctionError
from tests.support.engines.embedded import engine_over
from tests.support.metrics import Metrics, lint, metrics_of
from tests.support.waiting import until


async def call(engine: Engine, function_id: str, **payload: Any) -> Any:
    return await engine.trigger({"function_id": function_id, "payload": payload})


async def when(engine: Engine, name: str, value: float, **labels: str) -> Metrics:
    """The metrics, once a series has this value."""
    last: list[Metrics] = []

    async def holds() -> Metrics | None:
        last[:] = [await metrics_of(engine)]
        return last[0] if last[0](name, **labels) == value else None

    found = await until(holds, lambda: f"{name}{labels}: {last[0].all(name)}")
    assert found is not None
    return found


async def test_calls_are_counted_by_function_adapter_and_outcome(embedded: Engine, kind: str) -> None:
    for number in range(20):
        await call(embedded, "state::set", scope="s", key=str(number), value=number)
    await call(embedded, "state::get", scope="s", key="1")
    await call(embedded, "state::list", scope="s")
    with pytest.raises(FunctionError):
        await call(embedded, "state::set", scope="s", key="1", value="x" * 17_000_000)
    with pytest.raises(FunctionError):
        await call(embedded, "state::update", scope="s", key="1", ops=[{"type": "no such op"}])

    metrics = await metrics_of(embedded)
    adapter = {"kv-memory": "kv", "kv-file": "kv", "redis": "redis", "bridge-kv": "bridge"}[kind]
    assert metrics("calls_total", function="state::set", adapter=adapter, code="ok") == 20
    assert metrics("calls_total", function="state::set", adapter=adapter, code="VALUE_TOO_LARGE") == 1
    assert metrics("calls_total", function="state::update", adapter=adapter, code="ok") == 0
    assert metrics("calls_total", function="state::update", adapter=adapter, code="deserialization_error") == 1
    assert metrics("calls_total", function="state::get", adapter=adapter, code="ok") == 1
    assert metrics("calls_total", function="state::list", adapter=adapter, code="ok") == 1
    assert metrics("calls_in_flight", function="state::set", adapter=adapter) == 0
    assert metrics("call_duration_seconds_count", function="state::set", adapter=adapter) == 1, "one in sixteen"
    assert metrics("call_duration_seconds_bucket", function="state::set", adapter=adapter, le="+Inf") == 1
    assert metrics("store_up", adapter=adapter) == 1
    assert metrics("build_info")


async def test_deliveries_are_counted_by_function_and_outcome(embedded: Engine) -> None:
    async def handler(event: dict[str, Any]) -> None:
        if event["new_value"] == "bad":
            raise ValueError("no")

    async def condition(event: dict[str, Any]) -> bool:
        return bool(event["new_value"] != "skipped")

    embedded.register_function("orders::changed", handler)
    embedded.register_function("orders::wanted", condition)
    config = {"scope": "s", "condition_function_id": "orders::wanted", "retry": {"max_attempts": 3, "backoff_ms": 1}}
    await embedded.register_trigger({"type": "state", "function_id": "orders::changed", "config": config})
    for number in range(20):
        await call(embedded, "state::set", scope="s", key=str(number), value="good")
    await call(embedded, "state::set", scope="s", key="skip", value="skipped")
    await call(embedded, "state::set", scope="s", key="fail", value="bad")

    metrics = await when(embedded, "deliveries_total", 1, function_id="orders::changed", outcome="dead")
    metrics = await when(embedded, "deliveries_total", 20, function_id="orders::changed", outcome="handled")
    outcomes = {"skipped": 1, "retried": 2, "crashed": 0, "returned": 0}
    for outcome, count in outcomes.items():
        assert metrics("deliveries_total", function_id="orders::changed", outcome=outcome) == count
    assert metrics("handler_duration_seconds_count", function_id="orders::changed") == 1, "one in sixteen of 24"
    assert metrics("handlers_running", function_id="orders::changed") == 0


async def test_what_queues_hold_is_told_by_function(embedded: Engine, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iii_state.state.queue_figures.ASK_SECONDS", 0)
    may_go_on = asyncio.Event()

    async def handler(event: dict[str, Any]) -> None:
        await may_go_on.wait()

    embedded.register_function("orders::changed", handler)
    config = {"scope": "s", "concurrency": 1, "retry": {"max_attempts": 1}}
    await embedded.register_trigger({"type": "state", "function_id": "orders::changed", "config": config})
    for key in "aaab":
        await call(embedded, "state::set", scope="s", key=key, value=1)

    async def all_told() -> Metrics | None:
        metrics = await metrics_of(embedded)
        held = (metrics("events_waiting", function_id="orders::changed") or 0) + (
            metrics("events_outstanding", function_id="orders::changed") or 0
        )
        is_told = held == 4 and metrics("handlers_running", function_id="orders::changed")
        return metrics if is_told and metrics("oldest_event_age_seconds", function_id="orders::changed") else None

    metrics = await until(all_told)
    assert metrics is not None
    assert metrics("subscriptions", function_id="orders::changed") == 1
    assert metrics("subscriptions_unserved", function_id="orders::changed") == 0
    if kind != "bridge-kv":  # what waits there is the remote's to tell
        ready = metrics("events_ready", function_id="orders::changed")
        outstanding = metrics("events_outstanding", function_id="orders::changed")
        assert (ready or 0) + (outstanding or 0) == 2, "the first of each key"
    may_go_on.set()
    metrics = await when(embedded, "events_outstanding", 0, function_id="orders::changed")
    metrics = await when(embedded, "events_waiting", 0, function_id="orders::changed")
    assert metrics("oldest_event_age_seconds", function_id="orders::changed") == 0


@pytest.mark.parametrize("kind", ["kv-memory", "kv-file", "redis"])
async def test_deadlines_and_recognised_retries_are_counted(embedded: Engine, kind: str) -> None:
    adapter = "redis" if kind == "redis" else "kv"
    await call(embedded, "iii-state::session_open", session="a-session", epoch=1)
    request = {"session": "a-session", "epoch": 1, "slot": 0, "seq": 1}
    for _ in range(3):
        await call(embedded, "state::set", scope="s", key="k", value=1, _iii_state_request=request)
    await call(embedded, "state::set", scope="s", key="short", value=1, ttl_ms=1)
    metrics = await when(embedded, "deadlines_due_total", 1, adapter=adapter)
    assert metrics("deadlines_late_total", adapter=adapter) == 0
    assert metrics("retries_recognised_total", adapter=adapter) == 2
    assert metrics("events_lost_total", adapter=adapter) == 0


async def test_promtool_finds_nothing_to_say(kind: str, tmp_path: Path) -> None:
    async with engine_over(kind, tmp_path) as engine:
        name = 'f "\n\\é'
        engine.register_function(name, lambda event: None)
        await engine.register_trigger({"type": "state", "function_id": name, "config": {"scope": "s"}})
        await call(engine, "state::set", scope="s", key="k", value=1)
        metrics = await when(engine, "deliveries_total", 1, function_id=name, outcome="handled")
        assert metrics.labels("subscriptions", "function_id") == {name}
        assert await lint(metrics.text) == ""


async def test_each_event_of_a_batch_is_a_delivery(kv_engine: Engine) -> None:
    async def handler(batch: dict[str, Any]) -> dict[str, Any]:
        return {"failed": [each["event_id"] for each in batch["events"] if each["event"]["key"] == "3"]}

    kv_engine.register_function("f", handler)
    config = {"scope": "s", "batch": {"max": 10, "wait_ms": 20}, "retry": {"max_attempts": 1}}
    await kv_engine.register_trigger({"type": "state", "function_id": "f", "config": config})
    for number in range(6):
        await call(kv_engine, "state::set", scope="s", key=str(number), value=1)
    metrics = await when(kv_engine, "deliveries_total", 5, function_id="f", outcome="handled")
    assert metrics("deliveries_total", function_id="f", outcome="dead") == 1
    assert metrics("handlers_running", function_id="f") == 0
