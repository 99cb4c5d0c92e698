"""Ours without a socket: an engine in this process, called as a Python program calls it. Prints one JSON object.

Takes its settings (`Settings`) as a JSON argument. Runs on uvloop, as `iii-state serve` does.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import uvloop

from benchmarks import frames
from benchmarks.clock import Clock
from benchmarks.jobs import Measured

_KEYS = 512
_STEP = 32
"""Calls of small values between two looks at the clock."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure.

    Args:
        store: `in_memory` or `file_based`.
        ops, sizes, callers: each combination of these.
        seconds: how long one is measured, after a fifth of it that is not.
        events: whether to measure events, too.
        triggers: how many triggers that match nothing are registered first.
    """

    store: str
    ops: list[str]
    sizes: list[int]
    callers: list[int]
    seconds: float
    events: bool = False
    triggers: int = 0


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One combination and what was measured; `op` is `events` or `event alone` for events."""

    op: str
    size: int
    callers: int
    measured: Measured


@asynccontextmanager
async def engine(adapter: str, **config: Any) -> AsyncIterator[Any]:
    """An engine with the state module over this adapter."""
    iii_state: Any = importlib.import_module("iii_state")
    async with iii_state.Engine() as running:
        await running.add_module(iii_state.StateModule({"adapter": {"name": adapter, "config": config}}))
        yield running


@asynccontextmanager
async def _on_kv(store: str) -> AsyncIterator[Any]:
    with tempfile.TemporaryDirectory() as directory:
        config = {"store_method": store}
        if store == "file_based":
            config["file_path"] = directory
        async with engine("kv", **config) as running:
            yield running


