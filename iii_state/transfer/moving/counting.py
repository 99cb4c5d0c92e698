"""Counts what a store holds, of each kind, so that what was moved can be compared with what there was."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass, fields

from iii_state.transfer.moving.finding import Found
from iii_state.transfer.moving.part import Part
from iii_state.transfer.moving.parted import PartedStore

SCOPES_AT_ONCE = 1000
QUEUES_AT_ONCE = 100
EVENT_ITEMS = 6


@dataclass
class StoreCount:
    """How much a store holds."""

    scopes: int = 0
    values: int = 0
    deadlines: int = 0
    changes: int = 0
    """In change logs."""
    subscriptions: int = 0
    events: int = 0
    """That wait or were being handled, planned ones included."""
    planned: int = 0
    dead_letters: int = 0

    def as_dict(self) -> dict[str, int]:
        """By name."""
        return asdict(self)

    def differences(self, other: StoreCount) -> list[str]:
        """What is not the same, in words."""
        pairs = ((each.name, getattr(self, each.name), getattr(other, each.name)) for each in fields(self))
        return [f"{name.replace('_', ' ')}: {before} and {after}" for name, before, after in pairs if before != after]


async def count(store: PartedStore, found: Found) -> StoreCount:
    """Count it. Raises `StoreError`."""
    holding = StoreCount()
    scopes = sorted(found.scopes)
    for start in range(0, len(scopes), SCOPES_AT_ONCE):
        by_part: dict[int, list[bytes]] = {}
        for scope in scopes[start : start + SCOPES_AT_ONCE]:
            by_part.setdefault(store.of(scope).number, []).append(scope)
        await asyncio.gather(*(_count_scopes(store.parts[number], names, holding) for number, names in by_part.items()))
    queues = sorted(found.queues)
    for start in range(0, len(queues), QUEUES_AT_ONCE):
        await asyncio.gather(*(_count_queue(store, found, queue, holding) for queue in queues[start : start + QUEUES_AT_ONCE]))
    return holding


async def _count_scopes(part: Part, scopes: list[bytes], holding: StoreCount) -> None:
    keys = part.keys
    told = await part.all(
        [
            command
            for scope in scopes
            for command in (
                (b"HLEN", keys.values(scope)),
                (b"ZCARD", keys.deadlines_of(scope)),
                (b"XLEN", keys.history(scope)),
            )
        ]
    )
    holding.scopes += sum(count > 0 for count in told[::3])
    holding.values += sum(told[::3])
    holding.deadlines += sum(told[1::3])
    holding.changes += sum(told[2::3])


async def _count_queue(store: PartedStore, found: Found, queue: bytes, holding: StoreCount) -> None:
    told = await asyncio.gather(*(_count_part(part, found, queue) for part in store.parts))
    holding.subscriptions += any(each[0] for each in told)
    holding.events += sum(each[1] for each in told)
    holding.planned += sum(each[2] for each in told)
    holding.dead_letters += sum(each[3] for each in told)


async def _count_part(part: Part, found: Found, queue: bytes) -> tuple[bool, int, int, int]:
    keys = part.keys
    is_ending, is_there, ready, dead, *waiting = await part.all(
        [
            (b"HEXISTS", keys.subscription(queue), b"ending"),
            (b"HEXISTS", keys.subscription(queue), b"settings"),
            (b"XLEN", keys.stream(queue)),
            (b"XLEN", keys.dead(queue)),
            *((b"LLEN", keys.wait(queue, lane)) for lane in found.lanes.get((part.number, queue), ())),
        ]
    )
    if is_ending:
        return False, 0, 0, 0
    planned = len(found.planned.get((part.number, queue), {}))
    return bool(is_there), ready + sum(length // EVENT_ITEMS for length in waiting), planned, dead
