"""Shadows: copies of the scopes as they were last seen, and the comparisons that make events of the differences.

The mutation scripts keep the copies. A comparison looks for differences page by page; each is then made an event by a script of its
own, which looks again and brings the shadow up to date, so that it becomes one event, whichever engine compares.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from iii_state.adapters.redis.keyspace.scan import hashes, is_text
from iii_state.adapters.redis.mutations.mutation import Capture
from iii_state.adapters.redis.mutations.routes import FOREIGN_WRITES
from iii_state.adapters.redis.scripts import engines
from iii_state.adapters.redis.shared import Shared

logger = logging.getLogger(__name__)

FIRST_FIELDS, MOST_FIELDS = 20, 500
PAGE_BYTES = 500_000
"""A page is read at once; it holds about so much, and never more than so many fields."""

REST_PER_WORK = 3
"""Between two pages there is a pause of so many times what the page took, so that Redis is never taken up by comparing."""

LOCK_SECONDS = 5
"""A comparison holds its scope for so long without a sign of life: the engine may have died."""

LOCK_MS = b"%d" % (LOCK_SECONDS * 1000)


class Shadows:
    """Those of all scopes."""

    def __init__(self, shared: Shared) -> None:
        self._keys = shared.keys
        self._fanout = shared.fanout
        self._engine = shared.engine
        self._connection = shared.connection
        self._run = shared.connection.run
        self._send = shared.connection.send
        self._refused: set[bytes] = set()

    async def compare(self, shadows: bytes, scope: bytes, lock: bytes, sign_of_life: bytes = b"") -> None:
        """Make events of all differences of a scope; `sign_of_life` is published meanwhile, for those who wait for the `lock`."""
        loop = asyncio.get_running_loop()
        names = (b"2", self._keys.values(scope), self._keys.shadow(shadows, scope))
        fields = FIRST_FIELDS
        for part in (b"v", b"s"):
            cursor = b"0"
            while True:
                began = loop.time()
                page = await self._run("foreign/compare", (*names, part, cursor, b"%d" % fields))
                pause = (loop.time() - began) * REST_PER_WORK
                cursor, looked_at, keys = page
                await self._capture(scope, keys)
                if cursor == b"0":
                    break
                fields = max(10, min(MOST_FIELDS, fields * PAGE_BYTES // (looked_at + 1)))
                await self._send(b"PEXPIRE", lock, LOCK_MS)
                if sign_of_life:
                    await self._send(self._fanout.scripts.publish, self._fanout.marks, sign_of_life)
                await asyncio.sleep(pause)

    async def _capture(self, scope: bytes, keys: Sequence[bytes]) -> None:
        name = scope.decode()
        captures = [Capture(self._fanout, name, key.decode()) for key in keys if is_text(key) or self.refuse(scope, key)]
        outcomes = await asyncio.gather(*map(self._connection.call, captures), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    def release(self, lock: bytes) -> None:
        """Let others compare. Also when this task is being cancelled, so nothing waits for it; a lock that stays ends by itself."""
        self._send(b"DEL", lock).add_done_callback(lambda answered: answered.cancelled() or answered.exception())

    def refuse(self, scope: bytes, key: bytes = b"") -> bool:
        """What is no UTF-8 cannot be in an event."""
        if (not is_text(scope) or not is_text(key)) and len(self._refused) < 1000 and scope + key not in self._refused:
            self._refused.add(scope + key)
            logger.warning("another program writes at scope %r, key %r, which is no UTF-8: that has no events", scope, key)
        return False

    async def fill(self) -> None:
        """Make the shadows of what was there before foreign writes were watched; none of it is an event."""
        lock, token = self._keys.filling, self._engine.instance
        if not await self._send(b"SET", lock, token, b"NX", b"PX", LOCK_MS) and await self._send(b"GET", lock) != token:
            return
        try:
            await self._fill_all(lock)
        finally:
            self.release(lock)

    async def _fill_all(self, lock: bytes) -> None:
        await self._fanout.follow()
        routes = self._fanout.routes
        if routes.is_filling and routes.shadows is not None:
            generation, setting = routes.shadows, routes.settings[FOREIGN_WRITES]
            async for names in hashes(self._send, self._keys.values(b"")):
                await self._send(b"PEXPIRE", lock, LOCK_MS)
                for name in names:
                    scope = self._keys.scope_of(name) or b""
                    if is_text(scope):
                        await self._send(b"PEXPIRE", lock, LOCK_MS)
                        await self.compare(generation, scope, lock)
            await self._run("fleet/swap_setting", engines.change_setting(self._keys, FOREIGN_WRITES, setting, generation))
            await self._fanout.follow()
            logger.info("the writes of other programs have events from now on")
            await self._forget_others(generation)

    async def _forget_others(self, generation: bytes) -> None:
        """Shadows of an earlier time when foreign writes were watched."""
        kept = self._keys.shadow(generation, b"")
        async for names in hashes(self._send, self._keys.shadow(b"", b"")[:-1]):
            old = [name for name in names if not name.startswith(kept)]
            if old:
                await self._send(b"UNLINK", *old)
