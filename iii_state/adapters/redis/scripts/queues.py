"""Calls of the queue scripts: what they take, and what their replies mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from iii_state import lineages
from iii_state.adapters.redis.keys import Keys, lane
from iii_state.adapters.redis.scripts.mutations import Reply
from iii_state.events import Change, Delivery, EventType, QueueLimits

DELIVERIES_AT_ONCE = 1000
"""At most this many deliveries in one call of queues/ack.lua, for the same reason."""

DEAD_LETTERS_AT_ONCE = 100
"""At most this many in one call of queues/drop_old_dead_letters.lua, which reads them whole."""

_EVENT_TYPES: dict[bytes, EventType] = {b"created": "state:created", b"updated": "state:updated", b"deleted": "state:deleted"}


class Entry(NamedTuple):
    """A delivery's place in its queue: the token of `Delivery`. The id is empty while it is none: its event still waits.

    `size` is what the event counts against the queue's bounds, `engine` where the entry of `queue` is pending.
    """

    id: bytes
    lane: bytes
    size: int
    queue: bytes = b""
    engine: bytes = b""


def drop_entries(keys: Keys, queue: bytes, entry_ids: Sequence[bytes]) -> list[bytes]:
    """What follows the digest of repair/drop_entries.lua in EVALSHA."""
    return [b"2", keys.stream(queue), keys.subscription(queue), *entry_ids]


def is_fenced(reply: Reply) -> bool:
    """Whether the engine is not among the engines any more: nothing has changed."""
    return reply[0] == b"FENCED"


def is_paused(reply: Reply) -> bool:
    """Whether an operator has paused the subscription: nothing was taken."""
    return reply[0] == b"PAUSED"


def subscription_of(queue: bytes) -> bytes:
    """The id of the subscription that a queue is of: of one with the delivery `broadcast` each engine has its own queue."""
    return queue.partition(b"-")[0]


def take(keys: Keys, queue: bytes, engine: bytes, count: int) -> list[bytes]:
    """What follows the digest of queues/take.lua in EVALSHA."""
    names = (keys.stream(queue), keys.engines, keys.busy(queue), keys.paused)
    return [b"4", *names, engine, b"%d" % count, subscription_of(queue)]


def ack(keys: Keys, queue: bytes, engine: bytes, entries: Sequence[Entry], want: int) -> list[bytes]:
    """What follows the digest of queues/ack.lua in EVALSHA."""
    names = (keys.stream(queue), keys.engines, keys.busy(queue), keys.lineages(queue), keys.paused)
    call = [b"%d" % (5 + len(entries)), *names]
    call += [keys.wait(queue, entry.lane) for entry in entries]
    call += (engine, b"%d" % want, subscription_of(queue))
    for entry in entries:
        call += (entry.id, entry.lane, b"%d" % entry.size)
    return call


class RunStep(NamedTuple):
    """What one call of queues/ack_run.lua is to do."""

    head: Delivery
    """The delivery of the lane."""
    handled: Sequence[Delivery]
    """Those that waited behind it, and have been handled, too."""
    known: Sequence[Delivery]
    """Those behind them."""
    want: int
    keep: bool
    peek: int
    attempt: int = 0
    """Of the first of those that are known, as which it becomes ready; 0 for the first."""
    crashes: int = 0
    begun: bool = False
    """Whether its handler may still be running."""
    is_last: bool = False
    """Whether the run ends with it."""


def ack_run(keys: Keys, step: RunStep) -> list[bytes]:
    """What follows the digest of queues/ack_run.lua in EVALSHA."""
    entry = cast(Entry, step.head.token)
    queue = entry.queue
    names = (keys.stream(queue), keys.engines, keys.busy(queue), keys.lineages(queue), keys.wait(queue, entry.lane), keys.paused)
    call = [b"6", *names]
    call += (entry.engine, b"%d" % step.want, b"%d" % step.keep, b"%d" % step.peek, b"%d" % len(step.known))
    call += (entry.id, entry.lane, b"%d" % entry.size, step.known[0].event.write_id.encode() if step.known else b"")
    call += (b"%d" % step.attempt if step.attempt else b"", b"%d" % step.crashes, b"%d" % step.begun)
    call.append(subscription_of(queue))
    for delivery in step.handled:
        call += (delivery.event.write_id.encode(), b"%d" % cast(Entry, delivery.token).size)
    return call


def following(reply: Reply, first: Delivery) -> list[Delivery]:
    """What ack_run.lua answered of the events behind `first` in its lane: they are pending nowhere, and their entry has no id."""
    place, scope, key, found = cast(Entry, first.token), first.event.scope, first.event.key, list[Delivery]()
    names = len(scope.encode()) + len(key.encode())
    for write, event_type, old, new, lineage in cast("list[list[bytes]]", reply[2]):
        try:
            event = Change(write.decode(), scope, key, _EVENT_TYPES[event_type], old or None, new or None)
        except (ValueError, KeyError):
            break
        if lineage:
            event.lineage = lineages.decode(lineage)
        entry = Entry(b"", place.lane, names + len(old) + len(new), place.queue, place.engine)
        found.append(Delivery(first.subscription_id, event, 1, cast(int, reply[4]), entry))
    return found


def retry(keys: Keys, queue: bytes, engine: bytes, entry: Entry, delay_ms: int, *, crashed: bool = False) -> list[bytes]:
    """What follows the digest of queues/retry.lua in EVALSHA."""
    call = [b"5", keys.stream(queue), keys.engines, keys.later, keys.clock, keys.clock_copy]
    return [*call, engine, queue, entry.id, b"%d" % delay_ms, b"%d" % crashed]


def due(keys: Keys, times: bytes, count: int, leave_out: int = 0) -> list[bytes]:
    """What follows the digest of deadlines/due.lua in EVALSHA."""
    return [b"3", times, keys.clock, keys.clock_copy, b"%d" % count, b"%d" % leave_out]


def redeliver(keys: Keys, queue: bytes, entry_ids: Sequence[bytes]) -> list[bytes]:
    """What follows the digest of queues/redeliver.lua in EVALSHA."""
    return [b"2", keys.later, keys.stream(queue), queue, *entry_ids]


def release(keys: Keys, queue: bytes, engine: bytes, entry_ids: Sequence[bytes], *, begun: bool = False) -> list[bytes]:
    """What follows the digest of queues/release.lua in EVALSHA."""
    return [b"3", keys.stream(queue), keys.engines, keys.busy(queue), engine, b"%d" % begun, *entry_ids]


def dead_letter(
    keys: Keys, queue: bytes, engine: bytes, entry: Entry, attempts: int, error: str, function_id: str, most: int
) -> list[bytes]:
    """What follows the digest of queues/dead_letter.lua in EVALSHA."""
    names = (keys.stream(queue), keys.engines, keys.busy(queue), keys.wait(queue, entry.lane), keys.dead(queue), keys.dead_queues)
    more = (keys.subscription(queue), keys.clock, keys.clock_copy)
    words = (engine, queue, entry.id, entry.lane, b"%d" % entry.size, b"%d" % attempts, error.encode(), function_id.encode())
    return [b"10", *names, *more, keys.lineages(queue), *words, b"%d" % most]


def dead_retry(keys: Keys, queue: bytes, entry_id: bytes, lane_name: bytes, limits: QueueLimits) -> list[bytes]:
    """What follows the digest of queues/dead_retry.lua in EVALSHA."""
    names = (keys.stream(queue), keys.subscription(queue), keys.busy(queue), keys.wait(queue, lane_name))
    bounds = (b"%d" % limits.max_queue_length, b"%d" % limits.max_queue_bytes)
    return [b"6", *names, keys.dead(queue), keys.dead_queues, queue, entry_id, lane_name, *bounds]


def dead_drop(keys: Keys, queue: bytes, entry_id: bytes) -> list[bytes]:
    """What follows the digest of queues/dead_drop.lua in EVALSHA."""
    return [b"2", keys.dead(queue), keys.dead_queues, queue, entry_id]


def drop_old_dead_letters(keys: Keys, queue: bytes, retention_ms: int) -> list[bytes]:
    """What follows the digest of queues/drop_old_dead_letters.lua in EVALSHA."""
    names = (keys.dead(queue), keys.dead_queues, keys.subscription(queue), keys.clock, keys.clock_copy)
    return [b"5", *names, queue, b"%d" % retention_ms, b"%d" % DEAD_LETTERS_AT_ONCE]


def drop_oldest(
    keys: Keys, queue: bytes, lanes: Sequence[tuple[bytes, bytes, bytes]], bounds: tuple[int, int, int], named: int
) -> list[bytes]:
    """What follows the digest of queues/drop_oldest.lua in EVALSHA. `lanes` are scope, key and lane of each; `bounds` are
    most_entries, most_bytes and size."""
    names = (keys.stream(queue), keys.subscription(queue), keys.busy(queue), keys.lineages(queue))
    waits = [keys.wait(queue, name) for _, _, name in lanes]
    words = [word for each in lanes for word in each]
    return [b"%d" % (len(names) + len(waits)), *names, *waits, *(b"%d" % bound for bound in bounds), b"%d" % named, *words]


def list_entries(keys: Keys, queue: bytes, start: bytes) -> list[bytes]:
    """What follows the digest of queues/list_entries.lua in EVALSHA."""
    return [b"1", keys.stream(queue), start]


def purge(keys: Keys, queue: bytes, entries: Sequence[tuple[bytes, bytes]], most: int) -> list[bytes]:
    """What follows the digest of queues/purge.lua in EVALSHA. Of each entry there is its id and its lane."""
    names = [keys.stream(queue), keys.subscription(queue), keys.busy(queue), keys.lineages(queue), keys.later]
    names += [keys.wait(queue, lane_name) for _, lane_name in entries]
    return [b"%d" % len(names), *names, queue, b"%d" % most, *(word for entry in entries for word in entry)]


def stats(keys: Keys, names: Sequence[bytes]) -> list[bytes]:
    """What follows the digest of queues/stats.lua in EVALSHA. `names` are the queues'."""
    found = [key for name in names for key in (keys.subscription(name), keys.busy(name), keys.stream(name), keys.dead(name))]
    return [b"%d" % len(found), *found]


