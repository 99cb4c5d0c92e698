"""The short run: on every adapter, with each fault once, what clients are told can be put into one order for each key."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.linearizability.arena import ADAPTERS, arena_of
from tests.linearizability.run import run

AT_MOST_SECONDS = 300


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_every_key_is_linearizable_whatever_is_hurt(adapter: str, tmp_path: Path) -> None:
    async with asyncio.timeout(AT_MOST_SECONDS), arena_of(adapter, tmp_path) as arena:
        outcome = await run(arena, 1, 0, fault_seconds=0.6)
        assert outcome.problems == []
        assert outcome.faults.keys() == arena.faults.keys()
        assert outcome.figures["answered"] > 50  # how many there are is a matter of the machine: 158 of a file at a load of 25
        assert outcome.figures["listings"] > 5
        assert outcome.figures["changes"] > 5
        assert outcome.figures["transacts"] > 5
        assert outcome.figures["unmet"] > 5
        assert outcome.figures["open"] > 0
