"""A Redis Cluster: which of its nodes serves which slot, and what the partitions there are reached over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial

from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.carrier import Reply
from iii_state.adapters.redis.connection.cluster.channel import SharedSocket
from iii_state.adapters.redis.connection.cluster.listening import Listening, SlotPubSub
from iii_state.adapters.redis.connection.cluster.nodes import Nodes
from iii_state.adapters.redis.connection.cluster.slot import SlotPrimary
from iii_state.adapters.redis.connection.cluster.topology import Place, Topology, ask_node, ask_over, newest_of
from iii_state.errors import StoreError
from iii_state.tasks.background import Background

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
"""Between two looks at the nodes while a partition has no connection, or a node is quiet."""

SWEEP_SECONDS = 10.0
"""Between two looks while there is no reason for one."""

REST_SECONDS = 0.02
"""Between two looks in any case."""

ASKED_AT_ONCE = 8
"""So many of the nodes that are connected to are asked."""


class Cluster:
    """A Redis Cluster. `address` is that of any node, or holds several (`seeds`).

    `start` reads which node serves which slot, and raises `StoreError` in words where no node answers. Then `primary` and `pubsub`
    give what the `RedisConnection` and the Pub/Sub of a partition are made over. To be set before the first of these connects:
    `nodes.loading`, `nodes.prepare` (what is looked at once per node) and `listening.is_sharded`.
    """

    def __init__(self, address: Address, *, call_timeout_ms: int = 5000) -> None:
        self.address = address.of_cluster()
        self._timeout = call_timeout_ms / 1000
        self.nodes = Nodes(self.address, timeout=self._timeout, look=self.look)
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
        self._take_on(await newest_of(partial(ask_node, seed) for seed in self.address.nodes), 0.0)
        self._background.start(self._watch(), "iii-state redis cluster")

    async def stop(self) -> None:
        """Close everything."""
        await self._background.stop()
        await self.listening.stop()
        await self.nodes.stop()

    # -- what partitions use

    def primary(self, slot: int) -> SlotPrimary:
        """The primary of a slot: opens channels to it, for a `RedisConnection`."""
        if slot not in self._slots:
            place = self._topology.master_of(slot)
            self._slots[slot] = SlotPrimary(slot, place, self.nodes, look=self.look, found=self._found_elsewhere)
        return self._slots[slot]

    def pubsub(self, slot: int) -> SlotPubSub:
        """Listens at the primary of a slot."""
        return SlotPubSub(self.listening, self.primary(slot))

    def masters(self) -> list[Place]:
        """Host and port of all nodes that serve slots."""
        return sorted(self._topology.masters)

    def slots_at(self, place: Place) -> list[int]:
        """The slots that have been asked for (`primary`) and that a node serves."""
        return sorted(slot for slot, primary in self._slots.items() if primary.place == place)

    async def ask(self, place: Place, *commands: Sequence[bytes]) -> list[Reply]:
        """Send commands to a node, on the connection that calls go over, and wait for the replies, error replies included.

        Raises `StoreError` in words: where it is not answered, too.
        """
        try:
            async with asyncio.timeout(self._timeout):
                channel = (await self.nodes.node(place, "iii-state:ask")).channel(_unnoticed)
                try:
                    return await channel.ask(*commands)
                finally:
                    channel.abort()
        except TimeoutError:
            where = self.address.at(*place)
            raise StoreError(f"Redis at {where} has not answered within {self._timeout * 1000:.0f} ms") from None

    # -- which node serves which slot

    def look(self) -> None:
        """There is a reason to ask the nodes now."""
        self._wanted.set()

    def _found_elsewhere(self, primary: SlotPrimary, place: Place) -> None:
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
                    logger.warning("which node of the Redis Cluster serves which slot cannot be seen: %s", error)
                self.trouble = str(error)
            except Exception:
                logger.exception("what the nodes of the Redis Cluster say cannot be used; asking again")
            await asyncio.sleep(REST_SECONDS)

    def _is_in_trouble(self) -> bool:
        lacking = any(primary.lacks_connection for primary in self._slots.values())
        return bool(self.trouble) or lacking or self.nodes.any_is_quiet()

    async def _read(self) -> Topology:
        """From the nodes that are connected to; where these do not know enough, from all that are known."""
        live = self.nodes.live()[:ASKED_AT_ONCE]
        words = ""
        if live:
            try:
                found = await newest_of(partial(_ask_over, node) for node in live)
            except StoreError as error:
                words = str(error)
            else:
                if found.is_up and found.ranges:
                    return found
        known = {*self._topology.masters, *self._topology.replicas, *(seed.place for seed in self.address.nodes)}
        known -= {node.address.place for node in live}
        if known or not words:
            return await newest_of(partial(ask_node, self.address.at(*place)) for place in known)
        raise StoreError(words)

    def _take_on(self, topology: Topology, asked_at: float) -> None:
        if not topology.ranges:
            raise StoreError(f"no node of the Redis Cluster {self.address} serves any slot; has it been created?")
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


async def _ask_over(node: SharedSocket) -> Topology:
    channel = node.channel(_unnoticed)
    try:
        return await ask_over(channel)
    finally:
        channel.abort()


def _unnoticed(refusal: str) -> None:
    """A refusal that says nothing of a slot."""
