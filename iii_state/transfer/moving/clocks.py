"""The time in a part of a store: by its server, and by the fleet."""

from __future__ import annotations

from iii_state.transfer.moving.part import Part


async def redis_now(part: Part) -> int:
    """The time by the clock of its server, in milliseconds since 1970."""
    seconds, microseconds = await part.ask(b"TIME")
    return int(seconds) * 1000 + int(microseconds) // 1000


async def fleet_now(part: Part) -> tuple[int, int]:
    """The time of the fleet there, and how many milliseconds no engine has lived."""
    offset, last = await part.ask(b"HMGET", part.keys.clock, b"offset", b"last")
    now = await redis_now(part)
    if offset is None or last is None:
        return now, 0
    return now + int(offset), max(0, now - int(last))
