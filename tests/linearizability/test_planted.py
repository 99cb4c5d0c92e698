"""Faults that are planted around a real store are found, by clients at real sockets."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.linearizability.load import Load
from tests.linearizability.planted_engine import FAULTS
from tests.linearizability.run import verdict
from tests.support import ROOT
from tests.support.engines.processes import EngineProcess
from tests.support.slow import slow

WITHIN_SECONDS = 20


@asynccontextmanager
async def clients_of_an_engine_with(fault: str) -> AsyncIterator[Load]:
    serve = (sys.executable, "-m", "tests.linearizability.planted_engine", fault)
    engine = await asyncio.to_thread(lambda: EngineProcess(serve=serve, environment={"PYTHONPATH": str(ROOT)}))
    try:
        async with Load([engine.url], seed=1) as load:
            yield load
    finally:
        await asyncio.to_thread(engine.kill)


@pytest.mark.parametrize("fault", [FAULTS[1], *map(slow, FAULTS[2:])])
async def test_a_planted_fault_is_found(fault: str) -> None:
    problems: list[str] = []
    async with clients_of_an_engine_with(fault) as load, asyncio.timeout(WITHIN_SECONDS):
        while not problems:
            problems = verdict(await load.record())
    assert "not linearizable at linearizability " in problems[0]


@pytest.mark.slow
async def test_the_same_engine_without_a_fault_is_right() -> None:
    """The faults are what is found, and not the double around the store."""
    async with clients_of_an_engine_with("none") as load:
        for _ in range(5):
            assert verdict(await load.record()) == []
