"""Takeover: the engines whose heart has stopped are declared dead, and their work is given to the others."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import NamedTuple

from iii_state.adapters.redis.fleet.heartbeat import LINEAGES
from iii_state.adapters.redis.keyspace.notifications import Notifications
from iii_state.adapters.redis.scripts import engines as calls
from iii_state.adapters.redis.shared import Shared
from iii_state.errors import StoreError
from iii_state.tasks.background import Background
from iii_state.tasks.repeats import Repeats

logger = logging.getLogger(__name__)
repeats = Repeats(logger)

ENTRIES_AT_ONCE = 500
_HEARTBEAT = re.compile(rb"(\d+) \d+")


class _Seen(NamedTuple):
    """What stood among the engines for one of them, and since when, by the loop's clock; its time to live in seconds."""

    heartbeat: bytes
    since: float
    ttl: float


class Takeover:
    """Looks at the hearts of the other engines: in sweeps, and as soon as Redis tells that a heartbeat has expired."""

    def __init__(self, shared: Shared, notifications: Notifications, ttl_ms: int) -> None:
        self._keys = shared.keys
        self._engine = shared.engine
        self._run = shared.connection.run
        self._send = shared.connection.send
        self._fanout = shared.fanout
        self._notifications = notifications
        self._ttl_ms = ttl_ms
        self._pace = shared.pace
        self.engines = self.deliveries = 0
        """How many engines were found dead here, and of how many deliveries they were relieved."""
        self._background = Background()
        self._nobody_dies_before = 0.0
        self._seen: dict[bytes, _Seen] = {}
        self._looked = 0.0
        """When the heartbeats were looked at last."""
        self._look = asyncio.Event()
        """Set where a heart may have stopped."""
        self._others: set[bytes] = set()
        """The other engines, without those of version 0.1.0."""
        self._compared: set[bytes] = set()
        """The other engines when it was asked last what they read."""
        self._watched: set[bytes] = set()
        """The engines whose hearts are listened to."""
        shared.connection.restored.connect(self.spare_everybody)

    def is_first(self) -> bool:
        """Whether of all engines this one does what only one has to; two of them may think so for a moment."""
        return not self._others or self._engine.id < min(self._others)

    def start(self) -> None:
        """Watch the hearts of the others."""
        self.spare_everybody()
        self._background.start(self._sweep_for_ever(), "iii-state takeover")

    def spare_everybody(self) -> None:
        """Redis may have been away, and no heartbeat could reach it: no engine is declared dead for one time to live."""
        self._seen.clear()
        self._nobody_dies_before = asyncio.get_running_loop().time() + self._ttl_ms / 1000

    async def stop(self) -> None:
        """Watch no more."""
        await self._background.stop()

    async def leave(self) -> None:
        """Have this engine be none any more: what is pending here is given back, and what only this engine hosts waits for its
        retention."""
        engine = self._engine.id
        self._engine.is_member.clear()
        await self._send(b"DEL", self._keys.engine(engine))
        await self._run("fleet/fence", calls.fence(self._keys, engine))
        await self._take_over(engine)

    async def _sweep_for_ever(self) -> None:
        while True:
            self._look.clear()
            began, pause = asyncio.get_running_loop().time(), float("inf")
            try:
                pause = await self.sweep()
            except StoreError as error:
                logger.info("the other engines could not be looked at: %s", error)
            except Exception:
                logger.exception("the other engines could not be looked at")
            try:
                # Redis tells of most hearts that stop before.
                following = self._pace.after(began, self._ttl_ms / self._pace.looks_per_life / 1000)
                async with asyncio.timeout_at(min(following, asyncio.get_running_loop().time() + pause)):
                    await self._look.wait()
            except TimeoutError:
                pass

    async def sweep(self) -> float:
        """Declare dead who is, and take over. Seconds until one may be dead of which nothing is heard."""
        loop = asyncio.get_running_loop()
        table = await self._send(b"HGETALL", self._keys.engines)
        engines = dict(zip(table[::2], table[1::2], strict=True))
        engines.pop(self._engine.id, None)
        self._others = {engine for engine, heartbeat in engines.items() if _HEARTBEAT.fullmatch(heartbeat)}
        self._watch(set(engines))
        await self._compare_features(set(engines))
        now, before = loop.time(), self._looked
        if now - before > self._ttl_ms / 2000:  # this engine has been away itself, and perhaps so has Redis
            self._seen.clear()
        self._looked = now
        following = float("inf")
        for engine, heartbeat in engines.items():
            dead_in = max(await self._dies_in(engine, heartbeat, before), self._nobody_dies_before - loop.time())
            following = min(following, max(0.0, dead_in))
            if dead_in > 0:
                continue
            seen = heartbeat if _HEARTBEAT.fullmatch(heartbeat) else b""
            if await self._run("fleet/fence", calls.fence(self._keys, engine, seen)):
                self.engines += 1
                name = engine.decode(errors="replace")
                # An engine of a cluster has an id in each partition.
                alike = "gone" if self._keys.is_parted else ""
                about, ids = "the engine %s is gone; its work is taken over", {"engine": name}
                repeats.warning(about, name, of=self._engine.instance, alike=alike, ids=ids)
        self._seen = {engine: seen for engine, seen in self._seen.items() if engine in engines}
        for engine in await self._send(b"SMEMBERS", self._keys.fenced):
            await self._take_over(engine)
        return max(0.001, following)

    async def _compare_features(self, others: set[bytes]) -> None:
        """Find out whether all engines read what this one may write. While one does not that is asked again at each look."""
        if others == self._compared and self._fanout.tells_lineages:
            return
        table = await self._send(b"HGETALL", self._keys.features)
        told = dict(zip(table[::2], table[1::2], strict=True))
        self._fanout.tells_lineages = all(LINEAGES in told.get(engine, b"").split() for engine in (self._engine.id, *others))
        self._compared = others

    async def _dies_in(self, engine: bytes, heartbeat: bytes, before: float) -> float:
        """Seconds until an engine counts as dead, if its heart does not beat until then; `before` is when it was looked at last.

        By this engine's own clock: setting Redis's neither kills an engine nor keeps one alive. What Redis has of the heartbeat
        only tells when between two looks it was.
        """
        loop = asyncio.get_running_loop()
        described = _HEARTBEAT.fullmatch(heartbeat)
        if described is None:  # of version 0.1.0: its key alone tells
            return float("inf") if await self._send(b"EXISTS", self._keys.engine(engine)) else 0.0
        seen = self._seen.get(engine)
        if seen is None or seen.heartbeat != heartbeat:
            left = await self._send(b"PTTL", self._keys.engine(engine))
            now, ttl = loop.time(), int(described[1]) / 1000
            age = min(max(0.0, ttl - left / 1000), now - before) if seen is not None and left >= 0 else 0.0
            seen = self._seen[engine] = _Seen(heartbeat, now - age, ttl)
        return seen.since + seen.ttl - loop.time()

    def _watch(self, engines: set[bytes]) -> None:
        for engine in engines - self._watched:
            self._notifications.on_expiry(self._keys.engine(engine), self._look.set)
        for engine in self._watched - engines:
            self._notifications.forget(self._keys.engine(engine))
        self._watched = engines

    async def _take_over(self, engine: bytes) -> None:
        for queue in await self._send(b"SMEMBERS", self._keys.hosts(engine)):
            entries = 0
            while True:
                reply = await self._run("fleet/takeover", calls.takeover(self._keys, queue, engine, ENTRIES_AT_ONCE))
                if reply[0] != b"OK":
                    return
                entries += reply[1]
                self.deliveries += reply[1] if engine != self._engine.id else 0
                if reply[2]:
                    break
            if entries:
                logger.info("%d deliveries of %s are given to others", entries, queue.decode(errors="replace"))
        await self._send(b"SREM", self._keys.fenced, engine)
        await self._send(b"HDEL", self._keys.features, engine)
