"""What looking at one Redis and at a cluster have in common: how a repair joins the fleet, and what is said where nothing is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from iii_state.config import RedisSettings
from iii_state.observe.doctor.findings import Finding

REPAIR_SECONDS = 120.0
"""For so long a repair is waited for: lanes whose handler may still be running wait up to a minute."""


class Repairing(Protocol):
    """An engine's adapter, not started."""

    async def start(self, wake: Callable[[str], None]) -> None: ...

    def repair_soon(self) -> None: ...

    async def stop(self) -> None: ...


async def run_repair(engine: Repairing, is_damaged: Callable[[], Awaitable[bool]]) -> None:
    """Join the fleet as an engine that serves nothing, until nothing is damaged any more: engines put right what they find."""
    await engine.start(lambda subscription_id: None)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REPAIR_SECONDS):
                while await is_damaged():
                    engine.repair_soon()
                    await asyncio.sleep(0.2)
    finally:
        await engine.stop()


def joining(settings: RedisSettings, *, is_watching: bool) -> RedisSettings:
    """The settings of an engine that joins the fleet to repair: it has to agree with the others."""
    return msgspec.structs.replace(settings, foreign_writes=is_watching)


def nothing_there(place: str, prefix: str) -> Finding:
    """No engine has ever begun there."""
    return Finding(
        "warning",
        "nothing-there",
        f"{place} holds nothing of iii-state under the prefix {prefix}",
        "No engine has used it yet, or it has been emptied, or the prefix (adapter.config.prefix) is another one.",
        "Look at the address, and give --prefix",
    )
