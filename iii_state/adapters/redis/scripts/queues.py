"""Calls of the queue scripts: what they take, and what their replies mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from iii_state.adapters.redis.keys import FORMAT, Keys, lane
from iii_state.adapters.redis.scripts.mutations import Reply
from iii_state.events import Delivery, Event, EventType, QueueLimits

SUBSCRIPTIONS_AT_ONCE = 1000
"""At most this many subscriptions in one call of subscribe.lua: a Lua call takes a few thousand arguments, and no more."""

DELIVERIES_AT_ONCE = 1000
"""At most this many deliveries in one call of queues/ack.lua, for the same reason."""

_EVENT_TYPES = frozenset((b"created", b"updated", b"deleted"))


class Fenced(Exception):
    """The engine is not among the engines any more; nothing has changed."""


class Entry(NamedTuple):
    """A delivery's place in its queue: the token of `Delivery`.

    `size` is what the event counts against the queue's bounds, `engine` where the entry of `queue` is pending.
    """

    id: bytes
    lane: bytes
    size: int
    queue: bytes = b""
    engine: bytes = b""


class Registration(NamedTuple):
    """What subscribe.lua is told of a subscription: its queue; its route and its settings, two texts that only engines read; how
    long it is kept when nobody hosts it, in milliseconds, empty for ever."""

    queue: bytes
    route: bytes
    settings: bytes
    retention: bytes = b""


def drop_entries(keys: Keys, queue: bytes, entry_ids: Sequence[bytes]) -> list[bytes]:
    """What follows the digest of repair/drop_entries.lua in EVALSHA."""
    return [b"2", keys.stream(queue), keys.subscription(queue), *entry_ids]


def take(keys: Keys, queue: bytes, engine: bytes, count: int) -> list[bytes]:
    """What follows the digest of queues/take.lua in EVALSHA."""
    return [b"3", keys.stream(queue), keys.engines, keys.busy(queue), engine, b"%d" % count]


def ack(keys: Keys, queue: bytes, engine: bytes, entries: Sequence[Entry], want: int) -> list[bytes]:
    """What follows the digest of queues/ack.lua in EVALSHA."""
    call = [b"%d" % (3 + len(entries)), keys.stream(queue), keys.engines, keys.busy(queue)]
    call += [keys.wait(queue, entry.lane) for entry in entries]
    call += (engine, b"%d" % want)
    for entry in entries:
        call += (entry.id, entry.lane, b"%d" % entry.size)
    return call


def retry(keys: Keys, queue: bytes, engine: bytes, entry: Entry, delay_ms: int, *, crashed: bool = False) -> list[bytes]:
    """What follows the digest of queues/retry.lua in EVALSHA."""
    call = [b"4", keys.stream(queue), keys.engines, keys.later, keys.clock]
    return [*call, engine, queue, entry.id, b"%d" % delay_ms, b"%d" % crashed]


def due(keys: Keys, times: bytes, count: int, leave_out: int = 0) -> list[bytes]:
    """What follows the digest of deadlines/due.lua in EVALSHA."""
    return [b"2", times, keys.clock, b"%d" % count, b"%d" % leave_out]


def again(keys: Keys, queue: bytes, entry_ids: Sequence[bytes]) -> list[bytes]:
    """What follows the digest of queues/redeliver.lua in EVALSHA."""
    return [b"2", keys.later, keys.stream(queue), queue, *entry_ids]


def release(keys: Keys, queue: bytes, engine: bytes, entry_ids: Sequence[bytes], *, begun: bool = False) -> list[bytes]:
    """What follows the digest of queues/release.lua in EVALSHA."""
    return [b"3", keys.stream(queue), keys.engines, keys.busy(queue), engine, b"%d" % begun, *entry_ids]


def bury(
    keys: Keys, queue: bytes, engine: bytes, entry: Entry, attempts: int, error: str, function_id: str, max_letters: int
) -> list[bytes]:
    """What follows the digest of queues/dead_letter.lua in EVALSHA."""
    names = (keys.stream(queue), keys.engines, keys.busy(queue), keys.wait(queue, entry.lane), keys.dead(queue), keys.dead_queues)
    words = (engine, queue, entry.id, entry.lane, b"%d" % entry.size, b"%d" % attempts, error.encode(), function_id.encode())
    return [b"6", *names, *words, b"%d" % max_letters]


def revive(keys: Keys, queue: bytes, letter: bytes, lane_name: bytes, limits: QueueLimits) -> list[bytes]:
    """What follows the digest of queues/dead_retry.lua in EVALSHA."""
    names = (keys.stream(queue), keys.subscription(queue), keys.busy(queue), keys.wait(queue, lane_name))
    bounds = (b"%d" % limits.max_queue_length, b"%d" % limits.max_queue_bytes)
    return [b"6", *names, keys.dead(queue), keys.dead_queues, queue, letter, lane_name, *bounds]


def discard(keys: Keys, queue: bytes, letter: bytes) -> list[bytes]:
    """What follows the digest of queues/dead_drop.lua in EVALSHA."""
    return [b"2", keys.dead(queue), keys.dead_queues, queue, letter]


def drop_oldest(
    keys: Keys, queue: bytes, scope: bytes, key: bytes, lane_name: bytes, limits: QueueLimits, size: int
) -> list[bytes]:
    """What follows the digest of queues/drop_oldest.lua in EVALSHA."""
    names = (keys.stream(queue), keys.subscription(queue), keys.busy(queue), keys.wait(queue, lane_name))
    bounds = (b"%d" % limits.max_queue_length, b"%d" % limits.max_queue_bytes, b"%d" % size)
    return [b"4", *names, scope, key, lane_name, *bounds]


def subscribe(keys: Keys, engine: bytes, registrations: Sequence[Registration]) -> list[bytes]:
    """What follows the digest of subscriptions/subscribe.lua in EVALSHA."""
    call = [b"%d" % (7 + 2 * len(registrations)), keys.routes, keys.routes_version, keys.routes_log, keys.engines]
    call += (keys.hold, keys.hosts(engine), keys.orphans)
    for registration in registrations:
        call += (keys.subscription(registration.queue), keys.stream(registration.queue))
    call.append(engine)
    for registration in registrations:
        call += registration
    return call


def abandon(keys: Keys, queue: bytes, engine: bytes) -> list[bytes]:
    """What follows the digest of subscriptions/abandon.lua in EVALSHA."""
    return [b"3", keys.subscription(queue), keys.orphans, keys.clock, engine, queue]


def end_subscription(keys: Keys, queue: bytes, engine: bytes = b"") -> list[bytes]:
    """What follows the digest of subscriptions/end.lua in EVALSHA; without an engine, for a retention that may be over."""
    names = (keys.routes, keys.routes_version, keys.routes_log, keys.hold, keys.orphans, keys.subscription(queue))
    return [b"7", *names, keys.clock, engine, queue]


def clear(keys: Keys, queue: bytes, lanes: Sequence[bytes]) -> list[bytes]:
    """What follows the digest of subscriptions/delete_queue.lua in EVALSHA."""
    call = [b"%d" % (4 + len(lanes)), keys.subscription(queue), keys.stream(queue), keys.busy(queue), keys.orphans]
    return [*call, *(keys.wait(queue, lane_name) for lane_name in lanes), queue, *lanes]


def join(
    keys: Keys,
    engine: bytes,
    name: bytes,
    ttl_ms: int,
    foreign_writes: bool,
    others: Sequence[bytes],
    beats: int = 0,
    now_ms: int | None = None,
    stood: bytes = b"",
) -> list[bytes]:
    """What follows the digest of join.lua in EVALSHA; `now_ms` is the time of the fleet by the engine's own clock, `stood` where it
    has stood still for as long as the script has said."""
    names = (keys.routes, keys.routes_version, keys.routes_log, keys.engines, keys.format)
    more = (keys.engine(engine), keys.clock, keys.orphans, *(keys.engine(other) for other in others))
    words = (engine, b"%d" % ttl_ms, b"%d" % FORMAT, b"%d" % foreign_writes, name, beat(ttl_ms, beats), _optional(now_ms), stood)
    return [b"%d" % (len(names) + len(more)), *names, *more, *words, *others]


def change_setting(keys: Keys, setting: bytes, before: bytes, after: bytes) -> list[bytes]:
    """What follows the digest of fleet/swap_setting.lua in EVALSHA."""
    return [b"3", keys.routes, keys.routes_version, keys.routes_log, setting, before, after]


def beat(ttl_ms: int, beats: int) -> bytes:
    """What stands among the engines for one whose heart has beaten so often."""
    return b"%d %d" % (ttl_ms, beats)


def _optional(number: int | None) -> bytes:
    return b"" if number is None else b"%d" % number


def heartbeat(keys: Keys, engine: bytes, ttl_ms: int, name: bytes, beats: int = 0, now_ms: int | None = None) -> list[bytes]:
    """What follows the digest of fleet/heartbeat.lua in EVALSHA; `now_ms` is the time of the fleet by the engine's own clock."""
    call = [b"3", keys.engines, keys.engine(engine), keys.clock, engine, b"%d" % ttl_ms, name]
    return [*call, beat(ttl_ms, beats), _optional(now_ms)]


