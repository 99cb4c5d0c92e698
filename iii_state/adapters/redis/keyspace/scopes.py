"""Which scopes there are: a set that the scripts keep, and a slow scan for what other programs have written."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from iii_state.adapters.redis.keyspace.foreign_writes import ForeignWrites
from iii_state.adapters.redis.keyspace.scan import KEYS_PER_STEP, all_scopes, hashes
from iii_state.adapters.redis.shared import Shared
from iii_state.errors import StoreError
from iii_state.tasks.background import Background

logger = logging.getLogger(__name__)


STEP_SECONDS = 0.05
"""So that a background scan looks at 20,000 keys of the database per second at most, about 6 ms of server time."""

PAUSE_SECONDS = 30
"""Between the end of one background scan, whichever engine made it, and the begin of the next."""


class Scopes:
    """The scopes of one part of the key space.

    `foreign_writes` is told of those that another program has made or emptied, where these have events, too: then they stay in the
    set until they had.
    """

    def __init__(self, shared: Shared, foreign_writes: ForeignWrites | None = None) -> None:
        keys = shared.keys
        self._keys = keys
        self._routes = shared.fanout.routes
        self._send = shared.connection.send
        self._scripts = shared.connection.scripts
        self._foreign_writes = foreign_writes
        self._scanned = keys.scopes + b":scanned"
        """Set when this database has been scanned for the first time."""
        self._scanning = keys.scopes + b":scanning"
        """Held, with a time to live, by the engine that scans, and through the pause that follows."""
        self.scan_first: Callable[[], Coroutine[Any, Any, None]] = self.scan
        """Looks at every key of a database that has never been looked at."""
        self._first: asyncio.Task[None] | None = None
        self._background = Background()

    def start(self) -> None:
        """Begin to scan in the background."""
        self._background.start(self._scan_for_ever(), "iii-state scan for scopes")

    async def stop(self) -> None:
        """Stop scanning."""
        await self._background.stop()

    async def all(self) -> list[str]:
        """Scopes with at least one key. Waits for the first scan of a database that has never been scanned."""
        if not await self._send(b"EXISTS", self._scanned):
            if self._first is None or self._first.done():
                self._first = self._background.call(self.scan_first())
            await asyncio.shield(self._first)
        found: dict[bytes, None] = {}
        async for page in all_scopes(self._keys, self._send):
            for scope in await self._with_values([scope for scope in page if scope not in found]):
                found[scope] = None
        scopes = []
        for scope in found:
            try:
                scopes.append(scope.decode())
            except UnicodeDecodeError:
                logger.warning("another program has written a scope whose name is no UTF-8: %r; it is left out", scope[:200])
        over = await self._over([scope for scope in scopes if scope in self._routes.with_deadlines])
        return [scope for scope in scopes if scope not in over] if over else scopes

    async def scan(self) -> None:
        """Look for what other programs have written, at once: no engine need be running that does."""
        await self._scan(0)

    async def _over(self, scopes: Sequence[str]) -> set[str]:
        """Those in which the deadlines of all values are over."""
        over: set[str] = set()
        for start in range(0, len(scopes), KEYS_PER_STEP):
            part = [scope.encode() for scope in scopes[start : start + KEYS_PER_STEP]]
            names = [name for scope in part for name in (self._keys.values(scope), self._keys.deadlines_of(scope))]
            call = (
                b"EVALSHA",
                self._scripts.of("deadlines/expired_scopes").sha1,
                b"%d" % (len(names) + 1),
                *names,
                self._keys.clock,
                *part,
            )
            over.update(scope.decode() for scope in await self._send(*call))
        return over

    async def _with_values(self, scopes: Sequence[bytes]) -> list[bytes]:
        """Those that are not empty; the others are taken out of the set."""
        kept: list[bytes] = []
        for start in range(0, len(scopes), KEYS_PER_STEP):
            part = scopes[start : start + KEYS_PER_STEP]
            names = [self._keys.values(scope) for scope in part]
            if await self._send(b"EXISTS", *names) == len(part):
                kept.extend(part)
            elif self._foreign_writes is not None:
                there = [bool(await self._send(b"EXISTS", name)) for name in names]
                kept.extend(scope for scope, is_there in zip(part, there, strict=True) if is_there)
                self._foreign_writes.changed([scope for scope, is_there in zip(part, there, strict=True) if not is_there])
            else:
                digest = self._scripts.of("values/prune_scopes").sha1
                gone = set(await self._send(b"EVALSHA", digest, b"%d" % (len(part) + 1), self._keys.scopes, *names, *part))
                kept.extend(scope for scope in part if scope not in gone)
        return kept

    # -- scanning

    async def begin_scan(self) -> bool:
        """Whether this engine is the one that goes through the keys now."""
        return bool(await self._send(b"SET", self._scanning, b"1", b"NX", b"PX", b"%d" % (PAUSE_SECONDS * 1000)))

    async def go_on_scanning(self) -> None:
        """Have the others wait for this one."""
        await self._send(b"PEXPIRE", self._scanning, b"%d" % (PAUSE_SECONDS * 1000))

    async def ended_scan(self) -> None:
        """Have them wait until the pause is over."""
        await self._send(b"SET", self._scanning, b"1", b"PX", b"%d" % (PAUSE_SECONDS * 1000))

    async def add(self, names: Sequence[bytes]) -> None:
        """Keys have been found: the scopes whose values they hold are there."""
        scopes = [scope for name in names if (scope := self._keys.scope_of(name)) is not None]
        if scopes and self._foreign_writes is not None:
            known = await self._send(b"SMISMEMBER", self._keys.scopes, *scopes)
            self._foreign_writes.changed([scope for scope, is_known in zip(scopes, known, strict=True) if not is_known])
        if scopes:
            await self._send(b"SADD", self._keys.scopes, *scopes)

    async def were_scanned(self) -> None:
        """All keys have been looked at."""
        await self._send(b"SET", self._scanned, b"1")

    async def _scan_for_ever(self) -> None:
        while True:
            try:
                if await self.begin_scan():
                    await self._scan(STEP_SECONDS)
            except StoreError as error:
                logger.debug("the scan for scopes of other programs was interrupted: %s", error)
            await asyncio.sleep(PAUSE_SECONDS / 2)

    async def _scan(self, pause: float) -> None:
        """Look at every key of the database, and add the scopes that are missing."""
        steps = 0
        async for names in hashes(self._send, self._keys.values(b"")):
            await self.add(names)
            steps += 1
            if pause:
                if steps % 100 == 0:
                    await self.go_on_scanning()
                await asyncio.sleep(pause)
        await self.were_scanned()
        if pause:
            await self.ended_scan()
