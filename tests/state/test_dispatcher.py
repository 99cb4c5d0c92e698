"""From a write to a handler: conditions, lanes, concurrency, retries, time limits, dead letters, stopping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iii_state import Engine, FunctionError, StateModule
from tests.support.waiting import answer_of

QUICK = {"backoff_ms": 1, "max_backoff_ms": 2}


class Recorder:
    """A handler that keeps what it was called with, and answers as it is told."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.metadata: list[dict[str, Any]] = []
        self.running = 0
        self.most_running = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.fail: Callable[[dict[str, Any]], BaseException | None] = lambda event: None
        self._changed = asyncio.Event()

    async def __call__(self, event: dict[str, Any], metadata: dict[str, Any]) -> None:
        self.events.append(event)
        self.metadata.append(metadata)
        self._changed.set()
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.gate.wait()
            error = self.fail(event)
            if error is not None:
                raise error
        finally:
            self.running -= 1
            self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def calls(self, count: int) -> None:
        await self.until(lambda: len(self.events) >= count and not self.running)

    def values(self, key: str) -> list[Any]:
        return [event["new_value"] for event in self.events if event["key"] == key]


class Setup:
    """An engine with the state module and one recording handler, `on`."""

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        self.module = StateModule(config)
        self.engine = Engine()
        self.on = Recorder()

    async def __aenter__(self) -> Setup:
        await self.engine.__aenter__()
        await self.engine.add_module(self.module)
        self.function = self.engine.register_function("on", self.on)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.on.gate.set()
        await self.engine.__aexit__(None, None, None)

    async def trigger(self, **config: Any) -> Any:
        return await self.engine.register_trigger({"type": "state", "function_id": "on", "config": config})

    async def set(self, key: str, value: Any, scope: str = "s") -> None:
        await self.engine.trigger({"function_id": "state::set", "payload": {"scope": scope, "key": key, "value": value}})

    async def dead(self, count: int) -> list[Any]:
        """The dead letters, once there are so many."""
        async with asyncio.timeout(10):
            while len(letters := list(await answer_of(self.module.adapter.admin.dead_letters()))) < count:
                await asyncio.sleep(0.005)
        return letters

    async def quiet(self) -> None:
        """A write whose event has been handled: whatever was to come before it has come."""
        done = asyncio.Event()
        self.engine.register_function("quiet", lambda event: done.set())
        config = {"scope": "quiet"}
        registration = await self.engine.register_trigger({"type": "state", "function_id": "quiet", "config": config})
        await self.set("k", 1, scope="quiet")
        async with asyncio.timeout(10):
            await done.wait()
        await registration.unregister()


async def test_a_handler_is_called_with_the_event_and_its_metadata() -> None:
    async with Setup() as setup:
        await setup.engine.register_trigger(
            {"type": "state", "function_id": "on", "config": {"scope": "s"}, "metadata": {"mine": 1, "iii_state": "not yours"}}
        )
        await setup.set("k", {"n": 1})
        await setup.on.calls(1)
        assert setup.on.events == [
            {"type": "state", "event_type": "state:created", "scope": "s", "key": "k", "old_value": None, "new_value": {"n": 1}}
        ]
        (metadata,) = setup.on.metadata
        assert metadata["mine"] == 1
        assert metadata["iii_state"]["attempt"] == 1
        assert metadata["iii_state"]["fence"] == 0
        assert metadata["iii_state"]["event_id"]


@pytest.mark.parametrize("metadata", [[1, 2], "text", 5, True])
async def test_metadata_that_is_no_object_is_passed_untouched(metadata: Any) -> None:
    async with Setup() as setup:
        await setup.engine.register_trigger({"type": "state", "function_id": "on", "metadata": metadata})
        await setup.set("k", 1)
        await setup.on.calls(1)
        assert setup.on.metadata == [metadata]


