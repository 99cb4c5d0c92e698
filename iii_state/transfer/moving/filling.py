"""Fills a queue of one part of the target: entries in the order of their ids, lists of lanes, and what all of it counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from iii_state.adapters.redis.keys import lane as lane_of
from iii_state.transfer.moving.part import BYTES_AT_ONCE, Part

COMMANDS_AT_ONCE = 500
LINEAGE_SECONDS = 86_400

EntryId = tuple[int, int]


def parsed(entry_id: bytes) -> EntryId:
    """The id of a stream's entry, so that ids compare."""
    milliseconds, _, number = entry_id.partition(b"-")
    return int(milliseconds), int(number)


class Filling:
    """A queue in a part. Commands are sent together; `close` sends the last."""

    def __init__(self, part: Part, queue: bytes) -> None:
        self.part = part
        self._queue = queue
        self._is_open = False
        self._last: EntryId = (0, 0)
        self._last_dead: EntryId = (0, 0)
        self._entries = 0
        self._bytes = 0
        self._commands: list[tuple[bytes, ...]] = []
        self._size = 0

    async def add(self, *words: bytes) -> None:
        """Send a command, behind those before it."""
        self._commands.append(words)
        self._size += sum(map(len, words))
        if len(self._commands) >= COMMANDS_AT_ONCE or self._size >= BYTES_AT_ONCE:
            await self._flush()

    async def _flush(self) -> None:
        commands, self._commands, self._size = self._commands, [], 0
        await self.part.all(commands)

    @property
    def is_open(self) -> bool:
        """Whether what is appended is ready."""
        return self._is_open

    async def open(self) -> None:
        """What has been appended so far was handed out; what comes is ready."""
        if not self._is_open:
            self._is_open = True
            await self.add(b"XGROUP", b"CREATE", self.part.keys.stream(self._queue), b"engines", b"$", b"MKSTREAM")

    async def append(self, wanted: EntryId, fields: Sequence[bytes]) -> bytes:
        """Append an entry under an id, or, where that is not behind the last one, the next; answers which."""
        self._last = max(wanted, (self._last[0], self._last[1] + 1))
        entry_id = b"%d-%d" % self._last
        await self.add(b"XADD", self.part.keys.stream(self._queue), entry_id, *fields)
        scope, key, old, new = fields[3], fields[5], fields[9], fields[11]
        await self._count(lane_of(scope, key), 1, len(scope) + len(key) + len(old) + len(new))
        return entry_id

    async def wait(self, lane: bytes, items: Sequence[bytes], lineages: Mapping[bytes, bytes]) -> None:
        """Put events behind those of a lane: six items each, and, by write ids, what the writes were made within."""
        keys = self.part.keys
        await self.add(b"RPUSH", keys.wait(self._queue, lane), *items)
        if lineages:
            await self.add(b"HSET", keys.lineages(self._queue), *(word for pair in lineages.items() for word in pair))
            await self.add(b"EXPIRE", keys.lineages(self._queue), b"%d" % LINEAGE_SECONDS)
        size = sum(len(items[start + at]) for start in range(0, len(items) - 5, 6) for at in (1, 2, 4, 5))
        await self._count(lane, len(items) // 6, size)

    async def _count(self, lane: bytes, events: int, size: int) -> None:
        self._entries += events
        self._bytes += size
        if events:
            await self.add(b"HINCRBY", self.part.keys.busy(self._queue), lane, b"%d" % events)

    async def bury(self, wanted: EntryId, fields: Sequence[bytes]) -> None:
        """Append a dead letter, as `append` does."""
        self._last_dead = max(wanted, (self._last_dead[0], self._last_dead[1] + 1))
        await self.add(b"XADD", self.part.keys.dead(self._queue), b"%d-%d" % self._last_dead, *fields)
        await self.add(b"SADD", self.part.keys.dead_queues, self._queue)

    async def close(self, fence: int) -> None:
        """Write down what it counts."""
        if self._entries or fence:
            counts = (b"entries", b"%d" % self._entries, b"bytes", b"%d" % self._bytes, b"fence", b"%d" % fence)
            await self.add(b"HSET", self.part.keys.busy(self._queue), *counts)
        await self._flush()
