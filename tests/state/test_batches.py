"""Handlers that are called with several events at once."""

from __future__ import annotations

import asyncio
from typing import Any

from iii_state import FunctionError
from tests.state.test_dispatcher import QUICK, Setup
from tests.support.waiting import until


class Batched(Setup):
    """An engine whose handler `on` gets batches: what it was called with, and what it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[dict[str, Any]]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failing: set[str] = set()
        """Keys of events that are answered as failed."""
        self.refuses: set[str] = set()
        """Keys of events for which the call as a whole fails."""

    async def __aenter__(self) -> Batched:
        await super().__aenter__()
        self.function.unregister()
        self.engine.register_function("on", self.handle)
        return self

    async def handle(self, payload: dict[str, Any], metadata: Any) -> Any:
        assert payload["type"] == "state:batch"
        assert all(set(row) == {"event", "event_id", "attempt", "fence"} for row in payload["events"])
        self.calls.append(payload["events"])
        await self.gate.wait()
        if any(row["event"]["key"] in self.refuses for row in payload["events"]):
            raise FunctionError("my_code", "boom")
        return {"failed": [row["event_id"] for row in payload["events"] if row["event"]["key"] in self.failing]}

    def batches(self) -> list[list[str]]:
        return [[row["event"]["key"] for row in call] for call in self.calls]

    async def handled(self, count: int) -> None:
        async def are_there() -> bool:
            return sum(map(len, self.calls)) >= count

        await until(are_there)
        await self.quiet()


async def test_what_comes_while_the_first_waits_is_one_call_of_so_many_at_most() -> None:
    async with Batched() as setup:
        await setup.trigger(scope="s", batch={"max": 3, "wait_ms": 60_000})
        for number in range(6):
            await setup.set(str(number), number)
        await setup.handled(6)
        assert setup.batches() == [["0", "1", "2"], ["3", "4", "5"]]
        assert [row["event"]["new_value"] for row in setup.calls[0]] == [0, 1, 2]


async def test_a_batch_that_does_not_get_full_leaves_when_its_first_has_waited() -> None:
    async with Batched() as setup:
        await setup.trigger(scope="s", batch={"max": 1000, "wait_ms": 30})
        await setup.set("a", 1)
        await setup.set("b", 1)
        await setup.handled(2)
        assert sorted(key for batch in setup.batches() for key in batch) == ["a", "b"]


async def test_without_a_wait_what_has_come_meanwhile_goes_together() -> None:
    async with Batched() as setup:
        await setup.trigger(scope="s", batch={"max": 100}, concurrency=1)
        setup.gate.clear()
        await setup.set("first", 1)
        await until(lambda: bool(setup.calls))
        for number in range(10):
            await setup.set(str(number), number)
        setup.gate.set()
        await setup.handled(11)
        assert len(setup.calls) <= 4


async def test_of_a_lane_there_is_one_event_in_a_batch_and_they_come_in_order() -> None:
    async with Batched() as setup:
        await setup.trigger(scope="s", batch={"max": 10, "wait_ms": 10})
        for number in range(4):
            await setup.set("k", number)
            await setup.set("other", number)
        await setup.handled(8)
        assert all(len(set(keys)) == len(keys) for keys in setup.batches())
        rows = [row["event"] for call in setup.calls for row in call]
        assert [row["new_value"] for row in rows if row["key"] == "k"] == [0, 1, 2, 3]


async def test_only_what_the_answer_names_is_tried_again_and_ends_among_the_dead_letters() -> None:
    async with Batched() as setup:
        setup.failing = {"bad"}
        await setup.trigger(scope="s", batch={"max": 3, "wait_ms": 20}, retry={**QUICK, "max_attempts": 3})
        for key in ("a", "bad", "b"):
            await setup.set(key, 1)
        [letter] = await setup.dead(1)
        assert (letter.event.key, letter.attempts) == ("bad", 3)
        assert setup.batches() == [["a", "bad", "b"], ["bad"], ["bad"]]
        assert [call[-1]["attempt"] for call in setup.calls[1:]] == [2, 3]
        assert len({row["event_id"] for call in setup.calls for row in call if row["event"]["key"] == "bad"}) == 1


async def test_a_call_that_fails_as_a_whole_is_tried_again_for_all() -> None:
    async with Batched() as setup:
        setup.refuses = {"bad"}
        await setup.trigger(scope="s", batch={"max": 2, "wait_ms": 20}, retry={**QUICK, "max_attempts": 2})
        await setup.set("a", 1)
        await setup.set("bad", 1)
        letters = await setup.dead(1)
        assert "bad" in {letter.event.key for letter in letters}
        await setup.quiet()


async def test_a_condition_is_asked_for_each_event() -> None:
    async with Batched() as setup:
        setup.engine.register_function("odd", lambda event: event["new_value"] % 2 == 1)
        await setup.trigger(scope="s", batch={"max": 2, "wait_ms": 60_000}, condition_function_id="odd")
        for number in range(4):
            await setup.set(str(number), number)
        await setup.handled(2)
        assert sorted(setup.batches()[0]) == ["1", "3"]
        assert len(setup.calls) == 1


async def test_what_is_gathered_when_the_engine_stops_is_not_lost(tmp_path: Any) -> None:
    config = {"adapter": {"name": "kv", "config": {"store_method": "file_based", "file_path": str(tmp_path)}}}
    batched = Batched()
    batched.module = type(batched.module)(config)
    async with batched as setup:
        await setup.trigger(scope="s", batch={"max": 10, "wait_ms": 60_000})
        await setup.set("k", 1)
        await setup.quiet()
    again = Batched()
    again.module = type(again.module)(config)
    async with again as setup:
        await setup.trigger(scope="s", batch={"max": 1})
        await setup.handled(1)
        assert setup.batches() == [["k"]]


async def test_a_batch_has_what_the_payload_says() -> None:
    async with Batched() as setup:
        await setup.trigger(scope="s", batch={"max": 1}, payload="keys")
        await setup.set("k", 1)
        await setup.handled(1)
        assert setup.calls[0][0]["event"] == {"type": "state", "event_type": "state:created", "scope": "s", "key": "k"}
