"""One run: writers write, handlers handle, faults are inflicted; then everything comes to rest, and the verdict is given."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.torture.arena import Arena
from tests.torture.check import Verdict, check
from tests.torture.ending import NotSettled, bring_to_rest, note_dead_letters, note_what_there_is, until_settled
from tests.torture.history import History, load
from tests.torture.journal import Journal
from tests.torture.looks import EngineLook, Look, RedisLook
from tests.torture.meddling import counted_as_lost, write_as_another_program, writing_to
from tests.torture.plan import PLANS, PlannedFault, faults
from tests.torture.subscriptions import SPECS
from tests.torture.writers import Caller, EmbeddedCaller, SocketCaller, write_until
from tests.torture.writes import HURT, OUTSIDE, SCOPES, Source

SOCKET_WRITERS = 6
EMBEDDED_WRITERS = 2
READY_SECONDS = 60.0
REST_SECONDS = 120.0


@dataclass
class Outcome:
    """What a run has come to."""

    history: History
    verdict: Verdict


async def run(adapter: str, seed: int, seconds: float, directory: Path, tell: Callable[[str], None] = lambda what: None) -> Outcome:
    """Torture for so many seconds; the journals lie in `directory`. `tell` hears what is going on."""
    journal = Journal(directory / "run.jsonl")
    trouble = await _hurt(adapter, seed, seconds, directory, journal, tell)
    tell("checking the histories")
    history = await asyncio.to_thread(load, directory)
    verdict = await asyncio.to_thread(check, history, SPECS[adapter])
    verdict.problems[:0] = trouble
    journal.close()
    return Outcome(history, verdict)


async def _hurt(
    adapter: str, seed: int, seconds: float, directory: Path, journal: Journal, tell: Callable[[str], None]
) -> list[str]:
    tell("starting engines and workers")
    trouble: list[str] = []
    async with AsyncExitStack() as stack:
        arena = await stack.enter_async_context(Arena(PLANS[adapter], seed, directory, journal))
        callers = [SocketCaller([url], 0, "look") for url in arena.writer_urls]
        for caller in callers:
            stack.push_async_callback(caller.close)
        through_engine = EngineLook(arena.plan, callers)
        look: Look = RedisLook(arena.plan, arena.redis.client) if arena.redis and arena.own else through_engine
        try:
            await until_settled(look.not_hosted, READY_SECONDS)
            async with writing(arena, seed, directory):
                await arena.start_sdk_writers()
                await _inflict(arena, faults(seed, seconds, PLANS[adapter]), seconds, tell)
                await arena.stop_sdk_writers()
            tell("everything is healed; waiting until it has come to rest")
            await rest(arena, look, directory)
        except NotSettled as error:
            trouble.append(f"not at rest {error}")
        await note_what_there_is(look, journal)
        await note_dead_letters(through_engine, journal)
        for function_id, count in (await asyncio.to_thread(_lost_in, arena)).items():
            journal.note(subscription=function_id.partition("::")[2], lost=count)
        for seat in arena.seats:
            trouble += seat.tracebacks[:1]
    return trouble


def _lost_in(arena: Arena) -> dict[str, int]:
    """Of each function, how many of its events the engines say are lost, where damage is done."""
    if HURT not in SCOPES[arena.plan.adapter]:
        return {}
    return arena.nodes.counted_as_lost() if arena.redis is None else counted_as_lost(arena.redis.client)


@asynccontextmanager
async def writing(arena: Arena, seed: int, directory: Path, prefix: str = "w") -> AsyncIterator[None]:
    """Writers in this process write for the length of a block; at its end each of their writes has been answered, or given up."""
    stopped = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for number in range(SOCKET_WRITERS + EMBEDDED_WRITERS):
            name = f"{prefix}{number}"
            embedded = number >= SOCKET_WRITERS and arena.own is not None
            caller: Caller = EmbeddedCaller(arena.own) if embedded and arena.own else SocketCaller(arena.writer_urls, number, name)
            journal = Journal(directory / f"writes-{name}.jsonl")
            tasks.create_task(write_until(stopped, Source(seed, name, arena.plan.adapter), caller, journal))
        if OUTSIDE in SCOPES[arena.plan.adapter] and not arena.replicated:
            write = arena.nodes.write if arena.redis is None else writing_to(arena.redis.port)
            tasks.create_task(write_as_another_program(stopped, write, seed, directory))
        try:
            yield
        finally:
            stopped.set()


async def rest(arena: Arena, look: Look, directory: Path) -> None:
    """Wait until everything has come to rest, as `bring_to_rest` does, with writes through every engine."""
    callers: list[Caller] = [EmbeddedCaller(arena.own)] if arena.own else []
    callers += [SocketCaller([url], 0, "end") for url in arena.writer_urls]
    end = Journal(directory / "writes-end.jsonl")
    try:
        await bring_to_rest(look, SCOPES[arena.plan.adapter], callers, end, REST_SECONDS)
    finally:
        for caller in callers:
            await caller.close()
        end.close()


async def _inflict(arena: Arena, planned: list[PlannedFault], seconds: float, tell: Callable[[str], None]) -> None:
    """Inflict what is planned, each when it is due; returns when all is healed and the time is over."""
    begun = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for fault in planned:
            await asyncio.sleep(max(0.0, begun + fault.at - time.monotonic()))
            tell(f"{time.monotonic() - begun:.0f} s: {fault.kind} {fault.target}")
            tasks.create_task(arena.inflict(fault))
    await asyncio.sleep(max(0.0, begun + seconds - time.monotonic()))
