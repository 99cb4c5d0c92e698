"""A seed determines what is done and what is written, with each adapter."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.torture.plan import BURST_SECONDS, CALM_SECONDS, PLANS, Plan, faults
from tests.torture.writes import LARGE, SCOPES, Source

each_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


@each_plan
def test_a_seed_determines_the_faults(plan: Plan) -> None:
    assert faults(1, 300, plan) == faults(1, 300, plan)
    assert faults(1, 300, plan) != faults(2, 300, plan)


@each_plan
def test_every_kind_of_fault_comes_up_within_a_minute(plan: Plan) -> None:
    for seed in range(20):
        assert {fault.kind for fault in faults(seed, 60, plan)} == set(plan.kinds)


@each_plan
def test_every_fault_has_a_target(plan: Plan) -> None:
    assert all(fault.target < plan.targets(plan.kinds[fault.kind].group) for fault in faults(4, 900, plan))


def test_bursts_of_faults_take_turns_with_calms() -> None:
    times = [fault.at for fault in faults(3, 300, PLANS["redis"])]
    calms = [after - before for before, after in pairwise(times) if after - before >= CALM_SECONDS]
    assert len(calms) >= 300 / (BURST_SECONDS + CALM_SECONDS) - 2


@pytest.mark.parametrize("adapter", PLANS)
def test_a_seed_determines_the_writes(adapter: str) -> None:
    first, second, other = (Source(seed, "w", adapter) for seed in (1, 1, 2))
    ops = [first.next() for _ in range(600)]
    assert ops == [second.next() for _ in range(600)]
    assert ops != [other.next() for _ in range(600)]
    assert {op.kind for op in ops} == {"set", "increment", "append", "delete"}
    assert {op.scope for op in ops} == set(SCOPES[adapter])
    assert any(op.ttl_ms for op in ops)
    assert any(op.size for op in ops)


def test_writers_that_cannot_read_large_values_write_none() -> None:
    source = Source(1, "w", "kv", has_large=False)
    assert LARGE not in {source.next().scope for _ in range(500)}
