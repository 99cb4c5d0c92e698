"""The wall clock of the process that keeps deadlines, set ahead and back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.clock import Clock, compile_shim
from tests.torture.journal import Journal

SECONDS_PER_SECOND = 1000
"""A clock that is set for n seconds is set by so many times as much: by half an hour and more."""


def clock_in(directory: Path) -> Clock | None:
    """A clock that can be set; None where there is no compiler to make one."""
    try:
        return Clock(compile_shim(directory), directory / "clock-shift")
    except pytest.skip.Exception:
        return None


async def set_for_a_while(clock: Clock | None, verb: str, seconds: float, journal: Journal | None) -> None:
    """Set it `ahead` or `back`, and after so many seconds right again. The journal is told, where deadlines follow the clock."""
    if clock is None:
        return
    for shift in (seconds * SECONDS_PER_SECOND * (1 if verb == "ahead" else -1), 0.0):
        if journal is not None:
            journal.note(ahead=shift)
        clock.set(shift)
        await asyncio.sleep(seconds if shift else 0)
