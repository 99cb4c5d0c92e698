"""What waits for a worker goes on waiting, whatever becomes of its registrations, until the worker itself unregisters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.engines.raw_worker import Port, RawWorker
from tests.support.slow import slow
from tests.support.stores import engine_over


@pytest.fixture(params=["kv", "redis", "bridge-kv", slow("bridge-redis")])
async def port(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Port]:
    """An engine's port, over every adapter."""
    async with engine_over(request.param, tmp_path, None) as (url, _), aiohttp.ClientSession() as session:
        host, _, number = url.removeprefix("ws://").rpartition(":")
        yield Port(session, host, int(number))


async def register_function(worker: RawWorker) -> None:
    await worker.send("registerfunction", id="f")


async def register_trigger(worker: RawWorker, trigger_id: str = "t", function_id: str = "f", **members: Any) -> None:
    config = members.pop("config", {"scope": "s"})
    await worker.send("registertrigger", id=trigger_id, trigger_type="state", function_id=function_id, config=config, **members)


async def belong_to(worker: RawWorker, namespace: str | None) -> None:
    answer = await worker.call("engine::workers::register", {"runtime": "python", "version": "0.25.0", "namespace": namespace})
    assert answer["result"]["success"] is True
    await carried_out(worker)


async def carried_out(worker: RawWorker) -> None:
    """Wait until what the worker registers and unregisters has come to pass: its calls wait for that, its pings do not."""
    await worker.call("engine::triggers::list", {})


async def write(port: Port, *numbers: int, scope: str = "s") -> None:
    writer = await port.connect(namespace=None)
    for number in numbers:
        answer = await writer.call("state::set", {"scope": scope, "key": "k", "value": number})
        assert "error" not in answer, answer
    await writer.socket.close()


async def subscribed(port: Port) -> list[tuple[str, str]]:
    """Namespace and scope of every subscription that there is, served or waiting."""
    asking = await port.connect(namespace=None)
    found = (await asking.call("iii-state::triggers", {}))["result"]["triggers"]
    await asking.socket.close()
    return [(each["namespace"], each["scope"]) for each in found]


async def handle(worker: RawWorker, *numbers: int, function_id: str = "f") -> None:
    """Take these events, in this order."""
    for number in numbers:
        event = await worker.expect("invokefunction", function_id=function_id)
        assert event["data"]["new_value"] == number
        await worker.answer(event, result=None)


async def has_nothing_more(worker: RawWorker) -> bool:
    return not [frame for frame in await worker.settled() if frame["type"] == "invokefunction"]


async def test_a_worker_that_says_its_namespace_behind_its_registrations_finds_what_waited(port: Port) -> None:
    async def come() -> RawWorker:
        worker = await port.connect()
        await register_function(worker)
        await register_trigger(worker, namespace="b")
        await belong_to(worker, "b")
        return worker

    worker = await come()
    await write(port, 1)
    await handle(worker, 1)
    for first in (2, 5):
        await worker.socket.close()
        await write(port, *range(first, first + 3))
        worker = await come()
        await handle(worker, *range(first, first + 3))
    assert await has_nothing_more(worker)


async def test_a_worker_that_turns_out_to_be_elsewhere_takes_nothing_of_the_default_namespaces(port: Port) -> None:
    worker = await port.connect(namespace=None)
    await register_function(worker)
    await register_trigger(worker)
    await carried_out(worker)
    await worker.socket.close()
    await write(port, 1, 2, 3)
    other = await port.connect()
    await register_function(other)
    await register_trigger(other)
    assert await has_nothing_more(other)
    await belong_to(other, "b")
    await write(port, 4)
    await handle(other, 4)
    worker = await port.connect(namespace=None)
    await register_function(worker)
    await register_trigger(worker)
    await handle(worker, 1, 2, 3, 4)
    assert await has_nothing_more(other)


async def test_a_worker_that_comes_again_and_again_leaves_nothing_in_the_default_namespace(port: Port) -> None:
    stranger = await port.connect(namespace=None)
    await register_function(stranger)
    for number in (1, 2, 3):
        worker = await port.connect()
        await register_function(worker)
        await register_trigger(worker)
        await belong_to(worker, "b")
        await write(port, number)
        await handle(worker, number)
        assert await subscribed(port) == [("b", "s")]
        await worker.socket.close()
    assert await has_nothing_more(stranger)


