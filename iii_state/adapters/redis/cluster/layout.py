"""What the engines of a fleet have to agree on before they look at anything: how a store is parted.

It is fixed at the first start, in one key that has no hash tag; an engine that is to have it otherwise refuses to start.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from iii_state.config.settings import MAX_PARTITIONS, PARTITIONS
from iii_state.errors import ConfigError, StoreError

VERSION = 1

_WORDS = re.compile(r"cluster (\d+): (\d+) partitions, (plain|sharded) wake-ups")


@dataclass(frozen=True, slots=True)
class Layout:
    """How many partitions there are, and whether what is published is sharded (SPUBLISH)."""

    partitions: int = PARTITIONS
    is_sharded: bool = False

    def __str__(self) -> str:
        kind = "sharded" if self.is_sharded else "plain"
        return f"cluster {VERSION}: {self.partitions} partitions, {kind} wake-ups"

    @classmethod
    def read(cls, text: bytes, where: str) -> Layout:
        """What is held in the key. Raises `StoreError` in words where that is none of this version's."""
        held = text.decode("utf-8", "replace")
        found = _WORDS.fullmatch(held)
        if found is None and held.isdigit():
            raise StoreError(
                f"the Redis Cluster at {where} holds the state of a single Redis (format {held}): it was a single one before, or "
                "something was copied there. iii-state move brings a store into a cluster"
            )
        if found is None or int(found[1]) != VERSION or not 1 <= int(found[2]) <= MAX_PARTITIONS:
            raise StoreError(
                f"the state in the Redis Cluster at {where} is laid out as {held[:100]!r}, which a newer version of iii-state has "
                f"written; this one reads version {VERSION}"
            )
        return cls(int(found[2]), found[3] == "sharded")

    def check(self, wanted: int | None) -> None:
        """Raises `ConfigError` where the number of partitions is another than the one that is `wanted`."""
        if wanted is not None and wanted != self.partitions:
            raise ConfigError(
                f"adapter.config.partitions is {wanted} here, and the store has {self.partitions}: the number is fixed when the "
                "first engine starts. Leave the setting out, or move the store (iii-state move)"
            )
