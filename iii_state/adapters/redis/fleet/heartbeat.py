"""The heartbeat of this engine: what keeps it among the engines of a fleet, and how it comes back when it was declared dead."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from iii_state.adapters.redis.identity import steady
from iii_state.adapters.redis.mutations.logs import setting_of
from iii_state.adapters.redis.mutations.routes import HISTORY
from iii_state.adapters.redis.scripts import engines
from iii_state.adapters.redis.shared import Shared
from iii_state.errors import ConfigError, StoreError
from iii_state.events import TRIGGERS_PAUSE, TRIGGERS_V2
from iii_state.history import NO_LOGS, LogRules
from iii_state.tasks.background import Background
from iii_state.tasks.repeats import Repeats
from iii_state.tasks.signal import Signal

logger = logging.getLogger(__name__)
repeats = Repeats(logger)

LINEAGES = b"lineages"
"""Reads in a queue's entry what its write was made within."""

NARROWED = TRIGGERS_V2.encode()
"""Goes by all of a route, also by what narrows it."""

LOGS = b"history"
"""Writes change logs."""

PAUSES = TRIGGERS_PAUSE.encode()
"""Takes nothing from the queues of subscriptions that are paused."""

FEATURES = b" ".join((LINEAGES, NARROWED, LOGS, PAUSES))
"""What this version knows and 0.2.0 does not."""

LEASE = 0.9
"""Of its time to live an engine counts on so much: others see its heartbeat up to one look later than it was, and no earlier."""


