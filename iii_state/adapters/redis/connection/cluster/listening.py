"""Pub/Sub of a partition: at the node that serves its slot, over one connection for all partitions there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from iii_state.adapters.redis.connection.address import Address, Place
from iii_state.adapters.redis.connection.carrier import Carrier
from iii_state.adapters.redis.connection.cluster.slot import SlotPrimary
from iii_state.adapters.redis.connection.pubsub import Heard, PubSub
from iii_state.adapters.redis.connection.socket import open_server
from iii_state.tasks.background import Background

KEYSPACE = b"__key"
"""How the channels begin on which a node tells what happens to its keys: those are never sharded."""


class NodePubSub:
    """What is listened to at a node. `look` is called when it has turned out that the node serves a slot no more."""

    def __init__(self, address: Address, *, silence_seconds: float, look: Callable[[], None]) -> None:
        self.partitions: dict[SlotPubSub, None] = {}
        """Those that listen there; one of them prepares each new connection."""
        self.pubsub = PubSub(partial(open_server, address), silence_seconds=silence_seconds)
        self.pubsub.prepare = self._prepare
        self.pubsub.unheard.connect(look)
        self.pubsub.start()

    async def _prepare(self, carrier: Carrier) -> None:
        for partition in self.partitions:
            if partition.prepare is not None:
                await partition.prepare(carrier)
                return

    async def stop(self) -> None:
        """Hear nothing more."""
        await self.pubsub.stop()


class Listening:
    """The Pub/Sub connections: one to each node that partitions listen at."""

    def __init__(self, address: Address, *, silence_seconds: float, look: Callable[[], None]) -> None:
        self.is_sharded = False
        """Whether the channels of wake-ups are sharded (SSUBSCRIBE); those of keyspace notifications never are."""
        self._address = address
        self._silence = silence_seconds
        self._look = look
        self._nodes: dict[Place, NodePubSub] = {}
        self._background = Background()

    def at(self, place: Place) -> NodePubSub:
        """What is listened to at a node."""
        if place not in self._nodes:
            self._nodes[place] = NodePubSub(self._address.at(*place), silence_seconds=self._silence, look=self._look)
        return self._nodes[place]

    def left(self, place: Place) -> None:
        """Nobody listens at a node any more."""
        self._background.start(self._nodes.pop(place).stop(), "iii-state leave a node")

    async def stop(self) -> None:
        """Hear nothing more."""
        await self._background.stop()
        for node in self._nodes.values():
            await node.stop()
        self._nodes.clear()


class SlotPubSub:
    """Listens at the node that serves a slot, and follows it; has what `PubSub` has.

    A listener is told that listening has begun (None for a message) each time when it begins at another node, too. `prepare` is
    awaited on each new connection to a node, for one of the partitions there.
    """

    def __init__(self, listening: Listening, primary: SlotPrimary) -> None:
        self.prepare: Callable[[Carrier], Awaitable[None]] | None = None
        self._listening = listening
        self._primary = primary
        self._channels: dict[bytes, Heard] = {}
        self._patterns: dict[bytes, Heard] = {}
        self._node: NodePubSub | None = None
        self._place = primary.place
        self._is_started = False
        primary.moved.connect(self._follow)

    def start(self) -> None:
        """Listen from now on."""
        self._is_started = True
        self._follow()

    async def stop(self) -> None:
        """Hear nothing more."""
        self._is_started = False
        self._leave()

    def hurry(self) -> None:
        """Connect at once, where this waits to connect again."""
        if self._node is not None:
            self._node.pubsub.hurry()

    def listen(self, channels: Iterable[bytes], heard: Heard) -> None:
        """Hand over what is published on these from now on."""
        new = [channel for channel in channels if channel not in self._channels]
        self._channels.update(dict.fromkeys(new, heard))
        self._listen(new, heard)

    def listen_to_all(self, pattern: bytes, heard: Heard) -> None:
        """The same for all channels that match a pattern; `heard` takes None for the pattern, then the channels themselves."""
        self._patterns[pattern] = heard
        if self._node is not None:
            self._node.pubsub.listen_to_all(pattern, heard)

    def ignore(self, channel: bytes) -> None:
        """Hear this one no more."""
        if self._channels.pop(channel, None) is not None and self._node is not None:
            self._node.pubsub.ignore(channel)

    def _listen(self, channels: list[bytes], heard: Heard) -> None:
        if self._node is None:
            return
        sharded = [channel for channel in channels if self._listening.is_sharded and not channel.startswith(KEYSPACE)]
        others = set(channels).difference(sharded)
        self._node.pubsub.listen(sharded, heard, sharded=True)
        self._node.pubsub.listen([channel for channel in channels if channel in others], heard)

    # -- following the slot

    def _follow(self) -> None:
        place = self._primary.place
        if not self._is_started or (self._node is not None and place == self._place):
            self.hurry()
            return
        self._leave()
        if place is None:
            return
        self._place = place
        self._node = self._listening.at(place)
        self._node.partitions[self] = None
        together: dict[Heard, list[bytes]] = {}
        for channel, heard in self._channels.items():
            together.setdefault(heard, []).append(channel)
        for heard, channels in together.items():
            self._listen(channels, heard)
        for pattern, heard in self._patterns.items():
            self._node.pubsub.listen_to_all(pattern, heard)

    def _leave(self) -> None:
        node, self._node = self._node, None
        if node is None or self._place is None:
            return
        del node.partitions[self]
        if not node.partitions:
            self._listening.left(self._place)
            return
        for channel in self._channels:
            node.pubsub.ignore(channel)
        for pattern in self._patterns:
            node.pubsub.ignore_all(pattern)