@pytest.mark.parametrize("config", [None, {}, {"scope": None, "key": None, "condition_function_id": None, "unknown": 1}])
async def test_a_trigger_without_scope_and_key_matches_everything(config: Any) -> None:
    async with Setup() as setup:
        request = {"type": "state", "function_id": "on"}
        await setup.engine.register_trigger(request if config is None else {**request, "config": config})
        await setup.set("k", 1)
        await setup.set("l", 1, scope="t")
        await setup.on.calls(2)


async def test_scope_and_key_are_compared_exactly() -> None:
    async with Setup() as setup:
        await setup.trigger(scope="s", key="k")
        await setup.set("k", 1, scope="S")
        await setup.set("kk", 2)
        await setup.set("k", 3)
        await setup.quiet()
        assert [event["new_value"] for event in setup.on.events] == [3]


@pytest.mark.parametrize(("verdict", "calls"), [(False, 0), (True, 1), (None, 1), (0, 1), ("false", 1), ({}, 1)])
async def test_only_a_condition_that_says_false_skips_the_handler(verdict: Any, calls: int) -> None:
    async with Setup() as setup:
        asked: list[Any] = []

        def condition(event: Any) -> Any:
            asked.append(event)
            return verdict

        setup.engine.register_function("condition", condition)
        await setup.trigger(scope="s", condition_function_id="condition")
        await setup.set("k", 1)
        await setup.quiet()
        await setup.on.calls(calls)
        assert len(asked) == 1
        assert asked[0]["new_value"] == 1


async def test_a_condition_that_raises_is_retried_and_its_event_is_not_lost() -> None:
    async with Setup() as setup:
        attempts: list[int] = []

        def condition(event: Any) -> None:
            attempts.append(1)
            if len(attempts) < 3:
                raise RuntimeError("not now")

        setup.engine.register_function("condition", condition)
        await setup.trigger(condition_function_id="condition", retry=QUICK)
        await setup.set("k", 1)
        await setup.on.calls(1)
        assert len(attempts) == 3
        assert setup.on.metadata[0]["iii_state"]["attempt"] == 3


async def test_events_of_a_key_come_in_the_order_of_the_writes_and_keys_run_in_parallel() -> None:
    async with Setup() as setup:
        await setup.trigger(scope="s")
        setup.on.gate.clear()
        for number in range(5):
            for key in "abc":
                await setup.set(key, number)
        await setup.on.until(lambda: len(setup.on.events) >= 3)
        await setup.quiet()
        assert len(setup.on.events) == 3, "one of each key"
        setup.on.gate.set()
        await setup.on.calls(15)
        assert all(setup.on.values(key) == [0, 1, 2, 3, 4] for key in "abc")


async def test_a_failing_event_holds_back_its_own_lane_only() -> None:
    async with Setup() as setup:
        setup.on.fail = lambda event: RuntimeError("boom") if event["key"] == "bad" else None
        await setup.trigger(scope="s", retry={"backoff_ms": 600_000, "max_backoff_ms": 600_000})
        await setup.set("bad", 1)
        await setup.set("bad", 2)
        for number in range(3):
            await setup.set("good", number)
        await setup.quiet()
        await setup.on.until(lambda: len(setup.on.values("good")) == 3)
        assert setup.on.values("bad") == [1]


async def test_retries_are_bounded_and_end_among_the_dead_letters() -> None:
    async with Setup() as setup:
        setup.on.fail = lambda event: FunctionError("my_code", "boom") if event["new_value"] == 1 else None
        await setup.trigger(scope="s", retry={**QUICK, "max_attempts": 3})
        await setup.set("k", 1)
        await setup.set("k", 2)
        await setup.on.calls(4)
        assert setup.on.values("k") == [1, 1, 1, 2]
        calls = [metadata["iii_state"] for metadata in setup.on.metadata]
        assert [call["attempt"] for call in calls] == [1, 2, 3, 1]
        assert len({call["event_id"] for call in calls[:3]}) == 1
        assert calls[3]["event_id"] != calls[0]["event_id"]
        (letter,) = await setup.dead(1)
        assert (letter.attempts, letter.error, letter.event.new) == (3, "my_code: boom", b"1")


