"""Millions of calls by raw clients, on WebSocket frames made by hand, while engines, stores and connections are hurt.

Each client stays with one engine and has counters of its own, of which each has one call under way. So a part of ten million calls
is checked as a stream: `counting` says how. Engines that are never hurt tell whether memory grows.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter as Tally
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from benchmarks import frames
from benchmarks.sockets import Socket, connect

from tests.torture.arena import Arena
from tests.torture.counting import Counter
from tests.torture.journal import Journal
from tests.torture.memory import Memory, resident_bytes
from tests.torture.parts import Tell
from tests.torture.plan import PLANS, Plan, PlannedFault, faults
from tests.torture.writes import outcome_of

CLIENTS = 8
COUNTERS = 32
"""Of each client, so many calls are under way at a time."""

READ_SHARE = 5
"""Every so manieth call of a counter is a read."""

SILENCE_SECONDS = 40.0
"""A call that is not answered for so long on a connection that is there is a problem: every limit is shorter."""

CALM_SECONDS = (1.0, 5.0)
"""Between two faults."""

SAMPLE_SECONDS = 1.0
MOST_PROBLEMS = 50
SPARED = {"redis": 1, "cluster": 1, "kv": 1, "bridge": 1, "attach": 0}
"""So many engines, the last ones, are never hurt themselves."""


def raw_plan(adapter: str) -> Plan:
    """Who is there, and what is done to whom: no workers; of kv one engine more, with a store of its own."""
    plan = PLANS[adapter]
    kinds = {
        name: kind for name, kind in plan.kinds.items() if kind.group not in ("worker", "away", "key") and "all" not in kind.verb
    }
    kinds = {name: kind for name, kind in kinds.items() if kind.verb != "kill two"}
    if adapter == "kv":
        return replace(plan, engines=2, groups={**plan.groups, "connection": 4}, workers={}, kinds=kinds)
    return replace(plan, workers={}, kinds=kinds)


class Answer(msgspec.Struct):
    """What is read of an answer."""

    type: str
    invocation_id: str = ""
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: dict[str, Any] | None = None


class Numbered(msgspec.Struct):
    """A counter's value."""

    n: int


class Raised(msgspec.Struct):
    """The result of an update of a counter."""

    new_value: Numbered


_answer = msgspec.json.Decoder(Answer)
_raised = msgspec.json.Decoder(Raised)
_value = msgspec.json.Decoder(Numbered | None)


