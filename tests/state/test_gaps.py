"""Who only looks loses events and is told so, and no writer fails for it."""

from __future__ import annotations

import pytest

from iii_state.errors import Gap
from iii_state.state.watch import WATCH_BOUNDS, Buffer
from tests.state.test_dispatcher import Setup

EVENT = {"type": "state", "event_type": "state:created", "scope": "s", "key": "k", "old_value": None, "new_value": 1}


async def test_a_handler_is_told_how_many_events_its_queue_has_dropped() -> None:
    async with Setup() as setup:
        await setup.trigger(**{**WATCH_BOUNDS, "max_queue_length": 3}, concurrency=1)
        setup.on.gate.clear()
        await setup.set("0", 0)
        await setup.on.until(lambda: bool(setup.on.events))
        for number in range(1, 100):
            await setup.set(str(number), number)
        setup.on.gate.set()
        await setup.on.until(lambda: setup.on.events[-1]["key"] == "99")
        dropped = 100 - len(setup.on.events)
        assert dropped > 0
        assert "dropped" not in setup.on.metadata[0]["iii_state"]
        assert setup.on.metadata[-1]["iii_state"]["dropped"] == dropped


async def test_metadata_tell_nothing_of_it_where_the_trigger_does_not_say_so() -> None:
    async with Setup({"dispatch": {"on_full": "drop_oldest", "max_queue_length": 3}}) as setup:
        await setup.trigger(concurrency=1)
        setup.on.gate.clear()
        for number in range(100):
            await setup.set(str(number), number)
        setup.on.gate.set()
        await setup.on.until(lambda: bool(setup.on.events) and setup.on.events[-1]["key"] == "99")
        assert all(set(each["iii_state"]) == {"event_id", "attempt", "fence"} for each in setup.on.metadata)


async def test_a_watch_shows_a_gap_where_its_queue_has_dropped_events() -> None:
    buffer = Buffer(10)
    buffer.put(EVENT, {"iii_state": {"event_id": "1"}})
    assert (await buffer.next()) is not None
    for _ in range(2):
        buffer.put(EVENT, {"iii_state": {"event_id": "2", "dropped": 3}})
    with pytest.raises(Gap) as gap:
        await buffer.next()
    assert gap.value.dropped == 3
    assert (await buffer.next()) is not None
    assert (await buffer.next()) is not None
    buffer.put(EVENT, {"iii_state": {"event_id": "3", "dropped": 4}})
    with pytest.raises(Gap) as gap:
        await buffer.next()
    assert gap.value.dropped == 1
