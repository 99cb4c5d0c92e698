"""Calls of the scripts of subscriptions: what they take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from iii_state.adapters.redis.keys import Keys

SUBSCRIPTIONS_AT_ONCE = 1000
"""At most this many subscriptions in one call of subscribe.lua: a Lua call takes a few thousand arguments, and no more."""


class Registration(NamedTuple):
    """What subscribe.lua is told of a subscription: its queue; its route and its settings, two texts that only engines read; how
    long it is kept when no engine hosts it, in milliseconds, empty for ever."""

    queue: bytes
    route: bytes
    settings: bytes
    retention: bytes = b""


def subscribe(keys: Keys, engine: bytes, registrations: Sequence[Registration]) -> list[bytes]:
    """What follows the digest of subscriptions/subscribe.lua in EVALSHA."""
    call = [b"%d" % (7 + 3 * len(registrations)), keys.routes, keys.routes_version, keys.routes_log, keys.engines]
    call += (keys.hold, keys.hosts(engine), keys.orphans)
    for registration in registrations:
        queue = registration.queue
        call += (keys.subscription(queue), keys.stream(queue), keys.busy(queue))
    call.append(engine)
    for registration in registrations:
        call += registration
    return call


def abandon(keys: Keys, queue: bytes, engine: bytes) -> list[bytes]:
    """What follows the digest of subscriptions/abandon.lua in EVALSHA."""
    return [b"4", keys.subscription(queue), keys.orphans, keys.clock, keys.clock_copy, engine, queue]


def end_subscription(keys: Keys, queue: bytes, engine: bytes = b"", *, is_full: bool = False) -> list[bytes]:
    """What follows the digest of subscriptions/end.lua in EVALSHA; without an engine, for a retention that may be over, or for a
    queue that is full and has no engine."""
    names = (keys.routes, keys.routes_version, keys.routes_log, keys.hold, keys.orphans, keys.subscription(queue))
    return [b"8", *names, keys.clock, keys.clock_copy, engine, queue, b"%d" % is_full]


def clear(keys: Keys, queue: bytes, lanes: Sequence[bytes]) -> list[bytes]:
    """What follows the digest of subscriptions/delete_queue.lua in EVALSHA."""
    call = [b"%d" % (5 + len(lanes)), keys.subscription(queue), keys.stream(queue), keys.busy(queue), keys.orphans]
    return [*call, keys.lineages(queue), *(keys.wait(queue, lane_name) for lane_name in lanes), queue, *lanes]
