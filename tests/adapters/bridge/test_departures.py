"""What is let go while the link to the remote is cut, or on its way when it is: the remote hears of it with the next connection."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import pytest

from iii_state import FunctionError
from tests.support.bridge.processes import REMOTES, Worker, bridged, engine, remote
from tests.support.redis.proxy import Proxy, proxy_to
from tests.support.waiting import until

SMALL: dict[str, Any] = {"dispatch": {"max_queue_length": 10}}

FOREVER = {"retention_ms": "forever"}

HASTY = (
    "import iii_state.adapters.bridge.queues as queues; queues.OWN_RETENTION_MS = 500; from iii_state.__main__ import main; main()"
)
"""Starts `iii-state` with bridges whose own queues do not outlive their connections for long."""


@pytest.fixture(params=REMOTES)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def cut(proxy: Proxy) -> None:
    """No connection lasts from now on."""
    proxy.reply_bytes = lambda: 0
    proxy.cut_all()


def mend(proxy: Proxy) -> None:
    proxy.reply_bytes = lambda: None


async def writes(worker: Worker, first: int) -> int:
    """How many of 60 writes are not refused."""
    done = 0
    for number in range(first, first + 60):
        try:
            await worker.set(number)
        except FunctionError as error:
            if "is full" not in error.message:
                raise
        else:
            done += 1
    return done


async def more_than_its_queue_holds(worker: Worker) -> bool:
    """Whether of so many writes more were taken than a queue holds: its handler has emptied it meanwhile."""
    return await writes(worker, 0) > 10


async def has_no_queue(worker: Worker) -> bool:
    return await worker.rows() == []


async def is_cut_off(worker: Worker) -> bool:
    try:
        await worker("iii-state::route", visited=[])
    except FunctionError as error:
        return error.code == "BRIDGE_CUT_OFF"
    return False


@pytest.mark.parametrize("on_its_way", [False, True], ids=["cut off", "on its way"])
async def test_a_trigger_that_is_unregistered_while_the_link_is_cut_leaves_no_queue(kind: str, on_its_way: bool) -> None:
    async with bridged(kind, SMALL) as (_, proxy, writer, worker):
        worker.serve("handler")
        trigger = await worker.on("handler", **FOREVER)
        await until(partial(more_than_its_queue_holds, writer))
        await until(lambda: len(worker.seen) > 0)
        if on_its_way:
            proxy.hold = True
            worker.client.triggers.unregister(trigger, "state")
            await until(lambda: proxy.held_bytes > 0)
            proxy.hold = False
            cut(proxy)
        else:
            cut(proxy)
            await until(lambda: is_cut_off(worker))
            worker.client.triggers.unregister(trigger, "state")
        assert await worker.rows_here() == []
        assert await writes(writer, 100) <= 10, "as long as the remote has not heard of it, its queue fills and refuses writes"
        mend(proxy)
        await until(lambda: has_no_queue(writer))
        assert await writes(writer, 200) == 60
        worker.seen.clear()
        await worker.on("handler", **FOREVER)
        await writer.set("after")
        await until(lambda: worker.values() == ["after"])


async def test_one_that_is_registered_again_gets_nothing_of_what_was_written_in_between(kind: str) -> None:
    async with bridged(kind) as (_, proxy, writer, worker):
        worker.serve("handler")
        trigger = await worker.on("handler", **FOREVER)
        cut(proxy)
        await until(lambda: is_cut_off(worker))
        worker.client.triggers.unregister(trigger, "state")
        await writer.set("in between")
        again = await worker.on("handler", **FOREVER)
        mend(proxy)
        await worker.set("after")
        await until(lambda: worker.values()[-1:] == ["after"])
        assert worker.values() == ["after"]
        # One that is registered, and known to be, keeps its queue through a cut, whatever was let go before it.
        worker.client.triggers.unregister(again, "state")
        await worker.on("handler", **FOREVER)
        cut(proxy)
        await until(lambda: is_cut_off(worker))
        for number in range(3):
            await writer.set(number)
        mend(proxy)
        await until(lambda: worker.values() == ["after", 0, 1, 2])


async def test_what_an_earlier_engine_has_left_goes_with_the_trigger_that_is_unregistered_before_there_is_a_connection(
    kind: str,
) -> None:
    async with remote(kind) as store, proxy_to(store.port) as proxy, Worker(store.url) as writer:
        for _ in range(2):
            async with engine(["--bridge-url", f"ws://127.0.0.1:{proxy.port}"]) as bridge, Worker(bridge.url) as worker:
                worker.serve("handler")
                trigger = await worker.on("handler", **FOREVER)
                if proxy.cuts:
                    worker.client.triggers.unregister(trigger, "state")
                    await worker.rows_here()
                    mend(proxy)
                    await until(lambda: has_no_queue(writer))
                else:
                    assert len(await writer.rows()) == 1
            cut(proxy)
        assert await has_no_queue(writer)


async def test_a_broadcast_queue_of_a_killed_bridge_does_not_last_for_ever(kind: str) -> None:
    async with remote(kind, SMALL) as store, Worker(store.url) as writer:
        async with (
            engine(["--bridge-url", store.url], serve=[sys.executable, "-c", HASTY, "serve"]) as bridge,
            Worker(bridge.url) as worker,
        ):
            worker.serve("handler")
            await worker.on("handler", delivery="broadcast", **FOREVER)
            await writer.set("heard")
            await until(lambda: worker.values() == ["heard"])
        await until(lambda: has_no_queue(writer))
        assert await writes(writer, 0) == 60
