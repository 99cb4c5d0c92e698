"""The queues of a Redis, or a Redis Cluster, on which no engine runs, filled as `iii-state move` fills them."""

from __future__ import annotations

import msgspec

from iii_state import lineages, values
from iii_state.adapters.redis.connection.checks import MOVING
from iii_state.adapters.redis.keys import lane as lane_of
from iii_state.adapters.redis.mutations.route import route_text
from iii_state.adapters.wall_clock import now_ms
from iii_state.errors import TransferError
from iii_state.events import FOREVER, Change
from iii_state.transfer.moving.clocks import fleet_now
from iii_state.transfer.moving.filling import Filling
from iii_state.transfer.moving.finding import Found, find
from iii_state.transfer.moving.part import Part
from iii_state.transfer.moving.parted import PartedStore
from iii_state.transfer.queues.rows import BuriedEvent, QueuedEvent, QueueHead

NOTE = b"import"
"""The field of `Keys.moving` that says how far an import is."""


class _Note(msgspec.Struct):
    """How far it is: behind the queue `done`. `format` is what its key held before."""

    import_id: str
    format: str
    done: str = ""


class RedisQueueTarget:
    """See `rows.QueueTarget`. While it is filled no engine starts there."""

    def __init__(self, store: PartedStore) -> None:
        self._store = store
        self._found: Found | None = None
        self._note = _Note("", "")
        self._now: dict[int, tuple[int, int]] = {}
        """Of each part: the time of the fleet, and what is to be added to a moment of this machine's clock."""
        self._head = QueueHead("")
        self._fillings: dict[int, Filling] = {}
        self._fences: dict[int, int] = {}
        self._lanes: set[bytes] = set()
        self._counts = [0, 0]
        self.name = store.name

    async def resumed(self, import_id: str) -> str | None:
        held = await self._held_note()
        if held is None:
            return None
        if held.import_id != import_id:
            raise TransferError(f"an import of another file into the {self.name} was cut off: run that again first, to its end")
        return held.done

    async def _held_note(self) -> _Note | None:
        first = self._store.parts[0]
        text = await first.ask(b"HGET", first.keys.moving, NOTE)
        return None if text is None else msgspec.json.decode(text, type=_Note)

    async def held(self, queue: str) -> int:
        count = 0
        for part in self._store.parts:
            entries = await part.ask(b"HGET", part.keys.busy(queue.encode()), b"entries")
            count += int(entries or 0) + int(await part.ask(b"XLEN", part.keys.dead(queue.encode())))
        return count

    async def start(self, import_id: str) -> None:
        store = self._store
        await store.refuse_living()
        self._found = await find(store)
        for part in store.parts:
            now, _ = await fleet_now(part)
            self._now[part.number] = now, now - now_ms()
        held = await self._held_note()
        if held is None:
            text = await store.at(store.format_key, b"GET", store.format_key)
            held = _Note(import_id, (text or b"").decode())
        self._note = held
        await self._write_note()
        layout = b"" if store.layout is None else b": %b" % str(store.layout).encode()
        await store.at(store.format_key, b"SET", store.format_key, MOVING + b"queues of an import" + layout)

    async def _write_note(self) -> None:
        first = self._store.parts[0]
        await first.ask(b"HSET", first.keys.moving, NOTE, values.encode(self._note))

    # -- one queue

    async def begin(self, head: QueueHead) -> None:
        self._head, self._fillings, self._lanes, self._counts = head, {}, set(), [0, 0]
        queue, subscription = head.id.encode(), head.subscription
        await self._clear(queue, is_ended=subscription is None)
        if subscription is None:
            return
        targets = self._store.parts if subscription.scope is None else [self._store.of(subscription.scope.encode())]
        for part in targets:
            keys = part.keys
            retention = None if subscription.retention_ms == FOREVER else int(subscription.retention_ms)
            is_new = not await part.ask(b"HEXISTS", keys.subscription(queue), b"settings")
            commands: list[tuple[bytes, ...]] = []
            if is_new:
                fields = [b"settings", values.encode(subscription)]
                if retention is not None:
                    fields += [b"retention", b"%d" % retention]
                if head.dropped and part is targets[0]:
                    fields += [b"dropped", b"%d" % head.dropped]
                commands += [(b"HSET", keys.subscription(queue), *fields), (b"HSET", keys.routes, queue, route_text(subscription))]
            else:
                held = await part.ask(b"HGET", keys.subscription(queue), b"retention")
                retention = None if held is None else int(held)
            if retention is not None:
                commands.append((b"ZADD", keys.orphans, b"%d" % (self._now[part.number][0] + retention), queue))
            await part.all(commands)
            self._filling(part)
        if head.paused_at_ms is not None:
            text = b"%d %b" % (head.paused_at_ms, values.encode(subscription))
            for part in self._store.parts:
                await part.ask(b"HSETNX", part.keys.paused, queue, text)

    async def _clear(self, queue: bytes, *, is_ended: bool) -> None:
        assert self._found is not None
        self._fences = {}
        for part in self._store.parts:
            keys = part.keys
            commands = [(b"UNLINK", keys.dead(queue)), (b"SREM", keys.dead_queues, queue)]
            if not is_ended:
                self._fences[part.number] = int(await part.ask(b"HGET", keys.busy(queue), b"fence") or 0)
                names = [keys.wait(queue, lane) for lane in self._found.lanes.get((part.number, queue), ())]
                commands += [(b"UNLINK", name) for name in (keys.stream(queue), keys.busy(queue), keys.lineages(queue), *names)]
                commands += [
                    (b"ZREM", keys.later, b"%b:%b" % (queue, entry_id))
                    for entry_id in self._found.planned.get((part.number, queue), {})
                ]
                if await part.ask(b"HEXISTS", keys.subscription(queue), b"ending"):
                    commands.append((b"UNLINK", keys.subscription(queue)))
            await part.all(commands)

    def _filling(self, part: Part) -> Filling:
        if part.number not in self._fillings:
            self._fillings[part.number] = Filling(part, self._head.id.encode())
        return self._fillings[part.number]

    async def put(self, item: QueuedEvent | BuriedEvent) -> None:
        event = item.event
        scope, key = event.scope.encode(), event.key.encode()
        filling = self._filling(self._store.of(scope))
        now, shift = self._now[filling.part.number]
        fields = _fields(event, scope, key)
        if isinstance(item, BuriedEvent):
            self._counts[1] += 1
            at = item.buried_at_ms + shift
            told = (b"a", b"%d" % item.attempts, b"e", item.error.encode(), b"f", item.function_id.encode(), b"b", b"%d" % at)
            await filling.bury((min(at, now), 0), [*fields, *told])
            return
        self._counts[0] += 1
        lane = lane_of(scope, key)
        if lane in self._lanes:
            await self._put_behind(filling, lane, event, fields)
            return
        self._lanes.add(lane)
        is_planned = item.due_ms is not None and not filling.is_open
        if not is_planned:
            await filling.open()
        # What is planned is made ready as the next attempt, or, by half a millisecond, as one with one crash more.
        crashed = is_planned and item.attempt == 1
        attempt = item.attempt - (is_planned and not crashed)
        crashes = max(0, item.crashes - crashed)
        lineage = b"" if event.lineage is None else lineages.encode(event.lineage)
        if attempt > 1 or crashes or lineage:
            fields += [b"a", b"%d" % attempt, b"c", b"%d" % crashes]
        if lineage:
            fields += [b"x", lineage]
        entry_id = await filling.append((now, 0), fields)
        if is_planned and item.due_ms is not None:
            due = b"%d%b" % (item.due_ms + shift, b".5" if crashed else b"")
            await filling.add(b"ZADD", filling.part.keys.later, due, b"%b:%b" % (self._head.id.encode(), entry_id))

    @staticmethod
    async def _put_behind(filling: Filling, lane: bytes, event: Change, fields: list[bytes]) -> None:
        write_id, lineage = fields[1], event.lineage
        kept = {write_id: lineages.encode(lineage)} if lineage is not None and write_id.startswith(b"+") else {}
        await filling.wait(lane, fields[1::2], kept)

    async def end(self) -> None:
        events = dead = 0
        queue = self._head.id.encode()
        for number, filling in self._fillings.items():
            if self._head.subscription is not None:
                await filling.open()
            await filling.close(max(self._head.fence, self._fences.get(number, 0)) if self._head.subscription is not None else 0)
            events += int(await filling.part.ask(b"HGET", filling.part.keys.busy(queue), b"entries") or 0)
            dead += int(await filling.part.ask(b"XLEN", filling.part.keys.dead(queue)))
        if self._head.subscription is not None and [events, dead] != self._counts:
            raise TransferError(
                f"the queue of {self._head.name} holds {events} events and {dead} dead letters, and {self._counts[0]} and "
                f"{self._counts[1]} were put there: was anything written to the {self.name} meanwhile?"
            )
        self._note.done = self._head.id
        await self._write_note()

    async def finish(self) -> None:
        store, first = self._store, self._store.parts[0]
        await store.refuse_living()
        if self._note.format:
            await store.at(store.format_key, b"SET", store.format_key, self._note.format.encode())
        else:
            await store.at(store.format_key, b"DEL", store.format_key)
        await first.ask(b"HDEL", first.keys.moving, NOTE)


def _fields(event: Change, scope: bytes, key: bytes) -> list[bytes]:
    """Of an entry in a stream; every second one is an item in a list."""
    event_type = event.event_type.removeprefix("state:").encode()
    return [b"w", event.write_id.encode(), b"s", scope, b"k", key, b"t", event_type, b"o", event.old or b"", b"n", event.new or b""]
