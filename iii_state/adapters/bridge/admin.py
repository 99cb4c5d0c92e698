"""What operators see and put right over a bridge: the remote's queues and dead letters, and those that this engine keeps itself."""

from __future__ import annotations

from iii_state.adapters.base import Backup, EngineSeen
from iii_state.adapters.bridge.queues import BridgeQueues
from iii_state.adapters.bridge.remote import queues as remote_queues
from iii_state.adapters.bridge.remote.remote import Remote
from iii_state.adapters.local_dead_letters import DeadLetters
from iii_state.errors import StoreError, unsupported
from iii_state.events import TRIGGERS_PAUSE, DeadLetter, QueueStats, Subscription
from iii_state.host import engine_name


class BridgeAdmin:
    """See `base.Admin`. `dead_letters` are those of a stock remote, which has none itself."""

    def __init__(self, remote: Remote, queues: BridgeQueues, dead_letters: DeadLetters) -> None:
        self._remote = remote
        self._queues = queues
        self._dead_letters = dead_letters

    async def stats(self) -> list[QueueStats]:
        is_ours = await self._remote.is_ours()
        there = await remote_queues.queues(self._remote) if is_ours else {}
        dead = self._dead_letters.counts()
        found = []
        for relay in self._queues:
            queue = relay.queue
            remote = there.get(relay.function_id or "", remote_queues.NOTHING)
            # What the remote has called with is pending there, and may wait here.
            here = len(queue) - queue.pending
            waiting = remote.waiting + max(remote.pending - queue.pending, 0) if is_ours else here
            oldest = next((delivery.queued_at_ms for delivery in queue), None)
            found.append(
                QueueStats(
                    subscription=relay.subscription,
                    waiting=waiting,
                    pending=queue.pending,
                    dead=dead[queue.id] + remote.dead,
                    dropped=queue.dropped + remote.dropped,
                    retrying=queue.retrying + remote.retrying,
                    hosts=[engine_name()] if queue.hosted else [],
                    oldest_at_ms=remote.oldest_at_ms if is_ours else oldest,
                    is_looping=queue.is_looping or remote.looping,
                    ready=queue.ready,
                    paused_at_ms=remote.paused_at_ms,
                )
            )
        return found

    async def pause(self, subscription: Subscription) -> int:
        there = await self._there(subscription)
        out = await remote_queues.pause(self._remote, there.id)
        self._queues.give_back_waiting(subscription.id)
        return out

    async def resume(self, subscription: Subscription) -> bool:
        return await remote_queues.resume(self._remote, (await self._there(subscription)).id)

    async def purge(self, subscription: Subscription) -> int:
        there = await self._there(subscription)
        return await remote_queues.purge(self._remote, there.id)

    async def remove(self, subscription: Subscription) -> int:
        there = await self._there(subscription)
        self._queues.refuse_hosted(subscription)
        if there.paused_at_ms is not None:
            await remote_queues.resume(self._remote, there.id)
        self._queues.end(subscription.id)
        return there.waiting + there.pending

    async def _there(self, subscription: Subscription) -> remote_queues.RemoteQueue:
        """The queue at the remote. Raises `StoreError` where that keeps none, or cannot be told to do anything with it."""
        if not await self._remote.is_ours():
            raise StoreError(
                f"{self._remote.url} keeps no queues: what it sends is kept in the memory of this engine alone, and cannot be "
                "paused, purged or removed"
            )
        if TRIGGERS_PAUSE not in self._remote.link.features:
            raise unsupported(self._remote.url, TRIGGERS_PAUSE)
        function_id = self._queues.function_at_remote(subscription.id)
        found = (await remote_queues.queues(self._remote)).get(function_id or "")
        if found is None:
            raise StoreError(f"{self._remote.url} has no queue of {subscription.function_id} (yet): try again")
        return found

    def engines(self) -> list[EngineSeen]:
        return [EngineSeen(engine_name(), engine_name(), [])]

    async def dead_letters(self, function_id: str | None = None) -> list[DeadLetter]:
        found = self._dead_letters.all()
        if await self._remote.is_ours():
            found += await remote_queues.dead_letters(self._remote)
        return [dead_letter for dead_letter in found if function_id is None or dead_letter.function_id == function_id]

    async def dead_retry(self, dead_letter_id: str) -> bool:
        dead_letter = self._dead_letters.get(dead_letter_id)
        if dead_letter is None:
            return await self._remote.is_ours() and await remote_queues.dead_retry(self._remote, dead_letter_id)
        self._queues.deliver_again(dead_letter)
        return True

    async def dead_drop(self, dead_letter_id: str) -> bool:
        if self._dead_letters.remove(dead_letter_id):
            return True
        return await self._remote.is_ours() and await remote_queues.dead_drop(self._remote, dead_letter_id)

    async def backup(self, name: str) -> Backup:
        raise StoreError(f"the state of this engine is that of {self._remote.url}: have that engine make the backup (--url)")
