"""What operators look at, and put right: the queues of all engines, and their dead letters."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from iii_state.adapters.base import Backup, EngineSeen
from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.checks import refuse_newer
from iii_state.adapters.redis.connection.connection import RedisConnection
from iii_state.adapters.redis.control import RedisControl
from iii_state.adapters.redis.keys import Keys, lane
from iii_state.adapters.redis.mutations.foreign_text import check_event
from iii_state.adapters.redis.scripts import queues
from iii_state.config import RedisSettings
from iii_state.errors import StoreError
from iii_state.events import LOOPING_SECONDS, DeadLetter, QueueLimits, QueueStats, Subscription, nothing_of

logger = logging.getLogger(__name__)

DEAD_LETTERS_AT_ONCE = 500
PLANNED_AT_ONCE = 1000
QUEUES_AT_ONCE = 100

_UNBOUNDED = QueueLimits(max_queue_length=2**53, max_queue_bytes=2**53)
_subscription = msgspec.json.Decoder(Subscription)


class RedisAdmin:
    """Nothing here needs this process to be one of the engines."""

    def __init__(self, keys: Keys, connection: RedisConnection, limits: QueueLimits) -> None:
        self._keys = keys
        self._run = connection.run
        self._send = connection.send
        self._limits = limits
        self._connection = connection
        self._control = control = RedisControl(keys, connection)
        self.pause, self.resume = control.pause, control.resume
        self.purge, self.remove = control.purge, control.remove

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return str(self._connection.place)

    # -- queues

    async def stats(self) -> list[QueueStats]:
        """Every queue there is, hosted or waiting."""
        return list((await self.stats_by_queue()).values())

    async def stats_by_queue(self) -> dict[bytes, QueueStats]:
        """The same, by the queues' ids."""
        routed = [field for field in await self._send(b"HKEYS", self._keys.routes) if not field.startswith(b":")]
        planned = await self._planned()
        paused = await self._control.paused()
        names: dict[bytes, str] = {}
        found: dict[bytes, QueueStats] = {}
        for start in range(0, len(routed), QUEUES_AT_ONCE):
            part = routed[start : start + QUEUES_AT_ONCE]
            for queue, told in zip(part, await self._run("queues/stats", queues.stats(self._keys, part)), strict=True):
                if told is not None and (stats := await self._stats(told, planned[queue], names)) is not None:
                    found[queue] = stats
        for each in found.values():
            if (pause := paused.get(each.subscription.id)) is not None:
                each.paused_at_ms = pause[1]
        there = {each.subscription.id for each in found.values()}
        found.update({name.encode(): nothing_of(*pause) for name, pause in paused.items() if name not in there})
        return found

    async def _planned(self) -> Counter[bytes]:
        """How many attempts are planned for each queue."""
        planned: Counter[bytes] = Counter()
        cursor = b"0"
        while True:
            cursor, page = await self._send(b"ZSCAN", self._keys.later, cursor, b"COUNT", b"%d" % PLANNED_AT_ONCE)
            planned.update(member.rpartition(b":")[0] for member in page[::2])
            if cursor == b"0":
                return planned

    async def _stats(self, told: list[Any], planned: int, names: dict[bytes, str]) -> QueueStats | None:
        """What `queues/stats` tells of one queue."""
        fields, counted, out, there, dead, oldest = told
        held = dict(zip(fields[::2], fields[1::2], strict=True))
        if b"settings" not in held:
            return None
        hosts = [await self._name(field[3:], names) for field in held if field.startswith(b"at:")]
        return QueueStats(
            subscription=_subscription.decode(held[b"settings"]),
            waiting=int(counted or 0) - out,
            pending=out,
            retrying=planned,
            dead=dead,
            dropped=int(held.get(b"dropped", 0)),
            hosts=sorted(hosts),
            oldest_at_ms=_time_of(oldest) if oldest else None,
            is_looping=b"looped" in held and await self._now() - float(held[b"looped"]) < LOOPING_SECONDS,
            ready=max(0, there - out),
        )

    async def _now(self) -> float:
        """The time by Redis's clock, in seconds."""
        seconds, microseconds = await self._send(b"TIME")
        return int(seconds) + int(microseconds) / 1_000_000

    async def _name(self, engine: bytes, names: dict[bytes, str]) -> str:
        if engine not in names:
            held = await self._send(b"GET", self._keys.engine(engine))
            names[engine] = f"{engine.decode()} (gone)" if held is None else held.decode("utf-8", "replace")
        return names[engine]

    # -- engines

    async def engines(self) -> list[EngineSeen]:
        """Those that stand among the engines, with what is left of their heartbeats."""
        keys = self._keys
        listed, features = await asyncio.gather(self._send(b"HGETALL", keys.engines), self._send(b"HGETALL", keys.features))
        known = dict(zip(features[::2], features[1::2], strict=True))
        found = []
        for engine, sign in zip(listed[::2], listed[1::2], strict=True):
            name, left = await asyncio.gather(self._send(b"GET", keys.engine(engine)), self._send(b"PTTL", keys.engine(engine)))
            ttl_ms = int(sign.split()[0])
            shown = engine if name is None else name
            words = known.get(engine, b"").decode("utf-8", "replace").split()
            silent_ms = max(0, ttl_ms - max(0, left))
            found.append(EngineSeen(engine.decode("utf-8", "replace"), shown.decode("utf-8", "replace"), words, silent_ms, ttl_ms))
        return sorted(found, key=lambda each: each.name)

    # -- dead letters

    async def dead_letters(self, function_id: str | None = None) -> list[DeadLetter]:
        """Dead letters, oldest first."""
        found: list[DeadLetter] = []
        for queue in await self._send(b"SMEMBERS", self._keys.dead_queues):
            start = b"-"
            while True:
                page = await self._send(b"XRANGE", self._keys.dead(queue), start, b"+", b"COUNT", b"%d" % DEAD_LETTERS_AT_ONCE)
                found += [_dead_letter(queue, entry_id, fields) for entry_id, fields in page]
                if len(page) < DEAD_LETTERS_AT_ONCE:
                    break
                start = b"(" + page[-1][0]
        found = [dead for dead in found if function_id is None or dead.function_id == function_id]
        return sorted(found, key=lambda dead: dead.buried_at_ms)

    async def dead_retry(self, dead_letter_id: str) -> bool:
        """Deliver a dead letter again; False if it is not there. Raises `StoreError` where it has no queue, or no room in it."""
        queue, entry_id = _place_of(dead_letter_id)
        fields = await self._dead_entry(queue, entry_id)
        if fields is None:
            return False
        limits = self._limits if self._limits.on_full == "reject" else _UNBOUNDED
        call = queues.dead_retry(self._keys, queue, entry_id, lane(fields[3], fields[5]), limits)
        reply = await self._run("queues/dead_retry", call)
        function_id = fields[17].decode()
        if reply[0] == b"GONE":
            raise StoreError(f"nobody is subscribed any more: {function_id} has no queue for this event")
        if reply[0] == b"FULL":
            bound = reply[1].decode()
            raise StoreError(
                f"the queue of {function_id} is full ({bound} {getattr(limits, bound)}); "
                "its handler does not keep up, or nobody serves it"
            )
        return bool(reply[0] == b"OK")

    async def dead_drop(self, dead_letter_id: str) -> bool:
        """Drop a dead letter; False if it is not there."""
        queue, entry_id = _place_of(dead_letter_id)
        if await self._dead_entry(queue, entry_id) is None:
            return False
        return bool(await self._run("queues/dead_drop", queues.dead_drop(self._keys, queue, entry_id)))

    async def backup(self, name: str) -> Backup:
        """Redis sees to its own files."""
        raise StoreError(
            "the state of this engine is in Redis: back that up (BGSAVE, or its append-only file), or use iii-state export"
        )

    async def _dead_entry(self, queue: bytes, entry_id: bytes) -> list[bytes] | None:
        """The fields of a dead letter; None for an id of anything else."""
        if not queue or not entry_id.replace(b"-", b"", 1).isdigit():
            return None
        found = await self._send(b"XRANGE", self._keys.dead(queue), entry_id, entry_id)
        return found[0][1] if found else None


