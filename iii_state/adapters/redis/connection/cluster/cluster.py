"""A Redis Cluster: which of its nodes serves which slot, and what the partitions there are reached over."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection, Sequence
from functools import partial
from typing import TypeVar

from hiredis import ReplyError

from iii_state.adapters.redis.connection.address import Address, Place
from iii_state.adapters.redis.connection.carrier import Reply
from iii_state.adapters.redis.connection.cluster.channel import SharedSocket
from iii_state.adapters.redis.connection.cluster.listening import Listening, SlotPubSub
from iii_state.adapters.redis.connection.cluster.slot import SlotPrimary
from iii_state.adapters.redis.connection.cluster.sockets import NodeSockets
from iii_state.adapters.redis.connection.cluster.topology import (
    Topology,
    agreed_on,
    ask_node,
    ask_over,
    newest,
    newest_of,
    version_of,
)
from iii_state.adapters.redis.connection.connection import RedisConnection
from iii_state.adapters.redis.connection.explain import redirection_of
from iii_state.adapters.redis.connection.socket import open_server
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.scripts.loader import Scripts
from iii_state.errors import StoreError
from iii_state.tasks.background import Background
from iii_state.tasks.repeats import Repeats

T = TypeVar("T")

logger = logging.getLogger(__name__)
repeats = Repeats(logger)

LOOK_SECONDS = 0.1
"""Between two looks at the nodes while a partition has no connection, or a node is quiet."""

SWEEP_SECONDS = 10.0
"""Between two looks while there is no reason for one."""

REST_SECONDS = 0.02
"""Between two looks in any case."""

SHARDED_SINCE = (7, 0)
"""The first version of Redis that has sharded channels; all of Valkey's are later."""

NAME = "iii-state:cluster"

ASKED_AT_ONCE = 8
"""So many of the nodes are asked, however many there are."""


