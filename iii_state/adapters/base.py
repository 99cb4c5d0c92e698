"""The contract of an adapter: values at a scope and a key, and one durable queue per subscription.

The two halves are atomic with each other: a mutation appends its event to the queue of every subscription that wants it in the
same step as the write. An event exists if and only if its write does.

*Lanes.* The events of one (subscription, scope, key) are a lane. At most one delivery of a lane is out at a time; the next one
becomes ready when it has been acknowledged or dead-lettered. Lanes are independent of each other.

*Deadlines.* From its deadline on a value is not seen any more by anything, and goes with a `state:deleted` of its own, once. A
mutation that comes before that has happened makes it happen first, and finds no value.

*Conditions.* What a mutation asks for (`iii_state.values.conditions`) is judged on the stored value in the same step as the write,
after the session's check, before sizes and ops.

*Sessions.* A mutation that carries a `request` is recognised when it is made again (`iii_state.sessions`): it is answered as it was
the first time, and changes nothing. Its record is written in the same step as the value; what was refused is not recorded, except
that a condition did not hold: that, too, is answered again as it was. Where it
cannot be applied as what it is, it fails with `SessionLost`, `Fenced` or `Forgotten`. Mutations without a request cost nothing of
this.

Every method answers at once where it can (`results.Result`). What the backend refuses or cannot answer is a `StoreError` in words,
and then nothing has changed; where that cannot be known the message says so. An error that has its code already, such as that of a
remote engine, is a `FunctionError`, and reaches the caller as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from iii_state.adapters.selection import KeySelection
from iii_state.events import DeadLetter, Delivery, Failure, QueueStats, Subscription
from iii_state.figures import Figure
from iii_state.history import LogPage
from iii_state.sessions import Request
from iii_state.tasks.results import Awaited, Result
from iii_state.values.conditions import Conditions
from iii_state.values.ops import OpError, Plan
from iii_state.values.transactions import Done, Step


class Updated(NamedTuple):
    """What an update did: stored texts before (None for a missing key) and after, and the ops that were skipped.

    Here, and in what `set` answers, and `delete` with conditions, an adapter that is not told may say None for a stored null, too:
    callers see no difference.
    """

    old: bytes | None
    new: bytes
    errors: list[OpError]
    revision: int | None = None
    """Where `meta` asks for it, and the scope has a change log."""


class Replaced(NamedTuple):
    """What a `replace` did: the stored text before it (None for a missing key), and the revision of the change, where the scope has
    a change log."""

    old: bytes | None
    revision: int | None = None


class Reading(NamedTuple):
    """What is at a key: the stored text (None for nothing), how long it has left where it has a deadline, in milliseconds, and its
    revision where the scope has a change log."""

    text: bytes | None
    ttl_ms: int | None = None
    revision: int | None = None


class Entries(NamedTuple):
    """What a scope held at one moment: keys and stored texts, in the adapter's own order.

    `deadlines` are those of the rows that have one, in the milliseconds of `Values.now`; `now` is what that was at the reading.
    """

    rows: list[tuple[str, bytes]]
    deadlines: dict[str, int]
    now: int


class Backup(NamedTuple):
    """A copy of a store's file: where it is, on the machine of its engine, and its size."""

    path: str
    bytes: int


class EngineSeen(NamedTuple):
    """One of the engines that share a store: what people know it by, and what it has said that it can do.

    `silent_ms` tells for how long it has not been heard of, None where that is not known; after `gone_ms` it counts as gone.
    """

    id: str
    name: str
    features: list[str]
    silent_ms: int | None = None
    gone_ms: int | None = None


