"""The end of subscriptions: their queues are removed when they are let go for good, or when their retention is over."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from iii_state.adapters.redis.scripts import queues, subscriptions
from iii_state.adapters.redis.shared import Shared
from iii_state.events import Subscription

logger = logging.getLogger(__name__)

_subscription = msgspec.json.Decoder(Subscription)

HOLD_SECONDS = 0.02
"""How long a change of the routes waits when a writer has asked these to hold still."""


class Retention:
    """Removes queues."""

    def __init__(self, shared: Shared) -> None:
        self._keys = shared.keys
        self._engine = shared.engine
        self._run = shared.connection.run
        self._send = shared.connection.send

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
        lanes: list[bytes] = []
        while True:
            reply = await self._run("subscriptions/delete_queue", subscriptions.clear(self._keys, queue, lanes))
            if reply[0] == b"KEPT":
                return None
            if reply[0] == b"DONE":
                return int(reply[1])
            lanes = reply[1]

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
