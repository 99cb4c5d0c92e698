"""The kv adapter: a dict of dicts for reads, queues in the process, and a journal behind both where they are to last."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from iii_state import values
from iii_state.adapters.base import Updated
from iii_state.adapters.kv.clock import Clock, now_ms
from iii_state.adapters.kv.deadlines import Deadlines
from iii_state.adapters.kv.groups import Changes, Groups, delivery_row, row_number
from iii_state.adapters.kv.journal import Journal, Row
from iii_state.adapters.kv.line import Line
from iii_state.adapters.kv.sessions import Sessions
from iii_state.adapters.local_queue import Queue, Routes
from iii_state.errors import StoreError, too_large
from iii_state.events import FOREVER, DeadLetter, Delivery, Event, EventType, Failure, QueueLimits, QueueStats, Subscription
from iii_state.host import engine_name
from iii_state.sessions import SESSION_SECONDS, Request
from iii_state.tasks.awake import AwakeTimer
from iii_state.tasks.closing import Stopping, in_turn
from iii_state.tasks.effects import Afterwards
from iii_state.tasks.results import Answer
from iii_state.values.apply import apply
from iii_state.values.ops import Plan

logger = logging.getLogger(__name__)

T = TypeVar("T")

_subscription = msgspec.json.Decoder(Subscription)

_queueing = Afterwards("handing an event to its queue")
_ringing = Afterwards("telling the dispatcher of an event")
_watching = Afterwards("planning the end of a value with a deadline")


class KvAdapter:
    """Values and queues of one engine. Without `directory` they live in memory, with it in an SQLite file there.

    `clock` gives the milliseconds since 1970 of the wall clock.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        save_interval_ms: int = 5000,
        limits: QueueLimits | None = None,
        clock: Callable[[], int] = now_ms,
        session_seconds: float = SESSION_SECONDS,
    ) -> None:
        self.parts = _Parts(
            directory, save_interval_ms=save_interval_ms, limits=limits, clock=clock, session_seconds=session_seconds
        )
        self.values = self.sessions = self.queues = self.admin = self.succession = self.parts
        self.start, self.stop, self.health = self.parts.start, self.parts.stop, self.parts.health
        self.route = self.parts.route

    @property
    def store(self) -> str | None:
        return self.parts.store