async def test_operators_see_and_retry_and_drop_dead_letters() -> None:
    async with Setup() as setup:

        async def ask(name: str, **payload: Any) -> Any:
            return await setup.engine.trigger({"function_id": f"iii-state::{name}", "payload": payload})

        setup.on.fail = lambda event: RuntimeError("boom")
        await setup.trigger(scope="s", retry={**QUICK, "max_attempts": 1})
        await setup.set("a", 1)
        await setup.set("b", 2)
        await setup.dead(2)
        (row,) = (await ask("triggers"))["triggers"]
        assert (row["function_id"], row["scope"], len(row["hosts"]), row["waiting"], row["dead"]) == ("on", "s", 1, 0, 2)
        first, second = (await ask("dead_list", function_id="on"))["dead"]
        assert (first["key"], first["attempts"], first["error"]) == ("a", 1, "invocation_failed: boom")
        assert (await ask("dead_list", function_id="another"))["dead"] == []
        (shown,) = (await ask("dead_show", id=second["id"]))["dead"]
        assert shown["event"]["new_value"] == 2
        setup.on.fail = lambda event: None
        assert await ask("dead_retry", id=first["id"]) == {"retried": 1}
        await setup.on.calls(3)
        assert setup.on.values("a") == [1, 1]
        assert await ask("dead_drop", function_id="on") == {"dropped": 1}
        assert await ask("dead_list") == {"dead": [], "total": 0}
        with pytest.raises(FunctionError) as raised:
            await ask("dead_retry", id="unknown")
        assert raised.value.code == "NOT_FOUND"
        with pytest.raises(FunctionError, match="function_id: invalid type: integer, expected a string"):
            await ask("dead_list", function_id=5)


async def test_a_trigger_that_is_registered_again_with_other_settings_keeps_its_queue() -> None:
    async with Setup() as setup:
        setup.on.gate.clear()
        request = {"type": "state", "function_id": "on", "id": "mine"}
        worker = setup.engine
        await worker.register_trigger({**request, "config": {"scope": "s"}, "metadata": {"version": 1}})
        await setup.set("k", 1)
        await setup.set("k", 2)
        await setup.on.until(lambda: len(setup.on.events) == 1)
        await worker.register_trigger({**request, "config": {"scope": "s"}, "metadata": {"version": 2}})
        setup.on.gate.set()
        await setup.on.calls(2)
        assert setup.on.values("k") == [1, 2]
        assert [metadata["version"] for metadata in setup.on.metadata] == [1, 2]
        await worker.register_trigger({**request, "config": {"scope": "elsewhere"}})
        await setup.set("k", 3)
        await setup.set("k", 4, scope="elsewhere")
        await setup.on.calls(3)
        assert setup.on.values("k") == [1, 2, 4]


async def test_a_handler_that_takes_too_long_is_stopped_and_retried() -> None:
    async with Setup() as setup:
        setup.on.gate.clear()
        await setup.trigger(scope="s", retry={**QUICK, "timeout_ms": 30, "max_attempts": 2})
        await setup.set("k", 1)
        await setup.on.calls(2)
        (letter,) = await setup.dead(1)
        assert letter.error == "TIMEOUT: the handler has not answered within 30 ms"
        assert letter.attempts == 2


async def test_concurrency_is_bounded_per_function_over_all_its_triggers() -> None:
    async with Setup({"dispatch": {"concurrency": 3, "prefetch": 2}}) as setup:
        await setup.trigger(scope="s")
        await setup.trigger(scope="t")
        for number in range(20):
            await setup.set(f"k{number}", number)
            await setup.set(f"k{number}", number, scope="t")
        await setup.on.calls(40)
        assert setup.on.most_running <= 3


async def test_a_trigger_may_set_its_own_concurrency() -> None:
    async with Setup() as setup:
        await setup.trigger(scope="s", concurrency=1)
        for number in range(20):
            await setup.set(f"k{number}", number)
        await setup.on.calls(20)
        assert setup.on.most_running == 1
        assert [event["new_value"] for event in setup.on.events] == list(range(20))


