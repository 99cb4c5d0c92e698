"""The queues of the subscriptions that are hosted here: taking deliveries, ending them, and having them tried again."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

from iii_state.adapters.redis.connection.call import Command, Reply, ScriptCall
from iii_state.adapters.redis.fleet.subscriptions import Subscriptions
from iii_state.adapters.redis.mutations.foreign_text import check_event
from iii_state.adapters.redis.run import QueuePlace, Unhandled
from iii_state.adapters.redis.runs import Runs
from iii_state.adapters.redis.scripts import queues
from iii_state.adapters.redis.scripts.loader import Script
from iii_state.adapters.redis.scripts.queues import Entry, is_fenced, is_paused
from iii_state.adapters.redis.shared import Shared
from iii_state.errors import StoreError
from iii_state.events import Delivery, Failure, Subscription
from iii_state.tasks.results import Result
from iii_state.wire.quiet_log import QuietLog

logger = logging.getLogger(__name__)
_quiet = QuietLog(logger)

DUE_AT_ONCE = 500
DAMAGED_SECONDS = 0.2
"""Calls that meet damage together are made good together."""


class RedisQueues:
    """What is pending at this engine, by queue."""

    def __init__(self, shared: Shared, subscriptions: Subscriptions) -> None:
        self._shared = shared
        self._keys = shared.keys
        self._connection = shared.connection
        self._run, self._send = shared.connection.run, shared.connection.send
        self._engine = shared.engine
        self._subscriptions = subscriptions
        self._held: defaultdict[bytes, set[bytes]] = defaultdict(set)
        self._dropped: dict[str, int] = {}
        """How many events have been dropped from queues whose triggers bound them so, as far as is known, by subscription id."""
        self._paused: set[str] = set()
        """The ids of subscriptions that are paused, as far as is known: nothing that was taken of them is started."""
        self._asking: set[str] = set()
        """Of which it is asked just now, since a pause has been heard of: what was taken earlier does not tell of it."""
        shared.wake_ups.on_paused = self._heard_of_pause
        self._may_hold_more = False
        """Whether something may have been taken by a call whose reply got lost."""
        self._runs = Runs(shared.keys, shared.connection, self)
        self.subscribe = subscriptions.subscribe
        self.unsubscribe = subscriptions.unsubscribe
        self.abandon = subscriptions.abandon
        shared.connection.damaged.connect(lambda: self._doubt(DAMAGED_SECONDS))
        shared.connection.restored.connect(lambda: self._doubt(0))

    def enable_events(self, enabled: bool) -> None:
        """Whether mutations have events from now on."""
        self._shared.fanout.enabled = enabled

    def are_wanted(self, scope: str, key: str) -> bool:
        """As the routes say that are known here."""
        fanout = self._shared.fanout
        return fanout.enabled and bool(fanout.routes.matching(scope, key))

    def offer(self, subscription_id: str, served: bool) -> None:
        """Nothing comes that is not taken. What cannot be called here any more waits here for no pause."""
        if not served:
            self._runs.hurry(subscription_id)

    def note_loop(self, subscription_id: str) -> Result[None]:
        """Its handler has been seen to lead to itself."""
        queue = self._subscriptions.queue_of(subscription_id)
        if queue is None:
            return None
        return self._run("queues/note_loop", queues.note_loop(self._keys, queue), lambda _: None)

    # -- one after the other

    def take(self, subscription_id: str, count: int) -> Result[list[Delivery]]:
        """Up to so many deliveries that are ready."""
        queue, engine = self._subscriptions.queue_of(subscription_id), self._engine.id
        if queue is None or count <= 0 or not self._engine.is_alive():
            return []
        call = queues.take(self._keys, queue, engine, count)
        return self._taking("queues/take", call, QueuePlace(subscription_id, queue, engine))

    def holds(self, delivery: Delivery) -> bool:
        """Whether it is pending here for certain."""
        is_here = _entry(delivery).engine == self._engine.id and self._engine.is_alive()
        return is_here and delivery.subscription_id not in self._paused

    def _heard_of_pause(self, stream: bytes, subscription_id: str) -> None:
        """Start nothing more that was taken before, and ask: replies that are on their way may be older than the pause."""
        self._paused.add(subscription_id)
        self._asking.add(subscription_id)
        asking = self._connection.call(Command((b"HEXISTS", self._keys.paused, subscription_id.encode())))

        def answered(reply: asyncio.Future[Any]) -> None:
            self._asking.discard(subscription_id)
            if not reply.cancelled() and reply.exception() is None and not reply.result():
                self._paused.discard(subscription_id)
                self._shared.wake_ups.wake(subscription_id)

        asking.add_done_callback(answered)

    def ack(self, deliveries: Sequence[Delivery], want: int = 0, *, ahead: bool = False) -> Result[list[Delivery]]:
        """These are done; answers up to `want` further ones."""
        if len(self._runs):
            in_runs, deliveries = self._runs.among(deliveries)
            if in_runs:
                answers = [self._runs.handled(run, handled, 0 if number else want) for number, (run, handled) in enumerate(in_runs)]
                if deliveries:
                    answers.append(self.ack(deliveries, 0, ahead=ahead))
                return answers[0] if len(answers) == 1 else self._together(answers)
        engine = self._engine.id
        entries = [entry for delivery in deliveries if (entry := _entry(delivery)).engine == engine and entry.id]
        subscription_id = deliveries[0].subscription_id if deliveries else ""
        if not entries:
            return self.take(subscription_id, want) if want else []
        queue = entries[0].queue
        if self._subscriptions.queue_of(subscription_id) is None:
            want = 0
        size = queues.DELIVERIES_AT_ONCE
        parts = [entries[start : start + size] for start in range(0, len(entries), size)]
        place = QueuePlace(subscription_id, queue, engine)
        for part in parts[:-1]:
            self._taking("queues/ack", queues.ack(self._keys, queue, engine, part, 0), place, part)
        return self._taking("queues/ack", queues.ack(self._keys, queue, engine, parts[-1], want), place, parts[-1], ahead=ahead)

    def _together(self, answers: Sequence[Result[list[Delivery]]]) -> Result[list[Delivery]]:
        """One answer for several. What was taken is given back where another part has failed: it is asked for again."""
        together: asyncio.Future[list[Delivery]] = asyncio.get_running_loop().create_future()
        futures = [answer for answer in answers if isinstance(answer, asyncio.Future)]
        taken = [delivery for answer in answers if not isinstance(answer, asyncio.Future) for delivery in answer]
        if not futures:
            return taken
        left, errors = len(futures), list[BaseException]()

        def answered(answer: asyncio.Future[list[Delivery]]) -> None:
            nonlocal left
            left -= 1
            if answer.cancelled():
                together.cancel()
            elif (error := answer.exception()) is not None:
                errors.append(error)
            else:
                taken.extend(answer.result())
            if left == 0 and (errors or together.done()):
                self.release(taken)
            if left == 0 and not together.done():
                if errors:
                    together.set_exception(errors[0])
                else:
                    together.set_result(taken)

        for future in futures:
            future.add_done_callback(answered)
        return together

    def _taking(
        self, name: str, arguments: list[bytes], place: QueuePlace, ended: Sequence[Entry] = (), *, ahead: bool = False
    ) -> asyncio.Future[list[Delivery]]:
        self.about_to_take(place)
        call = _Taking(self, self._connection.scripts.of(name), arguments, place, ended)
        call.ahead = ahead
        self._connection.call(call).add_done_callback(call.over)
        return call.taken

    def about_to_take(self, place: QueuePlace) -> Subscription | None:
        """A script is to be called that takes. What is hosted there."""
        hosted = self._subscriptions.hosted.get(place.subscription_id)
        if hosted is None:
            return None
        if hosted.subscription.on_full == "drop_oldest":
            self._ask_for_dropped(hosted.subscription.id, place.queue)
        return hosted.subscription

    def _ask_for_dropped(self, subscription_id: str, queue: bytes) -> None:
        """Ask, ahead of what is taken, how many events were dropped: who takes is told with what came after them."""
        if len(self._dropped) > len(self._subscriptions.hosted):
            self._dropped = {name: count for name, count in self._dropped.items() if name in self._subscriptions.hosted}
        asking = _Dropped((b"HGET", self._keys.subscription(queue), b"dropped"), self._dropped, subscription_id)
        self._connection.call(asking).add_done_callback(asyncio.Future.exception)  # if it fails, so does the taking

    def received(self, reply: Reply, call: _Taking) -> None:
        """A script has taken deliveries, and ended others. What comes too late is given back."""
        deliveries = self.take_in(reply, call.place, call.ended)
        if call.taken.done():
            self.give_back(deliveries)
            return
        if call.ahead and deliveries:
            hosted = self._subscriptions.hosted.get(call.place.subscription_id)
            self._runs.begin(call.place, hosted and hosted.subscription, call.ended, deliveries)
        call.taken.set_result(deliveries)

    def take_in(self, reply: Reply, place: QueuePlace, ended: Sequence[Entry]) -> list[Delivery]:
        """Note what a script has taken and ended. Nothing is pending here unknown."""
        queue = place.queue
        deliveries, wrong = list[Delivery](), list[bytes]()
        if is_fenced(reply):
            self._engine.lost(place.engine)
        else:
            deliveries, wrong = queues.taken(reply, *place)
            if is_paused(reply):
                self._paused.add(place.subscription_id)
            elif place.subscription_id not in self._asking:
                self._paused.discard(place.subscription_id)
            if ended and reply[1] < len(ended):
                self.was_damaged()
        if wrong:
            self._drop(queue, wrong)
        held = self._held[queue]
        held.difference_update([entry.id for entry in ended])
        if place.engine != self._engine.id:
            deliveries = []
        held.update([_entry(delivery).id for delivery in deliveries])
        if not held:
            del self._held[queue]
        dropped = self.dropped(place)
        for delivery in deliveries:
            check_event(delivery.event)
            delivery.dropped = dropped
        return deliveries

    def dropped(self, place: QueuePlace) -> int:
        """How many events of a queue are known to have been dropped."""
        return self._dropped.get(place.subscription_id, 0) if self._dropped else 0

    def was_damaged(self) -> None:
        """Another program has let go what was pending here."""
        self._connection.damaged.emit()

    def retry(self, delivery: Delivery, delay_ms: int, failure: Failure, *, crashed: bool = False) -> Result[None]:
        """Deliver it again when so much time has passed."""
        entry = _entry(delivery)
        if entry.engine != self._engine.id:
            return None
        if len(self._runs) and (run := self._runs.of(delivery)) is not None:
            again = partial(self.retry, delivery, delay_ms, failure, crashed=crashed)
            attempt, crashes = delivery.attempt + (not crashed), delivery.crashes + crashed
            return self._runs.ended(run, delivery, Unhandled(again, delay_ms, attempt, crashes))
        call = queues.retry(self._keys, entry.queue, entry.engine, entry, delay_ms, crashed=crashed)

        def planned(reply: Reply) -> None:
            self._end(entry, reply)
            self._shared.maintenance.plan(delay_ms / 1000)

        return self._run("queues/retry", call, planned)

    def dead_letter(self, delivery: Delivery, failure: Failure) -> Result[None]:
        """Move it to the dead letters."""
        entry = _entry(delivery)
        if entry.engine != self._engine.id:
            return None
        if len(self._runs) and (run := self._runs.of(delivery)) is not None:
            again = partial(self.dead_letter, delivery, failure)
            return self._runs.ended(run, delivery, Unhandled(again, attempt=delivery.attempt + 1, crashes=delivery.crashes))
        fanout = self._shared.fanout
        hosted = self._subscriptions.hosted.get(delivery.subscription_id)
        function_id = hosted.subscription.function_id if hosted is not None else fanout.routes.function_of(entry.queue)
        told = (delivery.attempt, str(failure), function_id, fanout.limits.max_queue_length)

        def moved(reply: Reply) -> None:
            self._end(entry, reply)
            if reply[0] == b"OK" and reply[2]:
                _quiet.warning(
                    "there are too many dead letters of %s: the oldest is dropped", function_id, ids={"function_id": function_id}
                )

        return self._run("queues/dead_letter", queues.dead_letter(self._keys, entry.queue, entry.engine, entry, *told), moved)

    def release(self, deliveries: Sequence[Delivery], *, begun: bool = False) -> Result[None]:
        """Give them back unfinished."""
        by_queue: dict[bytes, list[Entry]] = {}
        answer: Result[None] = None
        for delivery in deliveries:
            entry = _entry(delivery)
            if entry.engine != self._engine.id:
                continue
            if len(self._runs) and (run := self._runs.of(delivery)) is not None:
                if begun:
                    again = partial(self.release, [delivery], begun=True)
                    answer = self._runs.ended(run, delivery, Unhandled(again, begun=True, is_due=True))
                    continue
                if not self._runs.given_back(run, delivery):
                    continue
            by_queue.setdefault(entry.queue, []).append(entry)
        for queue, entries in by_queue.items():  # of one subscription, as a rule
            answer = self._give_back(queue, [entry.id for entry in entries], begun=begun)
        return answer

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Make ready again what was taken."""
        self.release(deliveries)

    def _give_back(self, queue: bytes, ids: Sequence[bytes], *, begun: bool = False) -> asyncio.Future[None]:
        engine = self._engine.id

        def released(reply: Reply) -> None:
            if is_fenced(reply):
                self._engine.lost(engine)
            if queue in self._held:
                self._held[queue].difference_update(ids)

        return self._run("queues/release", queues.release(self._keys, queue, engine, ids, begun=begun), released)

    def _drop(self, queue: bytes, ids: Sequence[bytes]) -> None:
        """Remove entries that are no events: no handler could ever be given them."""

        def removed(reply: Reply) -> None:
            if reply:
                logger.error(
                    "%d entries in the queue of %s (%s) were no events: somebody else has put them there; they have been removed",
                    *(
                        reply,
                        self._shared.fanout.routes.function_of(queue) or queue.decode("utf-8", "replace"),
                        ", ".join(map(bytes.decode, ids[:5])),
                    ),
                )
            self._connection.damaged.emit()

        self._run("repair/drop_entries", queues.drop_entries(self._keys, queue, ids), removed)

    def _end(self, entry: Entry, reply: Reply) -> None:
        if is_fenced(reply):
            self._engine.lost(entry.engine)
        if entry.queue in self._held:
            self._held[entry.queue].discard(entry.id)

    # -- maintenance

    def sweep(self) -> None:
        """Look whether the next queues in turn have something that is ready: a wake-up may have been lost."""
        streams = self._shared.wake_ups.next_streams()
        if streams:
            wake = partial(self._wake_ready, streams)
            self._run("queues/find_ready", [b"%d" % len(streams), *streams], wake).add_done_callback(_log_not_swept)

    def _wake_ready(self, streams: list[bytes], numbers: Reply) -> None:
        for number in numbers:
            self._shared.wake_ups.heard(streams[number - 1], None)

    def forget_all(self) -> None:
        """Nothing is pending here any more: the engine has begun afresh."""
        self._held.clear()
        self._runs.forget_all()

    def _doubt(self, seconds: float) -> None:
        """A call may have taken something, and then failed or lost its reply: that is given back so much later."""
        self._may_hold_more = True
        self._shared.maintenance.plan(seconds)

    async def recover(self) -> int:
        """Give back what is pending here without this engine knowing, where that may be."""
        if self._may_hold_more:
            self._may_hold_more = False
            try:
                await self._recover()
            except BaseException:
                self._may_hold_more = True
                raise
        return -1

    async def _recover(self) -> None:
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
                await self._give_back(queue, unknown, begun=True)  # one may be of a run, whose handler runs already

    async def start_due_attempts(self) -> int:
        """Make ready what is due. Milliseconds until the next attempt is, -1 if there is none."""
        due, following = await self._run("deadlines/due", queues.due(self._keys, self._keys.later, DUE_AT_ONCE))
        by_queue: dict[bytes, list[bytes]] = {}
        for member in due:
            queue, _, entry_id = member.rpartition(b":")
            by_queue.setdefault(queue, []).append(entry_id)
        for queue, ids in by_queue.items():
            await self._run("queues/redeliver", queues.redeliver(self._keys, queue, ids))
        return 0 if len(due) >= DUE_AT_ONCE else int(following)


