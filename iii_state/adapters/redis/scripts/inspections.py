"""Calls of the scripts that the doctor looks with at what lies in Redis: what they take."""

from __future__ import annotations

from collections.abc import Sequence

from iii_state.adapters.redis.keys import Keys

LANES_AT_ONCE = 500
"""At most this many lanes in one call of repair/inspect_lanes.lua."""


def inspect_queue(keys: Keys, queue: bytes, most: int) -> list[bytes]:
    """What follows the digest of repair/inspect_queue.lua in EVALSHA."""
    return [b"3", keys.stream(queue), keys.busy(queue), keys.subscription(queue), b"%d" % most]


def inspect_lanes(keys: Keys, queue: bytes, lanes: Sequence[bytes]) -> list[bytes]:
    """What follows the digest of repair/inspect_lanes.lua in EVALSHA."""
    return [b"%d" % (1 + len(lanes)), keys.busy(queue), *(keys.wait(queue, name) for name in lanes), *lanes]


def recount_entries(keys: Keys, queue: bytes) -> list[bytes]:
    """What follows the digest of repair/recount_entries.lua in EVALSHA."""
    return [b"1", keys.busy(queue)]


def inspect_values(values_key: bytes, cursor: bytes, count: int, large: int) -> list[bytes]:
    """What follows the digest of repair/inspect_values.lua in EVALSHA."""
    return [b"1", values_key, cursor, b"%d" % count, b"%d" % large]