@asynccontextmanager
async def redis_inspection(settings: RedisSettings) -> AsyncIterator[RedisAdmin]:
    """Look at a Redis without being one of its engines. Raises `StoreError` in words."""
    keys = Keys(settings.prefix.encode())
    address = Address.parse(settings.redis_url, settings.tls)
    connection = RedisConnection(address, keys.session, call_timeout_ms=settings.call_timeout_ms)
    await connection.start()
    try:
        held = await connection.send(b"GET", keys.format)
        if held is None:
            raise StoreError(f"Redis at {address} holds nothing of iii-state under the prefix {settings.prefix}")
        refuse_newer(address, held)
        yield RedisAdmin(keys, connection, QueueLimits())
    finally:
        await connection.stop()


def _dead_letter(queue: bytes, entry_id: bytes, fields: Sequence[bytes]) -> DeadLetter:
    event = queues.event_of(fields)
    check_event(event)
    return DeadLetter(
        id=f"{entry_id.decode()}:{queue.decode()}",
        subscription_id=queues.subscription_of(queue).decode(),
        function_id=fields[17].decode(),
        event=event,
        attempts=int(fields[13]),
        error=fields[15].decode(),
        buried_at_ms=_time_of(entry_id),
    )


def _place_of(dead_letter_id: str) -> tuple[bytes, bytes]:
    entry_id, _, queue = dead_letter_id.encode().partition(b":")
    return queue, entry_id


def _time_of(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])