class Values(Protocol):
    """Values at a scope and a key. They are stored texts (`iii_state.values`), in and out."""

    def get(self, scope: str, key: str) -> Result[bytes | None]:
        """The stored text, None for a missing key."""
        ...

    def read(self, scope: str, key: str) -> Result[Reading]:
        """The stored text, and what else is to be known of it at the same moment."""
        ...

    def get_many(self, scope: str, keys: Sequence[str]) -> Result[list[bytes | None]]:
        """The stored texts at these keys as they are at one instant, in their order; None for a missing key."""
        ...

    def set(
        self,
        scope: str,
        key: str,
        value: bytes,
        *,
        ttl_ms: int | None = None,
        request: Request | None = None,
        conditions: Conditions | None = None,
    ) -> Result[bytes | None]:
        """Store `value`; answers what was there before, None for a new key.

        After `ttl_ms` the value goes, with its event; without, it stays, whatever deadline there was before. Raises
        `ConditionFailed` where one of the `conditions` does not hold for what is stored: then nothing has changed.
        """
        ...

    def delete(
        self, scope: str, key: str, *, request: Request | None = None, conditions: Conditions | None = None
    ) -> Result[bytes | None]:
        """Remove; answers what was there, None for a missing key (which is an event all the same). Conditions are as for `set`."""
        ...

    def update(
        self,
        scope: str,
        key: str,
        plan: Plan,
        limit: int,
        *,
        ttl_ms: int | None = None,
        request: Request | None = None,
        conditions: Conditions | None = None,
        strict: bool = False,
        meta: bool = False,
    ) -> Result[Updated]:
        """Apply a plan atomically. Raises `errors.too_large` when the result has more than `limit` bytes (compact).

        After `ttl_ms` the value goes, with its event; without, the deadline stays what it was. Conditions are as for `set`. Where
        it is `strict`, an op that fails is raised (`OP_FAILED`), and nothing has changed. With `meta` the revision is told, too.
        """
        ...

    def replace(
        self,
        scope: str,
        key: str,
        value: bytes | None,
        *,
        ttl_ms: int | None = None,
        request: Request | None = None,
        conditions: Conditions | None = None,
    ) -> Result[Replaced]:
        """`set`, or `delete` where `value` is None, which tells the revision, too."""
        ...

    def touch(self, scope: str, key: str, ttl_ms: int | None, *, request: Request | None = None) -> Result[bool]:
        """Let the value go after `ttl_ms` from now on, or, with None, stay; answers whether there is one. It is no event."""
        ...

    def transact(self, scope: str, steps: Sequence[Step], limit: int, *, request: Request | None = None) -> Result[list[Done]]:
        """Carry out the steps in order, all or none; each has an event. No value may have more than `limit` bytes (compact).

        Raises `FunctionError` (`VALUE_TOO_LARGE`) also where what the steps find and leave is too much (`transactions.too_much`).
        """
        ...

    def texts(self, scope: str, selection: KeySelection | None = None) -> Result[list[bytes]]:
        """The stored texts of a scope, in the adapter's own order, or those that are asked for."""
        ...

    def entries(self, scope: str, selection: KeySelection | None = None) -> Result[Entries]:
        """Keys and stored texts of a scope, or those that are asked for (without a limit), and until when they are there."""
        ...

    def now(self) -> Result[int]:
        """The time that the deadlines of `entries` are told in: milliseconds since any moment, which stays the same one."""
        ...

    def keys(self, scope: str, selection: KeySelection | None = None) -> Result[list[str]]:
        """The keys of a scope, each once, in the adapter's own order, or those that are asked for."""
        ...

    def count(self, scope: str) -> Result[int | None]:
        """How many values lie in a scope, those that have just reached their deadline too; None where that is dear to say."""
        ...

    def scopes(self) -> Result[list[str]]:
        """Scopes with at least one key, in any order, each once."""
        ...


class Sessions(Protocol):
    """What makes a mutation recognisable when it is made again (`iii_state.sessions`)."""

    def open(self, session: str, previous_epoch: int, epoch: int) -> Result[None]:
        """Open a session (`previous_epoch` 0), or raise the epoch of one that had been opened with `previous_epoch`.

        Requests of any other epoch are refused from then on. Raises `SessionLost` where there is no such session any more, and
        `SessionTaken` where there is one (0), or its epoch is not below `epoch`.
        """
        ...


