"""Deliveries of the hosted queues: taking, ending, trying again, and the dead letters."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from iii_state.adapters.redis import queues
from iii_state.adapters.redis.fleet import Identity
from iii_state.adapters.redis.foreign import is_ours, stored_form
from iii_state.adapters.redis.keys import Keys, lane
from iii_state.adapters.redis.mutations import Reply
from iii_state.adapters.redis.queues import Entry, Fenced
from iii_state.adapters.redis.routes import Routes
from iii_state.adapters.redis.subscriptions import Run, Subscriptions
from iii_state.errors import InvalidValue, StoreError
from iii_state.events import DeadLetter, Delivery, Event, Failure, QueueLimits, QueueStats, Subscription
from iii_state.host import Answer

logger = logging.getLogger(__name__)

LETTERS_AT_ONCE = 500
DUE_AT_ONCE = 500
_UNBOUNDED = QueueLimits(max_queue_length=2**53, max_queue_bytes=2**53)
_subscription = msgspec.json.Decoder(Subscription)


class Send(Protocol):
    """Sends one command and gives its reply."""

    def __call__(self, *words: bytes) -> asyncio.Future[Any]: ...


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
    ) -> None:
        self._keys = keys
        self._run = run
        self._send = send
        self._engine = engine
        self._subscriptions = subscriptions
        self._routes = routes
        self._limits = limits
        self._plan = plan
        self._held: defaultdict[bytes, set[bytes]] = defaultdict(set)

    # -- one after the other

    def take(self, subscription_id: str, count: int) -> Answer[list[Delivery]]:
        hosted = self._subscriptions.hosted.get(subscription_id)
        if hosted is None or count <= 0 or not self._engine.is_alive():
            return []
        queue, engine = hosted[1], self._engine.id
        call = queues.take(self._keys, queue, engine, count)
        return self._taking("take", call, subscription_id, queue, engine, ())

    def holds(self, delivery: Delivery) -> bool:
        return _entry(delivery).engine == self._engine.id and self._engine.is_alive()

    def ack(self, deliveries: Sequence[Delivery], want: int = 0) -> Answer[list[Delivery]]:
        engine = self._engine.id
        entries = [entry for delivery in deliveries if (entry := _entry(delivery)).engine == engine]
        subscription_id = deliveries[0].subscription_id if deliveries else ""
        if not entries:
            return self.take(subscription_id, want) if want else []
        queue = entries[0].queue
        if subscription_id not in self._subscriptions.hosted:
            want = 0
        size = queues.DELIVERIES_AT_ONCE
        parts = [entries[start : start + size] for start in range(0, len(entries), size)]
        for part in parts[:-1]:
            self._taking("ack", queues.ack(self._keys, queue, engine, part, 0), subscription_id, queue, engine, part)
        call = queues.ack(self._keys, queue, engine, parts[-1], want)
        return self._taking("ack", call, subscription_id, queue, engine, parts[-1])

    def _taking(
        self, name: str, call: list[bytes], subscription_id: str, queue: bytes, engine: bytes, ended: Sequence[Entry]
    ) -> asyncio.Future[list[Delivery]]:
        """Call a script that takes. Nothing is pending here that nobody knows of: what comes too late is given back."""
        answer: asyncio.Future[list[Delivery]] = asyncio.get_running_loop().create_future()

        def received(reply: Reply) -> None:
            try:
                deliveries = queues.taken(reply, subscription_id, queue, engine)
            except Fenced:
                self._engine.lost(engine)
                deliveries = []
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
                _check(delivery.event)
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

    def retry(self, delivery: Delivery, delay_ms: int, failure: Failure) -> Answer[None]:
        entry = _entry(delivery)
        if entry.engine != self._engine.id:
            return None
        call = queues.retry(self._keys, entry.queue, entry.engine, entry, delay_ms)

        def planned(reply: Reply) -> None:
            self._end(entry, reply)
            self._plan(delay_ms / 1000)

        return self._run("retry", call, planned)

    def bury(self, delivery: Delivery, failure: Failure) -> Answer[None]:
        entry = _entry(delivery)
        if entry.engine != self._engine.id:
            return None
        hosted = self._subscriptions.hosted.get(delivery.subscription_id)
        function_id = hosted[0].function_id if hosted is not None else self._routes.function_of(entry.queue)
        told = (delivery.attempt, str(failure), function_id, self._limits.max_queue_length)

        def buried(reply: Reply) -> None:
            self._end(entry, reply)
            if reply[0] == b"OK" and reply[2]:
                logger.warning("there are too many dead letters of %s: the oldest is dropped", function_id)

        return self._run("bury", queues.bury(self._keys, entry.queue, entry.engine, entry, *told), buried)

    def release(self, deliveries: Sequence[Delivery]) -> Answer[None]:
        by_queue: dict[bytes, list[Entry]] = {}
        for delivery in deliveries:
            entry = _entry(delivery)
            if entry.engine == self._engine.id:
                by_queue.setdefault(entry.queue, []).append(entry)
        answer: Answer[None] = None
        for queue, entries in by_queue.items():  # of one subscription, as a rule
            answer = self._give_back(queue, [entry.id for entry in entries])
        return answer

    def _give_back(self, queue: bytes, ids: Sequence[bytes]) -> asyncio.Future[None]:
        engine = self._engine.id

        def released(reply: Reply) -> None:
            if reply[0] == b"FENCED":
                self._engine.lost(engine)
            if queue in self._held:
                self._held[queue].difference_update(ids)

        return self._run("release", queues.release(self._keys, queue, engine, ids), released)

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
        for _, queue in list(self._subscriptions.hosted.values()):
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
        due, following = await self._run("due", queues.due(self._keys.later, DUE_AT_ONCE), _as_it_is)
        by_queue: dict[bytes, list[bytes]] = {}
        for member in due:
            queue, _, entry_id = member.rpartition(b":")
            by_queue.setdefault(queue, []).append(entry_id)
        for queue, ids in by_queue.items():
            await self._run("again", queues.again(self._keys, queue, ids), _as_it_is)
        return 0 if len(due) >= DUE_AT_ONCE else int(following)

    # -- looking at it

    async def queues(self) -> list[QueueStats]:
        routed = await self._send(b"HKEYS", self._keys.routes)
        return [stats for queue in routed if (stats := await self._stats(queue)) is not None]

    async def _stats(self, queue: bytes) -> QueueStats | None:
        keys = self._keys
        try:
            fields, counted, pending, dead = await asyncio.gather(
                self._send(b"HGETALL", keys.subscription(queue)),
                self._send(b"HGET", keys.busy(queue), b"entries"),
                self._send(b"XPENDING", keys.stream(queue), b"engines"),
                self._send(b"XLEN", keys.dead(queue)),
            )
        except StoreError as error:
            if "NOGROUP" in str(error):
                return None
            raise
        held = dict(zip(fields[::2], fields[1::2], strict=True))
        if b"settings" not in held:
            return None
        out = int(pending[0])
        return QueueStats(
            subscription=_subscription.decode(held[b"settings"]),
            waiting=int(counted or 0) - out,
            pending=out,
            dead=dead,
            dropped=int(held.get(b"dropped", 0)),
            hosted=any(name.startswith(b"at:") for name in held),
        )

    async def dead_letters(self, function_id: str | None) -> list[DeadLetter]:
        letters = []
        for queue in await self._send(b"SMEMBERS", self._keys.dead_queues):
            start = b"-"
            while True:
                page = await self._send(b"XRANGE", self._keys.dead(queue), start, b"+", b"COUNT", b"%d" % LETTERS_AT_ONCE)
                letters += [_letter(queue, entry_id, fields) for entry_id, fields in page]
                if len(page) < LETTERS_AT_ONCE:
                    break
                start = b"(" + page[-1][0]
        letters = [letter for letter in letters if function_id is None or letter.function_id == function_id]
        return sorted(letters, key=lambda letter: letter.buried_at_ms)

    async def revive(self, dead_letter_id: str) -> bool:
        entry_id, _, queue = dead_letter_id.encode().partition(b":")
        fields = await self._dead_entry(queue, entry_id)
        if fields is None:
            return False
        limits = self._limits if self._limits.on_full == "reject" else _UNBOUNDED
        call = queues.revive(self._keys, queue, entry_id, lane(fields[3], fields[5]), limits)
        reply = await self._run("revive", call, _as_it_is)
        function_id = fields[17].decode()
        if reply[0] == b"GONE":
            raise StoreError(f"nobody is subscribed any more: {function_id} has no queue for this event")
        if reply[0] == b"FULL":
            bound = reply[1].decode()
            raise StoreError(
                f"the queue of {function_id} is full ({bound} {getattr(limits, bound)}); "
                "its handler does not keep up, or nobody serves it"
            )
        return bool(reply[0] == b"OK")

    async def discard(self, dead_letter_id: str) -> bool:
        entry_id, _, queue = dead_letter_id.encode().partition(b":")
        if await self._dead_entry(queue, entry_id) is None:
            return False
        return bool(await self._run("discard", queues.discard(self._keys, queue, entry_id), _as_it_is))

    async def _dead_entry(self, queue: bytes, entry_id: bytes) -> list[bytes] | None:
        """The fields of a dead letter; None for an id of anything else."""
        if not queue or not entry_id.replace(b"-", b"", 1).isdigit():
            return None
        found = await self._send(b"XRANGE", self._keys.dead(queue), entry_id, entry_id)
        return found[0][1] if found else None


def _entry(delivery: Delivery) -> Entry:
    entry = delivery.token
    assert isinstance(entry, Entry)
    return entry


def _check(event: Event) -> None:
    """The old value may be another writer's: what is no JSON counts as null."""
    if event.old is not None and not is_ours(event.old):
        try:
            event.old = stored_form(event.old)
        except InvalidValue:
            event.old = None


def _letter(queue: bytes, entry_id: bytes, fields: list[bytes]) -> DeadLetter:
    event = queues.event_of(fields)
    _check(event)
    return DeadLetter(
        id=f"{entry_id.decode()}:{queue.decode()}",
        subscription_id=queue.decode().partition("-")[0],
        function_id=fields[17].decode(),
        event=event,
        attempts=int(fields[13]),
        error=fields[15].decode(),
        buried_at_ms=int(entry_id.partition(b"-")[0]),
    )


def _as_it_is(reply: Any) -> Any:
    return reply
