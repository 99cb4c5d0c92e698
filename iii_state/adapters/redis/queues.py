"""Deliveries of the hosted queues: taking, ending, trying again, and the dead letters."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import cast

from iii_state.adapters.redis.admin import check
from iii_state.adapters.redis.connection.call import Run, Send
from iii_state.adapters.redis.fleet.subscriptions import Subscriptions
from iii_state.adapters.redis.identity import Identity
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.mutations.routes import Routes
from iii_state.adapters.redis.scripts import queues
from iii_state.adapters.redis.scripts.mutations import Reply
from iii_state.adapters.redis.scripts.queues import Entry, Fenced
from iii_state.errors import StoreError
from iii_state.events import Delivery, Failure, QueueLimits
from iii_state.tasks.results import Answer

logger = logging.getLogger(__name__)

DUE_AT_ONCE = 500


class Deliveries:
    """What is pending at this engine, by queue."""

    def __init__(
        self,
        keys: Keys,
        run: Run,
        send: Send,
        engine: Identity,
        subscriptions: Subscriptions,
        routes: Routes,
        limits: QueueLimits,
        plan: Callable[[float], None],
        stumbled: Callable[[], None],
    ) -> None:
        self._keys = keys
        self._run = run
        self._send = send
        self._engine = engine
        self._subscriptions = subscriptions
        self._routes = routes
        self._limits = limits
        self._plan = plan
        self._stumbled = stumbled
        self._held: defaultdict[bytes, set[bytes]] = defaultdict(set)

    # -- one after the other

    def take(self, subscription_id: str, count: int) -> Answer[list[Delivery]]:
        queue, engine = self._subscriptions.queue_of(subscription_id), self._engine.id
        if queue is None or count <= 0 or not self._engine.is_alive():
            return []
        call = queues.take(self._keys, queue, engine, count)
        return self._taking("queues/take", call, subscription_id, queue, engine, ())

    def holds(self, delivery: Delivery) -> bool:
        return _entry(delivery).engine == self._engine.id and self._engine.is_alive()

    def ack(self, deliveries: Sequence[Delivery], want: int = 0) -> Answer[list[Delivery]]:
        engine = self._engine.id
        entries = [entry for delivery in deliveries if (entry := _entry(delivery)).engine == engine]
        subscription_id = deliveries[0].subscription_id if deliveries else ""
        if not entries:
            return self.take(subscription_id, want) if want else []
        queue = entries[0].queue
        if self._subscriptions.queue_of(subscription_id) is None:
            want = 0
        size = queues.DELIVERIES_AT_ONCE
        parts = [entries[start : start + size] for start in range(0, len(entries), size)]
        for part in parts[:-1]:
            self._taking("queues/ack", queues.ack(self._keys, queue, engine, part, 0), subscription_id, queue, engine, part)
        call = queues.ack(self._keys, queue, engine, parts[-1], want)
        return self._taking("queues/ack", call, subscription_id, queue, engine, parts[-1])

    def _taking(
        self, name: str, call: list[bytes], subscription_id: str, queue: bytes, engine: bytes, ended: Sequence[Entry]
    ) -> asyncio.Future[list[Delivery]]:
        """Call a script that takes. Nothing is pending here that nobody knows of: what comes too late is given back."""
        answer: asyncio.Future[list[Delivery]] = asyncio.get_running_loop().create_future()

        def received(reply: Reply) -> None:
            wrong = list[bytes]()
            try:
                deliveries, wrong = queues.taken(reply, subscription_id, queue, engine)
            except Fenced:
                self._engine.lost(engine)
                deliveries = []
            if ended and reply[0] == b"OK" and cast(int, reply[1]) < len(ended):
                self._stumbled()  # somebody has let go what was pending here
            if wrong:
                self._drop(queue, wrong)
            held = self._held[queue]
            held.difference_update([entry.id for entry in ended])
            if engine != self._engine.id:
                deliveries = []
            ids = [_entry(delivery).id for delivery in deliveries]
            if answer.done():
                self._give_back(queue, ids)
                return
            held.update(ids)
            if not held:
                del self._held[queue]
            for delivery in deliveries:
                check(delivery.event)
            answer.set_result(deliveries)

        def failed(call: asyncio.Future[None]) -> None:
            error = None if call.cancelled() else call.exception()
            if error is None or answer.done():
                return
            if "NOGROUP" in str(error):  # the queue is gone
                answer.set_result([])
            else:
                answer.set_exception(error)

        self._run(name, call, received).add_done_callback(failed)
        return answer

    def retry(self, delivery: Delivery, delay_ms: int, failure: Failure, *, crashed: bool = False) -> Answer[None]:
        entry = _entry(delivery)
        if entry.engine != self._engine.id:
            return None
        call = queues.retry(self._keys, entry.queue, entry.engine, entry, delay_ms, crashed=crashed)

        def planned(reply: Reply) -> None:
            self._end(entry, reply)
            self._plan(delay_ms / 1000)

        return self._run("queues/retry", call, planned)

    def bury(self, delivery: Delivery, failure: Failure) -> Answer[None]:
        entry = _entry(delivery)
        if entry.engine != self._engine.id:
            return None
        hosted = self._subscriptions.hosted.get(delivery.subscription_id)
        function_id = hosted.subscription.function_id if hosted is not None else self._routes.function_of(entry.queue)
        told = (delivery.attempt, str(failure), function_id, self._limits.max_queue_length)

        def buried(reply: Reply) -> None:
            self._end(entry, reply)
            if reply[0] == b"OK" and reply[2]:
                logger.warning("there are too many dead letters of %s: the oldest is dropped", function_id)

        return self._run("queues/dead_letter", queues.bury(self._keys, entry.queue, entry.engine, entry, *told), buried)

    def release(self, deliveries: Sequence[Delivery], *, begun: bool) -> Answer[None]:
        by_queue: dict[bytes, list[Entry]] = {}
        for delivery in deliveries:
            entry = _entry(delivery)
            if entry.engine == self._engine.id:
                by_queue.setdefault(entry.queue, []).append(entry)
        answer: Answer[None] = None
        for queue, entries in by_queue.items():  # of one subscription, as a rule
            answer = self._give_back(queue, [entry.id for entry in entries], begun=begun)
        return answer

    def _give_back(self, queue: bytes, ids: Sequence[bytes], *, begun: bool = False) -> asyncio.Future[None]:
        engine = self._engine.id

        def released(reply: Reply) -> None:
            if reply[0] == b"FENCED":
                self._engine.lost(engine)
            if queue in self._held:
                self._held[queue].difference_update(ids)

        return self._run("queues/release", queues.release(self._keys, queue, engine, ids, begun=begun), released)

    def _drop(self, queue: bytes, ids: Sequence[bytes]) -> None:
        """Entries that are no events: nobody could ever handle them."""

        def removed(reply: Reply) -> None:
            if reply:
                logger.error(
                    "%d entries in the queue of %s (%s) were no events: somebody else has put them there; they have been removed",
                    *(
                        reply,
                        self._routes.function_of(queue) or queue.decode("utf-8", "replace"),
                        ", ".join(map(bytes.decode, ids[:5])),
                    ),
                )
            self._stumbled()

        self._run("repair/drop_entries", queues.drop_entries(self._keys, queue, ids), removed)

    def _end(self, entry: Entry, reply: Reply) -> None:
        if reply[0] == b"FENCED":
            self._engine.lost(entry.engine)
        if entry.queue in self._held:
            self._held[entry.queue].discard(entry.id)

    # -- upkeep

    def forget_all(self) -> None:
        """Nothing is pending here any more: the engine has begun afresh."""
        self._held.clear()

    async def recover(self) -> None:
        """Give back what is pending here without anybody knowing: it was taken by a call whose reply got lost."""
        engine = self._engine.id
        for queue in await self._send(b"SMEMBERS", self._keys.hosts(engine)):
            try:
                pending = await self._send(b"XPENDING", self._keys.stream(queue), b"engines", b"-", b"+", b"10000", engine)
            except StoreError as error:
                if "NOGROUP" in str(error):
                    continue
                raise
            held = self._held.get(queue, set())
            unknown = [entry[0] for entry in pending if entry[0] not in held]
            if unknown and engine == self._engine.id:
                await self._give_back(queue, unknown)

    async def start_due_attempts(self) -> int:
        """Make ready what is due. Milliseconds until the next attempt is, -1 if there is none."""
        due, following = await self._run("deadlines/due", queues.due(self._keys, self._keys.later, DUE_AT_ONCE))
        by_queue: dict[bytes, list[bytes]] = {}
        for member in due:
            queue, _, entry_id = member.rpartition(b":")
            by_queue.setdefault(queue, []).append(entry_id)
        for queue, ids in by_queue.items():
            await self._run("queues/redeliver", queues.again(self._keys, queue, ids))
        return 0 if len(due) >= DUE_AT_ONCE else int(following)


def _entry(delivery: Delivery) -> Entry:
    entry = delivery.token
    assert isinstance(entry, Entry)
    return entry
