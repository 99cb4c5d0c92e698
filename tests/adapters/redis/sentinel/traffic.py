"""Traffic on a Redis that fails over, written down so that the torture's verdict can judge it (tests/torture/check.py).

Two engines in this process, writers at both, and handlers of every event at both.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from iii_state import Engine, FunctionError, StateModule
from tests.support.redis.server import RedisServer
from tests.support.waiting import until
from tests.torture.check import check
from tests.torture.history import Delivery, History, Place, Value, Write
from tests.torture.looks import RedisLook
from tests.torture.plan import PLANS
from tests.torture.subscriptions import Spec
from tests.torture.writes import COUNTERS, MAIN, SIDE, Source, outcome_of

ENGINES, WRITERS = 2, 8
SPECS = (Spec("all", MAIN, is_base=True), Spec("aside", SIDE, is_base=True))
CALL_TIMEOUT_MS = 20_000
PLAN = PLANS["redis"]


class Traffic:
    """The engines, and what was written and handled so far."""

    def __init__(self, engines: list[Engine]) -> None:
        self.writes: list[Write] = []
        self.deliveries: list[Delivery] = []
        self._engines = engines
        self._phases = 0

    async def serve(self) -> None:
        """Register the handlers."""
        for number, engine in enumerate(self._engines):
            for spec in SPECS:
                engine.register_function(spec.function_id, self._handler(spec, number))
                await engine.register_trigger({"type": "state", "function_id": spec.function_id, "config": spec.config})

    def _handler(self, spec: Spec, number: int) -> Any:
        async def handle(event: dict[str, Any], metadata: dict[str, Any]) -> None:
            told = metadata["iii_state"]
            delivery = Delivery(
                subscription=spec.name,
                engine=number,
                worker=f"engine {number}",
                event_type=event["event_type"],
                scope=event["scope"],
                key=event["key"],
                old=event["old_value"],
                new=event["new_value"],
                begun=time.monotonic_ns(),
                event_id=told["event_id"],
                attempt=told["attempt"],
                fence=told["fence"],
            )
            self.deliveries.append(delivery)
            await asyncio.sleep(0)
            delivery.ended, delivery.ok = time.monotonic_ns(), True

        return handle

    def acknowledged(self) -> int:
        """How many writes were answered with what they did."""
        return sum(write.outcome == "ok" for write in self.writes)

    async def until_acknowledged(self, more: int) -> None:
        """Wait for so many more."""
        before = self.acknowledged()
        await until(
            lambda: self.acknowledged() >= before + more, lambda: f"only {self.acknowledged() - before} writes were answered"
        )

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Write for the length of a block; every write has been answered when it ends."""
        self._phases += 1
        stopped = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for number in range(WRITERS):
                source = Source(self._phases, f"w{self._phases}.{number}", PLAN.adapter)
                group.create_task(self._write_until(stopped, source, self._engines[number % ENGINES]))
            try:
                yield
            finally:
                stopped.set()

    async def _write_until(self, stopped: asyncio.Event, source: Source, engine: Engine) -> None:
        while not stopped.is_set():
            await asyncio.sleep(source.pause() / 10)
            while (op := source.next()).scope not in (MAIN, SIDE):
                pass  # what has deadlines, say: this is about failovers
            function_id, payload = op.call()
            writes = [
                Write(part.id, part.kind, part.scope, part.key, time.monotonic_ns(), condition=part.condition)
                for part in op.parts()
            ]
            self.writes += writes
            try:
                result = await engine.trigger({"function_id": function_id, "payload": payload})
            except FunctionError as error:
                for write in writes:
                    # What replicas have not confirmed was made, and may be lost: its answer promises nothing.
                    write.outcome = "unknown" if error.code == "NOT_CONFIRMED" else outcome_of(error.code)
                    write.error = f"{error.code}: {error.message}"
            else:
                for write, told in zip(writes, op.told(result), strict=True):
                    write.outcome, write.has_values, write.old, write.new = "ok", True, told["old"], told["new"]
            for write in writes:
                write.ended = time.monotonic_ns()


@asynccontextmanager
async def traffic_on(url: str, **settings: Any) -> AsyncIterator[Traffic]:
    """The engines, for the length of a block."""
    config = {"redis_url": url, "call_timeout_ms": CALL_TIMEOUT_MS, **settings}
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(Engine()) for _ in range(ENGINES)]
        for engine in engines:
            await engine.add_module(StateModule({"adapter": {"name": "redis", "config": config}}))
        traffic = Traffic(engines)
        await traffic.serve()
        yield traffic


async def settled_values(server: RedisServer) -> dict[Place, Value]:
    """The values on a server, once every event has been handled."""
    look, waiting = RedisLook(PLAN, server.client), ""

    async def is_settled() -> bool:
        nonlocal waiting
        waiting = await look.not_empty()
        return not waiting

    await until(is_settled, lambda: waiting)
    return await values_on(server)


async def values_on(server: RedisServer) -> dict[Place, Value]:
    """The values on a server."""
    return {(scope, key): value for scope, key, value in await RedisLook(PLAN, server.client).values()}


def elements(values: dict[Place, Value]) -> dict[Place, list[str]]:
    """The writes that each list holds."""
    return {place: [one[0] for one in (value or {})["log"]] for place, value in values.items() if place[1].startswith("l")}


def lost(writes: list[Write], found: dict[Place, Value]) -> int:
    """How many acknowledged increments and appends are not there any more. None may be there twice, or without having been made."""
    count = 0
    held = elements(found)
    for place, there in held.items():
        made = {write.id: write.outcome for write in writes if write.place == place}
        assert len(set(there)) == len(there), f"applied twice: {there}"
        assert all(made.get(one, "refused") != "refused" for one in there), f"refused and applied: {there}"
    appended = [write for write in writes if write.kind == "append" and write.key.startswith("l") and write.outcome == "ok"]
    count += sum(write.id not in held.get(write.place, []) for write in appended)
    for key in COUNTERS:
        outcomes = [write.outcome for write in writes if write.place == (MAIN, key)]
        there_is = (found.get((MAIN, key)) or {"n": 0})["n"]
        assert there_is <= len(outcomes) - outcomes.count("refused"), f"applied twice: {key}"
        count += max(0, outcomes.count("ok") - there_is)
    return count


def problems(traffic: Traffic, since: int, initial: dict[Place, Value], final: dict[Place, Value]) -> list[str]:
    """The torture's verdict on what was done since a time."""
    history = History(
        writes=[write for write in traffic.writes if write.begun >= since],
        deliveries=[delivery for delivery in traffic.deliveries if delivery.begun >= since],
        initial=initial,
        final=final,
    )
    return check(history, SPECS).problems
