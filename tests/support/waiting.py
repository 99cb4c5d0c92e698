"""Waiting for what a test has to see: bounded, by asking again and again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from iii_state.tasks.results import result_of

T = TypeVar("T")

SECONDS = 30.0
"""How long anything may take that should happen soon. Only a failing test waits this long."""


async def answer_of(answer: Any) -> Any:
    """What a call gives, now or when it has it: `Result[T]` in, T out, which mypy infers in the simplest places only."""
    async with asyncio.timeout(SECONDS):
        return await result_of(answer)


@overload
async def until(holds: Callable[[], Awaitable[T]], what: str | Callable[[], str] = ...) -> T: ...
@overload
async def until(holds: Callable[[], asyncio.Future[T] | T], what: str | Callable[[], str] = ...) -> T: ...
async def until(holds: Callable[[], Any], what: str | Callable[[], str] = "it never came to be") -> Any:
    """Ask until the answer is true, and return it. `what` says, when it never is, what was waited for."""
    give_up = time.monotonic() + SECONDS
    while not (found := await _found(holds())):
        assert time.monotonic() < give_up, what if isinstance(what, str) else what()
        await asyncio.sleep(0.002)
    return found


async def _found(found: Any) -> Any:
    if isinstance(found, Awaitable):
        async with asyncio.timeout(SECONDS):
            return await found
    return found


def wait_until(holds: Callable[[], T], what: str | Callable[[], str], within: float = SECONDS) -> T:
    """The same where no event loop runs.

    Args:
        within: seconds.
    """
    give_up = time.monotonic() + within
    while not (found := holds()):
        assert time.monotonic() < give_up, what if isinstance(what, str) else what()
        time.sleep(0.01)
    return found
