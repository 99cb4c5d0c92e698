"""Which node of a Redis Cluster serves which slot: asked of the nodes, read by redis-py."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, cast

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
    ids: frozenset[str] = frozenset()
    """Of all these nodes."""

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

    def is_of(self, known: Topology) -> bool:
        """Whether this is the cluster that is known, as far as can be told: at least half of its nodes are here, by id or by place.

        A node that has left it for another one tells of that one. Nodes that have been renamed have their ids; nodes that have
        been started anew where the ones before were are taken for the same cluster, emptied.
        """
        found = ((self.ids & known.ids, known.ids), (self._places & known._places, known._places))
        return not known.ranges or any(there and len(both) * 2 >= len(there) for both, there in found)

    @property
    def _places(self) -> frozenset[Place]:
        return self.masters | self.replicas


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
    ranges = cast("list[list[Any]]", slots)
    named = [[first, last, *map(_named, servers)] for first, last, *servers in ranges]
    found = parse_cluster_slots(named, current_host=address.host)
    text = info if isinstance(info, bytes) else b""
    state, epoch = _STATE.search(text), _EPOCH.search(text)
    return Topology(
        ranges=tuple(sorted((int(first), int(last), _place(of["primary"])) for (first, last), of in found.items())),
        replicas=frozenset(_place(replica) for of in found.values() for replica in of["replicas"]),
        is_up=state is None or state[1] == b"ok",
        epoch=int(epoch[1]) if epoch is not None else -1,
        ids=frozenset(_text(server[2]) for _, _, *servers in ranges for server in servers if server[2:]),
    )


def _named(server: list[Any]) -> list[Any]:
    """A node that is to be known by its name, and has announced none (`?`), is reached at its address, which Redis 7 tells, too;
    without one where the node is that has been asked."""
    if server[0] not in (b"?", "?"):
        return server
    more = server[3] if server[3:] else []
    return [dict(zip(more[::2], more[1::2], strict=False)).get(b"ip", b""), *server[1:]]


def _text(text: bytes | str) -> str:
    return text if isinstance(text, str) else text.decode("ascii", "replace")


def _place(server: Sequence[object]) -> Place:
    return str(server[0]), int(cast(int, server[1]))


async def agreed_on(asked: Iterable[Ask], seeds: str) -> Topology:
    """Ask the nodes that a URL names, and choose the answer of the one that has seen most. Raises `StoreError` in words where none
    answers, and where they belong to several clusters: which of them is meant is not to be guessed."""
    answers = await _answers(asked)
    found = newest(*answers)
    if any(answer.ranges and not answer.is_of(found) for answer in answers):
        raise StoreError(f"the nodes at {seeds} belong to different Redis Clusters: redis_url has to name nodes of one")
    return found


async def newest_of(asked: Iterable[Ask], known: Topology | None = None) -> Topology:
    """Ask nodes, all at once, and choose the answer of the one that has seen most of the cluster that is known. Raises
    `StoreError` in words where none answers."""
    return newest(*await _answers(asked), known=known)


async def _answers(asked: Iterable[Ask]) -> list[Topology]:
    answers, errors = await answers_of(one() for one in asked)
    for error in errors:
        if not isinstance(error, StoreError):
            raise error
    if not answers:
        raise StoreError("; ".join(sorted({str(error) for error in errors})) or "no node answers")
    return answers


def newest(*answers: Topology, known: Topology | None = None) -> Topology:
    """The answer of the node that has seen most: one that is cut off says that the cluster is down, and each failover and each
    move of a slot raises the cluster's epoch. One of another cluster than the one that is known is the last to be believed."""

    def seen(answer: Topology) -> tuple[bool, bool, bool, int]:
        return bool(answer.ranges), known is None or answer.is_of(known), answer.is_up, answer.epoch

    return max(answers, key=seen)
