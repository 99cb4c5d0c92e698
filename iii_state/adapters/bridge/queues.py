"""Queues over a bridge: for each local subscription one function and one trigger at the remote, and what they deliver.

A remote of this project keeps the queue: it calls the function, and waits for the answer until the local handler is done with the
event. How that went is the answer (done, again, dead), so attempts and dead letters are the remote's, and outlive this engine;
engines with bridges to one remote share the functions, as those on one Redis share their queues. A stock engine with an attached
worker gives each function to one bridge at a time, so all look whether it is still there. A stock engine's own state calls once and
does not look at the answer: its events are queued here, in memory, and each bridge has functions of its own.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from iii_state.adapters.bridge.events import Mark, read_event, read_mark
from iii_state.adapters.bridge.relay import Relay
from iii_state.adapters.bridge.remote.queues import function_of
from iii_state.adapters.bridge.remote.remote import Remote
from iii_state.adapters.local_dead_letters import DeadLetters
from iii_state.adapters.local_queue import Queue
from iii_state.adapters.wakeup import WakeUp
from iii_state.errors import Code, ConnectionLost, FunctionError, NotCarriedOut, StoreError
from iii_state.events import (
    FOREVER,
    TRIGGERS_V2,
    DeadLetter,
    Delivery,
    DispatchLimits,
    Failure,
    QueueLimits,
    Subscription,
    begun_anew,
    particulars,
)
from iii_state.tasks.awake import AwakeTimer
from iii_state.tasks.background import Background
from iii_state.tasks.results import Result
from iii_state.values import Json

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0

_NO_ANSWER = (Code.TIMEOUT, Code.INVOCATION_STOPPED)
"""What is no word of the remote's on a trigger: it hangs, or stops."""

SWEEPS_PER_REVIEW = 2
"""So often, in sweeps, it is looked whether a stock engine still has the functions that are shared."""

OWN_RETENTION_MS = 300_000
"""For so long at most a remote keeps the queue of one bridge alone when the connection is gone."""


