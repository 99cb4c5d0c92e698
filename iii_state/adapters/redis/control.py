"""What operators do to the queues of a subscription, of all engines: pause it, resume it, drop what waits, and end it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import msgspec

from iii_state import values
from iii_state.adapters.redis.connection.connection import RedisConnection
from iii_state.adapters.redis.fleet.retention import HOLD_SECONDS, clear_queue
from iii_state.adapters.redis.keys import Keys, lane
from iii_state.adapters.redis.scripts import queues, subscriptions
from iii_state.adapters.redis.scripts.queues import subscription_of
from iii_state.errors import StoreError
from iii_state.events import Subscription

logger = logging.getLogger(__name__)

LANES_AT_ONCE, EVENTS_AT_ONCE = 100, 1000
"""Of one call of queues/purge.lua."""

_subscription = msgspec.json.Decoder(Subscription)


class RedisControl:
    """See `base.Admin`. Nothing here needs this process to be one of the engines."""

    def __init__(self, keys: Keys, connection: RedisConnection) -> None:
        self._keys = keys
        self._run = connection.run
        self._send = connection.send

    async def paused(self) -> dict[str, tuple[Subscription, int]]:
        """The subscriptions that are paused, by their ids, and since when, in milliseconds since 1970."""
        table = await self._send(b"HGETALL", self._keys.paused)
        found: dict[str, tuple[Subscription, int]] = {}
        for name, text in zip(table[::2], table[1::2], strict=True):
            since, _, settings = text.partition(b" ")
            found[name.decode()] = (_subscription.decode(settings), int(since))
        return found

    async def pause(self, subscription: Subscription) -> int:
        """Hand out nothing more of it, at any engine; answers how many of its events are out. Raises `StoreError` where an
        engine would take no notice."""
        queue_names = await self._queues(subscription)
        call = subscriptions.pause(self._keys, queue_names, subscription.id, values.encode(subscription))
        reply = await self._run("subscriptions/pause", call)
        if reply[0] == b"LACKING":
            engine = reply[1].decode(errors="replace")
            raise StoreError(
                f"the engine {engine} on the same Redis knows of no pause, and would go on delivering: pausing is possible "
                "when all engines have been brought up to date (one that was killed counts for heartbeat_ttl_ms)"
            )
        return int(reply[2])

    async def resume(self, subscription: Subscription) -> bool:
        """Hand out again; False where it was not paused."""
        call = subscriptions.resume(self._keys, await self._queues(subscription), subscription.id)
        return bool(await self._run("subscriptions/resume", call))

    async def purge(self, subscription: Subscription) -> int:
        """Drop what waits; answers how many events that were."""
        return sum([await self._purge(queue) for queue in await self._queues(subscription)])

    async def remove(self, subscription: Subscription) -> int:
        """End its queues that no engine hosts; answers how many events they held. Raises `StoreError` where all are hosted."""
        queue_names = await self._queues(subscription)
        events, hosted = 0, list[bytes]()
        for queue in queue_names:
            ended = await self._end(queue)
            if ended is None:
                hosted.append(queue)
            events += ended or 0
        if hosted and len(hosted) == len(queue_names):
            raise StoreError(await self._words_of_hosts(subscription, hosted))
        if not hosted:
            await self.resume(subscription)
        return events

    async def _queues(self, subscription: Subscription) -> list[bytes]:
        """Its queue, or, of one with the delivery `broadcast`, that of each engine."""
        name = subscription.id.encode()
        if subscription.delivery == "once":
            return [name]
        return [field for field in await self._send(b"HKEYS", self._keys.routes) if subscription_of(field) == name]

    async def _purge(self, queue: bytes) -> int:
        """Drop what waits in one queue. Writers go on meanwhile: no more events are dropped than waited at first."""
        counted, pending = await asyncio.gather(self._send(b"HGET", self._keys.busy(queue), b"entries"), self._pending(queue))
        left = total = max(0, int(counted or 0) - pending)
        start = b"-"
        while left > 0:
            page = await self._run("queues/list_entries", queues.list_entries(self._keys, queue, start))
            if not page:
                break
            start = b"(" + page[-1][0]
            entries = [(entry_id, lane(scope, key)) for entry_id, scope, key in page]
            while entries and left > 0:
                part = entries[:LANES_AT_ONCE]
                done, dropped = await self._run("queues/purge", queues.purge(self._keys, queue, part, min(left, EVENTS_AT_ONCE)))
                left -= dropped
                entries = entries[done:]
                if not done and not dropped:
                    break
        return total - left

    async def _pending(self, queue: bytes) -> int:
        try:
            return int((await self._send(b"XPENDING", self._keys.stream(queue), b"engines"))[0])
        except StoreError as error:
            if "NOGROUP" in str(error):
                return 0
            raise

    async def _end(self, queue: bytes) -> int | None:
        """End one queue that no engine hosts, and answer how many events it held; None where one does."""
        early = subscriptions.IN_ANY_CASE
        while True:
            word = await self._run("subscriptions/end", subscriptions.end_subscription(self._keys, queue, early=early))
            if word == b"ENDED":
                return await clear_queue(self._run, self._keys, queue) or 0
            if word != b"HOLD":
                return None if word == b"KEPT" else 0
            await asyncio.sleep(HOLD_SECONDS)

    async def _words_of_hosts(self, subscription: Subscription, hosted: Sequence[bytes]) -> str:
        names: dict[str, None] = {}
        for queue in hosted:
            for field in await self._send(b"HKEYS", self._keys.subscription(queue)):
                if field.startswith(b"at:"):
                    name = await self._send(b"GET", self._keys.engine(field[3:]))
                    names[(name or field[3:]).decode(errors="replace")] = None
        engines = ", ".join(names) or "an engine"
        return f"{subscription.function_id} is served by {engines}: unregister its trigger there, or stop it, and then remove it"