def note_loop(keys: Keys, queue: bytes) -> list[bytes]:
    """What follows the digest of queues/note_loop.lua in EVALSHA."""
    return [b"1", keys.subscription(queue)]


def taken(reply: Reply, subscription_id: str, queue: bytes = b"", engine: bytes = b"") -> tuple[list[Delivery], list[bytes]]:
    """The deliveries that take.lua or ack.lua answered, old and new as found: foreign text is not checked; and the ids of entries
    that are no events, which another program must have put there. Not of a reply that `is_fenced`."""
    entries, fence_number = cast("list[tuple[bytes, list[bytes]]]", reply[-2]), cast(int, reply[-1])
    deliveries, wrong = list[Delivery](), list[bytes]()
    for entry_id, fields in entries:
        try:
            deliveries.append(_delivery(subscription_id, queue, engine, entry_id, fields, fence_number))
        except (ValueError, IndexError):
            wrong.append(entry_id)
    return deliveries, wrong


def event_of(fields: Sequence[bytes]) -> Change:
    """The event in the fields of a stream's entry."""
    _, write, _, scope, _, key, _, event_type, _, old, _, new = fields[:12]
    return Change(
        write_id=write.decode(),
        scope=scope.decode(),
        key=key.decode(),
        event_type=cast(EventType, f"state:{event_type.decode()}"),
        old=old or None,
        new=new or None,
    )


def _delivery(
    subscription_id: str, queue: bytes, engine: bytes, entry_id: bytes, fields: list[bytes], fence_number: int
) -> Delivery:
    if fields[7] not in _EVENT_TYPES:
        raise ValueError
    scope, key, old, new = fields[3], fields[5], fields[9], fields[11]
    size = len(scope) + len(key) + len(old) + len(new)
    attempt = int(fields[13]) if len(fields) > 12 else 1
    crashes = int(fields[15]) if len(fields) > 15 and fields[14] == b"c" else 0
    entry = Entry(entry_id, lane(scope, key), size, queue, engine)
    event = event_of(fields)
    if len(fields) > 17 and fields[16] == b"x":
        event.lineage = lineages.decode(fields[17])
    return Delivery(subscription_id, event, attempt, fence_number, entry, crashes=crashes)
