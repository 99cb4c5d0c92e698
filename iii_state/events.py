"""What happens between a write and a handler: events, subscriptions, deliveries, dead letters."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import msgspec

from iii_state import values
from iii_state.errors import MAX_CODE, MAX_MESSAGE, bounded
from iii_state.filters import LEFT_OUT, Filter
from iii_state.lineages import Lineage

EventType = Literal["state:created", "state:updated", "state:deleted"]
Payload = Literal["full", "new", "keys"]
OnFull = Literal["reject", "drop_oldest"]
Cause = Literal["expired", "foreign"]
"""Why there is an event that no call has made: a deadline, or another program's write that was found by comparison."""

_FOREIGN = "foreign-"
_OVER = "-over"
FOREVER = "forever"

TRIGGERS_V2 = "triggers.v2"
"""The feature that narrowed triggers are: engines without it take no notice of what narrows one."""

TRIGGERS_PAUSE = "triggers.pause"
"""The feature that operators can pause, resume, purge and remove subscriptions: engines without it go on delivering."""

BRIDGE_FUNCTIONS = "iii-state::bridge::"
"""How the ids of functions begin with which a bridge hears of a remote's events: it stands for all the callers of its engine."""

LOOPING_SECONDS = 120
"""For so long a subscription through which a loop was noted counts as looping; while it lasts that is noted more often."""


class Change(msgspec.Struct):
    """One committed mutation, which handlers get as an event. `old` and `new` are stored texts, None where there is no value.

    `cause` follows from the write's id (`write_id_of`), so it lasts as long as that wherever an event is kept; it is given where
    another id had to stand in that place.
    """

    write_id: str
    scope: str
    key: str
    event_type: EventType
    old: bytes | None
    new: bytes | None
    cause: Cause | None = None
    lineage: Lineage | None = None
    """What the write was made within, None for nothing."""
    size: int = 0
    """Bytes that count against `max_queue_bytes`."""

    def __post_init__(self) -> None:
        self.size = len(self.scope) + len(self.key) + len(self.old or b"") + len(self.new or b"")
        if self.cause is None:
            self.cause = _cause_of(self.write_id)

    def payload(self) -> bytes:
        """The JSON object that handlers are called with."""
        if self.old == LEFT_OUT or self.new == LEFT_OUT:
            return self.payload_without(self.old == LEFT_OUT, self.new == LEFT_OUT)
        return b'{"type":"state","event_type":"%b","scope":%b,"key":%b,"old_value":%b,"new_value":%b%b}' % (
            self.event_type.encode(),
            values.encode_string(self.scope),
            values.encode_string(self.key),
            b"null" if self.old is None else self.old,
            b"null" if self.new is None else self.new,
            b"" if self.cause is None else b',"cause":"%b"' % self.cause.encode(),
        )

    def payload_without(self, old: bool, new: bool) -> bytes:
        """The same without the member `old_value`, or `new_value`, as a trigger's `payload` has it."""
        return b'{"type":"state","event_type":"%b","scope":%b,"key":%b%b%b%b}' % (
            self.event_type.encode(),
            values.encode_string(self.scope),
            values.encode_string(self.key),
            b"" if old else b',"old_value":%b' % (b"null" if self.old is None else self.old),
            b"" if new else b',"new_value":%b' % (b"null" if self.new is None else self.new),
            b"" if self.cause is None else b',"cause":"%b"' % self.cause.encode(),
        )

    def with_payload(self, payload: Payload) -> Change:
        """The event as a queue of this payload holds it: what is left out of it takes no room."""
        if payload == "full":
            return self
        old = None if self.old is None else LEFT_OUT
        new = self.new if payload == "new" or self.new is None else LEFT_OUT
        return msgspec.structs.replace(self, old=old, new=new)

    def behind(self, earlier: Change) -> Change:
        """The one event in which this and one that waits before it in its lane are told together, where a trigger coalesces."""
        existed = earlier.event_type == "state:updated" or (earlier.event_type == "state:deleted" and earlier.old is not None)
        if self.event_type == "state:deleted":
            event_type: EventType = "state:deleted"
        else:
            event_type = "state:updated" if existed else "state:created"
        return msgspec.structs.replace(self, old=earlier.old if existed else None, event_type=event_type)


