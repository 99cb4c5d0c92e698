"""Values go at their deadlines: each engine looks when the next one is over, and one of them removes what is.

A deadline is written with its value, and announced to all engines where it comes before all others. So any of them is there in
time; a claim keeps the others away for a moment, and ends by itself where the engine that has it dies.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from iii_state.adapters.redis.connection.call import Run
from iii_state.adapters.redis.connection.pubsub import Bells
from iii_state.adapters.redis.mutations.fanout import Fanout, Write
from iii_state.adapters.redis.mutations.routes import deadlines_setting
from iii_state.adapters.redis.scripts import queues
from iii_state.adapters.redis.scripts.loader import script
from iii_state.adapters.redis.scripts.mutations import previous
from iii_state.errors import StoreError
from iii_state.tasks.maintenance import Upkeep

logger = logging.getLogger(__name__)

CLAIM_MS = 50
"""For so long the others leave a scope to the engine that looks at it, also to one that dies meanwhile."""

LOOK_MS = 10
"""An engine looks for deadlines that are over no more often than this, and at each look takes all there are."""

MAX_WAIT_MS = 60_000

SCOPES_AT_ONCE = 100
KEYS_AT_ONCE = 500

RETRY_MS = 1000
"""When a value could not be removed (its event finds no room), it is tried again so much later."""

FORGET_MS = 600_000
"""A scope that has had no deadlines for between one and two of these is one without deadlines again."""

GONE_MS = 5000
"""One that has no values either is after between one and two of these."""


class Deadlines:
    """Removes what is over. `mutate` makes a write of a scope."""

    def __init__(
        self,
        fanout: Fanout,
        run: Run,
        send: Callable[..., Awaitable[Any]],
        mutate: Callable[[Write[Any], str], asyncio.Future[Any]],
        bells: Bells,
        forget_ms: int = FORGET_MS,
    ) -> None:
        self._fanout = fanout
        self._keys = fanout.keys
        self._run = run
        self._send = send
        self._mutate = mutate
        self._bells = bells
        self._forget_ms = forget_ms
        # Apart from the upkeep of the queues, which may take its time: deadlines do not wait for it.
        self._upkeep = Upkeep((self._follow_routes, self.sweep), list, lambda subscription_id: None)

    def start(self) -> None:
        """Begin, and hear of deadlines that other engines set, and of scopes that have some now."""
        self._upkeep.start()
        self._bells.listen([self._keys.deadlines, self._keys.routes], self._heard)

    async def stop(self) -> None:
        """End."""
        await self._upkeep.stop()

    def look(self) -> None:
        """Something may have been missed."""
        self._upkeep.plan(0)

    def set_here(self, ttl_ms: int) -> None:
        """A deadline has just been set by this engine."""
        if ttl_ms <= MAX_WAIT_MS:
            self._upkeep.plan(ttl_ms / 1000)

    def _heard(self, channel: bytes, message: bytes | None) -> None:
        self._upkeep.plan(0 if channel == self._keys.routes else LOOK_MS / 1000)

    async def _follow_routes(self) -> int:
        await self._fanout.follow(self._send)
        return -1

    async def sweep(self) -> int:
        """Remove what is over. Milliseconds until the next deadline is, -1 if there is none."""
        while True:
            call = [b"2", self._keys.deadlines, self._keys.clock, b"%d" % SCOPES_AT_ONCE, b"%d" % CLAIM_MS]
            due, following = await self._run("deadlines/claim", call)
            if not due:
                return -1 if following < 0 else int(min(MAX_WAIT_MS, max(LOOK_MS, following)))
            for scope, looked_at in zip(due[::2], due[1::2], strict=True):
                await self._sweep_scope(scope, was_empty=float(looked_at) % 1 == 0.5)

    async def _sweep_scope(self, scope: bytes, *, was_empty: bool) -> None:
        times = self._keys.deadlines_of(scope)
        kept = 0
        while True:
            due, _ = await self._run("deadlines/due", queues.due(self._keys, times, KEYS_AT_ONCE, kept))
            if not due:
                break
            outcomes = await asyncio.gather(*(self._expire(scope, key) for key in due), return_exceptions=True)
            failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
            if failures:
                kept += len(failures)
                logger.info("values of scope %r are over, but could not be removed yet: %s", scope.decode(), failures[0])
                if not isinstance(failures[0], StoreError):
                    raise failures[0]
        names = (self._keys.deadlines, times, self._keys.routes, self._keys.routes_version, self._keys.routes_log, self._keys.hold)
        words = (b"%d" % (RETRY_MS if kept else 0), b"1" if was_empty else b"")
        waits = (b"%d" % self._forget_ms, b"%d" % min(GONE_MS, self._forget_ms))
        more = (self._keys.clock, self._keys.values(scope))
        await self._run("deadlines/reschedule", [b"8", *names, *more, scope, deadlines_setting(scope), *words, *waits])

    def _expire(self, scope: bytes, key: bytes) -> asyncio.Future[Any]:
        write = Write(self._fanout, script("deadlines/expire"), scope.decode(), key.decode(), tuple, previous)
        return self._mutate(write, scope.decode())