async def test_no_queue_starves_another_of_the_same_function() -> None:
    async with Setup({"dispatch": {"concurrency": 1, "prefetch": 1}}) as setup:
        await setup.trigger(scope="s")
        await setup.trigger(scope="t")
        setup.on.gate.clear()
        for number in range(50):
            await setup.set(f"k{number}", number)
        await setup.set("late", 1, scope="t")
        setup.on.gate.set()
        await setup.on.calls(51)
        assert [event["scope"] for event in setup.on.events].index("t") < 10


async def test_the_same_trigger_registered_twice_calls_once_and_the_last_retry_counts() -> None:
    async with Setup() as setup:
        first = await setup.trigger(scope="s", retry={"max_attempts": 9})
        second = await setup.trigger(scope="s", retry={**QUICK, "max_attempts": 1})
        setup.on.fail = lambda event: RuntimeError("boom")
        await setup.set("k", 1)
        await setup.quiet()
        assert len(setup.on.events) == 1
        await setup.dead(1)
        await first.unregister()
        await setup.set("k", 2)
        await setup.on.calls(2)
        await second.unregister()
        await setup.set("k", 3)
        await setup.quiet()
        assert len(setup.on.events) == 2


async def test_a_worker_that_left_burns_no_attempts() -> None:
    async with Setup() as setup:
        await setup.trigger(scope="s", retry={**QUICK, "max_attempts": 1})
        setup.function.unregister()
        await setup.set("k", 1)
        await setup.quiet()
        assert setup.on.events == []
        setup.engine.register_function("on", setup.on)
        await setup.on.calls(1)
        assert setup.on.metadata[0]["iii_state"]["attempt"] == 1


async def test_a_wake_up_that_comes_before_a_reply_is_read_is_not_forgotten() -> None:
    async with Setup() as setup:
        queues: Any = setup.module.adapter.queues
        late: list[tuple[asyncio.Future[Any], list[Any]]] = []
        take = queues.take

        def take_late(subscription_id: str, count: int) -> asyncio.Future[Any]:
            answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            late.append((answer, take(subscription_id, count)))
            return answer

        queues.take = take_late
        await setup.trigger(scope="s")
        async with asyncio.timeout(10):
            while not late:
                await asyncio.sleep(0)
            await setup.set("k", 1)
            while not setup.on.events:
                for answer, deliveries in late:
                    if not answer.done():
                        answer.set_result(deliveries)
                await asyncio.sleep(0)
        assert [bool(deliveries) for _, deliveries in late[:2]] == [False, True]


async def test_a_handler_that_writes_to_its_own_key_is_called_for_that_write() -> None:
    async with Setup() as setup:
        seen: list[int] = []

        async def count(event: dict[str, Any]) -> None:
            seen.append(event["new_value"])
            if event["new_value"] < 5:
                await setup.set("k", event["new_value"] + 1)

        setup.engine.register_function("count", count)
        await setup.engine.register_trigger({"type": "state", "function_id": "count", "config": {"scope": "s"}})
        await setup.set("k", 1)
        async with asyncio.timeout(10):
            while len(seen) < 5:
                await asyncio.sleep(0.001)
        await setup.quiet()
        assert seen == [1, 2, 3, 4, 5]


async def test_disabled_triggers_do_not_fire_and_can_be_enabled_live() -> None:
    async with Setup({"triggers_enabled": False}) as setup:
        await setup.trigger(scope="s")
        await setup.set("k", 1)
        setup.module.reconfigure({"triggers_enabled": True})
        await setup.set("k", 2)
        await setup.on.calls(1)
        assert setup.on.values("k") == [2]