def write_id_of(plain: str, cause: Cause | None) -> str:
    """The id of a write, which says what caused it. `plain` ends with a number, and does not begin as that of a foreign write.

    lua/lib/queues/enqueue.lua makes such an id, too, for a value that was over when a mutation came.
    """
    if cause is None:
        return plain
    return plain + _OVER if cause == "expired" else _FOREIGN + plain


def _cause_of(write_id: str) -> Cause | None:
    if write_id.endswith(_OVER):
        return "expired"
    return "foreign" if write_id.startswith(_FOREIGN) else None


def begun_anew(event: Change) -> Change:
    """The event of a dead letter that is delivered again: what led to it counts no more, since somebody has looked at it."""
    return event if event.lineage is None else msgspec.structs.replace(event, lineage=None)


def known_cause(told: object) -> Cause | None:
    """What another engine has said is the cause, if it is one that there is."""
    return told if told == "expired" or told == "foreign" else None


class RetryPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How often and when a failing handler is called again. Times are in milliseconds."""

    max_attempts: int = 5
    backoff_ms: int = 1000
    max_backoff_ms: int = 60_000
    timeout_ms: int = 30_000


class QueueLimits(msgspec.Struct, frozen=True):
    """How much one queue may hold, and what happens to a write whose event does not fit."""

    max_queue_length: int = 100_000
    max_queue_bytes: int = 256 * 1024 * 1024
    on_full: OnFull = "reject"
    dead_letter_retention_ms: int | Literal["forever"] = "forever"
    """For how long a dead letter is kept. Their number is bounded by `max_queue_length` as well."""


class DispatchLimits(msgspec.Struct, frozen=True):
    """Per function: how many handlers run at once, and how many deliveries are taken ahead of them.

    An event whose write lies behind more than `loop_limit` deliveries is a dead letter; None for no limit.
    """

    concurrency: int = 64
    prefetch: int = 64
    loop_limit: int | None = None


class Batch(msgspec.Struct, frozen=True):
    """How many events a handler is called with at once, at most, and for how many milliseconds the first waits for others."""

    max: int
    wait_ms: int = 0


class Subscription(msgspec.Struct, frozen=True, dict=True):
    """Which function wants which events, and how they are delivered: the durable identity of one or more equal triggers.

    The same (namespace, function, scope, key, condition, delivery), and, where there are any, prefixes, filter and coalescing,
    is one subscription, on whichever engine it is registered; of everything else the last registration counts. None for scope,
    key, their prefixes or condition means not given.
    """

    function_id: str
    namespace: str = "default"
    scope: str | None = None
    key: str | None = None
    condition_function_id: str | None = None
    delivery: Literal["once", "broadcast"] = "once"
    retry: RetryPolicy = RetryPolicy()
    concurrency: int | None = None
    retention_ms: int | Literal["forever"] = 300_000
    metadata: bytes | None = None
    scope_prefix: str | None = None
    key_prefix: str | None = None
    filter: Filter | None = None
    coalesce: bool = False
    payload: Payload = "full"
    batch: Batch | None = None
    on_full: OnFull | None = None
    max_queue_length: int | None = None
    max_queue_bytes: int | None = None

    @cached_property
    def id(self) -> str:
        """32 hex digits, the same on every engine."""
        identity = (self.namespace, self.function_id, self.scope, self.key, self.condition_function_id, self.delivery)
        if self.is_narrowed:
            return hashlib.sha256(
                values.encode((*identity, self.scope_prefix, self.key_prefix, self.filter, self.coalesce))
            ).hexdigest()[:32]
        return hashlib.sha256(values.encode(identity)).hexdigest()[:32]

    @property
    def is_narrowed(self) -> bool:
        """Whether its identity has anything that engines without the feature `triggers.v2` do not know."""
        return self.filter is not None or self.coalesce or self.scope_prefix is not None or self.key_prefix is not None

    def limits(self, others: QueueLimits) -> QueueLimits:
        """The bounds of its queue: its own, where it has any, and otherwise the adapter's."""
        own = {name: getattr(self, name) for name in ("on_full", "max_queue_length", "max_queue_bytes")}
        given = {name: value for name, value in own.items() if value is not None}
        return msgspec.structs.replace(others, **given) if given else others

    def still_wants(self, event: Change) -> bool:
        """Whether an event that was queued for it is for it: an engine that does not know all of its config may have queued it.

        What has been coalesced is more than one event, of which each was judged.
        """
        return (
            (self.scope_prefix is None or event.scope.startswith(self.scope_prefix))
            and (self.key_prefix is None or event.key.startswith(self.key_prefix))
            and (self.filter is None or self.coalesce or self.filter.may_want(event.event_type, event.old, event.new))
        )


