"""A cluster that somebody else runs: no CONFIG, no INFO, one name in front of it, and idle connections are closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from iii_state import Engine, StateModule
from tests.support.redis.nodes import Nodes
from tests.support.redis.proxy import Proxy, proxy_to
from tests.support.redis.server import default_version
from tests.support.waiting import until

PARTITIONS = 8

SMALLEST_RULES = (
    "~{iii-*}:state:* ~{iii-*}:iii-state:* ~iii-state:format &{iii-*}:iii-state:* &__keyspace@0__:{iii-*}:iii-state:* "
    "-@all +@hash +@set +@sortedset +@list +@stream +@string +@connection +@pubsub +del +unlink +exists +scan +pexpire +pttl +type "
    "+rename +time +evalsha +script|load +script|exists +cluster|slots +cluster|info"
)
"""What a user of a cluster has to be allowed, and no more."""

REFUSED = "-info -config -role -wait -slowlog -debug -acl"


@asynccontextmanager
async def engine_on(url: str, **settings: Any) -> AsyncIterator[tuple[Engine, list[Any]]]:
    """An engine, and the new values that the handler of a trigger on everything got."""
    values: list[Any] = []

    async def handle(event: dict[str, Any]) -> None:
        values.append(event["new_value"])

    async with Engine() as engine:
        config = {"redis_url": url, "partitions": PARTITIONS, "heartbeat_ttl_ms": 2000, **settings}
        await engine.add_module(StateModule({"adapter": {"name": "redis", "config": config}}))
        engine.register_function("test::changed", handle)
        await engine.register_trigger({"type": "state", "function_id": "test::changed", "config": {}})
        yield engine, values


async def call(engine: Engine, function: str, **payload: Any) -> Any:
    return await engine.trigger({"function_id": f"state::{function}", "payload": payload})


@pytest.mark.parametrize("refused", [REFUSED, f"{REFUSED} -cluster|info"], ids=["no-config", "no-cluster-info"])
async def test_a_user_without_config_and_info_has_everything(
    own_nodes: Nodes, refused: str, caplog: pytest.LogCaptureFixture
) -> None:
    for node in own_nodes.nodes:
        rules = (*SMALLEST_RULES.split(), *refused.split())
        node.client.execute_command("ACL", "SETUSER", "app", "reset", "resetchannels", "on", ">pw", *rules)
    url = f"redis://app:pw@127.0.0.1:{own_nodes.nodes[0].port}"
    async with engine_on(url) as (engine, _), engine_on(url) as (other, _):
        for number in range(20):
            assert await call(engine, "set", scope=f"s{number}", key="k", value=1) == {"old_value": None, "new_value": 1}
        await call(other, "update", scope="s1", key="k", ops=[{"type": "increment", "by": 1}])
        await call(other, "set", scope="short", key="k", value=7, ttl_ms=50)
        assert len((await call(other, "list_groups"))["groups"]) >= 20
        await until(lambda: "does not tell what happens to keys" in caplog.text)
    assert "not everything may be heard" not in caplog.text


@pytest.mark.skipif(default_version() < (7, 0), reason="nodes announce other ports while they run since Redis 7.0")
async def test_connections_that_are_closed_when_idle_cost_nothing(own_nodes: Nodes) -> None:
    async with AsyncExitStack() as stack:
        proxies: list[Proxy] = []
        for node in own_nodes.nodes:
            proxies.append(await stack.enter_async_context(proxy_to(node.port)))
            node.client.config_set("cluster-announce-port", proxies[-1].port)
        ports = [str(proxy.port) for proxy in proxies]
        await until(lambda: all(_told(own_nodes, node, ports) for node in own_nodes.nodes))
        engine, values = await stack.enter_async_context(
            engine_on(proxies[0].url, wait_replicas=1, heartbeat_ttl_ms=20_000, call_timeout_ms=20_000)
        )
        for number in range(1, 6):
            before = sum(proxy.cuts for proxy in proxies)
            await until(lambda: sum(map(_cut_idle, proxies)) > before)  # noqa: B023
            for scope in range(8):
                assert (await call(engine, "set", scope=f"s{scope}", key="k", value=number))["new_value"] == number
        await until(lambda: sorted(values) == sorted([*range(1, 6)] * 8))


def _told(nodes: Nodes, node: Any, ports: list[str]) -> bool:
    told = str(node.client.execute_command("CLUSTER SLOTS"))
    return all(port in told for port in ports)


def _cut_idle(proxy: Proxy) -> int:
    proxy.cut_idle(0.05)
    return proxy.cuts


async def test_one_name_in_front_of_a_cluster_leads_to_any_node_that_is_there(own_nodes: Nodes) -> None:
    """As a configuration endpoint: the name is asked again when nothing else that is known answers."""
    first, second = own_nodes.master(own_nodes.shards[0]), own_nodes.master(own_nodes.shards[1])
    async with proxy_to(first.port) as name, engine_on(name.url, call_timeout_ms=30_000) as (engine, values):
        await call(engine, "set", scope="s", key="k", value=1)
        own_nodes.set_timeout()
        name.target = second.port
        name.cut_all()
        await asyncio.to_thread(first.kill)
        await asyncio.to_thread(own_nodes.wait_for_takeover, own_nodes.shards[0], first)
        for scope in range(20):
            await call(engine, "set", scope=f"t{scope}", key="k", value=2)
        await until(lambda: values.count(2) == 20)
        async with engine_on(name.url, call_timeout_ms=30_000) as (other, _):
            assert (await call(other, "get", scope="t1", key="k")) == 2
