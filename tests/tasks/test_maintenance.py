"""Maintenance wakes at every sweep, and when something is due before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from iii_state.errors import StoreError
from iii_state.tasks import maintenance
from iii_state.tasks.maintenance import Maintenance
from tests.support.waiting import until


@pytest.fixture
async def at_work() -> AsyncIterator[Maintenance]:
    made = Maintenance()
    yield made
    await made.stop()


async def test_a_duty_says_when_something_is_due_next(at_work: Maintenance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "SWEEP_SECONDS", 3600)
    answers = [0, 1, -1]
    done = list[int]()

    async def duty() -> int:
        done.append(answers[len(done)])
        return done[-1]

    at_work.start(duty)
    await asyncio.sleep(0)
    assert done == []
    at_work.plan(0)
    await until(lambda: done == answers)


async def test_of_two_plans_the_earlier_counts(at_work: Maintenance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "SWEEP_SECONDS", 3600)
    done = list[None]()

    async def duty() -> int:
        done.append(None)
        return -1

    at_work.plan(3600)
    at_work.plan(0)
    at_work.plan(3600)
    at_work.start(duty)
    await until(lambda: len(done) == 1)


async def test_at_every_sweep_the_duties_are_done_whatever_the_ones_before_have_raised(
    at_work: Maintenance, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(maintenance, "SWEEP_SECONDS", 0.01)
    caplog.set_level(logging.INFO)
    done = list[str]()

    async def refused() -> int:
        raise StoreError("Redis is away")

    async def failing() -> int:
        raise ValueError("a fault")

    async def duty() -> int:
        done.append("duty")
        return -1

    at_work.start(refused, failing, duty, swept=lambda: done.append("swept"))
    await until(lambda: len(done) >= 6)
    assert done[:6] == ["swept", "duty"] * 3
    assert "maintenance is put off: Redis is away" in caplog.text
    assert "a fault" in caplog.text
