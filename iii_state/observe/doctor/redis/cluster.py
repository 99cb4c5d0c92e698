"""Looks at a Redis Cluster: at each master, and at each partition as at a Redis of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from iii_state.adapters.redis.admin import RedisAdmin
from iii_state.adapters.redis.cluster.adapter import ClusterAdapter
from iii_state.adapters.redis.cluster.admin import ClusterAdmin
from iii_state.adapters.redis.cluster.partitions import AT_ONCE, Partitions, ranges
from iii_state.adapters.redis.cluster.reading import cluster_partitions
from iii_state.adapters.redis.connection.connection import RedisConnection
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.keyspace.scan import KEYS_PER_STEP
from iii_state.adapters.redis.mutations.routes import FOREIGN_WRITES
from iii_state.adapters.redis.opening import cluster_of
from iii_state.config import RedisSettings
from iii_state.errors import StoreError
from iii_state.events import QueueLimits
from iii_state.observe.doctor.findings import MOST_NAMED, Finding, Progress, counted, named
from iii_state.observe.doctor.redis.fleet import of_engines, of_sessions
from iii_state.observe.doctor.redis.joining import joining, nothing_there, run_repair
from iii_state.observe.doctor.redis.queues import QueueDamage, forget_lost, have_counted, of_queues
from iii_state.observe.doctor.redis.server import of_server, of_share, used_memory
from iii_state.observe.doctor.redis.values import ValueLook
from iii_state.observe.doctor.subscriptions import of_queues as of_subscriptions

UNEVEN = 2.0
"""A master with so many times the partitions of another one is worth a note."""


class Partition(NamedTuple):
    """A partition, as it is looked at."""

    connection: RedisConnection
    keys: Keys

    @property
    def place(self) -> str:
        """Where it lies, for people."""
        return str(self.connection.place)


async def examine_cluster(settings: RedisSettings, progress: Progress, *, values: bool, repair: bool) -> list[Finding]:
    """What is to be known; without `values` these are not looked at. Raises `StoreError` where nothing can be looked at."""
    nodes = cluster_of(settings)
    async with cluster_partitions(nodes, settings.prefix) as (opened, slots):
        if not opened:
            return [nothing_there(f"the Redis Cluster at {nodes.address}", settings.prefix)]
        parts = [Partition(part.connection, part.keys) for part in opened]
        partitions = Partitions(parts)
        progress("the servers")
        masters = nodes.masters(slots)
        is_watching = bool(await parts[0].connection.send(b"HEXISTS", parts[0].keys.routes, FOREIGN_WRITES))
        found: list[Finding] = [*await _of_state(parts[masters[0][0]].connection), *_of_shares(parts, masters)]
        for numbers in masters:
            part = parts[numbers[0]]
            found += [_at(part, each) for each in await of_server(part.connection, foreign_writes=is_watching)]
        progress("engines and queues")
        found += _together(await partitions.gather(_of_fleet, at_once=AT_ONCE))
        damage = await partitions.gather(_queues_of, at_once=AT_ONCE)
        if repair and any(each.damaged for each in damage):
            progress("repairing queues")
            await _repair(settings, parts, damage, is_watching=is_watching)
            damage = await partitions.gather(_queues_of, at_once=AT_ONCE)
        found += _together([each.findings() for each in damage])
        if repair:
            for part, each in zip(parts, damage, strict=True):
                await forget_lost(part.connection, part.keys, each)
        for numbers in masters:
            part = parts[numbers[0]]
            with contextlib.suppress(StoreError):  # INFO may be refused
                used = used_memory(await part.connection.send(b"INFO", b"memory"))
                found += [_at(part, each) for each in of_share(sum(damage[at].queued_bytes for at in numbers), used)]
        if not any(each.has_other_types for each in damage):
            admins = Partitions([RedisAdmin(part.keys, part.connection, QueueLimits()) for part in parts])
            found += of_subscriptions(await ClusterAdmin(admins).stats())
        if values:
            found += _together(await partitions.gather(lambda part: _of_values(part, progress), at_once=AT_ONCE))
            for numbers in masters:
                found += await _of_plain_keys(parts[numbers[0]].connection)
        return found


async def _of_fleet(part: Partition) -> list[Finding]:
    return [*await of_engines(part.connection, part.keys, is_partition=True), *await of_sessions(part.connection, part.keys)]


async def _queues_of(part: Partition) -> QueueDamage:
    return await of_queues(part.connection, part.keys)


async def _of_values(part: Partition, progress: Progress) -> list[Finding]:
    return await ValueLook(part.connection, part.keys, progress).look()


async def _repair(settings: RedisSettings, parts: Sequence[Partition], damage: Sequence[QueueDamage], *, is_watching: bool) -> None:
    damaged = [part for part, each in zip(parts, damage, strict=True) if each.damaged]
    for part, each in zip(parts, damage, strict=True):
        if each.damaged:
            await have_counted(part.connection, part.keys, each)

    async def is_damaged() -> bool:
        return any([(await _queues_of(part)).damaged for part in damaged])

    joined = joining(settings, is_watching=is_watching)
    await run_repair(ClusterAdapter(joined, cluster_of(joined), history=None), is_damaged)


# -- the cluster itself


async def _of_state(connection: RedisConnection) -> list[Finding]:
    """Whether all slots are served, and all nodes are there."""
    try:
        text = await connection.send(b"CLUSTER", b"INFO")
    except StoreError:
        return []
    info = dict(line.split(":", 1) for line in text.decode("utf-8", "replace").split("\r\n") if ":" in line)
    lacking = 16384 - int(info.get("cluster_slots_ok", 16384))
    if info.get("cluster_state", "ok") == "ok" and not lacking:
        return []
    return [
        Finding(
            "warning",
            "cluster-state",
            f"the cluster is in the state {info.get('cluster_state')}, and {lacking:,} of its 16,384 slots are not served",
            "Calls to the partitions there wait, and fail after call_timeout_ms.",
            "Look at CLUSTER NODES: start the nodes that have failed, or promote replicas of theirs",
        )
    ]


def _of_shares(parts: Sequence[Partition], masters: Sequence[Sequence[int]]) -> Iterator[Finding]:
    """Whether the partitions are spread over the masters."""
    most, least = max(map(len, masters)), min(map(len, masters))
    if most > UNEVEN * least:
        fullest = max(masters, key=len)
        yield Finding(
            "note",
            "partitions-uneven",
            f"Redis at {parts[fullest[0]].place} serves {most} of {len(parts)} partitions, another master {least}",
            "It does that much more of the work, and is full first.",
            "redis-cli --cluster rebalance",
        )


async def _of_plain_keys(connection: RedisConnection) -> list[Finding]:
    """Values without a hash tag: engines do not see them here."""
    names, count, cursor = list[str](), 0, b"0"
    while True:
        words = (b"SCAN", cursor, b"MATCH", b"state:*", b"COUNT", b"%d" % KEYS_PER_STEP, b"TYPE", b"hash")
        cursor, page = await connection.send(*words)
        count += len(page)
        names += [name.decode("utf-8", "replace") for name in page[: MOST_NAMED - len(names)]]
        if cursor == b"0":
            break
    if not count:
        return []
    return [
        Finding(
            "warning",
            "plain-keys",
            f"Redis at {connection.place} holds {counted(count, 'hash', 'hashes')} of values without a hash tag: "
            f"{named(names, count)}",
            "A stock engine, or another program, has written them. Engines of iii-state do not see them in a cluster.",
            "Write them through an engine (iii-state import), and remove them then",
        )
    ]


# -- in one list


def _at(part: Partition, finding: Finding) -> Finding:
    return finding._replace(what=f"at {part.place}: {finding.what}")


def _together(found: Sequence[Sequence[Finding]]) -> list[Finding]:
    """What several partitions have alike is told once, with their numbers."""
    places: dict[Finding, list[int]] = {}
    for number, findings in enumerate(found):
        for finding in findings:
            places.setdefault(finding, []).append(number)
    return [
        finding if len(numbers) == len(found) else finding._replace(what=f"{ranges(numbers)}: {finding.what}")
        for finding, numbers in places.items()
    ]
