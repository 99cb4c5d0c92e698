"""Calls of the queue scripts: what they take, and what their replies mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from iii_state.adapters.redis.keys import Keys, lane
from iii_state.adapters.redis.mutations import Fenced, Reply
from iii_state.events import Delivery, Event, EventType

SUBSCRIPTIONS_AT_ONCE = 1000
"""At most this many subscriptions in one call of subscribe.lua: a Lua call takes a few thousand arguments, and no more."""

DELIVERIES_AT_ONCE = 1000
"""At most this many deliveries in one call of ack.lua, for the same reason."""


class Entry(NamedTuple):
    """A delivery's place in its queue: the token of `Delivery`. `size` is what the event counts against the queue's bounds."""

    id: bytes
    lane: bytes
    size: int


class Registration(NamedTuple):
    """What subscribe.lua is told of a subscription: its queue, its route and its settings, two texts that only engines read."""

    queue: bytes
    route: bytes
    settings: bytes


def take(keys: Keys, queue: bytes, engine: bytes, count: int) -> list[bytes]:
    """What follows the digest of take.lua in EVALSHA."""
    return [b"2", keys.stream(queue), keys.engines, engine, b"%d" % count]


def ack(keys: Keys, queue: bytes, engine: bytes, entries: Sequence[Entry], want: int) -> list[bytes]:
    """What follows the digest of ack.lua in EVALSHA."""
    call = [b"%d" % (3 + len(entries)), keys.stream(queue), keys.engines, keys.busy(queue)]
    call += [keys.wait(queue, entry.lane) for entry in entries]
    call += (engine, b"%d" % want)
    for entry in entries:
        call += (entry.id, entry.lane, b"%d" % entry.size)
    return call


def subscribe(keys: Keys, engine: bytes, registrations: Sequence[Registration]) -> list[bytes]:
    """What follows the digest of subscribe.lua in EVALSHA."""
    call = [b"%d" % (4 + 2 * len(registrations)), keys.routes, keys.routes_version, keys.routes_log, keys.engines]
    for registration in registrations:
        call += (keys.subscription(registration.queue), keys.stream(registration.queue))
    call.append(engine)
    for registration in registrations:
        call += registration
    return call


def taken(reply: Reply, subscription_id: str) -> list[Delivery]:
    """The deliveries that take.lua or ack.lua answered, old and new as found: foreign text is not checked. Raises `Fenced`."""
    if reply[0] == b"FENCED":
        raise Fenced
    return [_delivery(subscription_id, entry_id, fields) for entry_id, fields in cast("list[tuple[bytes, list[bytes]]]", reply[-1])]


def _delivery(subscription_id: str, entry_id: bytes, fields: list[bytes]) -> Delivery:
    _, write, _, scope, _, key, _, event_type, _, old, _, new = fields[:12]
    event = Event(
        write_id=write.decode(),
        scope=scope.decode(),
        key=key.decode(),
        event_type=cast(EventType, f"state:{event_type.decode()}"),
        old=old or None,
        new=new or None,
    )
    size = len(scope) + len(key) + len(old) + len(new)
    return Delivery(subscription_id, event, token=Entry(entry_id, lane(scope, key), size))


def routes_version(reply: Reply) -> int:
    """The version of the routes that subscribe.lua answered. Raises `Fenced`."""
    if reply[0] == b"FENCED":
        raise Fenced
    return cast(int, reply[1])
