"""The end of what is kept: queues that are let go for good or whose retention is over, and dead letters that are too old."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from iii_state.adapters.local_dead_letters import dropped_for_age
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.scripts import queues, subscriptions
from iii_state.adapters.redis.shared import Shared
from iii_state.errors import StoreError
from iii_state.events import Subscription

logger = logging.getLogger(__name__)

_subscription = msgspec.json.Decoder(Subscription)

HOLD_SECONDS = 0.02
"""How long a change of the routes waits when a writer has asked these to hold still."""


Run = Callable[[str, list[bytes]], Awaitable[Any]]
"""Runs a script by its name."""

MAX_WAIT_SECONDS = 60
"""Dead letters that engines of other settings keep are looked at so often."""


class Retention:
    """Removes queues, and dead letters."""

    def __init__(self, shared: Shared) -> None:
        self._keys = shared.keys
        self._engine = shared.engine
        self._run = shared.connection.run
        self._send = shared.connection.send
        self._dead_letter_retention = shared.fanout.limits.dead_letter_retention_ms
        self._look_at = 0.0
        """When to look for dead letters that are too old, by the event loop's clock."""

    async def end(self, queue: bytes, engine: bytes = b"") -> int | None:
        """End a subscription and remove its queue; without `engine`, if its retention is over. How many events it held, None if
        it goes on."""
        while True:
            word = await self._run("subscriptions/end", subscriptions.end_subscription(self._keys, queue, engine))
            if word == b"ENDED":
                events = await self.clear(queue)
                await self._send(b"SREM", self._keys.hosts(self._engine.id), queue)
                return events
            if word != b"HOLD":
                return None
            await asyncio.sleep(HOLD_SECONDS)

    async def clear(self, queue: bytes) -> int | None:
        """Remove the queue of an ended subscription. How many events it held, None if it goes on."""
        return await clear_queue(self._run, self._keys, queue)

    async def end_orphans(self) -> int:
        """Remove the queues whose retention is over. Milliseconds until the next one's is, -1 if there is none."""
        due, following = await self._run("deadlines/due", queues.due(self._keys, self._keys.orphans, 100))
        for queue in due:
            text = await self._send(b"HGET", self._keys.subscription(queue), b"settings")
            events = await self.end(queue)
            if events is not None and text is not None:
                subscription = _subscription.decode(text)
                log = logger.warning if events else logger.info
                log(
                    "nobody has asked for the events of %s for %s ms: its queue is removed, with %d events",
                    *(subscription.function_id, subscription.retention_ms, events),
                )
        return 0 if len(due) >= 100 else int(following)

    async def drop_old_dead_letters(self) -> int:
        """Drop the dead letters of all queues that are older than this engine is told to keep them. Milliseconds until the next
        one is, -1 if none ever is."""
        retention = self._dead_letter_retention
        if not isinstance(retention, int):
            return -1
        now = asyncio.get_running_loop().time()
        if now < self._look_at:
            return 1 + int((self._look_at - now) * 1000)
        following = min(retention, MAX_WAIT_SECONDS * 1000)
        for queue in await self._send(b"SMEMBERS", self._keys.dead_queues):
            try:
                call = queues.drop_old_dead_letters(self._keys, queue, retention)
                dropped, function_id, left = await self._run("queues/drop_old_dead_letters", call)
            except StoreError as error:
                logger.info("dead letters that are too old are kept for now: %s", error)
                continue
            if dropped:
                dropped_for_age(function_id.decode("utf-8", "replace"), dropped, retention)
            if left >= 0:
                following = min(following, left)
        self._look_at = now + following / 1000
        return following


async def clear_queue(run: Run, keys: Keys, queue: bytes) -> int | None:
    """Remove the queue of an ended subscription. How many events it held, None if it goes on."""
    lanes: list[bytes] = []
    while True:
        reply = await run("subscriptions/delete_queue", subscriptions.clear(keys, queue, lanes))
        if reply[0] == b"KEPT":
            return None
        if reply[0] == b"DONE":
            return int(reply[1])
        lanes = reply[1]