class Heartbeat:
    """Keeps this engine among the engines. All of them have to agree on `foreign_writes` and `history`; with a `history`
    of None it goes by what they have agreed on."""

    def __init__(self, shared: Shared, ttl_ms: int, foreign_writes: bool, history: LogRules | None = NO_LOGS) -> None:
        self._keys = shared.keys
        self._engine = shared.engine
        self._run = shared.connection.run
        self._server = shared.connection
        self._send = shared.connection.send
        self._fanout = shared.fanout
        self._store = shared.store
        self._ttl_ms = ttl_ms
        self._pace = shared.pace
        self._foreign_writes = foreign_writes
        self._history = history
        self._background = Background()
        self._count = 0
        self.began_afresh = Signal()
        """Emitted when the engine was not among the engines any more, and has come back under a new id."""
        self.is_sure_again = Signal()
        """Emitted when a lease that was over has been found to be in force."""

    async def join(self) -> None:
        """Become one of the engines. Raises `ConfigError` where these have agreed on something else.

        An engine that serves knows the time. Where Redis's clock tells nothing and others stand among the engines, one of them
        may live and know it: this one waits until it has said so, or has been silent for its time to live. While Redis does not
        answer, nobody can say anything: that time does not count.
        """
        engine, loop = self._engine, asyncio.get_running_loop()
        await self._send(b"HSET", self._keys.features, engine.id, FEATURES)
        standing, since, stood = b"", 0.0, b""
        while True:
            began, read_at = loop.time(), steady()
            others = [other for other in await self._send(b"HKEYS", self._keys.engines) if other != engine.id]
            self._count += 1
            found = await self._send(b"HGET", self._keys.routes, HISTORY) or b""
            history = (found, found if self._history is None else setting_of(self._history, found))
            reply = await self._run("fleet/join", partial(self._joining, others, stood, history))
            if reply[0] == b"OK":
                engine.was_told_time(reply[1], read_at)
                break
            if reply[0] == b"DISAGREE" and reply[2] == b"history":
                raise await self._other_history(reply[1])
            if reply[0] == b"DISAGREE":
                wanted, found = ("true", "false") if self._foreign_writes else ("false", "true")
                other = reply[1].decode(errors="replace")
                raise ConfigError(
                    f"adapter.config.foreign_writes is {wanted} here, and {found} at the engine {other}, which runs on "
                    "the same Redis: it has to be the same at all. To change it, stop them all (one that was killed counts for "
                    "heartbeat_ttl_ms), and start them with the new setting"
                )
            if reply[0] == b"STANDS":
                now = loop.time()
                if reply[1] != standing or now - began > self._ttl_ms / 10_000:
                    since = now
                if reply[1] != standing:
                    standing = reply[1]
                    logger.info("Redis's clock does not tell the time: waiting up to %d ms for an engine that knows it", reply[2])
                left = since + reply[2] / 1000 - now
                stood = standing if left <= 0 else b""
                await asyncio.sleep(max(0.0, min(left, self._ttl_ms / 10_000)))
        engine.lease_until = began + LEASE * self._ttl_ms / 1000
        engine.is_member.set()

    async def _other_history(self, other: bytes) -> ConfigError:
        """Why this engine's `history` cannot be."""
        reads = (await self._send(b"HGET", self._keys.features, other) or b"").split()
        name = other.decode(errors="replace")
        if b"history" not in reads:
            return ConfigError(
                f"the engine {name}, which runs on the same Redis, is of a version without change logs, and would write "
                "without them: `history` can be set when all engines have been upgraded"
            )
        return ConfigError(
            f"history is not what it is at the engine {name}, which runs on the same Redis: it has to be the same at all. To "
            "change it, stop them all (one that was killed counts for heartbeat_ttl_ms), and start them with the new setting"
        )

    def start(self) -> None:
        """Let the heart beat."""
        self._background.start(self._beat_for_ever(), "iii-state heartbeat")

    async def stop(self) -> None:
        """Let it stop, without a word."""
        await self._background.stop()

    async def _beat_for_ever(self) -> None:
        engine, loop = self._engine, asyncio.get_running_loop()
        began = loop.time()
        while True:
            try:
                async with asyncio.timeout_at(
                    self._pace.after(began, self._ttl_ms / 3000)
                ):  # what a heartbeat takes does not put off the next one
                    await engine.was_lost.wait()
            except TimeoutError:
                pass
            began = loop.time()
            try:
                if engine.was_lost.is_set() or not await self._beat():
                    await self._come_back()
            except (StoreError, ConfigError) as error:
                if not engine.is_member.is_set():
                    engine.was_lost.set()
                repeats.warning("no heartbeat: %s", error, of=engine.instance)
                await asyncio.sleep(self._ttl_ms / 10_000)

    async def _beat(self) -> bool:
        """One heartbeat; False where the engine is not among the engines any more."""
        engine, loop = self._engine, asyncio.get_running_loop()
        began, asked_at, known = loop.time(), steady(), engine.id
        reply = await self._run("fleet/heartbeat", self._heartbeat)
        if reply[0] != b"OK":
            engine.lost(known)
            return False
        engine.was_told_time(reply[1], asked_at)
        was_over = loop.time() >= engine.lease_until
        engine.lease_until = began + LEASE * self._ttl_ms / 1000
        if was_over:
            self.is_sure_again.emit()
        return True

    async def _come_back(self) -> None:
        """Join again, under a new id."""
        engine = self._engine
        lost = engine.id
        engine.renew()
        await self.join()
        # It need not have been declared dead: it may have been removed from the engines. What is pending there is taken over.
        await self._send(b"DEL", self._keys.engine(lost))
        await self._send(b"HDEL", self._keys.features, lost)
        await self._run("fleet/fence", engines.fence(self._keys, lost))
        was_emptied = await self._fanout.read() or self._fanout.was_emptied
        await self._store.read()
        if was_emptied:
            self._fanout.was_emptied = False
            repeats.error(
                "the database has been emptied (FLUSHDB?) or replaced%s, and with it went all values, triggers, dead letters, and "
                "events that had not been delivered: what they were is not known; this engine begins afresh",
                self._where(),
                of=engine.instance,
            )
        else:
            repeats.warning("this engine has been taken for dead (was it stopped?); it begins afresh", of=engine.instance)
        self.began_afresh.emit()

    def _where(self) -> str:
        """At which of several servers, for people; empty where there is one."""
        return f" on Redis at {self._server.place}" if self._keys.is_parted else ""

    def _heartbeat(self) -> list[bytes]:
        """The next one, as it is sent."""
        self._count += 1
        engine = self._engine
        return engines.heartbeat(self._keys, engine.id, self._ttl_ms, engine.name, self._count, engine.own_now_ms())

    def _joining(self, others: list[bytes], stood: bytes, history: tuple[bytes, bytes]) -> list[bytes]:
        """The call that makes this one of the engines, as it is sent."""
        engine, agreed = self._engine, (self._ttl_ms, self._foreign_writes)
        return engines.join(self._keys, engine.id, engine.name, *agreed, others, self._count, engine.own_now_ms(), stood, history)