class Count:
    """What all clients of a part have done together."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.answered = 0
        self.outcomes: Tally[str] = Tally()
        self.connections = 0
        self.problems: list[str] = []

    @property
    def is_done(self) -> bool:
        """Whether there have been enough, or too many problems."""
        return self.answered >= self.wanted or len(self.problems) >= MOST_PROBLEMS


class Client(Socket):
    """One connection of a client; every answer makes the next call."""

    def __init__(self, host: str, name: str, counters: list[Counter], count: Count) -> None:
        super().__init__(host)
        self._name = name
        self._counters = counters
        self._count = count
        self._open: dict[int, bool] = {}
        """Of each counter whose call is under way, whether that raises it."""
        self._turns = 0
        self.heard = time.monotonic()

    def begin(self) -> None:
        """Call for every counter; first of all, read it: what became of the calls of an earlier connection shows then."""
        for number in range(len(self._counters)):
            self._call(number, raises=False)

    def _call(self, number: int, *, raises: bool) -> None:
        place = f'{{"scope":"{self._name}","key":"{number}"'
        if raises:
            data = f'{place},"ops":[{{"type":"increment","path":"n","by":1}},{{"type":"set","path":"w","value":{self._turns}}}]}}'
            text = frames.call("state::update", data, str(number))
        else:
            text = frames.call("state::get", place + "}", str(number))
        self._open[number] = raises
        self.transport.write(frames.client_frame(text))

    def message(self, text: bytes) -> None:
        answer = _answer.decode(text)
        if answer.type != "invocationresult":
            return
        now = self.heard = time.monotonic()
        number = int(answer.invocation_id)
        raised = self._open.pop(number)
        counter = self._counters[number]
        count = self._count
        count.answered += 1
        outcome, wrong = "ok", ""
        if answer.error is not None:
            code = str(answer.error.get("code"))
            outcome = outcome_of(code) if raised else "refused"
            if outcome != "refused":
                counter.lost_sight(now)
            count.outcomes[f"{outcome}: {code}"] += 1
        elif raised:
            wrong = counter.raised(_raised.decode(answer.result).new_value.n, now)
        else:
            value = _value.decode(answer.result)
            wrong = counter.read(0 if value is None else value.n, now)
        count.outcomes[outcome] += 1
        if wrong:
            count.problems.append(f"{wrong} ({self._name}/{number})")
        if not count.is_done:
            self._turns += 1
            self._call(number, raises=outcome == "ok" and self._turns % READ_SHARE != 0)

    def leave(self) -> None:
        """The connection is over: nothing is known of what is under way."""
        now = time.monotonic()
        for number, raises in self._open.items():
            if raises:
                self._counters[number].lost_sight(now)
                self._count.outcomes["unanswered"] += 1
        self._open.clear()
        self.transport.abort()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._open


async def _keep_calling(url: str, name: str, counters: list[Counter], count: Count) -> None:
    while not count.is_done:
        try:
            client = await connect(url, lambda host: Client(host, name, counters, count))  # type: ignore[arg-type]
        except (OSError, TimeoutError):
            await asyncio.sleep(0.1)
            continue
        count.connections += 1
        client.begin()
        while not client.closed and not (count.is_done and client.is_idle):
            await asyncio.sleep(0.05)
            if time.monotonic() - client.heard > SILENCE_SECONDS:
                count.problems.append(
                    f"no answer: {name} has heard nothing for {SILENCE_SECONDS:.0f} s on a connection that is there"
                )
                break
        client.leave()
        # What the connection had carried reaches its engine, or is gone with it, before it is asked.
        await asyncio.sleep(0.05)


async def _look(url: str, name: str, counters: list[Counter], count: Count) -> None:
    """Read every counter once more, when everything is healed."""
    give_up = time.monotonic() + SILENCE_SECONDS
    for number, counter in enumerate(counters):
        while True:
            try:
                socket = await connect(url, Socket)
                text = await socket.ask("state::get", f'{{"scope":"{name}","key":"{number}"}}')
                socket.transport.abort()
                break
            except (OSError, TimeoutError, ValueError):
                if time.monotonic() > give_up:
                    raise
                await asyncio.sleep(0.2)
        value = _value.decode(_answer.decode(text).result)
        if wrong := counter.read(0 if value is None else value.n, time.monotonic()):
            count.problems.append(f"{wrong} at the end ({name}/{number})")


async def raw(adapter: str, seed: int, calls: int, directory: Path, tell: Tell) -> dict[str, Any]:
    """Make so many calls under faults, and check them. The figures, with `problems`."""
    plan = raw_plan(adapter)
    count, memory = Count(calls), Memory()
    journal = Journal(directory / "run.jsonl")
    counters: dict[tuple[str, str], list[Counter]] = {}
    begun = time.monotonic()
    async with Arena(plan, seed, directory, journal) as arena:
        for number in range(CLIENTS):
            url = arena.writer_urls[number % len(arena.writer_urls)]
            counters[url, f"raw-{seed}-{number}"] = [Counter() for _ in range(COUNTERS)]
        async with asyncio.TaskGroup() as tasks:
            others = [tasks.create_task(_hurt(arena, seed, count)), tasks.create_task(_watch(arena, memory, count, tell))]
            callers = [tasks.create_task(_keep_calling(*place, held, count)) for place, held in counters.items()]
            await asyncio.wait(callers)
            took = time.monotonic() - begun
            await asyncio.wait(others)
        for place, held in counters.items():
            await _look(*place, held, count)
        tracebacks = [found for seat in arena.seats for found in seat.tracebacks[:1]]
    journal.close()
    all_counters = [counter for held in counters.values() for counter in held]
    return {
        "adapter": adapter,
        "seed": seed,
        "calls": count.answered,
        "calls_per_second": round(count.answered / took),
        "outcomes": dict(sorted(count.outcomes.items())),
        "connections": count.connections,
        "unknown_and_made": sum(counter.resolved_as_made for counter in all_counters),
        "unknown_and_not_made": sum(counter.resolved_as_not_made + counter.unsure for counter in all_counters),
        "faults": dict(Tally(_kinds(directory))),
        "memory_mb": memory.figures(),
        "problems": count.problems + tracebacks + memory.problems(),
    }


def _kinds(directory: Path) -> list[str]:
    from tests.torture import journal

    return sorted(note["fault"] for note in journal.read(directory / "run.jsonl") if "fault" in note)


async def _hurt(arena: Arena, seed: int, count: Count) -> None:
    """Inflict one fault after the other until the calls have been made, the last ones of each group spared."""
    chance = random.Random(f"raw {seed}")
    round_number = 0
    while not count.is_done:
        round_number += 1
        for fault in faults(seed * 1000 + round_number, 60, arena.plan):
            if count.is_done:
                return
            if not _is_spared(fault, arena.plan):
                await arena.inflict(fault)
                await asyncio.sleep(chance.uniform(*CALM_SECONDS))


def _is_spared(fault: PlannedFault, plan: Plan) -> bool:
    """Whether it is meant for a process that is to live through it all."""
    kind = plan.kinds[fault.kind]
    spared = SPARED[plan.adapter] if kind.group == "engine" else 1 if kind.group == "attached" else 0
    return spared > 0 and fault.target >= plan.targets(kind.group) - spared


async def _watch(arena: Arena, memory: Memory, count: Count, tell: Tell) -> None:
    """Take samples of memory, until the calls have been made."""
    while not count.is_done:
        await asyncio.sleep(SAMPLE_SECONDS)
        tell(f"{count.answered:,} of {count.wanted:,} calls, {len(count.problems)} problems")
        for seat in arena.seats:
            memory.add(seat.name, resident_bytes(seat.running.process.pid))
        if arena.redis is not None:
            with contextlib.suppress(Exception):  # it may be away just now
                used = await asyncio.to_thread(lambda: arena.redis.client.info("memory")["used_memory"])  # type: ignore[union-attr]
                memory.add("redis used_memory", used)
