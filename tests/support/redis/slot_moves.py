"""Moves of a slot from one master of a Redis Cluster to another: key by key as `redis-cli` does, or at once as Valkey does."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import redis

from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.support.redis.nodes import Node

MIGRATE_MS = 10_000


class SlotMove:
    """One slot on its way from a master to another.

    As a context it begins, and is finished at the end; after an error it stays half done. Between the steps a client meets what it
    would meet: ASK for what has gone, TRYAGAIN where a call's keys lie at both.

    It cannot be taken back under traffic, nor may the source fail over meanwhile: Redis 7 would answer that keys which have gone
    are not there.

    Args:
        masters: all of the cluster, who are told in the end.
    """

    def __init__(self, slot: int, source: Node, target: Node, masters: Sequence[Node]) -> None:
        self.slot = slot
        self.source = source
        self.target = target
        self._masters = masters

    def begin(self) -> None:
        """From now on the source answers ASK for keys that it has not."""
        self.target.client.execute_command("CLUSTER", "SETSLOT", self.slot, "IMPORTING", self.source.id)
        self.source.client.execute_command("CLUSTER", "SETSLOT", self.slot, "MIGRATING", self.target.id)

    def step(self, keys: int = 1) -> int:
        """Move a few keys, and say how many."""
        return _migrate(self.slot, self.source, self.target, keys)

    def finish(self) -> None:
        """Move what is left, and have the target serve the slot; the source answers MOVED then."""
        while self.step(100):
            pass
        told = [self.target, self.source, *(each for each in self._masters if each not in (self.source, self.target))]
        for node in told:
            node.client.execute_command("CLUSTER", "SETSLOT", self.slot, "NODE", self.target.id)
        wait_until(self._is_known, f"not all know where slot {self.slot} is")

    def _is_known(self) -> bool:
        return all(_serves(node.view()[self.target.id]["slots"], self.slot) for node in self._masters)

    def __enter__(self) -> SlotMove:
        self.begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.finish()


def _migrate(slot: int, source: Node, target: Node, count: int) -> int:
    keys = source.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, count)
    if keys:
        source.client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, MIGRATE_MS, "REPLACE", "KEYS", *keys)
    return len(keys)


def _serves(slots: Sequence[Sequence[str]], slot: int) -> bool:
    return any(int(part[0]) <= slot <= int(part[-1]) for part in slots if part)


def move_at_once(first: int, last: int, source: Node, target: Node) -> None:
    """Move slots with Valkey's atomic migration.

    Raises:
        redis.ResponseError: where the server has it not, or would not.
    """
    source.client.execute_command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", first, last, "NODE", target.id)

    def has_moved() -> bool:
        state = dict(zip(*[iter(_latest(source))] * 2, strict=True))
        assert state[b"state"] not in (b"failed", b"cancelled"), state
        return bool(state[b"state"] == b"success")

    wait_until(has_moved, "the slots have not moved")
    wait_until(lambda: _serves(source.view()[target.id]["slots"], first), "the source does not know that its slots have moved")


def _latest(source: Node) -> list[bytes]:
    found: list[list[bytes]] = source.client.execute_command("CLUSTER", "GETSLOTMIGRATIONS")
    if not found:
        raise redis.ResponseError("the server knows of no migration")
    return found[0]