class Queues(Protocol):
    """One durable queue per subscription, and the deliveries of those that are hosted here."""

    def enable_events(self, enabled: bool) -> None:
        """Whether the mutations that are made through this adapter from now on have events (they do at first)."""
        ...

    def are_wanted(self, scope: str, key: str) -> bool:
        """Whether a queue wants the events of this scope and key, as far as is known here now; over a bridge none does."""
        ...

    def subscribe(self, subscription: Subscription) -> Result[None]:
        """Host a subscription here: make its queue, or take over the one that waits, with the settings given.

        Once this has answered, no later mutation of any engine misses it.
        """
        ...

    def offer(self, subscription_id: str, served: bool) -> None:
        """Whether function and condition of a subscription that is hosted here are there; said at first and on every change.

        Where events come by themselves, they are to come only while they are: another engine may have both.
        """
        ...

    def unsubscribe(self, subscription_id: str) -> Result[None]:
        """Stop hosting, for good: unless another engine hosts it, the queue goes at once with all it holds."""
        ...

    def abandon(self, subscription_id: str) -> Result[None]:
        """Stop hosting for now: the queue waits for `retention_ms`, collecting events, and goes if nobody hosts it by then."""
        ...

    def take(self, subscription_id: str, count: int) -> Result[list[Delivery]]:
        """Up to `count` deliveries that are ready; they are pending here from now on. Never waits."""
        ...

    def holds(self, delivery: Delivery) -> bool:
        """Whether a delivery that was taken is still pending here for certain.

        If not, another engine may have it by now (this one slept too long), or its subscription has been paused: it must not be
        started, but given back.
        """
        ...

    def ack(self, deliveries: Sequence[Delivery], want: int = 0, *, ahead: bool = False) -> Result[list[Delivery]]:
        """These deliveries of one subscription are done; their lanes go on. Answers up to `want` further ones.

        Who says `ahead` also starts what is `following` a delivery, once that has `returned`: ahead of its acknowledgement. What
        follows can be acknowledged, retried, released and made a dead letter like any other, also while it is not pending here
        yet; then that is written when it is. It is answered here where the one before it had returned already.
        """
        ...

    def retry(self, delivery: Delivery, delay_ms: int, failure: Failure, *, crashed: bool = False) -> Result[None]:
        """Deliver again, when `delay_ms` have passed; its lane waits, and no other. As the next attempt, or, where its worker went
        away in mid-call (`crashed`), as the same one with one crash more."""
        ...

    def dead_letter(self, delivery: Delivery, failure: Failure) -> Result[None]:
        """Move to the dead letters; its lane goes on."""
        ...

    def note_loop(self, subscription_id: str) -> Result[None]:
        """The handler of a subscription has been seen to lead to itself: `Admin.stats` says so for `events.LOOPING_SECONDS`."""
        ...

    def release(self, deliveries: Sequence[Delivery], *, begun: bool = False) -> Result[None]:
        """Give back unfinished, as if never taken: no attempt is counted, order is kept.

        Where a handler may still be running (`begun`), they come again with a higher fence.
        """
        ...


class Admin(Protocol):
    """What operators look at and put right: queues, hosted here or not, and dead letters."""

    def stats(self) -> Awaited[list[QueueStats]]:
        """Every queue there is, hosted or waiting."""
        ...

    def engines(self) -> Awaited[list[EngineSeen]]:
        """The engines that share the store, as far as is known: this one at least."""
        ...

    def dead_letters(self, function_id: str | None = None) -> Awaited[list[DeadLetter]]:
        """Dead letters, oldest first."""
        ...

    def dead_retry(self, dead_letter_id: str) -> Awaited[bool]:
        """Deliver a dead letter again, as a first attempt behind what waits in its lane; False if it is not there."""
        ...

    def dead_drop(self, dead_letter_id: str) -> Awaited[bool]:
        """Drop a dead letter; False if it is not there."""
        ...

    def pause(self, subscription: Subscription) -> Awaited[int]:
        """Start no handler for it any more, at any engine, until it is resumed; answers how many of its events are out.

        Its events go on being queued, within the bounds of its queue, and what is out may be finished. It stays paused when
        engines are started again, and when it has ended and is registered again. Raises `StoreError` where that cannot be.
        """
        ...

    def resume(self, subscription: Subscription) -> Awaited[bool]:
        """Go on; False where it was not paused."""
        ...

    def purge(self, subscription: Subscription) -> Awaited[int]:
        """Drop its events that are not out; answers how many those were."""
        ...

    def remove(self, subscription: Subscription) -> Awaited[int]:
        """End a subscription that no engine hosts, at once; answers how many events it held. Its dead letters stay.

        Of one with the delivery `broadcast` it ends the queues of engines that are gone. Raises `StoreError` where it is hosted.
        """
        ...

    def backup(self, name: str) -> Awaited[Backup]:
        """Copy the store's file, as it is at one moment, to a new one of this name in the directory `backups` beside it.

        Raises `StoreError` where there is such a copy already, or the store is no file of this engine's.
        """
        ...


