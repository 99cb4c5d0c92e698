"""Calls of the scripts of subscriptions: what they take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from iii_state.adapters.redis.keys import Keys
from iii_state.events import TRIGGERS_PAUSE

SUBSCRIPTIONS_AT_ONCE = 1000
"""At most this many subscriptions in one call of subscribe.lua: a Lua call takes a few thousand arguments, and no more."""


PAUSE_FEATURE = TRIGGERS_PAUSE.encode()
"""What engines have among their features that know of paused subscriptions."""


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


RETENTION_OVER, AT_ONCE, IN_ANY_CASE = 0, 1, 2
"""When a subscription that no engine hosts ends: after its retention, before that, or also where that is for ever."""


def end_subscription(keys: Keys, queue: bytes, engine: bytes = b"", *, early: int = RETENTION_OVER) -> list[bytes]:
    """What follows the digest of subscriptions/end.lua in EVALSHA; without an engine, for what no engine hosts."""
    names = (keys.routes, keys.routes_version, keys.routes_log, keys.hold, keys.orphans, keys.subscription(queue))
    return [b"8", *names, keys.clock, keys.clock_copy, engine, queue, b"%d" % early]


def clear(keys: Keys, queue: bytes, lanes: Sequence[bytes]) -> list[bytes]:
    """What follows the digest of subscriptions/delete_queue.lua in EVALSHA."""
    call = [b"%d" % (5 + len(lanes)), keys.subscription(queue), keys.stream(queue), keys.busy(queue), keys.orphans]
    return [*call, keys.lineages(queue), *(keys.wait(queue, lane_name) for lane_name in lanes), queue, *lanes]


def pause(keys: Keys, queues: Sequence[bytes], subscription_id: str, settings: bytes) -> list[bytes]:
    """What follows the digest of subscriptions/pause.lua in EVALSHA."""
    streams = [keys.stream(queue) for queue in queues]
    names = (keys.paused, keys.engines, keys.features, *streams)
    return [b"%d" % len(names), *names, subscription_id.encode(), settings, PAUSE_FEATURE]


def resume(keys: Keys, queues: Sequence[bytes], subscription_id: str) -> list[bytes]:
    """What follows the digest of subscriptions/resume.lua in EVALSHA."""
    return [b"%d" % (1 + len(queues)), keys.paused, *(keys.stream(queue) for queue in queues), subscription_id.encode()]
