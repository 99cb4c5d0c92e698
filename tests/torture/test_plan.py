"""A seed determines what is done and what is written."""

from __future__ import annotations

from itertools import pairwise

from tests.torture.plan import BURST_SECONDS, CALM_SECONDS, DURATIONS, faults
from tests.torture.writes import Source


def test_a_seed_determines_the_faults() -> None:
    assert faults(1, 300) == faults(1, 300)
    assert faults(1, 300) != faults(2, 300)


def test_every_kind_of_fault_comes_up_within_a_minute() -> None:
    for seed in range(20):
        assert {fault.kind for fault in faults(seed, 60)} == set(DURATIONS)


def test_bursts_of_faults_take_turns_with_calms() -> None:
    times = [fault.at for fault in faults(3, 300)]
    calms = [after - before for before, after in pairwise(times) if after - before >= CALM_SECONDS]
    assert len(calms) >= 300 / (BURST_SECONDS + CALM_SECONDS) - 2


def test_a_seed_determines_the_writes() -> None:
    first, second, other = (Source(seed, "w") for seed in (1, 1, 2))
    ops = [first.next() for _ in range(200)]
    assert ops == [second.next() for _ in range(200)]
    assert ops != [other.next() for _ in range(200)]
    assert {op.kind for op in ops} == {"set", "increment", "append", "delete"}
