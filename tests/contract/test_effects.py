"""What comes after a write cannot turn its answer into an error: a caller would make the call again."""

from __future__ import annotations

import asyncio
import logging

import pytest

from iii_state.events import Delivery
from iii_state.tasks.effects import Afterwards
from tests.support.stores import ALL, LIMIT, Store, drain, plan

INCREMENT = plan({"type": "increment", "path": "n", "by": 1})


async def test_a_fault_after_a_write_leaves_the_answer_and_the_event(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    def ring(subscription_id: str) -> None:
        raise RuntimeError("this bell is broken")

    await store.subscribe(ALL)
    store.ring = ring
    answers = await asyncio.gather(
        *(store.update("s", "k", INCREMENT, LIMIT, ttl_ms=60_000) for _ in range(20)), store.set("s", "other", b"1", ttl_ms=60_000)
    )
    assert answers[-1] is None
    assert await store.get("s", "k") == b'{\t\n"n":20\n}'
    seen: list[Delivery] = []
    async with asyncio.timeout(10):
        while len(seen) < 21:
            seen += await drain(store, ALL)
            await asyncio.sleep(0.002)
    assert len({delivery.event_id for delivery in seen}) == 21


@pytest.mark.parametrize("rounds", [1000])
async def test_writes_with_deadlines_that_pass_at_once_are_answered_as_what_they_are(store: Store, rounds: int) -> None:
    """A timer for a moment that has passed is of another kind on uvloop."""
    calls = (store.set("s", f"k{number}", b"1", ttl_ms=1 if number % 2 else 3_600_000) for number in range(rounds))
    assert await asyncio.gather(*calls) == [None] * rounds
    async with asyncio.timeout(30):
        while len(await store.keys("s")) > rounds // 2:
            await asyncio.sleep(0.01)


def test_a_fault_is_logged_with_its_traceback_and_those_that_follow_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    step = Afterwards("a step")
    with caplog.at_level(logging.ERROR, "iii_state.tasks.effects"):
        for _ in range(5):
            try:
                raise RuntimeError("broken")
            except RuntimeError as error:
                step.failed(error)
    assert [record.getMessage() for record in caplog.records] == ["a step has failed after a write was made; the write stands"]
    assert caplog.records[0].exc_info is not None
