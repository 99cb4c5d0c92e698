"""Moves a queue: its subscription, the events that wait in it in the order of their lanes, planned attempts, and dead letters.

A queue lies in one part or in several, and is divided anew: an event belongs to the part of its scope. What was pending at an
engine is ready again, as after a takeover.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import msgspec

from iii_state.adapters.redis.keys import lane as lane_of
from iii_state.adapters.redis.mutations.route import route_text
from iii_state.events import Subscription
from iii_state.transfer.moving.copying import KeyPlace, entries_of, shifted
from iii_state.transfer.moving.filling import EntryId, Filling, parsed
from iii_state.transfer.moving.finding import Found
from iii_state.transfer.moving.part import Part
from iii_state.transfer.moving.parted import PartedStore

_subscription = msgspec.json.Decoder(Subscription)

EVENT_ITEMS = 6
"""Of an event that waits in a list: write id, scope, key, type, old, new."""

LIST_ITEMS = 100 * EVENT_ITEMS

PLANNED_AT_ONCE = 100

COUNTED = (b"dropped", b"lost")
"""Fields of a subscription that count: their sum is what people see."""

_TYPES = (b"created", b"updated", b"deleted")
_LANE = re.compile(rb"(\d+):")


@dataclass
class QueueMove:
    """The move of one queue.

    Args:
        shifts: milliseconds from the time of a part of the source to that of the target, and those that have passed in it since the
            last heartbeat of any engine.
    """

    queue: bytes
    source: PartedStore
    target: PartedStore
    found: Found
    shifts: dict[int, tuple[int, int]]
    now_ms: int
    """The time of the target."""
    events: int = 0
    skipped: int = 0
    """Entries that were no events."""
    _fillings: dict[int, Filling] = field(default_factory=dict)

    async def run(self) -> None:
        """Move it. What the target has of it from a move that was cut off is replaced."""
        parts = [part for part in self.source.parts if not await self._is_ending(part)]
        await self._clear()
        await self._move_subscription(parts)
        await self._move_planned(parts)
        for filling in self._fillings.values():
            await filling.open()
        await self._move_stream(parts)
        await self._move_waiting(parts)
        await self._move_dead(parts)
        fence = max([await self._fence(part) for part in parts], default=0)
        for filling in self._fillings.values():
            await filling.close(fence)

    async def _is_ending(self, part: Part) -> bool:
        return bool(await part.ask(b"HEXISTS", part.keys.subscription(self.queue), b"ending"))

    async def _clear(self) -> None:
        def names(part: Part) -> tuple[bytes, ...]:
            keys, queue = part.keys, self.queue
            return keys.stream(queue), keys.busy(queue), keys.lineages(queue), keys.dead(queue), keys.subscription(queue)

        await asyncio.gather(*(part.ask(b"UNLINK", *names(part)) for part in self.target.parts))

    def _filling(self, scope: bytes) -> Filling:
        part = self.target.of(scope)
        if part.number not in self._fillings:
            self._fillings[part.number] = Filling(part, self.queue)
        return self._fillings[part.number]

    # -- the subscription

    async def _move_subscription(self, parts: Sequence[Part]) -> None:
        held: dict[bytes, bytes] = {}
        counts: Counter[bytes] = Counter()
        left: list[int] = []
        for part in parts:
            fields = await part.ask(b"HGETALL", part.keys.subscription(self.queue))
            told = dict(zip(fields[::2], fields[1::2], strict=True))
            counts.update({name: int(told.pop(name)) for name in COUNTED if name in told})
            held = {**told, **held}
            if b"retention" in told:
                ends_at = await part.ask(b"ZSCORE", part.keys.orphans, self.queue)
                shift, passed = self.shifts[part.number]
                left.append(int(told[b"retention"]) if ends_at is None else int(float(ends_at)) + shift + passed - self.now_ms)
        if b"settings" not in held:
            return
        held = {name: text for name, text in held.items() if not name.startswith(b"at:")}
        subscription = _subscription.decode(held[b"settings"])
        route = next(
            (routes[self.queue] for routes in self.found.routes.values() if self.queue in routes), route_text(subscription)
        )
        targets = self.target.parts if subscription.scope is None else [self.target.of(subscription.scope.encode())]
        for number, part in enumerate(targets):
            self._fillings[part.number] = Filling(part, self.queue)
            fields = [word for pair in held.items() for word in pair]
            if number == 0:
                fields += [word for name, count in counts.items() for word in (name, b"%d" % count)]
            commands = [
                (b"HSET", part.keys.subscription(self.queue), *fields),
                (b"HSET", part.keys.routes, self.queue, route),
            ]
            if left:
                commands.append((b"ZADD", part.keys.orphans, b"%d" % (self.now_ms + max(left)), self.queue))
            await part.all(commands)

    # -- events

    async def _move_planned(self, parts: Sequence[Part]) -> None:
        """They come first: what a group has handed out lies before what it has not."""
        planned = [
            (parsed(entry_id), part, entry_id, due)
            for part in parts
            for entry_id, due in self.found.planned.get((part.number, self.queue), {}).items()
        ]
        planned.sort(key=lambda each: each[:1])
        for start in range(0, len(planned), PLANNED_AT_ONCE):
            for wanted, part, entry_id, due in planned[start : start + PLANNED_AT_ONCE]:
                entries = await part.ask(b"XRANGE", part.keys.stream(self.queue), entry_id, entry_id)
                if not entries or not self._is_event(entries[0][1]):
                    continue
                filling = self._filling(entries[0][1][3])
                new_id = await filling.append(wanted, entries[0][1])
                member = b"%b:%b" % (self.queue, new_id)
                await filling.add(b"ZADD", filling.part.keys.later, shifted(due, self.shifts[part.number][0]), member)
                self.events += 1

    async def _move_stream(self, parts: Sequence[Part]) -> None:
        async for part, wanted, entry_id, fields in merged(parts, self.queue, is_dead=False):
            if entry_id in self.found.planned.get((part.number, self.queue), {}):
                continue
            if not self._is_event(fields):
                self.skipped += 1
                continue
            filling = self._filling(fields[3])
            await filling.open()
            await filling.append(wanted, fields)
            self.events += 1

    async def _move_waiting(self, parts: Sequence[Part]) -> None:
        for part in parts:
            for lane in self.found.lanes.get((part.number, self.queue), ()):
                await self._move_lane(part, lane)

    async def _move_lane(self, part: Part, lane: bytes) -> None:
        source, filling = part.keys.wait(self.queue, lane), None
        start = 0
        while True:
            items = await part.ask(b"LRANGE", source, b"%d" % start, b"%d" % (start + LIST_ITEMS - 1))
            if not items:
                return
            if filling is None:
                filling = self._filling(_scope_of(lane, items))
                await filling.open()
                await filling.add(b"UNLINK", filling.part.keys.wait(self.queue, lane))
            self.events += len(items) // EVENT_ITEMS
            await filling.wait(lane, items, await self._lineages(part, items[::EVENT_ITEMS]))
            start += len(items)

    async def _lineages(self, part: Part, write_ids: Sequence[bytes]) -> dict[bytes, bytes]:
        kept = [write_id for write_id in write_ids if write_id.startswith(b"+")]
        if not kept:
            return {}
        told = await part.ask(b"HMGET", part.keys.lineages(self.queue), *kept)
        return {write_id: text for write_id, text in zip(kept, told, strict=True) if text is not None}

    async def _move_dead(self, parts: Sequence[Part]) -> None:
        async for _, wanted, _, fields in merged(parts, self.queue, is_dead=True):
            if len(fields) < 4:
                self.skipped += 1
                continue
            await self._filling(fields[3]).bury(wanted, fields)

    async def _fence(self, part: Part) -> int:
        fence = int(await part.ask(b"HGET", part.keys.busy(self.queue), b"fence") or 0)
        if not await part.ask(b"EXISTS", part.keys.stream(self.queue)):
            return fence
        for group in await part.ask(b"XINFO", b"GROUPS", part.keys.stream(self.queue)):
            if dict(zip(group[::2], group[1::2], strict=True))[b"pending"]:
                return fence + 1  # a handler may have begun with one of them
        return fence

    @staticmethod
    def _is_event(fields: Sequence[bytes]) -> bool:
        return len(fields) >= 2 * EVENT_ITEMS and fields[0] == b"w" and fields[7] in _TYPES


def _scope_of(lane: bytes, items: Sequence[bytes]) -> bytes:
    """The scope of a lane in which these wait: where the lane is named by a hash, or not as it should be, theirs."""
    for start in range(0, len(items) - EVENT_ITEMS + 1, EVENT_ITEMS):
        _, scope, key = items[start : start + 3]
        if lane_of(scope, key) == lane:
            return scope
    length = _LANE.match(lane)
    return lane[length.end() :][: int(length[1])] if length is not None else b""


async def merged(parts: Sequence[Part], queue: bytes, *, is_dead: bool) -> AsyncIterator[tuple[Part, EntryId, bytes, list[bytes]]]:
    """The entries of a queue's streams, or of its dead letters, in all parts in the order of their ids."""
    waiting: list[tuple[EntryId, int, bytes, list[bytes]]] = []
    pages = [entries_of(KeyPlace(part, part.keys.dead(queue) if is_dead else part.keys.stream(queue))) for part in parts]
    read: list[list[tuple[bytes, list[bytes]]]] = [[] for _ in parts]

    async def following(number: int) -> None:
        if not read[number]:
            page = await anext(pages[number], None)
            read[number] = list(reversed(page or ()))
        if read[number]:
            entry_id, fields = read[number].pop()
            waiting.append((parsed(entry_id), number, entry_id, fields))

    for number in range(len(parts)):
        await following(number)
    while waiting:
        first = min(waiting, key=lambda each: each[:2])
        waiting.remove(first)
        wanted, number, entry_id, fields = first
        yield parts[number], wanted, entry_id, fields
        await following(number)
