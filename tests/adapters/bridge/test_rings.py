"""A bridge that leads back to itself is found, and refused in words."""

from __future__ import annotations

import asyncio
import subprocess

import pytest

from iii_state import FunctionError, StateModule
from iii_state.errors import StoreError
from tests.support.bridge.engines import State, bridge_to, running
from tests.support.engines.processes import SERVE, free_port
from tests.support.waiting import until


async def _says(state: State, words: str) -> bool:
    return words in (await state.module.health() or "")


async def test_a_bridge_to_itself_is_refused() -> None:
    port = free_port()
    async with running(bridge_to(f"ws://127.0.0.1:{port}"), port=port) as state:
        await until(lambda: _says(state, "must not lead back to itself"))
        with pytest.raises(FunctionError, match=r"SET_ERROR.*must not lead back to itself"):
            await state("set", scope="s", key="k", value=1)


async def test_an_engine_that_would_close_a_ring_does_not_start() -> None:
    port = free_port()
    async with (
        running(bridge_to(f"ws://127.0.0.1:{port}")) as first,
        running(bridge_to(first.url), port=port) as second,
    ):
        for state in (first, second):
            await until(lambda state=state: _says(state, "must not lead back to itself"))  # type: ignore[misc]
            with pytest.raises(FunctionError, match="must not lead back to itself"):
                await state("get", scope="s", key="k")
        with pytest.raises(StoreError, match="must not lead back to itself"):
            await first.engine.add_module(StateModule(bridge_to(second.url)))


async def test_three_engines_that_start_together_find_their_ring_and_a_store_opens_it() -> None:
    ports = [free_port() for _ in range(3)]
    urls = [f"ws://127.0.0.1:{port}" for port in ports]
    rings = [running(bridge_to(urls[(number + 1) % 3]), port=ports[number]) for number in range(3)]
    first, second, third = await asyncio.gather(*(ring.__aenter__() for ring in rings))
    for state in (first, second, third):
        await until(lambda state=state: _says(state, "must not lead back to itself"))  # type: ignore[misc]
    await rings[2].__aexit__(None, None, None)
    async with running(port=ports[2]):
        await until(lambda: _is_well(first))
        assert await first.increment() == 1
        await rings[0].__aexit__(None, None, None)
        await rings[1].__aexit__(None, None, None)


async def _is_well(state: State) -> bool:
    return await state.module.health() is None


def test_serve_refuses_to_be_its_own_remote() -> None:
    done = subprocess.run(
        [*SERVE, "--adapter", "bridge", "--host", "0.0.0.0"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "ws://0.0.0.0:49134 is the address that this engine is to listen on" in done.stderr