class _Parts:
    """Values and queues of one engine. Without `directory` they live in memory, with it in an SQLite file there.

    `clock` gives the milliseconds since 1970 of the wall clock.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        save_interval_ms: int = 5000,
        limits: QueueLimits | None = None,
        clock: Callable[[], int] = now_ms,
        session_seconds: float = SESSION_SECONDS,
    ) -> None:
        self._limits = limits or QueueLimits()
        self._journal = None if directory is None else Journal(directory, save_interval_ms)
        self._clock = Clock(clock)
        self._groups = None if self._journal is None else Groups(self._journal, self._committed, self._clock)
        self._sessions = Sessions(self._groups, expiry_seconds=session_seconds)
        self.store = secrets.token_hex(8)
        self._data: dict[str, dict[str, bytes]] = {}
        self._deadlines = Deadlines(self._has_deadline, self._end_if_over, self._clock)
        self._watched = self._deadlines.watched
        self._queues: dict[str, Queue] = {}
        self._routes = Routes()
        self._dead: dict[str, DeadLetter] = {}
        self._removals: dict[str, AwakeTimer] = {}
        self._bell: Callable[[str], None] = lambda subscription_id: None
        self._epoch = secrets.token_hex(6)
        self._first_number = 0
        self._fence = 0
        """Grows with every process that opens the file; that of a delivery is this and its queue's together."""
        self._line = Line()
        self._writes = 0
        self._numbers = 0
        self._events_enabled = True
        self._closing = False
        self._has_started = False
        self._stopping = Stopping(self._stop)

    # -- opening and closing

    async def start(self, bell: Callable[[str], None]) -> None:
        if self._has_started:
            raise StoreError("this kv adapter has been started before, and cannot be used again: make another one")
        if self._journal is None:
            self._bell, self._has_started = bell, True
            return
        contents = await self._journal.open(self._clock())
        self._bell, self._has_started = bell, True
        self._epoch = str(contents.epoch)
        self._first_number = contents.epoch << 32
        self._fence = (contents.epoch - 1) << 20
        self.store = contents.store
        self._sessions.load(contents.sessions)
        for scope, key, value in contents.values:
            self._data.setdefault(scope.decode(), {})[key.decode()] = value
        for scope, key, at in contents.deadlines:
            self._deadlines.commit(scope.decode(), key.decode(), at)
            self._deadlines.watch(scope.decode(), key.decode(), at)
        for _, definition, _orphaned, dropped in contents.subscriptions:
            queue = self._add_queue(_subscription.decode(definition))
            queue.dropped = dropped
            self._orphan(queue)
        now = self._clock()
        crashes = dict(contents.crashes)
        for number, subscription_id, write_id, event_type, scope, key, old, new, attempt, due in contents.deliveries:
            event = Event(write_id, scope.decode(), key.decode(), event_type, old, new)
            delivery = Delivery(subscription_id, event, attempt, self._fence, number, crashes=crashes.get(number, 0))
            waiting = self._queues.get(subscription_id)
            if waiting is None:  # its retention had ended
                self._keep(_finished([number]))
            else:
                waiting.push(delivery, due - now)
        for row in contents.dead_letters:
            letter_id, subscription_id, function_id, write_id, event_type, scope, key, old, new, attempts, error, at = row
            event = Event(write_id, scope.decode(), key.decode(), event_type, old, new)
            self._dead[letter_id] = DeadLetter(letter_id, subscription_id, function_id, event, attempts, error, at)
        self._deadlines.look()

    async def stop(self) -> None:
        await self._stopping()

    async def _stop(self) -> None:
        for timer in self._removals.values():
            timer.cancel()
        self._removals.clear()
        for queue in self._queues.values():
            queue.hosted = False
            queue.close()
        self._deadlines.stop()
        self._closing = True
        self._sessions.close()
        if self._journal is not None and self._groups is not None:
            journal = self._journal
            await in_turn(self._groups.drain, lambda: journal.close(self._clock()))

    async def health(self) -> str | None:
        if self._journal is None:
            return None
        try:
            async with asyncio.timeout(2):
                await self._journal.check()
        except TimeoutError:
            return f"{self._journal.path} has not answered for 2 s"
        except StoreError as error:
            return str(error)
        failing = None if self._groups is None else self._groups.failing
        return None if failing is None else f"the last write failed: {failing}"

    # -- values

    def get(self, scope: str, key: str) -> bytes | None:
        group = self._data.get(scope)
        if group is None or (self._watched and self._is_over(self._deadlines.of(scope, key))):
            return None
        return group.get(key)

    def set(
        self, scope: str, key: str, value: bytes, *, ttl_ms: int | None = None, request: Request | None = None
    ) -> Answer[bytes | None]:
        if request is not None and (done := self._sessions.recall(request)) is not None:
            return self._sessions.again(request, done.old)
        if self._watched:
            self._end_if_over(scope, key)
        old = self._current(scope, key)
        return self._write(scope, key, old, value, old, request, None if ttl_ms is None else self._after(ttl_ms))

    def delete(self, scope: str, key: str, *, request: Request | None = None) -> Answer[bytes | None]:
        if request is not None and (done := self._sessions.recall(request)) is not None:
            return self._sessions.again(request, done.old)
        if self._watched:
            self._end_if_over(scope, key)
        old = self._current(scope, key)
        return self._write(scope, key, old, None, old, request)

    def update(
        self, scope: str, key: str, plan: Plan, limit: int, *, ttl_ms: int | None = None, request: Request | None = None
    ) -> Answer[Updated]:
        if request is not None and (done := self._sessions.recall(request)) is not None:
            return self._sessions.again(request, Updated(done.old, *apply(plan, done.old)))
        if self._watched:
            self._end_if_over(scope, key)
        old = self._current(scope, key)
        new, errors = apply(plan, old)
        if len(new) > limit and (size := values.compact_size(new)) > limit:
            raise too_large(size, limit)
        deadline = self._deadline(scope, key) if ttl_ms is None else self._after(ttl_ms)
        return self._write(scope, key, old, new, Updated(old, new, errors), request, deadline)

    def open(self, session: str, previous_epoch: int, epoch: int) -> Answer[None]:
        if self._closing:
            raise _being_closed()
        return self._sessions.open(session, previous_epoch, epoch)

    def texts(self, scope: str) -> list[bytes]:
        values_of = self._data.get(scope, {})
        over = self._deadlines.over(scope)
        return [text for key, text in values_of.items() if key not in over] if over else list(values_of.values())

    def entries(self, scope: str) -> list[tuple[str, bytes]]:
        entries = list(self._data.get(scope, {}).items())
        over = self._deadlines.over(scope)
        return [entry for entry in entries if entry[0] not in over] if over else entries

    def keys(self, scope: str) -> list[str]:
        over = self._deadlines.over(scope)
        return [key for key in self._data.get(scope, ()) if key not in over]

    def scopes(self) -> list[str]:
        return [scope for scope, group in self._data.items() if len(self._deadlines.over(scope)) < len(group)]

    def route(self, visited: list[str]) -> list[str]:
        return visited

    def enter(self, worker: str, ttl_ms: int) -> Answer[list[str]]:
        return self._line.line_up(worker, ttl_ms)

    def leave(self, worker: str) -> Answer[None]:
        self._line.step_out(worker)
        return None

    def enable_events(self, enabled: bool) -> None:
        self._events_enabled = enabled

    def _current(self, scope: str, key: str) -> bytes | None:
        if self._groups is not None:
            changes = self._groups.changes_of((scope, key))
            if changes is not None:
                return changes.overlay[scope, key]
        group = self._data.get(scope)
        return None if group is None else group.get(key)

    def _store(self, scope: str, key: str, value: bytes | None) -> None:
        group = self._data.get(scope)
        if value is not None:
            if group is None:
                group = self._data[scope] = {}
            group[key] = value
        elif group is not None and group.pop(key, None) is not None and not group:
            del self._data[scope]

    # -- deadlines

    def _after(self, ttl_ms: int) -> int:
        return self._deadlines.now() + ttl_ms

    def _is_over(self, deadline: int | None) -> bool:
        return deadline is not None and deadline <= self._deadlines.now()

    def _deadline(self, scope: str, key: str) -> int | None:
        """The deadline of what mutations see."""
        if not self._watched:
            return None
        changes = None if self._groups is None else self._groups.changes_of((scope, key))
        return self._deadlines.of(scope, key) if changes is None else changes.deadlines.get((scope, key))

    def _has_deadline(self, scope: str, key: str, at: int) -> bool:
        return self._deadlines.of(scope, key) == at or self._deadline(scope, key) == at

    def _end_if_over(self, scope: str, key: str) -> None:
        """A value that is over goes, as a mutation of its own, before anything else happens to its key."""
        if self._is_over(self._deadline(scope, key)):
            removal = self._write(scope, key, self._current(scope, key), None, None, None)
            if removal is not None:
                removal.add_done_callback(asyncio.Future.exception)  # if it fails, the value is looked at again

    def _write(
        self,
        scope: str,
        key: str,
        old: bytes | None,
        new: bytes | None,
        answer: T,
        request: Request | None,
        deadline: int | None = None,
    ) -> Answer[T]:
        if self._closing:  # nobody would write it any more, and so its call would never be answered
            raise _being_closed()
        queues = self._routes.matching(scope, key) if self._events_enabled else ()
        event: Event | None = None
        if queues:
            kind: EventType = "state:deleted" if new is None else "state:created" if old is None else "state:updated"
            self._writes += 1
            event = Event(f"{self._epoch}-{self._writes}", scope, key, kind, old, new)
            for queue in queues:
                _refuse_overflow(queue, event)
        changes_deadline = deadline is not None or (self._watched and self._deadline(scope, key) is not None)
        if request is not None:
            self._sessions.record(request, old)
        if self._groups is None:
            self._store(scope, key, new)
            if changes_deadline:
                self._deadlines.commit(scope, key, deadline)
            if event is not None:
                for queue in queues:
                    try:
                        self._make_room(queue, event)
                        queue.push(Delivery(queue.id, event, 1, self._fence, self._next_number()))
                    except Exception as error:
                        _queueing.failed(error)
            if deadline is not None:
                try:
                    self._deadlines.watch(scope, key, deadline)
                except Exception as error:
                    _watching.failed(error)
            return answer
        deliveries: list[tuple[Queue, Delivery]] = []
        if event is not None:
            for queue in queues:
                queue.reserve(event)
                deliveries.append((queue, Delivery(queue.id, event, 1, self._fence, self._next_number())))
        written = self._groups.write((scope, key), new, answer, deliveries)
        if changes_deadline:
            self._groups.filling.deadlines[scope, key] = deadline
        if deadline is not None:
            try:
                self._deadlines.watch(scope, key, deadline)
            except Exception as error:
                _watching.failed(error)
        return written

    def _next_number(self) -> int:
        self._numbers += 1
        return self._first_number + self._numbers

    def _make_room(self, queue: Queue, event: Event) -> None:
        """Drop what has to go for `event`; only a queue that drops its oldest ever has to."""
        dropped: list[int] = []
        while queue.overflow(event) is not None and (victim := queue.drop_oldest()) is not None:
            dropped.append(row_number(victim))
        if dropped:
            if queue.dropped == len(dropped) or queue.dropped % 1000 < len(dropped):
                function = queue.subscription.function_id
                logger.warning("the queue of %s is full; %d of its oldest events dropped so far", function, queue.dropped)
            self._keep(_finished(dropped))

    # -- what is written to the journal

    def _keep(self, record: Callable[[Changes], object], settled: Callable[[], None] | None = None) -> None:
        """Record upkeep, and call `settled` when it has been committed: at once without a journal."""
        if self._groups is not None:
            self._groups.keep(record, settled)
        elif settled is not None:
            settled()

    def _committed(self, written: Changes) -> None:
        """What was written is seen from now on, and its events can be delivered."""
        self._sessions.committed(written.outcomes)
        for (scope, key), value in written.overlay.items():
            self._store(scope, key, value)
        for (scope, key), deadline in written.deadlines.items():
            self._deadlines.commit(scope, key, deadline)
        for write in written.writes:
            for queue, delivery in write.deliveries:
                queue.unreserve(delivery.event)
                if self._queues.get(queue.id) is queue:
                    try:
                        self._make_room(queue, delivery.event)
                        queue.push(delivery)
                    except Exception as error:
                        _queueing.failed(error)

    # -- subscriptions

    # What is recorded of a subscription is in the group of the next write or an earlier one, so nobody needs to wait for it.

    def subscribe(self, subscription: Subscription) -> None:
        queue = self._queues.get(subscription.id)
        if queue is None:
            queue = self._add_queue(subscription)
        timer = self._removals.pop(queue.id, None)
        if timer is not None:
            timer.cancel()
        queue.subscription = subscription
        queue.orphaned_at_ms = None
        queue.hosted = True
        queue.ring()
        self._record_queue(queue)

    def offer(self, subscription_id: str, served: bool) -> None:
        pass  # nothing comes that is not taken

    def unsubscribe(self, subscription_id: str) -> None:
        queue = self._queues.get(subscription_id)
        if queue is not None:
            self._remove_queue(queue)

    def abandon(self, subscription_id: str) -> None:
        queue = self._queues.get(subscription_id)
        if queue is not None:
            queue.hosted = False
            self._record_queue(queue)
            self._orphan(queue)

    def _add_queue(self, subscription: Subscription) -> Queue:
        queue = Queue(subscription, self._limits, self._ring)
        self._queues[queue.id] = queue
        self._routes.add(queue)
        return queue

    def _ring(self, subscription_id: str) -> None:
        try:
            self._bell(subscription_id)
        except Exception as error:
            _ringing.failed(error)

    def _orphan(self, queue: Queue) -> None:
        queue.orphaned_at_ms = now_ms()
        retention = queue.subscription.retention_ms
        if retention == FOREVER:
            return

        def end() -> None:
            self._removals.pop(queue.id, None)
            function = queue.subscription.function_id
            log = logger.warning if len(queue) else logger.info
            log(
                "nobody has asked for the events of %s for %s ms: its queue is removed, with %d events",
                function,
                retention,
                len(queue),
            )
            self._remove_queue(queue)

        assert isinstance(retention, int)
        if retention <= 0:
            end()
        else:
            self._removals[queue.id] = AwakeTimer(retention / 1000, end)

    def _remove_queue(self, queue: Queue) -> None:
        timer = self._removals.pop(queue.id, None)
        if timer is not None:
            timer.cancel()
        self._routes.remove(queue)
        del self._queues[queue.id]
        queue.hosted = False
        queue.close()
        if self._groups is None:
            return
        held = [row_number(delivery) for delivery in (*queue, *self._groups.deliveries_to(queue))]
        self._keep(lambda changes: changes.subscriptions.update({queue.id: None}))
        self._keep(_finished(held))

    def _record_queue(self, queue: Queue) -> None:
        if self._journal is not None:
            row = (queue.id, values.encode(queue.subscription), queue.orphaned_at_ms, queue.dropped)
            self._keep(lambda changes: changes.subscriptions.update({queue.id: row}))

    # -- deliveries

    def take(self, subscription_id: str, count: int) -> list[Delivery]:
        queue = self._queues.get(subscription_id)
        return [] if queue is None else self._take(queue, count)

    def _take(self, queue: Queue, count: int) -> list[Delivery]:
        taken = queue.take(count) if count and queue.hosted else []
        for delivery in taken:
            delivery.fence = self._fence + queue.fence
        return taken

    def holds(self, delivery: Delivery) -> bool:
        return True

    def ack(self, deliveries: Sequence[Delivery], want: int = 0) -> Answer[list[Delivery]]:
        queue = self._queues.get(deliveries[0].subscription_id) if deliveries else None
        if queue is None:
            return []
        done = [delivery for delivery in deliveries if queue.is_pending(delivery)]
        if self._journal is None:
            for delivery in done:
                queue.finish(delivery)
            return self._take(queue, want)
        waiter: asyncio.Future[list[Delivery]] = asyncio.get_running_loop().create_future()

        def settled() -> None:
            for delivery in done:
                if queue.is_pending(delivery):
                    queue.finish(delivery)
            if not waiter.done():
                waiter.set_result(self._take(queue, want))

        self._keep(_finished([row_number(delivery) for delivery in done]), settled)
        return waiter

    def retry(self, delivery: Delivery, delay_ms: int, failure: Failure, *, crashed: bool = False) -> None:
        queue = self._queues.get(delivery.subscription_id)
        if queue is None or not queue.is_pending(delivery):
            return
        queue.retry(delivery, delay_ms, crashed=crashed)
        planned = (delivery.attempt, self._clock() + delay_ms)
        self._keep(lambda changes: changes.attempts.update({row_number(delivery): planned}))
        if crashed:
            crashes = delivery.crashes
            self._keep(lambda changes: changes.crashes.update({row_number(delivery): crashes}))

    def dead_letter(self, delivery: Delivery, failure: Failure) -> None:
        queue = self._queues.get(delivery.subscription_id)
        if queue is None or not queue.is_pending(delivery):
            return
        letter = DeadLetter(
            id=delivery.event_id,
            subscription_id=queue.id,
            function_id=queue.subscription.function_id,
            event=delivery.event,
            attempts=delivery.attempt,
            error=str(failure),
            buried_at_ms=now_ms(),
        )
        self._dead[letter.id] = letter
        if len(self._dead) > self._limits.max_queue_length:
            oldest = next(iter(self._dead.values()))
            logger.warning("there are too many dead letters: that of event %s of %s is dropped", oldest.id, oldest.function_id)
            self.dead_drop(oldest.id)

        def settled() -> None:
            if queue.is_pending(delivery):
                queue.finish(delivery)

        def record(changes: Changes) -> None:
            changes.dead_letters.append(_dead_letter_row(letter))
            changes.finished.append(row_number(delivery))

        self._keep(record, settled)

    def release(self, deliveries: Sequence[Delivery], *, begun: bool = False) -> None:
        for delivery in reversed(deliveries):
            queue = self._queues.get(delivery.subscription_id)
            if queue is not None and queue.is_pending(delivery):
                queue.fence += begun
                queue.release(delivery)

    # -- looking at it

    def stats(self) -> list[QueueStats]:
        dead: dict[str, int] = {}
        for letter in self._dead.values():
            dead[letter.subscription_id] = dead.get(letter.subscription_id, 0) + 1
        return [
            QueueStats(
                subscription=queue.subscription,
                waiting=len(queue) - queue.pending,
                pending=queue.pending,
                retrying=queue.retrying,
                dead=dead.get(queue.id, 0),
                dropped=queue.dropped,
                hosts=[engine_name()] if queue.hosted else [],
                oldest_at_ms=next((delivery.queued_at_ms for delivery in queue), None),
            )
            for queue in self._queues.values()
        ]

    def dead_letters(self, function_id: str | None = None) -> list[DeadLetter]:
        return [letter for letter in self._dead.values() if function_id is None or letter.function_id == function_id]

    def dead_retry(self, dead_letter_id: str) -> bool:
        letter = self._dead.get(dead_letter_id)
        if letter is None:
            return False
        queue = self._queues.get(letter.subscription_id)
        if queue is None:
            raise StoreError(f"nobody is subscribed any more: {letter.function_id} has no queue for this event")
        _refuse_overflow(queue, letter.event)
        del self._dead[dead_letter_id]
        queue.reserve(letter.event)
        queue.fence += 1  # who was called with it before is not taken for being called with it now
        delivery = Delivery(queue.id, letter.event, 1, self._fence, self._next_number())

        def settled() -> None:
            queue.unreserve(letter.event)
            if self._queues.get(queue.id) is queue:
                self._make_room(queue, delivery.event)
                queue.push(delivery)

        def record(changes: Changes) -> None:
            changes.revived.append(delivery_row(delivery))
            changes.discarded.append(dead_letter_id)

        self._keep(record, settled)
        return True

    def dead_drop(self, dead_letter_id: str) -> bool:
        if self._dead.pop(dead_letter_id, None) is None:
            return False
        self._keep(lambda changes: changes.discarded.append(dead_letter_id))
        return True


def _being_closed() -> StoreError:
    return StoreError("the store is being closed; nothing was changed")


def _refuse_overflow(queue: Queue, event: Event) -> None:
    bound = queue.overflow(event)
    if bound is not None and queue.limits.on_full == "reject":
        function = queue.subscription.function_id
        raise StoreError(f"the queue of {function} is full ({bound}); its handler does not keep up, or nobody serves it")


def _finished(numbers: list[int]) -> Callable[[Changes], None]:
    return lambda changes: changes.finished.extend(numbers)


def _dead_letter_row(letter: DeadLetter) -> Row:
    event = letter.event
    place = (event.scope.encode(), event.key.encode())
    head = (letter.id, letter.subscription_id, letter.function_id, event.write_id, event.event_type)
    return (*head, *place, event.old, event.new, letter.attempts, letter.error, letter.buried_at_ms)