async def test_stopping_waits_for_running_handlers_and_keeps_the_rest(tmp_path: Path) -> None:
    config = {"adapter": {"name": "kv", "config": {"store_method": "file_based", "file_path": str(tmp_path)}}}
    async with Setup(config) as setup:
        await setup.trigger(scope="s")
        setup.on.gate.clear()
        await setup.set("k", 1)
        await setup.set("k", 2)
        await setup.on.until(lambda: len(setup.on.events) == 1)
        stopping = asyncio.create_task(setup.module.stop())
        await asyncio.sleep(0)
        setup.on.gate.set()
        await stopping
        assert setup.on.values("k") == [1]
    async with Setup(config) as setup:
        await setup.trigger(scope="s")
        await setup.on.calls(1)
        await setup.quiet()
        assert setup.on.values("k") == [2], "the first was acknowledged before the stop"


async def test_a_handler_that_does_not_end_is_given_back_when_stopping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iii_state.state.module.STOP_SECONDS", 0.05)
    config = {"adapter": {"name": "kv", "config": {"store_method": "file_based", "file_path": str(tmp_path)}}}
    async with Setup(config) as setup:
        await setup.trigger(scope="s")
        setup.on.gate.clear()
        await setup.set("k", 1)
        await setup.on.until(lambda: len(setup.on.events) == 1)
        await setup.module.stop()
    async with Setup(config) as setup:
        await setup.trigger(scope="s")
        await setup.on.calls(1)
        assert setup.on.metadata[0]["iii_state"]["attempt"] == 1


async def test_an_error_that_is_no_unicode_text_is_recorded_and_the_store_goes_on(tmp_path: Path) -> None:
    kv = {"config": {"store_method": "file_based", "file_path": str(tmp_path)}}
    async with Setup({"adapter": kv, "dispatch": {"max_attempts": 1}}) as setup:
        await setup.trigger()
        setup.on.fail = lambda event: ValueError("\ud800")
        await setup.set("k", 1)
        (letter,) = await setup.dead(1)
        assert letter.error == "invocation_failed: ?"
        async with asyncio.timeout(10):
            await setup.set("k", 2)


async def test_what_a_handler_has_done_is_acknowledged_when_its_worker_leaves_in_the_same_moment() -> None:
    async with Setup() as setup:
        await setup.trigger()
        (binding,) = setup.engine.triggers
        setup.on.gate.clear()
        await setup.set("k", 1)
        await setup.on.until(lambda: setup.on.running == 1)
        assert setup.engine._tasks is not None
        (answer,) = (entry[0] for entry in setup.engine._tasks.pending._open.values())
        assert asyncio.isfuture(answer)
        answer.add_done_callback(lambda _: setup.module.triggers.unregister(binding.trigger, disconnected=True))
        gone = asyncio.Event()
        answer.add_done_callback(lambda _: gone.set())
        setup.on.gate.set()
        async with asyncio.timeout(10):
            await gone.wait()
        setup.module.triggers.register(binding.trigger)
        await setup.set("k", 2)
        await setup.on.calls(2)
        assert setup.on.values("k") == [1, 2]


async def test_a_free_place_is_passed_on_by_a_subscription_that_has_nothing_to_do() -> None:
    async with Setup({"dispatch": {"concurrency": 1}}) as setup:
        await setup.trigger(scope="a")
        setup.on.gate.clear()
        await setup.set("first", 1, scope="a")
        await setup.on.until(lambda: setup.on.running == 1)
        await setup.trigger(scope="idle")
        await setup.trigger(scope="b")
        await setup.set("second", 1, scope="b")
        await asyncio.sleep(0)
        setup.on.gate.set()
        await setup.on.calls(2)
        assert [event["key"] for event in setup.on.events] == ["first", "second"]


@pytest.mark.parametrize(
    "error",
    [FunctionError("invocation_stopped", "mine"), FunctionError("payload_too_large", "mine"), asyncio.CancelledError()],
    ids=["stopped", "too large", "cancelled"],
)
async def test_a_handler_that_fails_in_the_engines_words_has_failed_all_the_same(error: BaseException) -> None:
    async with Setup({"dispatch": {"max_attempts": 2, **QUICK}}) as setup:
        await setup.trigger()
        setup.on.fail = lambda event: error if len(setup.on.events) < 10 else None
        await setup.set("k", 1)
        (letter,) = await setup.dead(1)
        assert letter.attempts == len(setup.on.events) == 2
