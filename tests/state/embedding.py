"""A program that embeds an engine and uses all that is public; `test_typing.py` checks it as its author would, and runs it."""

import asyncio
from collections.abc import Sequence
from typing import Any, assert_type

from iii_state import (
    Caller,
    Code,
    ConditionUnmet,
    ConfigError,
    Engine,
    Event,
    EventType,
    FunctionError,
    FunctionRegistration,
    Gap,
    Handler,
    Host,
    Module,
    NotCarriedOut,
    OpError,
    Result,
    Retry,
    Runner,
    SetResult,
    State,
    StateChange,
    StateError,
    StateModule,
    StepResult,
    Stored,
    StoreError,
    Trigger,
    TriggerProvider,
    TriggerRegistration,
    UpdateResult,
    Watch,
    WorkerLost,
    conditions,
    ops,
    steps,
)

engine = Engine(call_timeout=30.0)
state = State(engine)
patient: Retry = {"max_attempts": 20, "backoff_ms": 500}
handled: list[str] = []
all_handled = asyncio.Event()


@state.on_change(scope="orders", retry={"max_attempts": 3})
async def changed(event: Event) -> None:
    assert_type(event.scope, str)
    assert_type(event.event_type, EventType)
    assert_type(event.new_value, Any)
    assert_type(event.attempt, int)
    handled.append(f"{event.event_type} {event.key}")
    if event.event_type == "state:deleted":
        all_handled.set()


@state.on_change(scope="orders", key="o1", function_id="orders::count", delivery="broadcast", retry=patient, retention_ms="forever")
def count(event: Event) -> int:
    return event.attempt


@state.on_change(
    scope_prefix="users/",
    event_types=["updated"],
    changed=["email", ["address", "city"]],
    when=[conditions.present("email")],
    coalesce=True,
    payload="keys",
    on_full="drop_oldest",
    max_queue_length=1000,
)
def less(event: Event) -> None: ...


class Clock:
    """A module of one's own: a function and a trigger type."""

    name = "clock"

    def __init__(self) -> None:
        self.triggers: dict[str, Trigger] = {}
        self.runners: Sequence[Runner] = ()

    async def start(self, host: Host) -> None:
        handler: Handler = self.now
        host.register_function("clock::now", handler, description="What time it is")
        provider: TriggerProvider = self
        host.register_trigger_type("clock", provider, description="Strikes")
        self.runners = host.runners("clock::now")

    async def stop(self) -> None:
        self.triggers.clear()

    async def health(self) -> str | None:
        return None

    def now(self, data: object, caller: Caller) -> Result[bytes | None]:
        return b'"noon"' if not caller.worker_id else None

    def register(self, trigger: Trigger, replaces: Trigger | None = None) -> Result[None]:
        self.triggers[trigger.id] = trigger
        return None

    def unregister(self, trigger: Trigger, *, disconnected: bool) -> Result[None]:
        self.triggers.pop(trigger.id, None)
        return None


async def follow(watch: Watch) -> list[Event]:
    seen: list[Event] = []
    try:
        async for event in watch:
            seen.append(event)
            if event.event_type == "state:deleted":
                break
    except Gap as gap:
        assert_type(gap.dropped, int)
    return seen


async def calls() -> None:
    assert_type(await state.set("orders", "o1", {"n": 1, "items": []}, ttl_ms=60_000), SetResult)
    result = await state.update("orders", "o1", [ops.increment("n"), ops.append(["items"], "book")])
    assert_type(result, UpdateResult)
    assert_type(result.errors, list[OpError])
    await state.update("orders", "o1", [ops.set("a", 1), ops.merge(None, {"b": 2}), ops.decrement("n", 0.5), ops.remove("a")])
    assert_type(await state.get("orders", "o1"), Any)
    assert_type(await state.list("orders"), list[Any])
    assert_type(await state.list_keys("orders"), list[str])
    assert_type(await state.list_groups(), list[str])
    async for key, value in state.entries("orders"):
        assert_type(key, str)
        print(key, value)
    assert_type(await state.delete("orders", "o1"), Any)


async def more_calls() -> None:
    first = await state.set("more", "k", {"n": 1}, only_if=[conditions.absent()], meta=True, return_="none")
    assert_type(first.etag, str | None)
    assert_type(await state.get("more", "k", meta=True), Stored)
    assert_type(await state.get("more", "k", meta=False), Any)
    by_hand = {"path": "n", "equals": 1}
    result = await state.update("more", "k", [ops.increment("n")], only_if=[by_hand, conditions.gte("n", 1)], strict=True)
    assert_type(result.revision, int | None)
    try:
        await state.delete("more", "k", only_if=[conditions.equals("n", 1), conditions.etag(first.etag or "")])
    except ConditionUnmet as unmet:
        assert_type(unmet.index, int)
        assert_type(unmet.value, Any)
        print(unmet)
    done = await state.transact("more", [steps.set("a", 1), steps.update("k", [ops.increment("n")]), steps.delete("a")])
    assert_type(done, list[StepResult])
    assert_type(await state.get_many("more", ["a", "k"]), dict[str, Any])
    assert_type(await state.touch("more", "k", None), bool)
    assert_type(await state.list("more", prefix="k", limit=1, order="desc"), list[Any])
    assert_type(await state.list_keys("more", after="a", order="asc"), list[str])
    try:
        async for change in state.history("more", key="k", limit=10):
            assert_type(change, StateChange)
    except FunctionError as error:
        print(error.code)


async def main() -> None:
    module: Module = Clock()
    async with engine:
        try:
            await engine.add_module(StateModule({"adapter": {"name": "kv"}}))
        except (ConfigError, StoreError) as error:
            raise SystemExit(str(error)) from None
        await engine.add_module(module)
        await state.start()
        ticks = engine.register_function("orders::tick", lambda event: event)
        assert_type(ticks, FunctionRegistration)
        strikes = await engine.register_trigger({"type": "clock", "function_id": "orders::tick"})
        assert_type(strikes, TriggerRegistration)
        async with state.watch(scope="orders", buffer=100) as events:
            await calls()
            seen = await follow(events)
        await more_calls()
        print(*(event.event_type for event in seen))
        try:
            await state.set("orders", "o1", float("nan"))
        except (NotCarriedOut, WorkerLost):
            raise
        except FunctionError as error:
            assert_type(error.code, str)
            print(error.code == Code.DESERIALIZATION_ERROR)
        except StateError as error:
            raise SystemExit(str(error)) from None
        await asyncio.wait_for(all_handled.wait(), 20)
        await strikes.unregister()
        ticks.unregister()
    print(*handled, sep="\n")


if __name__ == "__main__":
    asyncio.run(main())
