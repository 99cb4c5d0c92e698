"""Local subscriptions, fed by triggers at the remote: one function and one trigger there for each.

A remote of this project keeps the queue: it calls the function, and waits for the answer until the local handler is done with the
event. How that went is the answer (done, again, dead), so attempts and dead letters are the remote's, and outlive this engine;
engines with bridges to one remote share the functions, as those on one Redis share their queues. A stock engine calls once and does
not look at the answer: its events are queued here, in memory, and each bridge has functions of its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import Raw

from iii_state.adapters.bridge import answers, letters
from iii_state.adapters.bridge.feed import Feed
from iii_state.adapters.bridge.remote import Remote
from iii_state.adapters.local_queue import Queue
from iii_state.errors import Code, ConnectionLost, FunctionError, InvalidValue, NotCarriedOut, StoreError
from iii_state.events import (
    FOREVER,
    DeadLetter,
    Delivery,
    DispatchLimits,
    Event,
    EventType,
    Failure,
    QueueLimits,
    QueueStats,
    Subscription,
)
from iii_state.host import engine_name
from iii_state.tasks.awake import AwakeTimer
from iii_state.tasks.effects import Afterwards
from iii_state.tasks.results import Answer
from iii_state.values import Json

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0

_ringing = Afterwards("telling the dispatcher of an event")

OWN_RETENTION_MS = 300_000
"""For so long at most a remote keeps the queue of one bridge alone when the connection is gone."""


class _Event(msgspec.Struct):
    event_type: EventType
    scope: str
    key: str
    old_value: Raw = Raw(b"null")
    new_value: Raw = Raw(b"null")


class _Mark(msgspec.Struct):
    event_id: str
    attempt: int = 1
    fence: int = 0
    crashes: int = 0


class _Metadata(msgspec.Struct):
    iii_state: _Mark | None = None


_event = msgspec.json.Decoder(_Event)
_metadata = msgspec.json.Decoder(_Metadata)


class Feeds:
    """The subscriptions of one bridge."""

    def __init__(self, remote: Remote, limits: QueueLimits, dispatch: DispatchLimits) -> None:
        self.bell: Callable[[str], None] = lambda subscription_id: None
        self.enabled = True
        """Whether events that arrive are delivered; otherwise they count as done."""
        self._remote = remote
        self._client = remote.client
        self._client.served.absent = _stopped
        self._limits = limits
        self._ahead = dispatch.concurrency + dispatch.prefetch
        self._feeds: dict[str, Feed] = {}
        self._dead: dict[str, DeadLetter] = {}
        """Those of a stock remote."""
        self._gone: list[Feed] = []
        """Those that were removed before it was known what the remote is."""
        self._writes = 0
        self._is_known = False
        self._sweeper: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # -- subscriptions

    def subscribe(self, subscription: Subscription) -> Answer[None]:
        feed = self._feeds.get(subscription.id)
        if feed is None:
            feed = self._feeds[subscription.id] = Feed(Queue(subscription, self._limits, self._ring))
        if feed.ends is not None:
            feed.ends.cancel()
            feed.ends = None
        feed.queue.subscription = subscription
        feed.queue.hosted = True
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)
        if not self._is_known:
            return None  # it is registered as soon as there is a connection
        self._register(feed)
        feed.queue.ring()
        if self._remote.trouble is not None:
            logger.warning("%s; %s gets its events when that is over", self._remote.trouble, subscription.function_id)
            return None
        task = asyncio.create_task(self._registered(feed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _ring(self, subscription_id: str) -> None:
        try:
            self.bell(subscription_id)
        except Exception as error:
            _ringing.failed(error)

    async def _registered(self, feed: Feed) -> None:
        try:
            await self._client.trigger_taken(feed.trigger_id)
        except ConnectionLost:
            pass  # the next connection begins with it
        except FunctionError as error:
            if self._feeds.get(feed.queue.id) is feed:
                self._remove(feed)
            raise StoreError(f"{self._remote.url} refuses the trigger: {error}") from None

    def _register(self, feed: Feed) -> None:
        subscription = feed.subscription
        name = letters.function_of(subscription, None if self._is_shared(subscription) else self._remote.id)
        if feed.name != name:
            if feed.name is not None:
                self._unregister(feed)
            feed.name = name
            feed.is_served = False
        self._serve_or_not(feed)
        policy = subscription.retry
        config: dict[str, Any] = {
            "retry": {
                "max_attempts": policy.max_attempts,
                "backoff_ms": policy.backoff_ms,
                "max_backoff_ms": policy.max_backoff_ms,
                # Some wait here for their turn before they are handled; and the handler's own limit is to be the first.
                "timeout_ms": min(2 * policy.timeout_ms + 10_000, 10**13),
            },
            "retention_ms": self._retention(subscription),
            "concurrency": min(subscription.concurrency or self._ahead, 100_000),
        }
        if subscription.scope is not None:
            config["scope"] = subscription.scope
        if subscription.key is not None:
            config["key"] = subscription.key
        self._client.keep_trigger(feed.trigger_id, "state", name, config)

    def _is_shared(self, subscription: Subscription) -> bool:
        return self._remote.is_ours and subscription.delivery == "once"

    def _retention(self, subscription: Subscription) -> int | str:
        """How long the remote keeps the queue while the connection is away; nobody comes back for one of a bridge that is dead."""
        retention = subscription.retention_ms
        if self._is_shared(subscription) or not self._remote.is_ours:
            return retention
        return OWN_RETENTION_MS if isinstance(retention, str) else min(retention, OWN_RETENTION_MS)

    def _serve_or_not(self, feed: Feed) -> None:
        """Serve the function at the remote exactly while its events can be handled here; a stock remote keeps none, so always."""
        serve = not self._remote.is_ours or (feed.queue.hosted and feed.is_offered)
        if feed.name is None or serve == feed.is_served:
            return
        feed.is_served = serve
        if serve:
            about = f"Passes events on to {feed.subscription.function_id} of an engine with a bridge to this one"
            self._client.served.register_listener(feed.name, partial(self._arrived, feed), about)
        else:
            self._client.served.unregister_function(feed.name)
            feed.give_back_waiting()

    def offer(self, subscription_id: str, served: bool) -> None:
        """Whether function and condition of a subscription are there."""
        feed = self._feeds.get(subscription_id)
        if feed is not None:
            feed.is_offered = served
            if self._is_known:
                self._serve_or_not(feed)

    def _unregister(self, feed: Feed) -> None:
        self._client.unregister_trigger(feed.trigger_id, "state")
        if feed.name is not None and feed.is_served:
            feed.is_served = False
            self._client.served.unregister_function(feed.name)

    def unsubscribe(self, subscription_id: str) -> None:
        feed = self._feeds.get(subscription_id)
        if feed is not None:
            self._remove(feed)

    def _remove(self, feed: Feed) -> None:
        del self._feeds[feed.queue.id]
        if self._is_known:
            self._unregister(feed)
        else:
            self._gone.append(feed)  # the remote may have kept its queue since before this engine was started
        feed.end()

    def abandon(self, subscription_id: str) -> None:
        feed = self._feeds.get(subscription_id)
        if feed is None:
            return
        feed.queue.hosted = feed.is_offered = False
        if self._is_known:
            self._serve_or_not(feed)
        retention = feed.subscription.retention_ms
        if retention == FOREVER:
            return
        assert isinstance(retention, int)

        def end() -> None:
            logger.info("nobody has asked for the events of %s for %d ms", feed.subscription.function_id, retention)
            self._remove(feed)

        if retention <= 0:
            end()
        else:
            feed.ends = AwakeTimer(retention / 1000, end)

    # -- connections

    def connected(self) -> None:
        """There is a connection, and what the remote is is known."""
        self._is_known = True
        gone, self._gone = self._gone, []
        for feed in gone:
            self._register(feed)
            self._unregister(feed)
        for feed in self._feeds.values():
            self._register(feed)

    def lost(self) -> None:
        """The remote delivers again what it keeps: only what runs here is let go on."""
        for feed in self._feeds.values():
            feed.lose_calls()

    def close(self) -> None:
        """Nobody comes back for what this bridge has for itself; the rest waits at the remote."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for task in self._tasks:
            task.cancel()
        for feed in self._feeds.values():
            feed.close()
            if not self._is_shared(feed.subscription):
                self._unregister(feed)

    # -- events

    def _arrived(self, feed: Feed, data: Json, metadata: Json | None) -> Answer[bytes | None]:
        """The remote calls with an event."""
        if not self.enabled:
            return None
        try:
            event = _event.decode(data)
            old = None if event.event_type == "state:created" else answers.stored(event.old_value)
            if event.event_type == "state:deleted" and old == b"null":  # which is said of a missing key, too
                old = None
            new = None if event.event_type == "state:deleted" else answers.stored(event.new_value)
        except (msgspec.MsgspecError, InvalidValue, RecursionError, UnicodeError) as error:
            raise FunctionError(Code.DESERIALIZATION_ERROR, f"this is no event of a state trigger: {error}") from None
        mark = None if metadata is None else _mark(metadata)
        whole = Event(self._write_id(mark), event.scope, event.key, event.event_type, old, new)
        if mark is None:
            feed.keep(whole)
            return None
        return feed.hold(mark.event_id, whole, mark.attempt, mark.fence, mark.crashes)

    def _write_id(self, mark: _Mark | None) -> str:
        if mark is not None:
            return mark.event_id.rpartition(":")[0] or mark.event_id
        self._writes += 1
        return f"{self._remote.id}-{self._writes}"

    def take(self, subscription_id: str, count: int) -> list[Delivery]:
        feed = self._feeds.get(subscription_id)
        return [] if feed is None or not feed.queue.hosted else feed.queue.take(count)

    def holds(self, delivery: Delivery) -> bool:
        feed = self._feeds.get(delivery.subscription_id)
        return feed is not None and feed.is_certain(delivery)

    def ack(self, deliveries: Sequence[Delivery], want: int) -> list[Delivery]:
        feed = self._feeds.get(deliveries[0].subscription_id) if deliveries else None
        if feed is None:
            return []
        for delivery in deliveries:
            feed.finish(delivery)
        return feed.queue.take(want) if want and feed.queue.hosted else []

    def retry(self, delivery: Delivery, delay_ms: int, failure: Failure, *, crashed: bool = False) -> None:
        feed = self._feeds.get(delivery.subscription_id)
        if feed is None or not feed.queue.is_pending(delivery):
            return
        if feed.is_held(delivery):
            feed.finish(delivery, failure, crashed=crashed)  # the remote has the same policy, and plans the next attempt
        else:
            feed.queue.retry(delivery, delay_ms, crashed=crashed)

    def bury(self, delivery: Delivery, failure: Failure) -> None:
        feed = self._feeds.get(delivery.subscription_id)
        if feed is None or not feed.queue.is_pending(delivery):
            return
        is_held = feed.is_held(delivery)
        feed.finish(delivery, failure, final=True)
        if is_held:
            return
        self._dead[delivery.event_id] = DeadLetter(
            id=delivery.event_id,
            subscription_id=feed.queue.id,
            function_id=feed.subscription.function_id,
            event=delivery.event,
            attempts=delivery.attempt,
            error=str(failure),
            buried_at_ms=time.time_ns() // 1_000_000,
        )
        if len(self._dead) > self._limits.max_queue_length:
            oldest = next(iter(self._dead.values()))
            logger.warning("there are too many dead letters: that of event %s of %s is dropped", oldest.id, oldest.function_id)
            del self._dead[oldest.id]

    def release(self, deliveries: Sequence[Delivery], *, begun: bool) -> None:
        for delivery in reversed(deliveries):
            feed = self._feeds.get(delivery.subscription_id)
            if feed is not None:
                feed.release(delivery, begun=begun)

    def _sweep(self) -> None:
        """What nobody takes, because its function is away, is given back before the remote counts an attempt."""
        loop = asyncio.get_running_loop()
        for feed in self._feeds.values():
            feed.give_back_waiting(loop.time() - feed.subscription.retry.timeout_ms / 1000)
        self._sweeper = loop.call_later(SWEEP_SECONDS, self._sweep)

    # -- looking at it

    async def queues(self) -> list[QueueStats]:
        there = await letters.queues(self._remote) if await self._remote.knows() else {}
        dead: dict[str, int] = {}
        for letter in self._dead.values():
            dead[letter.subscription_id] = dead.get(letter.subscription_id, 0) + 1
        found = []
        for feed in self._feeds.values():
            queue = feed.queue
            remote = there.get(feed.name or "", letters.NOTHING)
            # What the remote has called with is pending there, and may wait here.
            here = len(queue) - queue.pending
            waiting = remote.waiting + max(remote.pending - queue.pending, 0) if self._remote.is_ours else here
            oldest = next((delivery.queued_at_ms for delivery in queue), None)
            found.append(
                QueueStats(
                    subscription=feed.subscription,
                    waiting=waiting,
                    pending=queue.pending,
                    dead=dead.get(queue.id, 0) + remote.dead,
                    dropped=queue.dropped + remote.dropped,
                    retrying=queue.retrying + remote.retrying,
                    hosts=[engine_name()] if queue.hosted else [],
                    oldest_at_ms=remote.oldest_at_ms if self._remote.is_ours else oldest,
                )
            )
        return found

    async def dead_letters(self, function_id: str | None) -> list[DeadLetter]:
        found = list(self._dead.values())
        if await self._remote.knows():
            found += await letters.dead_letters(self._remote)
        return [letter for letter in found if function_id is None or letter.function_id == function_id]

    async def revive(self, dead_letter_id: str) -> bool:
        letter = self._dead.get(dead_letter_id)
        if letter is None:
            return await self._remote.knows() and await letters.each(self._remote, "dead_retry", "retried", dead_letter_id)
        feed = self._feeds.get(letter.subscription_id)
        if feed is None:
            raise StoreError(f"nobody is subscribed any more: {letter.function_id} has no queue for this event")
        del self._dead[dead_letter_id]
        feed.keep(letter.event)
        return True

    async def discard(self, dead_letter_id: str) -> bool:
        if self._dead.pop(dead_letter_id, None) is not None:
            return True
        return await self._remote.knows() and await letters.each(self._remote, "dead_drop", "dropped", dead_letter_id)


def _stopped(function_id: str) -> FunctionError:
    """The answer to what comes behind the word that its function is gone: another bridge may serve it, so it has not failed."""
    return NotCarriedOut(Code.INVOCATION_STOPPED, f"{function_id} is not served here any more")


def _mark(metadata: Json) -> _Mark | None:
    """By what a remote of this project names an event; None for any other."""
    try:
        return _metadata.decode(metadata).iii_state
    except (msgspec.MsgspecError, RecursionError):
        return None