def particulars(subscription: Subscription) -> dict[str, Any]:
    """What a subscription has of the members of a trigger's config that came with the feature `triggers.v2`."""
    config: dict[str, Any] = {}
    for name in ("scope_prefix", "key_prefix", "on_full", "max_queue_length", "max_queue_bytes"):
        if (given := getattr(subscription, name)) is not None:
            config[name] = given
    if subscription.filter is not None:
        config |= subscription.filter.config()
    if subscription.coalesce:
        config["coalesce"] = True
    if subscription.payload != "full":
        config["payload"] = subscription.payload
    if subscription.batch is not None:
        config["batch"] = msgspec.structs.asdict(subscription.batch)
    return config


@dataclass(slots=True, eq=False)
class Delivery:
    """One event on its way to one subscription's handler, pending until it is acknowledged, retried, released or a dead letter.

    `attempt` counts from 1; `fence` grows whenever another engine takes over, or a dead letter is retried; `token` is the adapter's
    own handle, `queued_at_ms` when it was queued, where the adapter knows. `crashes` tells how often a worker went away with it in
    mid-call: from the second on it was alone there.
    """

    subscription_id: str
    event: Change
    attempt: int = 1
    fence: int = 0
    token: object = None
    queued_at_ms: int = 0
    crashes: int = 0
    begun: bool = False
    """Whether it has been handed on to its handler or condition since it was taken."""
    dropped: int = 0
    """How many events of its queue had been dropped because it was full when it was taken, where the trigger bounds it so."""
    returned: bool = False
    """Whether its handler has returned here, or was not called since the event is not for it."""
    following: Delivery | None = None
    """The next event of its lane, where that may start here as soon as this one has `returned`, ahead of its acknowledgement. The
    adapter says so as long as it has not."""

    @property
    def event_id(self) -> str:
        """The same for every attempt: the write's id and the subscription's."""
        return f"{self.event.write_id}:{self.subscription_id}"


@dataclass(slots=True, frozen=True)
class DeadLetter:
    """An event whose handler kept failing, or that could not be sent to its worker."""

    id: str
    subscription_id: str
    function_id: str
    event: Change
    attempts: int
    error: str
    buried_at_ms: int
    """When it became one, in milliseconds since 1970. The name is part of the interface of `iii-state::dead_list`."""


@dataclass(slots=True, frozen=True)
class Failure:
    """Why an attempt failed, as recorded with the delivery."""

    code: str
    message: str

    def __str__(self) -> str:
        """Text that can be encoded, and is not too long: an exception's own may hold lone surrogates, and megabytes."""
        return bounded(f"{self.code}: {self.message}", MAX_CODE + MAX_MESSAGE).encode(errors="replace").decode()


@dataclass(slots=True)
class QueueStats:
    """What one subscription's queue holds.

    `waiting` have not been taken, `retrying` of them wait for their next attempt; `pending` are out at an engine; `dropped` counts
    events, dead letters included, that went because there were too many, or for their age. `hosts` are the
    engines that host it now, as `host.engine_name` has them, `oldest_at_ms` is when the oldest event was queued (or made ready
    again), in milliseconds since 1970, None for an empty queue.
    """

    subscription: Subscription
    waiting: int
    pending: int
    retrying: int
    dead: int
    dropped: int
    hosts: list[str]
    oldest_at_ms: int | None
    is_looping: bool = False
    """Whether its handler has lately been seen to lead to itself (`state/dispatch/loops.py`)."""
    ready: int = 0
    """How many of those that wait could be taken now, were they not paused: the first of each lane."""
    paused_at_ms: int | None = None
    """Since when an operator has it paused, in milliseconds since 1970; None where it is not."""


def nothing_of(subscription: Subscription, paused_at_ms: int) -> QueueStats:
    """That a subscription is paused which has no queue now: it is when it is registered again."""
    return QueueStats(subscription, 0, 0, 0, 0, 0, [], None, paused_at_ms=paused_at_ms)