async def test_what_a_worker_unregisters_before_it_says_its_namespace_is_gone(port: Port) -> None:
    worker = await port.connect(namespace="b")
    await register_trigger(worker)
    await carried_out(worker)
    await worker.socket.close()
    assert await subscribed(port) == [("b", "s")]
    worker = await port.connect()
    await register_trigger(worker)
    await worker.send("unregistertrigger", id="t", trigger_type="state")
    await belong_to(worker, "b")
    assert await subscribed(port) == []


async def test_a_worker_that_never_says_its_namespace_misses_nothing_once_its_registration_is_answered(port: Port) -> None:
    worker = await port.connect()
    await register_function(worker)
    await register_trigger(worker)
    await carried_out(worker)
    await write(port, 1)
    await handle(worker, 1)


async def test_what_a_worker_unregisters_after_a_refused_config_is_gone(port: Port) -> None:
    worker = await port.connect(namespace=None)
    await register_trigger(worker)
    await carried_out(worker)
    await write(port, 1)
    await register_trigger(worker, config={"scope": 5})
    await worker.expect("triggerregistrationresult")
    assert await subscribed(port) == [("default", "s")]
    await worker.send("unregistertrigger", id="t", trigger_type="state")
    await carried_out(worker)
    assert await subscribed(port) == []
    await register_function(worker)
    await register_trigger(worker)
    await carried_out(worker)
    await write(port, 2)
    await handle(worker, 2)


async def test_a_namespace_that_was_given_stays_what_it_is(port: Port) -> None:
    keeper = await port.connect(namespace=None)
    await register_function(keeper)
    worker = await port.connect()
    await register_trigger(worker, namespace="default")
    await belong_to(worker, "b")
    await write(port, 1)
    await handle(keeper, 1)


async def test_a_worker_that_moves_on_leaves_what_waits_behind_it(port: Port) -> None:
    worker = await port.connect(namespace="a")
    await register_trigger(worker)
    await carried_out(worker)
    await write(port, 1, 2)
    await belong_to(worker, "b")
    await belong_to(worker, "a")
    await register_function(worker)
    await handle(worker, 1, 2)
    await belong_to(worker, "a")
    await write(port, 3)
    await handle(worker, 3)


async def test_a_trigger_registered_twice_keeps_its_queue(port: Port) -> None:
    worker = await port.connect(namespace=None)
    await register_trigger(worker)
    await carried_out(worker)
    await write(port, 1, 2)
    await register_trigger(worker, metadata={"m": 1})
    await register_trigger(worker)
    await register_trigger(worker, "same")
    await worker.send("unregistertrigger", id="same", trigger_type="state")
    await register_function(worker)
    await handle(worker, 1, 2)


@pytest.mark.parametrize("config", [{"scope": "other"}, {"scope": 5}], ids=["another scope", "unusable"])
async def test_a_trigger_that_gets_another_config_leaves_its_queue_waiting(port: Port, config: dict[str, Any]) -> None:
    worker = await port.connect(namespace=None)
    await register_trigger(worker)
    await carried_out(worker)
    await write(port, 1, 2)
    await register_trigger(worker, config=config)
    await carried_out(worker)
    await register_trigger(worker)
    await carried_out(worker)
    await register_function(worker)
    await handle(worker, 1, 2)


async def test_two_owners_may_choose_the_same_id(port: Port) -> None:
    first, second = await port.connect(namespace=None), await port.connect(namespace=None)
    for worker, function_id in ((first, "f"), (second, "g")):
        await worker.send("registerfunction", id=function_id)
        await register_trigger(worker, function_id=function_id)
        await carried_out(worker)
    await write(port, 1)
    await handle(first, 1)
    await handle(second, 1, function_id="g")
    await second.send("unregistertrigger", id="t", trigger_type="state")
    await carried_out(second)
    await write(port, 2)
    await handle(first, 2)
    assert await has_nothing_more(second)
    await register_trigger(second, function_id="g")
    await carried_out(second)
    await first.socket.close()
    await write(port, 3)
    await handle(second, 3, function_id="g")


async def test_what_a_worker_unregisters_is_gone(port: Port) -> None:
    worker = await port.connect(namespace=None)
    await register_trigger(worker)
    await carried_out(worker)
    await write(port, 1)
    await worker.send("unregistertrigger", id="t", trigger_type="state")
    await carried_out(worker)
    await register_function(worker)
    await register_trigger(worker)
    await carried_out(worker)
    await write(port, 2)
    await handle(worker, 2)
