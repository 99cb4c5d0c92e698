"""Which node of a Redis Cluster serves which slot: asked of the nodes, read by redis-py."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import cast

from hiredis import ReplyError
from msgspec import Struct
from redis.cluster import parse_cluster_slots

from iii_state.adapters.redis.connection.address import Address, Place
from iii_state.adapters.redis.connection.asking import ASK_SECONDS, answers_of
from iii_state.adapters.redis.connection.carrier import Carrier, Reply
from iii_state.adapters.redis.connection.explain import explain
from iii_state.adapters.redis.connection.socket import open_server
from iii_state.errors import StoreError

NAME = "iii-state:topology"
"""Of connections that are made to ask only."""

_STATE = re.compile(rb"^cluster_state:(\w+)", re.MULTILINE)
_EPOCH = re.compile(rb"^cluster_current_epoch:(\d+)", re.MULTILINE)


class Topology(Struct, frozen=True):
    """What a node knows of the cluster: the ranges of slots (first, last, the place of their master), and the replicas' places."""

    ranges: tuple[tuple[int, int, Place], ...]
    replicas: frozenset[Place]
    is_up: bool
    """Whether the cluster takes calls, as this node sees it; true where that may not be asked."""
    epoch: int
    """Raised by each failover and each move of a slot; -1 where it may not be asked."""

    def master_of(self, slot: int) -> Place | None:
        """Where the master of a slot is; None where no node serves it."""
        for first, last, place in self.ranges:
            if first <= slot <= last:
                return place
        return None

    @property
    def masters(self) -> frozenset[Place]:
        """The places of all masters that serve slots."""
        return frozenset(place for _, _, place in self.ranges)


Ask = Callable[[], Awaitable[Topology]]
"""Asks one node. Raises `StoreError` in words where it does not answer."""


async def ask_over(carrier: Carrier) -> Topology:
    """Ask a node over a connection that there is. Raises `StoreError` in words."""
    try:
        async with asyncio.timeout(ASK_SECONDS):
            slots, info = await carrier.ask((b"CLUSTER", b"SLOTS"), (b"CLUSTER", b"INFO"))
    except TimeoutError:
        raise StoreError(f"Redis at {carrier.address} has not answered within {ASK_SECONDS:g} s") from None
    if isinstance(slots, ReplyError):
        raise StoreError(explain(carrier.address, str(slots)))
    return _read(carrier.address, cast("list[Reply]", slots), info)


async def ask_node(address: Address) -> Topology:
    """Ask a node over a connection that is made for this. Raises `StoreError` in words."""
    try:
        async with asyncio.timeout(ASK_SECONDS):
            socket = await open_server(address, NAME)
    except TimeoutError:
        raise StoreError(f"Redis at {address} has not answered within {ASK_SECONDS:g} s") from None
    try:
        return await ask_over(socket)
    finally:
        socket.abort()


async def version_of(address: Address) -> tuple[int, ...]:
    """The first two numbers of a node's version. Raises `StoreError` in words where it does not answer."""
    try:
        async with asyncio.timeout(ASK_SECONDS):
            socket = await open_server(address, NAME)
    except TimeoutError:
        raise StoreError(f"Redis at {address} has not answered within {ASK_SECONDS:g} s") from None
    socket.abort()
    return socket.version


def _read(address: Address, slots: list[Reply], info: Reply) -> Topology:
    found = parse_cluster_slots(slots, current_host=address.host)
    text = info if isinstance(info, bytes) else b""
    state, epoch = _STATE.search(text), _EPOCH.search(text)
    return Topology(
        ranges=tuple(sorted((int(first), int(last), _place(of["primary"])) for (first, last), of in found.items())),
        replicas=frozenset(_place(replica) for of in found.values() for replica in of["replicas"]),
        is_up=state is None or state[1] == b"ok",
        epoch=int(epoch[1]) if epoch is not None else -1,
    )


def _place(server: Sequence[object]) -> Place:
    return str(server[0]), int(cast(int, server[1]))


async def newest_of(asked: Iterable[Ask]) -> Topology:
    """Ask nodes, all at once, and choose the answer of the one that has seen most. Raises `StoreError` in words where none
    answers."""
    answers, errors = await answers_of(one() for one in asked)
    for error in errors:
        if not isinstance(error, StoreError):
            raise error
    if not answers:
        raise StoreError("; ".join(sorted({str(error) for error in errors})) or "no node answers")
    return newest(*answers)


def newest(*answers: Topology) -> Topology:
    """The answer of the node that has seen most: one that is cut off says that the cluster is down, and each failover and each
    move of a slot raises the cluster's epoch."""
    return max(answers, key=lambda answer: (bool(answer.ranges), answer.is_up, answer.epoch))