class Cluster:
    """A Redis Cluster. `address` is that of any node, or holds several (`seeds`).

    `start` reads which node serves which slot, and raises `StoreError` in words where no node answers. `connection` and `pubsub`
    are for partitions. `nodes.prepare` is awaited on each new connection to a node: what is to be looked at once per node.
    """

    def __init__(self, address: Address, *, call_timeout_ms: int = 5000, max_in_flight: int = 1024) -> None:
        self.address = address.of_cluster()
        self._bounds = (call_timeout_ms, max_in_flight)
        self._timeout = call_timeout_ms / 1000
        self.nodes = NodeSockets(self.address, timeout=self._timeout, look=self.look)
        self.listening = Listening(self.address, silence_seconds=self._timeout, look=self.look)
        self.trouble = ""
        """Why the nodes could not be asked, or what they say of the cluster; empty where all is well."""
        self._topology = Topology((), frozenset(), True, -1)
        self._slots: dict[int, SlotPrimary] = {}
        self._found: dict[int, float] = {}
        """Slots that a node has said are elsewhere, and when: an answer that was asked for earlier does not count for them."""
        self._wanted = asyncio.Event()
        self._background = Background()

    # -- opening and closing

    async def start(self) -> None:
        """Read which node serves which slot, and follow that from now on. Raises `StoreError` in words where no node answers."""
        self._take_on(await agreed_on((partial(ask_node, seed) for seed in self.address.nodes), str(self.address)), 0.0)
        self._background.start(self._watch(), "iii-state redis cluster")

    async def stop(self) -> None:
        """Close everything."""
        await self._background.stop()
        await self.listening.stop()
        await self.nodes.stop()

    # -- what partitions use

    def connection(self, slot: int, keys: Keys, scripts: Scripts) -> RedisConnection:
        """The connection of a partition, which follows its slot; not open yet. All partitions have the same scripts."""
        self.nodes.scripts = scripts
        self.listening.is_sharded = scripts.is_sharded
        call_timeout_ms, max_in_flight = self._bounds
        return RedisConnection(
            self.address,
            keys.session,
            primary=self.primary(slot),
            call_timeout_ms=call_timeout_ms,
            max_in_flight=max_in_flight,
            scripts=scripts,
        )

    def primary(self, slot: int) -> SlotPrimary:
        """The primary of a slot: opens channels to it."""
        if slot not in self._slots:
            place = self._topology.master_of(slot)
            self._slots[slot] = SlotPrimary(slot, place, self.nodes, look=self.look, found=self._found_elsewhere)
        return self._slots[slot]

    def pubsub(self, slot: int) -> SlotPubSub:
        """What a partition listens with, which follows its slot; not open yet."""
        return SlotPubSub(self.listening, self.primary(slot))

    # -- nodes

    @property
    def servers(self) -> list[Address]:
        """All nodes that serve slots."""
        return [self.address.at(*place) for place in sorted(self._topology.masters)]

    def masters(self, slots: Sequence[int]) -> list[list[int]]:
        """The positions of these slots in the list: together those that one node serves, without those that none does."""
        found: dict[Place, list[int]] = {}
        for position, slot in enumerate(slots):
            place = self.primary(slot).place
            if place is not None:
                found.setdefault(place, []).append(position)
        return list(found.values())

    async def can_shard(self) -> bool:
        """Whether all nodes that answer have sharded channels (Redis 7.0). Raises `StoreError` where a master does not answer."""
        known = sorted(self._topology.masters | self._topology.replicas)
        told = await asyncio.gather(*(version_of(self.address.at(*place)) for place in known), return_exceptions=True)
        for place, version in zip(known, told, strict=True):
            if isinstance(version, BaseException) and place in self._topology.masters:
                raise version
        return all(isinstance(version, BaseException) or version >= SHARDED_SINCE for version in told)

    async def ask(self, slot: int, *commands: Sequence[bytes]) -> list[Reply]:
        """Ask the node that serves a slot, over a connection that is made for this; error replies included.

        Raises `StoreError` in words, also where the node does not answer within the time of a call.
        """
        try:
            async with asyncio.timeout(self._timeout):
                return await self._ask(slot, commands)
        except TimeoutError:
            told = f"the node of the Redis Cluster {self.address} that serves slot {slot} has not answered"
            raise StoreError(f"{told} within {self._timeout * 1000:.0f} ms") from None

    async def _ask(self, slot: int, commands: Sequence[Sequence[bytes]]) -> list[Reply]:
        primary = self.primary(slot)
        while True:
            place = primary.place
            if place is None:
                raise StoreError(f"no node of the Redis Cluster {self.address} serves slot {slot}")
            socket = await open_server(self.address.at(*place), NAME)
            try:
                replies = await socket.ask(*commands)
            finally:
                socket.abort()
            refusals = [text for reply in replies if isinstance(reply, ReplyError) and redirection_of(text := str(reply))]
            if len(refusals) < len(replies):
                return replies
            primary.leave(socket, refusals[0])
            await asyncio.sleep(REST_SECONDS)

    # -- which node serves which slot

    def look(self) -> None:
        """There is a reason to ask the nodes now."""
        self._wanted.set()

    def _found_elsewhere(self, primary: SlotPrimary, place: Place) -> None:
        if place not in self._topology.masters | self._topology.replicas:
            self.look()  # it may have been added, or who says so may have gone to another cluster: the nodes that are known know
            return
        self._found[primary.slot] = asyncio.get_running_loop().time()
        if primary.is_at(place):
            logger.info("slot %d of the Redis Cluster is served by Redis at %s now", primary.slot, self.address.at(*place))
            primary.moved.emit()
        self.look()

    async def _watch(self) -> None:
        while True:
            try:
                async with asyncio.timeout(LOOK_SECONDS if self._is_in_trouble() else SWEEP_SECONDS):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            asked_at = asyncio.get_running_loop().time()
            try:
                self._take_on(await self._read(), asked_at)
            except StoreError as error:
                if str(error) != self.trouble:
                    # Others are asked each time where there are many nodes, and what these say is another text.
                    repeats.warning(
                        "which node of the Redis Cluster serves which slot cannot be seen: %s", error, of=self, alike="seen"
                    )
                self.trouble = str(error)
            except Exception:
                logger.exception("what the nodes of the Redis Cluster say cannot be used; asking again")
            await asyncio.sleep(REST_SECONDS)

    def _is_in_trouble(self) -> bool:
        lacking = any(primary.lacks_connection for primary in self._slots.values())
        return bool(self.trouble) or lacking or self.nodes.any_is_quiet()

    async def _read(self) -> Topology:
        """From some of the nodes that are connected to; where these do not know enough, from others that are known, too."""
        live = _some(self.nodes.live())
        found, words = None, ""
        if live:
            try:
                found = await newest_of((partial(_ask_over, node) for node in live), self._topology)
            except StoreError as error:
                words = str(error)
        if found is not None and found.is_up and found.ranges and found.is_of(self._topology):
            return found
        known = {*self._topology.masters, *self._topology.replicas} - {node.address.place for node in live}
        others = {*_some(known), *(seed.place for seed in self.address.nodes)}
        try:
            told = await newest_of((partial(ask_node, self.address.at(*place)) for place in others), self._topology)
        except StoreError as error:
            if found is None:
                raise StoreError("; ".join(filter(None, (words, str(error))))) from None
            return found
        return told if found is None else newest(found, told, known=self._topology)

    def _take_on(self, topology: Topology, asked_at: float) -> None:
        if not topology.ranges:
            raise StoreError(f"no node of the Redis Cluster {self.address} serves any slot; has it been created?")
        if not topology.is_of(self._topology):
            raise StoreError(
                f"the nodes of the Redis Cluster {self.address} that answer belong to another cluster: nothing is written there. "
                "Where all nodes have been replaced, this engine has to be started again"
            )
        is_up_again = topology.is_up and (not self._topology.is_up or bool(self.trouble))
        self._topology = topology
        self.trouble = "" if topology.is_up else f"the Redis Cluster {self.address} is down, as its nodes say"
        changed = {
            primary
            for slot, primary in self._slots.items()
            if self._found.get(slot, -1.0) < asked_at and primary.is_at(topology.master_of(slot))
        }
        self.nodes.keep({*topology.masters, *(primary.place for primary in self._slots.values() if primary.place is not None)})
        for primary in self._slots.values():
            if primary in changed or ((is_up_again or primary.is_refused) and primary.lacks_connection):
                primary.is_refused = False
                primary.moved.emit()


def _some(nodes: Collection[T]) -> list[T]:
    """As many of these as are asked at once, chosen at random: no node is asked by all engines."""
    return random.sample(list(nodes), min(ASKED_AT_ONCE, len(nodes)))


async def _ask_over(node: SharedSocket) -> Topology:
    channel = node.channel(_unnoticed)
    try:
        return await ask_over(channel)
    finally:
        channel.abort()


def _unnoticed(refusal: str) -> None:
    """A refusal that says nothing of a slot."""