class _Taking(ScriptCall[None]):
    """A script that ends deliveries and takes others. It is carried out to its end, also where `taken` was cancelled meanwhile."""

    __slots__ = ("_queues", "ahead", "ended", "place", "taken")

    def __init__(
        self, owner: RedisQueues, script: Script, arguments: list[bytes], place: QueuePlace, ended: Sequence[Entry]
    ) -> None:
        super().__init__(script, arguments)
        self.taken: asyncio.Future[list[Delivery]] = asyncio.get_running_loop().create_future()
        self._queues = owner
        self.place = place
        self.ended = ended
        self.ahead = False
        """Whether its caller starts what is `following` a delivery."""

    def result(self, reply: Reply) -> None:
        self._queues.received(reply, self)

    def over(self, call: asyncio.Future[None]) -> None:
        """It has been answered, or has failed."""
        error = None if call.cancelled() else call.exception()
        if error is None or self.taken.done():
            return
        if "NOGROUP" in str(error):  # the queue is gone
            self.taken.set_result([])
        else:
            self.taken.set_exception(error)


class _Dropped(Command):
    """Asks how many events of a queue have been dropped. What is taken behind it reads the answer: no other turn lies between."""

    __slots__ = ("_counts", "_subscription_id")

    def __init__(self, words: tuple[bytes, ...], counts: dict[str, int], subscription_id: str) -> None:
        super().__init__(words)
        self._counts = counts
        self._subscription_id = subscription_id

    def result(self, reply: Any) -> Any:
        if reply is not None:
            self._counts[self._subscription_id] = int(reply)
        return super().result(reply)


def _log_not_swept(answer: asyncio.Future[None]) -> None:
    if not answer.cancelled() and (error := answer.exception()) is not None:
        logger.info("whether the queues have events that are ready could not be looked at: %s", error)


def _entry(delivery: Delivery) -> Entry:
    entry = delivery.token
    assert isinstance(entry, Entry)
    return entry
