"""Which partition a scope belongs to, and the hash tag that puts all keys of a partition into one slot.

The slots of the partitions are evenly spaced, so a cluster that cuts the slots in equal ranges gets equal shares.
"""

from __future__ import annotations

from binascii import crc_hqx
from functools import cache

SLOTS = 16384


def partition_of(scope: bytes, partitions: int) -> int:
    """The number of a scope's partition, of so many."""
    return crc_hqx(scope, 0) % partitions


def slot_of(key: bytes) -> int:
    """The slot of a key, as Redis computes it."""
    _, brace, rest = key.partition(b"{")
    tag, closing, _ = rest.partition(b"}")
    return crc_hqx(tag if brace and closing and tag else key, 0) % SLOTS


@cache
def tags(partitions: int) -> tuple[bytes, ...]:
    """The beginnings of the partitions' keys, `{iii-<n>}:`, of so many partitions in their order."""
    wanted = {(2 * number + 1) * SLOTS // (2 * partitions): number for number in range(partitions)}
    found: dict[int, bytes] = {}
    number = 0
    while len(found) < partitions:
        name = b"iii-%d" % number
        place = wanted.get(crc_hqx(name, 0) % SLOTS)
        if place is not None and place not in found:
            found[place] = b"{%b}:" % name
        number += 1
    return tuple(found[place] for place in range(partitions))