class History(Protocol):
    """The change logs of the scopes that have one: each change is written there in the same step as its value."""

    def page(self, scope: str, key: str | None, after: str | None, limit: int) -> Result[LogPage]:
        """Up to `limit` changes of a scope, or of one of its keys, behind a position; without one, from the oldest that is kept.

        The page ends earlier where it has become large (`history.PAGE_BYTES`), or where many changes of other keys had to be
        looked at. The end has been reached when `next_after` is the position that was given.
        With the limit 0 no change is read, and `next_after` is the position of the end.
        Raises `StoreError` for a scope without a log, `Compacted`, and `InvalidValue` for what is no position.
        """
        ...


class Succession(Protocol):
    """Which of the processes that serve one store to engines is the leader, and which stand by."""

    def enter(self, worker: str, ttl_ms: int) -> Result[list[str]]:
        """Say that this process serves the store, or is ready to, as this worker of some engine; it counts for `ttl_ms`.

        Answers the workers that said so earlier and still count, in any order. Of two that stand in line one is before the other,
        whatever happens: that one serves. A remote that knows of no line answers none.
        """
        ...

    def leave(self, worker: str) -> Result[None]:
        """Stand in line no more."""
        ...


class Adapter(Protocol):
    """A store: its parts, and its beginning and end."""

    @property
    def values(self) -> Values: ...

    @property
    def sessions(self) -> Sessions: ...

    @property
    def queues(self) -> Queues: ...

    @property
    def admin(self) -> Admin: ...

    @property
    def succession(self) -> Succession: ...

    @property
    def name(self) -> str:
        """What it is called in a configuration."""
        ...

    @property
    def history(self) -> History: ...

    @property
    def store(self) -> str | None:
        """The id of what holds the data, once started: the same for as long as the data lasts, and for all engines that share it.

        None where calls made again are not recognised.
        """
        ...

    async def start(self, wake: Callable[[str], None]) -> None:
        """Open the backend. `wake(subscription_id)` is called whenever a hosted queue may have something to take.

        Raises `StoreError` in words: not reachable, locked by another process, not a database, too old, not permitted.
        """
        ...

    async def stop(self) -> None:
        """Make durable what was acknowledged, give back what is pending, and close."""
        ...

    def absence(self) -> str | None:
        """Why this engine takes no part in its fleet now, though the store may answer; None where it does, or there is no fleet."""
        ...

    async def health(self) -> str | None:
        """None when the backend answers, else why not, in words; bounded to two seconds."""
        ...

    def figures(self) -> Iterable[Figure]:
        """What has been counted here; asks nobody."""
        ...

    def tells_of_queues(self) -> Awaited[bool]:
        """Whether this engine is the one that tells what the queues hold (`Admin.stats`): of all that share a store, one does."""
        ...

    def has(self, feature: str) -> bool:
        """Whether there is one of the features that engines announce: what a bridge leads to may be older than this engine."""
        ...

    def route(self, visited: list[str]) -> Result[list[str]]:
        """The ids of the bridges that a call passes, those `visited` already first; what stores itself adds none.

        Raises `FunctionError`, `BRIDGE_RING`, where a bridge is reached through itself.
        """
        ...