def line_up(keys: Keys, worker: bytes, ttl_ms: int) -> list[bytes]:
    """What follows the digest of fleet/join_succession.lua in EVALSHA."""
    return [b"2", keys.line, keys.clock, worker, b"%d" % ttl_ms]


def fence(keys: Keys, engine: bytes, seen: bytes = b"") -> list[bytes]:
    """What follows the digest of fleet/fence.lua in EVALSHA; `seen` is what has stood among the engines for its time to live."""
    return [b"3", keys.engines, keys.engine(engine), keys.fenced, engine, seen]


def takeover(keys: Keys, queue: bytes, engine: bytes, count: int) -> list[bytes]:
    """What follows the digest of fleet/takeover.lua in EVALSHA."""
    names = (keys.stream(queue), keys.engines, keys.busy(queue), keys.subscription(queue), keys.orphans, keys.hosts(engine))
    return [b"7", *names, keys.clock, engine, queue, b"%d" % count]


def taken(reply: Reply, subscription_id: str, queue: bytes = b"", engine: bytes = b"") -> tuple[list[Delivery], list[bytes]]:
    """The deliveries that take.lua or ack.lua answered, old and new as found: foreign text is not checked; and the ids of entries
    that are none, which somebody else must have put there. Raises `Fenced`."""
    if reply[0] == b"FENCED":
        raise Fenced
    entries, fence_number = cast("list[tuple[bytes, list[bytes]]]", reply[-2]), cast(int, reply[-1])
    deliveries, wrong = list[Delivery](), list[bytes]()
    for entry_id, fields in entries:
        try:
            deliveries.append(_delivery(subscription_id, queue, engine, entry_id, fields, fence_number))
        except (ValueError, IndexError):
            wrong.append(entry_id)
    return deliveries, wrong


def event_of(fields: Sequence[bytes]) -> Event:
    """The event in the fields of a stream's entry."""
    _, write, _, scope, _, key, _, event_type, _, old, _, new = fields[:12]
    return Event(
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
    return Delivery(subscription_id, event_of(fields), attempt, fence_number, entry, crashes=crashes)


def routes_version(reply: Reply) -> int:
    """The version of the routes that subscriptions/subscribe.lua answered. Raises `Fenced`."""
    if reply[0] == b"FENCED":
        raise Fenced
    return cast(int, reply[1])
