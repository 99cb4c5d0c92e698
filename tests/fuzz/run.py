"""Runs of the fuzzers: part by part against engines in processes of their own, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.fuzz import frames, updates
from tests.fuzz.engine import CONFIG, complaints, emptied, redis_config, resident_bytes
from tests.support.engines.processes import EngineProcess, running_engine
from tests.support.redis.server import RedisServer

MIB = 1024 * 1024
GROWTH_BYTES = 24 * MIB
"""So much more memory than after the first quarter an engine may have at the end: allocators keep some of what was used."""

Figures = dict[str, Any]


@dataclass
class Totals:
    """The sums of what parts have counted."""

    parts: int = 0
    figures: Figures = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, figures: Figures) -> None:
        """Count one more part."""
        self.parts += 1
        for name, value in figures.items():
            if name == "problems":
                self.problems += value
            elif name.endswith("MiB"):
                self.figures.setdefault(f"{name} at first", value)
                self.figures[name] = value
            else:
                self.figures[name] = round(self.figures.get(name, 0) + value, 1)


async def fuzz_frames(seed: int, first: int, count: int, part: int, note: Callable[[Figures], None]) -> None:
    """Send so many frames to an engine over kv, in parts from number `first` on; `note` gets the figures of each."""
    parts = -(-count // part)
    if first >= parts:
        return
    with running_engine(config=CONFIG) as engine:
        memory = Memory([engine], parts - first)
        for number in range(first, parts):
            begun = time.monotonic()
            found = await frames.Part(engine.port, f"{seed}:{number}", min(part, count - number * part)).run()
            problems = found.problems + complaints(engine)
            try:
                await emptied(engine)
            except (AssertionError, TimeoutError) as error:
                problems.append(f"{seed}:{number}: what the fuzz left could not be removed: {error!r}")
            problems += memory.look(number - first)
            sizes = {"MiB": resident(engine)}
            if number == parts - 1:
                problems += _stopped(engine)
            seconds = round(time.monotonic() - begun, 1)
            note({**asdict(found), "problems": problems, **sizes, "seconds": seconds})


async def fuzz_op_lists(seed: int, first: int, count: int, part: int, note: Callable[[Figures], None]) -> None:
    """Send so many op lists to an engine over kv and to one over redis, likewise."""
    parts = -(-count // part)
    if first >= parts:
        return
    with (
        RedisServer() as server,
        running_engine(config=CONFIG) as kv,
        running_engine(config=redis_config(server.url)) as redis,
    ):
        callers = [updates.Engine(), updates.Engine()]
        for caller, engine in zip(callers, (kv, redis), strict=True):
            await caller.open(engine.port)
        memory = Memory([kv, redis], parts - first)
        for number in range(first, parts):
            begun = time.monotonic()
            work = updates.Part(callers, f"{seed}:{number}", min(part, count - number * part), server.client)
            found = await work.run()
            problems = found.problems + complaints(kv) + complaints(redis) + memory.look(number - first)
            sizes = {"kv MiB": resident(kv), "redis MiB": resident(redis)}
            if number == parts - 1:
                for caller in callers:
                    await caller.close()
                problems += _stopped(kv) + _stopped(redis)
            seconds = round(time.monotonic() - begun, 1)
            note({**asdict(found), "problems": problems, **sizes, "seconds": seconds})


class Memory:
    """Looks whether the memory of engines stays flat: what they take after the first quarter of a run, and at its end."""

    def __init__(self, engines: list[EngineProcess], parts: int) -> None:
        self._engines = engines
        self._first = max(0, parts // 4 - 1)
        self._last = parts - 1
        self._before: list[int] = []

    def look(self, number: int) -> list[str]:
        """To be called behind part `number` of the run, when nothing is left of it. What is wrong."""
        if number == self._first:
            self._before = [resident_bytes(engine) for engine in self._engines]
        if number != self._last or self._first == self._last:
            return []
        after = [resident_bytes(engine) for engine in self._engines]
        return [
            f"memory grows: {now / MIB:.0f} MiB at the end, {before / MIB:.0f} MiB after the first quarter"
            for before, now in zip(self._before, after, strict=True)
            if now - before > GROWTH_BYTES
        ]


def resident(engine: EngineProcess) -> float:
    """How much memory an engine has, in MiB."""
    return round(resident_bytes(engine) / MIB, 1)


def _stopped(engine: EngineProcess) -> list[str]:
    """Stop an engine; what is wrong with how it ends."""
    try:
        code = engine.stop()
    except TimeoutError as error:
        return [str(error)]
    return [f"the engine ended with {code}", *complaints(engine)] if code else complaints(engine)
