"""An earlier version and this one side by side, up and back under traffic: nothing is lost, made twice or misread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.support.redis.server import RedisServer
from tests.support.waiting import until
from tests.upgrade.traffic import NEW_KINDS, Traffic
from tests.upgrade.verdict import problems_of, troubles
from tests.upgrade.versions import EARLIER, NEW, Seat, Version, attached, earlier, engine

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=list(EARLIER))
def old(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Version:
    found = earlier(request.param, tmp_path_factory.mktemp("earlier"))
    if isinstance(found, str):
        pytest.skip(found)
    return found


def test_each_version_runs_from_its_own_tree(old: Version) -> None:
    """Else the tests below would hold this version against itself."""
    assert old.runs_from() == old.tree
    assert NEW.runs_from() == NEW.tree != old.tree


@asynccontextmanager
async def started(*seats: Seat, version: Version) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for seat in seats:
            await asyncio.to_thread(seat.start, version)
            stack.callback(seat.close)
        yield


async def replace_in_turn(
    traffic: Traffic, steps: Sequence[tuple[Seat, Version, bool]], is_settled: Callable[[], bool] = lambda: True
) -> None:
    """Under traffic before, during and after each step: a seat, the version that takes it, and whether the one before is killed.

    Where it is killed, much waits that the versions before have written. `is_settled` holds before the next step.
    """
    await traffic.a_while()
    for seat, version, kill in steps:
        if kill:
            await traffic.pile_up()
        await asyncio.to_thread(seat.replace, version, kill=kill)
        traffic.go_on()
        await until(is_settled, "the engines are not those that there are")
        await traffic.a_while()
    await traffic.end()
    assert traffic.new_kinds() == set(NEW_KINDS), "what only this version can do was not tried"


async def test_engines_of_one_redis(old: Version) -> None:
    """Old only, both, new only, both, old only."""
    with RedisServer("--notify-keyspace-events", "Kghxe") as redis:
        config = {
            "adapter": {"name": "redis", "config": {"redis_url": redis.url, "foreign_writes": True, "heartbeat_ttl_ms": 2000}}
        }
        seats = [engine(f"engine {number}", config=config) for number in range(2)]
        async with started(*seats, version=old), Traffic(seats, redis) as traffic:
            first, second = seats
            steps = [(first, NEW, False), (second, NEW, True), (first, old, True), (second, old, False)]
            # What engines write depends on what all can read, the killed one too until it counts as dead.
            await replace_in_turn(traffic, steps, lambda: redis.client.hlen("iii-state:engines") == len(seats))
            assert await problems_of(traffic) == []
            assert traffic.foreign
            assert troubles(traffic) == []


async def test_a_file_of_the_kv_adapter(old: Version, tmp_path: Path) -> None:
    """Old, new, old, new: what waits at each change is handled by the next, and deadlines go on."""
    seat = engine("engine", "--file-path", str(tmp_path / "store"))
    async with started(seat, version=old), Traffic([seat]) as traffic:
        await replace_in_turn(traffic, [(seat, NEW, False), (seat, old, True), (seat, NEW, True)])
        assert await problems_of(traffic) == []
        assert troubles(traffic) == []


async def test_a_bridge_and_its_remote_engine(old: Version, tmp_path: Path) -> None:
    """Old at old, new at old, new at new, old at new."""
    remote = engine("remote", "--file-path", str(tmp_path / "store"))
    bridge = engine("bridge", "--bridge-url", remote.url)
    async with started(remote, bridge, version=old), Traffic([bridge, remote]) as traffic:
        await replace_in_turn(traffic, [(bridge, NEW, False), (remote, NEW, True), (bridge, old, True)])
        assert await problems_of(traffic) == []
        assert troubles(traffic) == []


async def test_an_attached_worker_and_its_engine(old: Version, tmp_path: Path) -> None:
    """Old at old, new at old, new at new, old at new."""
    host = engine("engine", "--no-state")
    state = attached("attached worker", host.url, "--file-path", str(tmp_path / "store"))
    async with started(host, state, version=old), Traffic([host], state=state) as traffic:
        await replace_in_turn(traffic, [(state, NEW, False), (host, NEW, True), (state, old, True)])
        assert await problems_of(traffic) == []
        assert troubles(traffic, state) == []