def _requests(op: str, size: int, caller: int) -> list[dict[str, Any]]:
    value = json.loads(frames.document(size))
    scope = f"{frames.SCOPE}-list-{size}" if op == "list" else frames.SCOPE
    requests: list[dict[str, Any]] = []
    for number in range(frames.LIST_LENGTH if op == "list" else max(8, min(_KEYS, 4_000_000 // size))):
        payload: dict[str, Any] = {"scope": scope, "key": f"user:{caller}:{number:06d}"}
        if op == "set":
            payload["value"] = value
        elif op == "update":
            payload["ops"] = [{"type": "increment", "path": "visits", "by": 1}]
        elif op == "list":
            payload = {"scope": scope}
        requests.append({"function_id": f"state::{op}", "payload": payload})
    return requests


async def calls(engine: Any, op: str, size: int, callers: int, seconds: float) -> Measured:
    """As many tasks as there are callers, each making one call after another."""
    value = json.loads(frames.document(size))
    shared = _requests(op, size, 0)
    stores = [
        {
            "function_id": "state::set",
            "payload": {
                "scope": r["payload"]["scope"],
                "key": r["payload"].get("key", f"user:{i}"),
                "value": value,
            },
        }
        for i, r in enumerate(shared)
    ]
    for request in stores:
        await engine.trigger(request)
    trigger = engine.trigger
    step = max(1, min(_STEP, _STEP * 100 // size))
    times: list[float] = []

    async def caller(at: int, until: float) -> int:
        done = 0
        while time.perf_counter() < until:
            for number in range(at + done, at + done + step):
                request = shared[number % len(shared)]
                if number % step:
                    await trigger(request)
                else:
                    began = time.perf_counter()
                    await trigger(request)
                    times.append(time.perf_counter() - began)
            done += step
            await asyncio.sleep(0)
        return done

    async def steadily(seconds: float) -> tuple[float, float, int]:
        times.clear()
        wall, cpu = time.perf_counter(), time.process_time()
        counts = await asyncio.gather(*(caller(number * 7, wall + seconds) for number in range(callers)))
        return time.perf_counter() - wall, time.process_time() - cpu, sum(counts)

    async def deletes() -> tuple[float, float, int]:
        """Each round sets again what it deletes; only the deleting is measured. All callers share the round."""
        wall = cpu = 0.0
        count = 0
        until = time.perf_counter() + seconds
        while not count or time.perf_counter() < until:
            for request in stores:
                await trigger(request)
            left = iter(shared)

            async def some(left: Any = left) -> None:
                for request in left:
                    began = time.perf_counter()
                    await trigger(request)
                    times.append(time.perf_counter() - began)

            wall_began, cpu_began = time.perf_counter(), time.process_time()
            await asyncio.gather(*(some() for _ in range(callers)))
            wall += time.perf_counter() - wall_began
            cpu += time.process_time() - cpu_began
            count += len(shared)
        return wall, cpu, count

    if op == "delete":
        return _measured(await deletes(), times)
    await steadily(seconds / 5)
    return _measured(await steadily(seconds), times)


def _measured(spent: tuple[float, float, int], times: list[float]) -> Measured:
    times.sort()
    return Measured(
        done=spent[2],
        seconds=spent[0],
        server_cpu=spent[1],
        client_cpu=0.0,
        p50=times[len(times) // 2] if times else None,
        p99=times[int(len(times) * 0.99)] if times else None,
        errors=0,
        lost=0,
    )


async def events(engine: Any, size: int, in_flight: int, seconds: float, store_pid: int | None = None) -> Measured:
    """Writes, and their events handled; with one in flight, the time from a write's call to the handler.

    CPU time is that of this process, and of the Redis behind it if there is one.
    """
    scope = function_id = f"bench-events-{in_flight}"
    room = asyncio.Semaphore(in_flight)
    handled = 0
    handled_at = 0.0

    async def handle(event: Any) -> None:
        nonlocal handled, handled_at
        handled_at = time.perf_counter()
        handled += 1
        room.release()

    engine.register_function(function_id, handle)
    await engine.register_trigger({"type": "state", "function_id": function_id, "config": {"scope": scope}})
    value = json.loads(frames.document(size))
    requests = [{"function_id": "state::set", "payload": {"scope": scope, "key": f"user:{n}", "value": value}} for n in range(256)]
    times: list[float] = []
    written = 0
    began = 0.0

    async def writer(until: float) -> None:
        nonlocal written, began
        while time.perf_counter() < until:
            await room.acquire()
            if written and in_flight == 1:
                times.append(handled_at - began)
            written += 1
            began = time.perf_counter()
            await engine.trigger(requests[written % len(requests)])

    async def write(seconds: float) -> None:
        until = time.perf_counter() + seconds
        async with asyncio.timeout(seconds + 10):
            await asyncio.gather(*(writer(until) for _ in range(in_flight)))

    await write(seconds / 5)
    times.clear()
    before, clock = handled, Clock([os.getpid()], store_pid)
    clock.start()
    await write(seconds)
    clock.stop()
    done = handled - before
    async with asyncio.timeout(10):
        for _ in range(in_flight):
            await room.acquire()
    return clock.measured(done, times, 0, written - handled)


async def main(settings: Settings) -> list[Line]:
    """All combinations."""
    lines: list[Line] = []
    async with _on_kv(settings.store) as running:
        if settings.triggers:

            async def nothing(event: Any) -> None:
                raise AssertionError("a trigger that must not match has matched")

            running.register_function("bench::nothing", nothing)
            for number in range(settings.triggers):
                key = {"key": f"nobody-writes-this:{number}"}
                config = ({"scope": f"other:{number}"}, {"scope": frames.SCOPE, **key}, key)[number % 3]
                await running.register_trigger({"type": "state", "function_id": "bench::nothing", "config": config})
        for size in settings.sizes:
            for op in settings.ops:
                for count in settings.callers:
                    measured = await calls(running, op, size, count, settings.seconds)
                    lines.append(Line(op=op, size=size, callers=count, measured=measured))
        if settings.events:
            for op, in_flight in (("events", 64), ("event alone", 1)):
                measured = await events(running, 1000, in_flight, settings.seconds * 2)
                lines.append(Line(op=op, size=1000, callers=in_flight, measured=measured))
    return lines


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(main(msgspec.json.decode(sys.argv[1], type=Settings)))))
