"""The engines that share a Redis: this one's heartbeat, and what becomes of those whose heart has stopped."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

from iii_state.adapters.redis.connection.call import Run
from iii_state.adapters.redis.identity import Identity
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.keyspace.notifications import Keyspace
from iii_state.adapters.redis.scripts import queues
from iii_state.errors import ConfigError, StoreError

logger = logging.getLogger(__name__)

ENTRIES_AT_ONCE = 500
SWEEPS_PER_LIFE = 10
"""How often the heartbeats are looked at within one time to live; Redis tells of most that stop before."""

LEASE = 0.9
"""Of its time to live an engine counts on so much: others see its heartbeat up to one look later than it was, and no earlier."""

_BEATS = re.compile(rb"(\d+) \d+")


def steady() -> float:
    """Seconds, by a clock that nobody sets, and that goes on while the machine is suspended where there is such a one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class _Seen(NamedTuple):
    """What stood among the engines for one of them, and since when, by the loop's clock; its time to live in seconds."""

    beats: bytes
    since: float
    ttl: float


class Fleet:
    """Keeps this engine among the engines, and takes over the queues of those that are gone.

    `afresh` is called when the engine has not been among the engines and has come back under a new id, `sure` when a lease that was
    over has been found to be in force.
    """

    def __init__(
        self,
        keys: Keys,
        engine: Identity,
        run: Run,
        send: Callable[..., Awaitable[Any]],
        keyspace: Keyspace,
        ttl_ms: int,
        foreign_writes: bool,
        afresh: Callable[[], Awaitable[None]],
        sure: Callable[[], None],
    ) -> None:
        self._keys = keys
        self._engine = engine
        self._run = run
        self._send = send
        self._keyspace = keyspace
        self._ttl_ms = ttl_ms
        self._foreign_writes = foreign_writes
        self._afresh = afresh
        self._sure = sure
        self._tasks: list[asyncio.Task[None]] = []
        self._nobody_dies_before = 0.0
        self._beats = 0
        self._now_ms, self._read_at = 0, 0.0
        """The time of the fleet, 0 where it was never known, and when it was so by the steady clock."""
        self._seen: dict[bytes, _Seen] = {}
        self._looked = 0.0
        """When the heartbeats were looked at last."""
        self._look = asyncio.Event()
        """Set where a heart may have stopped."""
        self._others: set[bytes] = set()
        """The other engines, without those of version 0.1.0."""
        self._watched: set[bytes] = set()
        """The engines whose hearts are listened to."""

    def is_first(self) -> bool:
        """Whether of all engines this one does what only one has to; two of them may think so for a moment."""
        return not self._others or self._engine.id < min(self._others)

    async def join(self) -> None:
        """Become one of the engines. Raises `ConfigError` where these have agreed on something else.

        An engine that serves knows the time. Where Redis's clock tells nothing and others stand among the engines, one of them
        may live and know it: this one waits until it has said so, or has been silent for its time to live.
        """
        engine, loop = self._engine, asyncio.get_running_loop()
        standing, since, stood = b"", 0.0, b""
        while True:
            began, read_at = loop.time(), steady()
            others = [other for other in await self._send(b"HKEYS", self._keys.engines) if other != engine.id]
            self._beats += 1
            reply = await self._run("fleet/join", partial(self._joining, others, stood))
            if reply[0] == b"OK":
                self._now_ms, self._read_at = reply[1], read_at
                break
            if reply[0] == b"DISAGREE":
                wanted, found = ("true", "false") if self._foreign_writes else ("false", "true")
                other = reply[1].decode(errors="replace")
                raise ConfigError(
                    f"adapter.config.foreign_writes is {wanted} here, and {found} at the engine {other}, which runs on "
                    "the same Redis: it has to be the same at all. To change it, stop them all (one that was killed counts for "
                    "heartbeat_ttl_ms), and start them with the new setting"
                )
            if reply[0] == b"STANDS":
                if reply[1] != standing:
                    standing, since = reply[1], began
                    logger.info("Redis's clock does not tell the time: waiting up to %d ms for an engine that knows it", reply[2])
                left = since + reply[2] / 1000 - loop.time()
                stood = standing if left <= 0 else b""
                await asyncio.sleep(max(0.0, min(left, self._ttl_ms / 10_000)))
        engine.lease_until = began + LEASE * self._ttl_ms / 1000
        engine.is_member.set()

    def start(self) -> None:
        """Let the heart beat, and watch the others'."""
        self.spare_everybody()
        self._tasks = [
            asyncio.create_task(self._beat_for_ever(), name="iii-state heartbeat"),
            asyncio.create_task(self._sweep_for_ever(), name="iii-state takeover"),
        ]

    def spare_everybody(self) -> None:
        """Redis may have been away, and nobody's heartbeat could reach it: declare nobody dead for one time to live."""
        self._seen.clear()
        self._nobody_dies_before = asyncio.get_running_loop().time() + self._ttl_ms / 1000

    async def stop(self) -> None:
        """Let the heart stop, without a word."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def leave(self) -> None:
        """Be no engine any more: what is pending here is given back, and what only this engine hosts waits for its retention."""
        engine = self._engine.id
        self._engine.is_member.clear()
        await self._send(b"DEL", self._keys.engine(engine))
        await self._run("fleet/fence", queues.fence(self._keys, engine))
        await self._take_over(engine)

    # -- the own heart

    async def _beat_for_ever(self) -> None:
        engine, loop = self._engine, asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(self._ttl_ms / 3000):
                    await engine.was_lost.wait()
            except TimeoutError:
                pass
            try:
                if not engine.was_lost.is_set():
                    began, known = loop.time(), engine.id
                    reply = await self._run("fleet/heartbeat", self._heartbeat)
                    if reply[0] == b"OK":
                        self._now_ms, self._read_at = reply[1], steady()
                        was_over = loop.time() >= engine.lease_until
                        engine.lease_until = began + LEASE * self._ttl_ms / 1000
                        if was_over:
                            self._sure()
                        continue
                    engine.lost(known)
                lost = engine.id
                engine.renew()
                await self.join()
                # Nobody may have declared it dead: somebody has removed it from the engines. What is pending there is taken over.
                await self._send(b"DEL", self._keys.engine(lost))
                await self._run("fleet/fence", queues.fence(self._keys, lost))
                await self._afresh()
            except (StoreError, ConfigError) as error:
                if not engine.is_member.is_set():
                    engine.was_lost.set()
                logger.warning("no heartbeat: %s", error)
                await asyncio.sleep(self._ttl_ms / 10_000)

    def _heartbeat(self) -> list[bytes]:
        """The next one, as it is sent."""
        self._beats += 1
        return queues.heartbeat(self._keys, self._engine.id, self._ttl_ms, self._engine.name, self._beats, self._own_now_ms())

    def _joining(self, others: list[bytes], stood: bytes) -> list[bytes]:
        """The call that makes this one of the engines, as it is sent."""
        engine, agreed = self._engine, (self._ttl_ms, self._foreign_writes)
        return queues.join(self._keys, engine.id, engine.name, *agreed, others, self._beats, self._own_now_ms(), stood)

    def _own_now_ms(self) -> int | None:
        """The time of the fleet by this engine's own clock, None where it has never known it."""
        return int(self._now_ms + 1000 * (steady() - self._read_at)) if self._now_ms else None

    # -- the hearts of others

    async def _sweep_for_ever(self) -> None:
        while True:
            self._look.clear()
            pause = self._ttl_ms / SWEEPS_PER_LIFE / 1000
            try:
                pause = min(pause, await self.sweep())
            except StoreError as error:
                logger.info("the other engines could not be looked at: %s", error)
            except Exception:
                logger.exception("the other engines could not be looked at")
            try:
                async with asyncio.timeout(pause):
                    await self._look.wait()
            except TimeoutError:
                pass

    async def sweep(self) -> float:
        """Declare dead who is, and take over. Seconds until somebody may be dead who does not give a sign of life."""
        loop = asyncio.get_running_loop()
        table = await self._send(b"HGETALL", self._keys.engines)
        engines = dict(zip(table[::2], table[1::2], strict=True))
        engines.pop(self._engine.id, None)
        self._others = {engine for engine, beats in engines.items() if _BEATS.fullmatch(beats)}
        self._watch(set(engines))
        now, before = loop.time(), self._looked
        if now - before > self._ttl_ms / 2000:  # this engine has been away itself, and perhaps so has Redis
            self._seen.clear()
        self._looked = now
        following = float("inf")
        for engine, beats in engines.items():
            dead_in = max(await self._dies_in(engine, beats, before), self._nobody_dies_before - loop.time())
            following = min(following, max(0.0, dead_in))
            if dead_in > 0:
                continue
            if await self._run("fleet/fence", queues.fence(self._keys, engine, beats if _BEATS.fullmatch(beats) else b"")):
                logger.warning("the engine %s is gone; its work is taken over", engine.decode(errors="replace"))
        self._seen = {engine: seen for engine, seen in self._seen.items() if engine in engines}
        for engine in await self._send(b"SMEMBERS", self._keys.fenced):
            await self._take_over(engine)
        return max(0.001, following)

    async def _dies_in(self, engine: bytes, beats: bytes, before: float) -> float:
        """Seconds until an engine counts as dead, if its heart does not beat until then; `before` is when it was looked at last.

        By this engine's own clock: whoever sets Redis's, kills nobody, and keeps nobody alive. What Redis has of the heartbeat only
        tells when between two looks it was.
        """
        loop = asyncio.get_running_loop()
        described = _BEATS.fullmatch(beats)
        if described is None:  # of version 0.1.0: its key alone tells
            return float("inf") if await self._send(b"EXISTS", self._keys.engine(engine)) else 0.0
        seen = self._seen.get(engine)
        if seen is None or seen.beats != beats:
            left = await self._send(b"PTTL", self._keys.engine(engine))
            now, ttl = loop.time(), int(described[1]) / 1000
            age = min(max(0.0, ttl - left / 1000), now - before) if seen is not None and left >= 0 else 0.0
            seen = self._seen[engine] = _Seen(beats, now - age, ttl)
        return seen.since + seen.ttl - loop.time()

    def _watch(self, engines: set[bytes]) -> None:
        for engine in engines - self._watched:
            self._keyspace.on_expiry(self._keys.engine(engine), self._look.set)
        for engine in self._watched - engines:
            self._keyspace.forget(self._keys.engine(engine))
        self._watched = engines

    async def _take_over(self, engine: bytes) -> None:
        for queue in await self._send(b"SMEMBERS", self._keys.hosts(engine)):
            entries = 0
            while True:
                call = queues.takeover(self._keys, queue, engine, ENTRIES_AT_ONCE)
                reply = await self._run("fleet/takeover", call)
                if reply[0] != b"OK":
                    return
                entries += reply[1]
                if reply[2]:
                    break
            if entries:
                logger.info("%d deliveries of %s are given to others", entries, queue.decode(errors="replace"))
        await self._send(b"SREM", self._keys.fenced, engine)
