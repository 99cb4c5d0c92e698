"""The queues in a Redis, or a Redis Cluster, on which no engine runs, read part by part as `iii-state move` reads them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import msgspec

from iii_state import lineages
from iii_state.adapters.redis.mutations.foreign_text import check_event
from iii_state.adapters.redis.scripts.queues import event_of, taken
from iii_state.adapters.wall_clock import now_ms
from iii_state.errors import TransferError
from iii_state.events import Change, EventType, Subscription
from iii_state.transfer.moving.clocks import fleet_now
from iii_state.transfer.moving.finding import Found, find, pairs
from iii_state.transfer.moving.part import Part
from iii_state.transfer.moving.parted import PartedStore
from iii_state.transfer.moving.queues import EVENT_ITEMS, LIST_ITEMS, merged
from iii_state.transfer.queues.rows import BuriedEvent, QueuedEvent, QueueHead, QueueItem

_subscription = msgspec.json.Decoder(Subscription)
_TYPES: dict[bytes, EventType] = {b"created": "state:created", b"updated": "state:updated", b"deleted": "state:deleted"}


class RedisQueueSource:
    """See `rows.QueueSource`."""

    def __init__(self, store: PartedStore) -> None:
        self._store = store
        self._found = Found()
        self._shifts: dict[int, int] = {}
        self.left_out = 0
        self.skipped = 0

    async def items(self) -> AsyncIterator[QueueItem]:
        store = self._store
        await store.refuse_living()
        clocks = await self._clocks()
        self._found = await find(store)
        for part in store.parts:
            now, _ = await fleet_now(part)
            self._shifts[part.number] = now_ms() - now
        paused = dict(await pairs(store.parts[0], b"HSCAN", store.parts[0].keys.paused))
        for queue in sorted(self._found.queues):
            if b"-" in queue:  # of one engine
                self.left_out += 1
                continue
            async for item in self._items_of(queue, paused.get(queue)):
                yield item
        await store.refuse_living()
        if await self._clocks() != clocks:
            raise TransferError(f"an engine has run on the {store.name} meanwhile: its queues are not what they were; export anew")

    async def _clocks(self) -> list[bytes | None]:
        return [await part.ask(b"HGET", part.keys.clock, b"last") for part in self._store.parts]

    async def _items_of(self, queue: bytes, paused: bytes | None) -> AsyncIterator[QueueItem]:
        head, parts = await self._head(queue, paused)
        if head.subscription is not None and head.subscription.delivery == "broadcast":
            self.left_out += 1
            return
        is_told = head.subscription is not None
        if is_told:
            yield head
            async for event in self._events(queue, parts):
                yield event
        async for dead in self._dead(queue):
            if not is_told:
                is_told = True
                yield head
            yield dead

    async def _head(self, queue: bytes, paused: bytes | None) -> tuple[QueueHead, list[Part]]:
        subscription, dropped, fence, parts = None, 0, 0, []
        for part in self._store.parts:
            fields = await part.ask(b"HGETALL", part.keys.subscription(queue))
            held = dict(zip(fields[::2], fields[1::2], strict=True))
            if b"settings" not in held or b"ending" in held:
                continue
            subscription = subscription or _subscription.decode(held[b"settings"])
            dropped += int(held.get(b"dropped", 0)) + int(held.get(b"lost", 0))
            fence = max(fence, int(await part.ask(b"HGET", part.keys.busy(queue), b"fence") or 0) + 1)
            parts.append(part)
        since = None if paused is None else int(paused.partition(b" ")[0])
        return QueueHead(queue.decode(), subscription, dropped, since, fence), parts

    async def _events(self, queue: bytes, parts: Sequence[Part]) -> AsyncIterator[QueuedEvent]:
        for part in parts:
            for entry_id, due in self._found.planned.get((part.number, queue), {}).items():
                for found in await part.ask(b"XRANGE", part.keys.stream(queue), entry_id, entry_id):
                    if (event := self._event(found)) is None:
                        continue
                    crashed = float(due) % 1 != 0
                    attempt, crashes = event.attempt + (not crashed), event.crashes + crashed
                    yield QueuedEvent(event.event, attempt, crashes, int(float(due)) + self._shifts[part.number])
        async for part, _, entry_id, fields in merged(parts, queue, is_dead=False):
            if entry_id in self._found.planned.get((part.number, queue), {}):
                continue
            if (event := self._event((entry_id, fields))) is not None:
                yield event
        for part in parts:
            for lane in self._found.lanes.get((part.number, queue), ()):
                async for event in self._waiting(part, queue, part.keys.wait(queue, lane)):
                    yield event

    def _event(self, entry: tuple[bytes, list[bytes]]) -> QueuedEvent | None:
        deliveries, _ = taken([[entry], 0], "")
        if not deliveries:
            self.skipped += 1
            return None
        check_event(deliveries[0].event)
        return QueuedEvent(deliveries[0].event, deliveries[0].attempt, deliveries[0].crashes)

    async def _waiting(self, part: Part, queue: bytes, name: bytes) -> AsyncIterator[QueuedEvent]:
        start = 0
        while items := await part.ask(b"LRANGE", name, b"%d" % start, b"%d" % (start + LIST_ITEMS - 1)):
            start += len(items)
            kept = [write_id for write_id in items[::EVENT_ITEMS] if write_id.startswith(b"+")]
            told = await part.ask(b"HMGET", part.keys.lineages(queue), *kept) if kept else []
            lineage_of = dict(zip(kept, told, strict=True))
            for at in range(0, len(items), EVENT_ITEMS):
                try:
                    write_id, scope, key, event_type, old, new = items[at : at + EVENT_ITEMS]
                    event = Change(write_id.decode(), scope.decode(), key.decode(), _TYPES[event_type], old or None, new or None)
                except (ValueError, KeyError):
                    self.skipped += 1
                    continue
                if text := lineage_of.get(write_id):
                    event.lineage = lineages.decode(text)
                check_event(event)
                yield QueuedEvent(event)

    async def _dead(self, queue: bytes) -> AsyncIterator[BuriedEvent]:
        async for part, (entry_ms, _), _, fields in merged(self._store.parts, queue, is_dead=True):
            try:
                event = event_of(fields)
                attempts, error, function_id = int(fields[13]), fields[15].decode(), fields[17].decode()
                at = int(fields[19]) + self._shifts[part.number] if len(fields) > 19 else entry_ms
            except (ValueError, IndexError):
                self.skipped += 1
                continue
            check_event(event)
            yield BuriedEvent(event, function_id, attempts, error, at)
