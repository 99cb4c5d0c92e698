"""What an engine has counted of a cluster: the sum of what it has counted of the partitions."""

from __future__ import annotations

from collections.abc import Iterable

from iii_state.adapters.figures import STORE_UP
from iii_state.adapters.redis.figures import FENCES, TAKEOVERS
from iii_state.figures import Family, Figure

_OF_ENGINES = {TAKEOVERS, FENCES}
"""An engine that dies does so in all partitions: it is counted once."""


def summed(parts: Iterable[Iterable[Figure]]) -> list[Figure]:
    """The figures of a whole, of those of its parts. The store is up where all of it is."""
    found: dict[tuple[Family, tuple[str, ...]], float] = {}
    for part in parts:
        for family, value, labels in part:
            assert isinstance(value, int | float)
            known = found.get((family, labels))
            if known is None:
                found[family, labels] = value
            elif family == STORE_UP:
                found[family, labels] = min(known, value)
            else:
                found[family, labels] = max(known, value) if family in _OF_ENGINES else known + value
    return [Figure(family, value, labels) for (family, labels), value in found.items()]