class BridgeQueues:
    """See `base.Queues`. `dead_letters` are those of a stock remote, which has none itself."""

    def __init__(
        self, remote: Remote, limits: QueueLimits, dispatch: DispatchLimits, wake_up: WakeUp, dead_letters: DeadLetters
    ) -> None:
        self._remote = remote
        self._client = remote.client
        self._client.serving.absent = _stopped
        self._limits = limits
        self._ahead = dispatch.concurrency + dispatch.prefetch
        self._wake_up = wake_up
        self._dead_letters = dead_letters
        dead_letters.on_drop = self._dead_letters_dropped
        self._enabled = True
        self._relays: dict[str, Relay] = {}
        self._gone: list[Relay] = []
        """Those that were removed before it was known what the remote is."""
        self._writes = 0
        self._is_known = False
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweeps = 0
        self._review: asyncio.Task[None] | None = None
        self._tasks = Background()
        remote.connected.connect(self._connected)
        remote.lost.connect(self._lost)

    def __iter__(self) -> Iterator[Relay]:
        return iter(self._relays.values())

    async def close(self) -> None:
        """End what only this bridge has, which it does not come back for; the rest waits at the remote."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self._tasks.stop()
        for relay in self._relays.values():
            relay.close()
            if not self._is_shared(relay.subscription):
                self._unregister(relay)

    # -- subscriptions

    def enable_events(self, enabled: bool) -> None:
        self._enabled = enabled  # where they are not, what arrives counts as done

    def are_wanted(self, scope: str, key: str) -> bool:
        return False  # they become events at the remote

    def subscribe(self, subscription: Subscription) -> Result[None]:
        if self._is_known and (lacking := self._lacking(subscription)) is not None:
            raise StoreError(lacking)
        relay = self._relays.get(subscription.id)
        if relay is None:
            relay = self._relays[subscription.id] = Relay(Queue(subscription, self._limits, self._wake_up))
        if relay.ends is not None:
            relay.ends.cancel()
            relay.ends = None
        relay.queue.take_settings(subscription)
        relay.queue.hosted = True
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)
        if not self._is_known:
            return None  # it is registered as soon as there is a connection
        self._register(relay)
        relay.queue.wake()
        trouble = self._remote.link.trouble
        if trouble is not None:
            logger.warning("%s; %s gets its events when that is over", trouble, subscription.function_id)
            return None
        return self._tasks.call(self._registered(relay))

    def offer(self, subscription_id: str, served: bool) -> None:
        relay = self._relays.get(subscription_id)
        if relay is not None:
            relay.is_offered = served
            if self._is_known:
                self._serve_or_not(relay)

    def unsubscribe(self, subscription_id: str) -> None:
        relay = self._relays.get(subscription_id)
        if relay is not None:
            self._remove(relay)

    def abandon(self, subscription_id: str) -> None:
        relay = self._relays.get(subscription_id)
        if relay is None:
            return
        relay.queue.hosted = relay.is_offered = False
        if self._is_known:
            self._serve_or_not(relay)
        retention = relay.subscription.retention_ms
        if retention == FOREVER:
            return
        assert isinstance(retention, int)

        def end() -> None:
            logger.info("nobody has asked for the events of %s for %d ms", relay.subscription.function_id, retention)
            self._remove(relay)

        if retention <= 0:
            end()
        else:
            relay.ends = AwakeTimer(retention / 1000, end)

    def _remove(self, relay: Relay) -> None:
        del self._relays[relay.queue.id]
        if self._is_known:
            self._unregister(relay)
        else:
            self._gone.append(relay)  # the remote may have kept its queue since before this engine was started
        relay.end()

    def _drop(self, relay: Relay) -> None:
        """The remote has refused a subscription: nothing is kept of it here. What may wait there from before stays."""
        del self._relays[relay.queue.id]
        self._client.triggers.forget(relay.trigger_id)
        self._stop_serving(relay)
        relay.end()

    # -- functions and triggers at the remote

    def _connected(self) -> None:
        """There is a connection, and what the remote is is known."""
        self._is_known = True
        gone, self._gone = self._gone, []
        for relay in gone:
            self._register(relay)
            self._unregister(relay)
        for relay in self._relays.values():
            self._register(relay)

    def _lost(self) -> None:
        """The remote delivers again what it keeps: only what runs here is let go on."""
        for relay in self._relays.values():
            relay.lose_calls()

    async def _registered(self, relay: Relay) -> None:
        try:
            await self._client.triggers.taken(relay.trigger_id)
        except ConnectionLost:
            pass  # the next connection begins with it
        except FunctionError as error:
            if error.code in _NO_ANSWER:
                return  # it has been sent; should it be refused yet, that is logged
            if self._relays.get(relay.queue.id) is relay:
                self._drop(relay)
            raise StoreError(f"{self._remote.url} refuses the trigger: {error}") from None

    def _lacking(self, subscription: Subscription) -> str | None:
        """In words that the remote does not know what narrows a trigger, and would call for every event; None where it does."""
        is_plain = not subscription.is_narrowed and subscription.payload == "full"
        if is_plain or TRIGGERS_V2 in self._remote.link.features:
            return None
        return (
            f"{self._remote.url} has not the feature {TRIGGERS_V2}: it would take no notice of what narrows this "
            "trigger (prefixes, event_types, changed, when, coalesce, payload)"
        )

    def _register(self, relay: Relay) -> None:
        subscription = relay.subscription
        if (lacking := self._lacking(subscription)) is not None:
            logger.error("%s gets no events: %s", subscription.function_id, lacking)
            self._unregister(relay)
            return
        function_id = function_of(subscription, None if self._is_shared(subscription) else self._remote.id)
        if relay.function_id != function_id:
            if relay.function_id is not None:
                self._unregister(relay)
            relay.function_id = function_id
            relay.is_served = False
        self._serve_or_not(relay)
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
            "concurrency": min(self._concurrency(subscription), 100_000),
        }
        if subscription.scope is not None:
            config["scope"] = subscription.scope
        if subscription.key is not None:
            config["key"] = subscription.key
        if TRIGGERS_V2 in self._remote.link.features:
            config |= particulars(subscription)
            config.pop("batch", None)  # batches are made here, of what comes
        self._client.triggers.keep(relay.trigger_id, "state", function_id, config)

    def _unregister(self, relay: Relay) -> None:
        self._client.triggers.unregister(relay.trigger_id, "state")
        self._stop_serving(relay)

    def _stop_serving(self, relay: Relay) -> None:
        if relay.function_id is not None and relay.is_served:
            relay.is_served = False
            self._client.serving.unregister_function(relay.function_id)

    def _serve_or_not(self, relay: Relay) -> None:
        """Serve the function at the remote exactly while its events can be handled here; a stock remote keeps none, so always."""
        serve = not self._remote.link.is_ours or (relay.queue.hosted and relay.is_offered)
        if relay.function_id is None or serve == relay.is_served:
            return
        relay.is_served = serve
        if serve:
            about = f"Passes events on to {relay.subscription.function_id} of an engine with a bridge to this one"
            self._client.serving.register_listener(relay.function_id, partial(self._arrived, relay), about)
        else:
            self._client.serving.unregister_function(relay.function_id)
            relay.give_back_waiting()

    def _is_shared(self, subscription: Subscription) -> bool:
        return self._remote.link.is_ours and subscription.delivery == "once"

    def _concurrency(self, subscription: Subscription) -> int:
        """How many events the remote is to have out here at once."""
        if subscription.batch is not None:
            return max(self._ahead, (subscription.concurrency or 1) * subscription.batch.max)
        return subscription.concurrency or self._ahead

    def _retention(self, subscription: Subscription) -> int | str:
        """How long the remote keeps the queue while the connection is away; a bridge that died does not come back for its own."""
        retention = subscription.retention_ms
        if self._is_shared(subscription) or not self._remote.link.is_ours:
            return retention
        return OWN_RETENTION_MS if isinstance(retention, str) else min(retention, OWN_RETENTION_MS)

    def note_loop(self, subscription_id: str) -> None:
        relay = self._relays.get(subscription_id)
        if relay is not None:
            relay.queue.note_loop()

    async def _review_functions(self) -> None:
        """Serve what nobody serves: the bridge is gone that had a function for itself, and its events wait."""
        there = await self._remote.functions()
        if there is None:
            return
        for relay in self._relays.values():
            if relay.is_served and relay.function_id not in there:
                relay.is_served = False
                self._serve_or_not(relay)

    # -- deliveries

    def _arrived(self, relay: Relay, data: Json, metadata: Json | None) -> Result[bytes | None]:
        """The remote calls with an event."""
        if not self._enabled:
            return None
        mark = read_mark(metadata)
        event = read_event(data, self._write_id(mark))
        if mark is None:
            relay.keep(event)
            return None
        return relay.hold(mark, event)

    def _write_id(self, mark: Mark | None) -> str:
        if mark is not None:
            return mark.event_id.rpartition(":")[0] or mark.event_id
        self._writes += 1
        return f"{self._remote.id}-{self._writes}"

    def take(self, subscription_id: str, count: int) -> list[Delivery]:
        relay = self._relays.get(subscription_id)
        return [] if relay is None or not relay.queue.hosted else relay.take(count)

    def holds(self, delivery: Delivery) -> bool:
        relay = self._relays.get(delivery.subscription_id)
        return relay is not None and relay.is_certain(delivery)

    def ack(self, deliveries: Sequence[Delivery], want: int = 0, *, ahead: bool = False) -> list[Delivery]:
        relay = self._relays.get(deliveries[0].subscription_id) if deliveries else None
        if relay is None:
            return []
        for delivery in deliveries:
            relay.finish(delivery)
        return relay.take(want) if want and relay.queue.hosted else []

    def retry(self, delivery: Delivery, delay_ms: int, failure: Failure, *, crashed: bool = False) -> None:
        relay = self._relays.get(delivery.subscription_id)
        if relay is None or not relay.queue.is_pending(delivery):
            return
        if relay.is_held(delivery):
            relay.finish(delivery, failure, crashed=crashed)  # the remote has the same policy, and plans the next attempt
        else:
            relay.queue.retry(delivery, delay_ms, crashed=crashed)

    def dead_letter(self, delivery: Delivery, failure: Failure) -> None:
        relay = self._relays.get(delivery.subscription_id)
        if relay is None or not relay.queue.is_pending(delivery):
            return
        is_held = relay.is_held(delivery)
        relay.finish(delivery, failure, final=True)
        if not is_held:
            self._dead_letters.add(relay.subscription, delivery, failure)

    def _dead_letters_dropped(self, dead_letters: Sequence[DeadLetter]) -> None:
        for dead_letter in dead_letters:
            relay = self._relays.get(dead_letter.subscription_id)
            if relay is not None:
                relay.queue.dropped += 1

    def release(self, deliveries: Sequence[Delivery], *, begun: bool = False) -> None:
        for delivery in reversed(deliveries):
            relay = self._relays.get(delivery.subscription_id)
            if relay is not None:
                relay.release(delivery, begun=begun)

    def deliver_again(self, dead_letter: DeadLetter) -> None:
        """Take the event of a dead letter back into its queue. Raises `StoreError` where there is none."""
        relay = self._relays.get(dead_letter.subscription_id)
        if relay is None:
            raise StoreError(f"nobody is subscribed any more: {dead_letter.function_id} has no queue for this event")
        self._dead_letters.remove(dead_letter.id)
        relay.keep(begun_anew(dead_letter.event))

    # -- what operators do

    def function_at_remote(self, subscription_id: str) -> str | None:
        """The function at the remote that stands for a subscription, if it is known."""
        relay = self._relays.get(subscription_id)
        return None if relay is None else relay.function_id

    def give_back_waiting(self, subscription_id: str) -> None:
        """Give back to the remote, which has paused it, what has come of a subscription and has not begun."""
        relay = self._relays.get(subscription_id)
        if relay is not None:
            relay.is_paused = True
            relay.give_back_waiting(math.inf)
            self._wake_up(subscription_id)

    def refuse_hosted(self, subscription: Subscription) -> None:
        """Raise `StoreError` where a subscription is hosted here."""
        relay = self._relays.get(subscription.id)
        if relay is not None and relay.queue.hosted:
            function_id = subscription.function_id
            raise StoreError(f"{function_id} is served here: unregister its trigger, or stop its worker, and then remove it")

    def end(self, subscription_id: str) -> None:
        """End a subscription, here and at the remote."""
        relay = self._relays.get(subscription_id)
        if relay is not None:
            self._remove(relay)

    def _sweep(self) -> None:
        """What is not taken, because its function is away, is given back before the remote counts an attempt."""
        loop = asyncio.get_running_loop()
        for relay in self._relays.values():
            relay.give_back_waiting(loop.time() - relay.subscription.retry.timeout_ms / 1000)
        self._sweeps += 1
        is_due = self._sweeps % SWEEPS_PER_REVIEW == 0 and self._remote.keeps_functions_for_one
        if is_due and (self._review is None or self._review.done()):
            self._review = self._tasks.start(self._review_functions(), f"iii-state bridge to {self._remote.url}: functions")
        self._sweeper = loop.call_later(SWEEP_SECONDS, self._sweep)


def _stopped(function_id: str) -> FunctionError:
    """What a call is answered that comes after its function was let go: another bridge may serve it, so it has not failed."""
    return NotCarriedOut(Code.INVOCATION_STOPPED, f"{function_id} is not served here any more")
