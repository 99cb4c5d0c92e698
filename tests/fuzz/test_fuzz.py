"""Whatever an engine is sent, it goes on, answers every call once, and alike over every store."""

from __future__ import annotations

import pytest

from tests.fuzz.run import Totals, fuzz_frames, fuzz_op_lists


async def test_an_engine_lives_through_frames() -> None:
    total = Totals()
    await fuzz_frames(1, 0, 4_000, 1_000, total.add)
    assert total.problems == []
    assert total.figures["frames"] >= 4_000
    assert total.figures["calls"] > 500


async def test_op_lists_do_the_same_over_kv_and_redis_and_in_the_model() -> None:
    total = Totals()
    await fuzz_op_lists(1, 0, 3_000, 3_000, total.add)
    assert total.problems == []
    assert total.figures["op_lists"] == 3_000
    assert total.figures["modelled"] > 1_000


@pytest.mark.slow
async def test_an_engine_lives_through_many_frames() -> None:
    total = Totals()
    await fuzz_frames(2, 0, 30_000, 5_000, total.add)
    assert total.problems == []


@pytest.mark.slow
async def test_many_op_lists_do_the_same_over_kv_and_redis_and_in_the_model() -> None:
    total = Totals()
    await fuzz_op_lists(2, 0, 10_000, 5_000, total.add)
    assert total.problems == []
