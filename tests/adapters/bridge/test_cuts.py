"""Connections to a remote that break at every point of a call: mutations are applied once, or their fate is said to be unknown."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from iii_state import FunctionError
from tests.support.bridge.engines import Config, State, bridge_to, running, stock
from tests.support.bridge.processes import REMOTES, Worker, engine, remote
from tests.support.redis.proxy import proxy_to
from tests.support.redis.server import shared_server
from tests.support.slow import slow
from tests.support.waiting import until

CALLS = 400


async def _config(kind: str, directory: Path) -> Config:
    if kind == "redis":
        server = await asyncio.to_thread(shared_server)
        await asyncio.to_thread(server.empty, str(directory))
        return {"adapter": {"name": "redis", "config": {"redis_url": server.url}}}
    if kind == "kv-file":
        return {"adapter": {"name": "kv", "config": {"store_method": "file_based", "file_path": str(directory / "data")}}}
    return {}


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


def _through(url: str, port: int) -> str:
    return url.replace(str(_port(url)), str(port))


async def _increments(bridge: State) -> list[int]:
    """What so many increments, some at a time, have made of the counter."""
    places = asyncio.Semaphore(20)

    async def increment() -> int:
        async with places:
            made: int = await bridge.increment()
            return made

    return await asyncio.gather(*(increment() for _ in range(CALLS)))


@pytest.mark.parametrize("kind", ["kv-memory", *map(slow, ("kv-file", "redis"))])
async def test_increments_are_exact_wherever_the_connection_is_cut(kind: str, tmp_path: Path) -> None:
    randomly = random.Random(kind)
    async with (
        running(await _config(kind, tmp_path)) as remote,
        proxy_to(_port(remote.url)) as proxy,
        running(bridge_to(_through(remote.url, proxy.port), call_timeout_ms=60_000)) as bridge,
    ):
        # The welcome, and what follows a greeting, take some 600 bytes; an answer some 150.
        proxy.reply_bytes = lambda: randomly.randint(300, 6000)
        proxy.cut_all()
        made = await _increments(bridge)
        assert sorted(made) == list(range(1, CALLS + 1))
        assert await remote("get", scope="s", key="n") == CALLS
        assert proxy.cuts > 10


async def test_what_an_old_connection_still_carries_changes_nothing() -> None:
    async with (
        running() as remote,
        proxy_to(_port(remote.url)) as proxy,
        running(bridge_to(_through(remote.url, proxy.port), call_timeout_ms=60_000)) as bridge,
    ):
        assert await bridge.increment() == 1
        proxy.hold = True
        calls = [asyncio.ensure_future(bridge.increment()) for _ in range(100)]
        await until(lambda: proxy.held_bytes > 20_000)
        proxy.hold = False
        proxy.cut_all()
        assert sorted(await asyncio.gather(*calls)) == list(range(2, 102))
        await proxy.release()
        assert await bridge.increment() == 102


async def test_a_remote_that_does_not_recognise_calls_gets_none_twice() -> None:
    async with (
        stock() as (worker, url),
        proxy_to(_port(url)) as proxy,
        running(bridge_to(_through(url, proxy.port), call_timeout_ms=60_000)) as bridge,
    ):
        randomly = random.Random(7)
        proxy.reply_bytes = lambda: randomly.randint(300, 6000)
        proxy.cut_all()
        outcomes = await asyncio.gather(*map(_increment_after, [bridge] * CALLS, range(CALLS)), return_exceptions=True)
        done = sum(isinstance(outcome, int) for outcome in outcomes)
        unknown = [outcome for outcome in outcomes if isinstance(outcome, FunctionError)]
        assert done + len(unknown) == CALLS
        assert unknown
        assert {error.code for error in unknown} == {"OUTCOME_UNKNOWN"}
        assert all("whether the change was made is not known" in error.message for error in unknown)
        assert done <= worker.data["s", "n"] <= CALLS
        assert worker.data["s", "n"] == worker.calls, "nothing was asked for twice"


async def _increment_after(bridge: State, number: int) -> int:
    for _ in range(number):
        await asyncio.sleep(0)
    made: int = await bridge.increment()
    return made


async def test_calls_through_two_bridges_are_exact_wherever_either_is_cut() -> None:
    randomly = random.Random(3)
    async with (
        running() as store,
        proxy_to(_port(store.url)) as far,
        running(bridge_to(_through(store.url, far.port), call_timeout_ms=60_000)) as middle,
        proxy_to(_port(middle.url)) as near,
        running(bridge_to(_through(middle.url, near.port), call_timeout_ms=60_000)) as bridge,
    ):
        assert await bridge.increment() == 1
        for proxy in (near, far):
            proxy.reply_bytes = lambda: randomly.randint(1000, 10_000)
            proxy.cut_all()
        made = await _increments(bridge)
        assert sorted(made) == list(range(2, CALLS + 2))
        assert near.cuts > 5
        assert far.cuts > 5


async def test_reads_are_made_again() -> None:
    async with (
        stock() as (_, url),
        proxy_to(_port(url)) as proxy,
        running(bridge_to(_through(url, proxy.port), call_timeout_ms=60_000)) as bridge,
    ):
        await bridge("set", scope="s", key="k", value=1)
        proxy.hold = True
        reads = [asyncio.ensure_future(bridge("get", scope="s", key="k")) for _ in range(10)]
        await until(lambda: proxy.held_bytes > 1000)
        proxy.hold = False
        proxy.cut_all()
        assert await asyncio.gather(*reads) == [1] * 10


async def test_a_session_that_the_remote_has_forgotten_is_replaced() -> None:
    async with running() as remote, running(bridge_to(remote.url)) as bridge:
        assert await bridge.increment() == 1
        remote.module.adapter.sessions._held.clear()  # type: ignore[attr-defined]
        assert sorted(await asyncio.gather(*(bridge.increment() for _ in range(20)))) == list(range(2, 22))


@pytest.mark.parametrize("kind", REMOTES)
async def test_an_event_whose_handler_runs_behind_a_cut_link_comes_to_another_bridge_with_a_higher_fence(kind: str) -> None:
    async with (
        remote(kind) as store,
        proxy_to(store.port) as proxy,
        engine(["--bridge-url", f"ws://127.0.0.1:{proxy.port}"]) as first,
        engine(["--bridge-url", store.url]) as second,
        Worker(store.url) as writer,
        Worker(first.url) as slow,
        Worker(second.url) as quick,
    ):
        running: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        slow.serve("handler", lambda event: running)
        await slow.on("handler")
        await writer.set(1)
        await until(lambda: slow.values() == [1])
        quick.serve("handler")
        await quick.on("handler")
        await writer.set(2)
        proxy.reply_bytes = lambda: 0
        proxy.cut_all()
        await until(lambda: quick.values() == [1, 2])
        (before,), (after, behind) = slow.metadata, quick.metadata
        assert (after["event_id"], after["attempt"]) == (before["event_id"], 1)
        assert after["fence"] > before["fence"]
        assert (behind["attempt"], behind["fence"]) == (1, after["fence"])
        running.set_result(None)
