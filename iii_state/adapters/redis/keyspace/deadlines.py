"""Values go at their deadlines: each engine looks when the next one is over, and one of them removes what is.

A deadline is written with its value, and announced to all engines where it comes before all others. So any of them is there in
time; a claim keeps the others away for a moment, and ends by itself where the engine that has it dies.
"""

from __future__ import annotations

import asyncio
import logging

from iii_state.adapters.figures import LATE_MS
from iii_state.adapters.redis.mutations.fanout import MAX_WAIT_MS
from iii_state.adapters.redis.mutations.mutation import Expire
from iii_state.adapters.redis.mutations.routes import deadlines_setting
from iii_state.adapters.redis.scripts import queues
from iii_state.adapters.redis.shared import Shared
from iii_state.errors import StoreError
from iii_state.wire.quiet_log import QuietLog

_quiet = QuietLog(logging.getLogger(__name__), burst=3)

CLAIM_MS = 50
"""For so long the others leave a scope to the engine that looks at it, also to one that dies meanwhile."""

LOOK_MS = 10
"""An engine looks for deadlines that are over no more often than this, and at each look takes all there are."""

SCOPES_AT_ONCE = 100
KEYS_AT_ONCE = 500

RETRY_MS = 1000
"""When a value could not be removed (its event finds no room), it is tried again so much later."""

FORGET_MS = 600_000
"""A scope that has had no deadlines for between one and two of these is one without deadlines again."""

GONE_MS = 5000
"""One that has no values either is after between one and two of these."""


class RedisDeadlines:
    """Removes what is over."""

    def __init__(self, shared: Shared) -> None:
        self._fanout = shared.fanout
        self._keys = shared.keys
        self._engine = shared.engine
        self._connection = shared.connection
        self._run = shared.connection.run
        self._pubsub = shared.pubsub
        self._forget_ms = FORGET_MS
        # Apart from the maintenance of the queues, which may take its time: deadlines do not wait for it.
        self._maintenance = shared.fanout.deadlines
        shared.connection.restored.connect(self.look)

    def start(self) -> None:
        """Begin, and hear of deadlines that other engines set, and of scopes that have some now."""
        self._maintenance.start(self._follow_routes, self.sweep)
        self._pubsub.listen([self._keys.deadlines, self._keys.routes], self._heard)

    async def stop(self) -> None:
        """End."""
        await self._maintenance.stop()

    def look(self) -> None:
        """Something may have been missed."""
        self._maintenance.plan(0)

    def _heard(self, channel: bytes, message: bytes | None) -> None:
        self._maintenance.plan(0 if channel == self._keys.routes else LOOK_MS / 1000)

    async def _follow_routes(self) -> int:
        await self._fanout.follow()
        return -1

    async def sweep(self) -> int:
        """Remove what is over. Milliseconds until the next deadline is, -1 if there is none."""
        while True:
            names = (self._keys.deadlines, self._keys.clock, self._keys.clock_copy)
            call = [b"3", *names, b"%d" % SCOPES_AT_ONCE, b"%d" % CLAIM_MS]
            due, following = await self._run("deadlines/claim", call)
            if not due:
                return -1 if following < 0 else int(min(MAX_WAIT_MS, max(LOOK_MS, following)))
            for scope, looked_at in zip(due[::2], due[1::2], strict=True):
                now_ms = self._engine.own_now_ms()
                late = now_ms is not None and now_ms - float(looked_at) > LATE_MS
                before = self._fanout.counts.expired
                await self._sweep_scope(scope, was_empty=float(looked_at) % 1 == 0.5)
                self._fanout.counts.late += self._fanout.counts.expired - before if late else 0

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
                name = scope.decode()
                about = "values of scope %r are over, but could not be removed yet: %s"
                _quiet.warning(about, name, failures[0], ids={"scope": name})
                if not isinstance(failures[0], StoreError):
                    raise failures[0]
        names = (self._keys.deadlines, times, self._keys.routes, self._keys.routes_version, self._keys.routes_log, self._keys.hold)
        words = (b"%d" % (RETRY_MS if kept else 0), b"1" if was_empty else b"")
        waits = (b"%d" % self._forget_ms, b"%d" % min(GONE_MS, self._forget_ms))
        more = (self._keys.clock, self._keys.clock_copy, self._keys.values(scope))
        await self._run("deadlines/reschedule", [b"9", *names, *more, scope, deadlines_setting(scope), *words, *waits])

    def _expire(self, scope: bytes, key: bytes) -> asyncio.Future[bytes | None]:
        return self._connection.call(Expire(self._fanout, scope.decode(), key.decode()))
