"""Figures of scopes: those that are named, no others, and what belongs to a shared store once."""

from __future__ import annotations

from pathlib import Path

import pytest

from iii_state import Engine, State, StateModule, steps
from iii_state.client.about import About
from iii_state.client.client import Client
from iii_state.config import parse
from iii_state.errors import ConfigError
from tests.support.engines.attached import attached
from tests.support.engines.processes import running_engine
from tests.support.metrics import Metrics, lint, metrics_of, scraped
from tests.support.redis.server import RedisServer

ADAPTERS = ["kv", "kv on file", "redis"]


@pytest.mark.parametrize("kind", ADAPTERS)
async def test_values_and_calls_of_the_scopes_that_are_named_are_told(kind: str, tmp_path: Path) -> None:
    with RedisServer() as redis:
        adapter = {
            "kv": {"name": "kv"},
            "kv on file": {"name": "kv", "config": {"store_method": "file_based", "file_path": str(tmp_path / "store")}},
            "redis": {"name": "redis", "config": {"redis_url": redis.url}},
        }[kind]
        async with Engine() as engine:
            await engine.add_module(StateModule({"adapter": adapter, "server": {"metrics_scopes": ["a", "b", "a", "empty"]}}))
            state = State(engine)
            for key in "123":
                await state.set("a", key, {"scope": "b"})
            await state.transact("b", [steps.set("1", 1), steps.set("2", 2)])
            await state.set("other", "1", 1)
            await state.get("a", "1")
            items = [{"scope": scope, "key": "1"} for scope in ("a", "b", "other", "a")]
            await engine.trigger({"function_id": "state::get_many", "payload": {"items": items}})
            with pytest.raises(Exception, match="deserialization"):
                await engine.trigger({"function_id": "state::get", "payload": {"scope": 1}})
            metrics = await metrics_of(engine)
    assert {scope: metrics("scope_values", scope=scope) for scope in ("a", "b", "empty")} == {"a": 3, "b": 2, "empty": 0}
    assert metrics.labels("scope_calls_total", "scope") == {"a", "b"}
    told = {
        (scope, function): metrics("scope_calls_total", scope=scope, function=f"state::{function}")
        for scope, function in (("a", "set"), ("a", "get"), ("a", "get_many"), ("b", "get_many"), ("b", "transact"))
    }
    assert told == {("a", "set"): 3, ("a", "get"): 1, ("a", "get_many"): 1, ("b", "get_many"): 1, ("b", "transact"): 1}
    assert await lint(metrics.text) == ""


async def test_without_names_no_scope_is_told() -> None:
    async with Engine() as engine:
        await engine.add_module(StateModule())
        await State(engine).set("a", "1", 1)
        metrics = await metrics_of(engine)
    assert not {name for name in metrics.names if "scope" in name}


def test_there_are_no_more_than_a_hundred() -> None:
    assert len(parse({"server": {"metrics_scopes": [str(number) for number in range(100)] * 2}}).server.metrics_scopes) == 100
    with pytest.raises(ConfigError, match=r"server.metrics_scopes has 101 scopes, and may have 100"):
        parse({"server": {"metrics_scopes": [str(number) for number in range(101)]}})


async def test_of_engines_that_share_a_store_one_tells_what_it_holds() -> None:
    with (
        RedisServer() as redis,
        running_engine(["--redis-url", redis.url, "--metrics-scopes", "a, b"]) as first,
        running_engine(["--redis-url", redis.url, "--metrics-scopes", "a,b"]) as second,
    ):
        redis.client.hset("state:a", "k", "1")
        told: list[Metrics] = [await scraped(engine.url) for engine in (first, second)]
        assert [metrics("scope_values", scope="a") for metrics in told] in ([1, None], [None, 1])


async def test_an_attached_worker_tells_them_and_a_bridge_tells_the_calls_alone() -> None:
    with running_engine() as remote, running_engine(["--no-state"]) as engine:
        arguments = ("--bridge-url", remote.url, "--metrics-port", "0", "--metrics-scopes", "a")
        with attached(engine.url, *arguments) as worker:
            worker.until_attached()
            async with Client(engine.url, About("a caller")) as client:
                await client.call("state::set", b'{"scope":"a","key":"k","value":1}')
            where = worker.stderr.text().split("metrics at ")[1].split("/metrics")[0]
            metrics = await scraped(where)
    assert metrics("scope_calls_total", scope="a", function="state::set", adapter="bridge") == 1
    assert metrics("scope_values", scope="a") is None
