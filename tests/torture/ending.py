"""The end of a run: everything is healed, every key is written once more, every queue runs dry."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from tests.torture.journal import Journal
from tests.torture.looks import EngineLook, Look
from tests.torture.writers import Caller, write_once
from tests.torture.writes import COUNTERS, FADING, MAIN, MIXED, OTHER_KEYS, Op, seen

FADED_MS = 300


class NotSettled(Exception):
    """The system has not come to rest; the message says what is missing."""


async def until_settled(missing: Callable[[], Awaitable[str]], within: float) -> None:
    """Wait until nothing is missing. Raises `NotSettled` if that takes too long."""
    give_up = time.monotonic() + within
    while what := await missing():
        if time.monotonic() > give_up:
            raise NotSettled(f"after {within:.0f} s: {what}")
        await asyncio.sleep(0.1)


async def bring_to_rest(look: Look, scopes: tuple[str, ...], callers: list[Caller], journal: Journal, within: float) -> None:
    """Wait for all triggers and queues, write each key once more, wait for all queues. Raises `NotSettled`.

    What has deadlines is gone then.
    """
    await until_settled(look.not_hosted, within)
    await until_settled(look.not_empty, within)
    places = [(MAIN, key) for key in (*COUNTERS, *MIXED)]
    places += [(scope, key) for scope, keys in OTHER_KEYS.items() if scope in scopes for key in keys]
    for number, (scope, key) in enumerate(places):
        for again, caller in enumerate(callers):  # through each, which also waits for whatever it still had to send
            give_up, tries = time.monotonic() + within, 0
            while True:
                tries += 1
                op = Op(f"end.{number}.{again}.{tries}", "increment", scope, key, ttl_ms=FADED_MS if scope == FADING else 0)
                outcome = await write_once(op, caller, journal)
                if outcome != "refused" or time.monotonic() > give_up:
                    break
                await asyncio.sleep(0.1)  # a queue of large values may be full for a moment
            if outcome != "ok":
                raise NotSettled(f"a write of {scope}/{key} in the end, through {caller}, has failed")

    async def not_faded() -> str:
        there = [f"{scope}/{key}" for scope, key, _ in await look.values() if scope == FADING]
        return f"{there} should be gone" if there else ""

    await until_settled(not_faded, within)
    await until_settled(look.not_empty, within)


async def note_what_there_is(look: Look, run: Journal) -> None:
    """Note the values, and what should not be there any more."""
    for what in await look.left():
        run.note(left=what)
    for scope, key, value in await look.values():
        run.note(scope=scope, key=key, final=value)


async def note_dead_letters(look: EngineLook, run: Journal) -> None:
    """Note the dead letters."""
    for letter in await look.dead():
        event = {name: seen(letter["event"][name]) for name in ("old_value", "new_value")}
        place = {"scope": letter["scope"], "key": letter["key"]}
        run.note(dead=letter["function_id"], error=letter["error"], **place, **event)
