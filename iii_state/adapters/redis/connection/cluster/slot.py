"""The primary of a slot: opens channels to the node that serves it, and knows when another one does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from redis.exceptions import MovedError

from iii_state.adapters.redis.connection.address import Address, Place
from iii_state.adapters.redis.connection.carrier import Carrier
from iii_state.adapters.redis.connection.cluster.channel import SharedChannel, SharedSocket
from iii_state.adapters.redis.connection.cluster.sockets import NodeSockets
from iii_state.adapters.redis.connection.explain import REDIRECTIONS, redirection_of
from iii_state.errors import StoreError
from iii_state.tasks.signal import Signal

logger = logging.getLogger(__name__)

SENT_ON = 3
"""So many times in a row a partition is sent on at once; then it pauses each time, since nodes disagree."""

SENT_ON_SECONDS = 0.05

MOVING_SECONDS = 1.0
"""So long after a refusal a slot is taken to be on its way."""


class SlotPrimary:
    """The master of a slot, whichever node that is at the moment; a `PrimaryServer`.

    Args:
        slot: its number.
        place: where it is, None where no node serves the slot.
        nodes: the connections.
        look: has the nodes asked which slots they serve.
        found: told of a node that serves the slot, as another one has said.
    """

    def __init__(
        self,
        slot: int,
        place: Place | None,
        nodes: NodeSockets,
        *,
        look: Callable[[], None],
        found: Callable[[SlotPrimary, Place], None],
    ) -> None:
        self.slot = slot
        self.place = place
        self.moved = Signal()
        self.is_used = False
        """Whether there is to be a connection."""
        self.is_refused = False
        """Whether what was sent on opening was refused, since the slot is being moved or the cluster is down."""
        self.channels: set[SharedChannel] = set()
        self._nodes = nodes
        self._look = look
        self._found = found
        self._elsewhere: asyncio.Future[None] | None = None
        """Done when the slot is served by another node than an opening expects."""
        self._sent_on = 0
        self._sent_on_at = 0.0
        self._refused_at = -MOVING_SECONDS

    @property
    def address(self) -> Address:
        """The node that serves the slot, as far as is known; else all that the configuration names."""
        return self._nodes.address if self.place is None else self._nodes.address.at(*self.place)

    def start(self) -> None:
        """See to it that the cluster is looked at while there is no connection."""
        self.is_used = True

    async def stop(self) -> None:
        """Look no more. Channels stay."""
        self.is_used = False

    @property
    def lacks_connection(self) -> bool:
        """Whether there is none and there is to be one."""
        return self.is_used and not self.channels

    @property
    def is_moving(self) -> bool:
        """Whether a node has just refused what was sent to it, since the slot is not there, or the cluster is down."""
        return asyncio.get_running_loop().time() - self._refused_at < MOVING_SECONDS

    async def open(self, name: str) -> Carrier:
        """A channel to the node that serves the slot. The caller bounds the time. Raises `StoreError` in words."""
        if self._sent_on >= SENT_ON:
            await asyncio.sleep(SENT_ON_SECONDS)
        place = self.place
        if place is None:
            self._look()
            raise StoreError(f"no node of the Redis Cluster {self._nodes.address} serves slot {self.slot}")
        node = asyncio.ensure_future(self._nodes.node(place, name))
        node.add_done_callback(_retrieved)
        if self._elsewhere is None:
            self._elsewhere = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait((node, self._elsewhere), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not node.done():
                node.cancel()
        if self.place != place:
            raise StoreError(f"slot {self.slot} of the Redis Cluster is served by {self._words()} now")
        channel = node.result().channel(self._noticed)
        self.is_refused = False
        self.channels.add(channel)
        channel.closed.add_done_callback(lambda _: self._ended(channel))
        return channel

    async def open_alone(self, place: Place, name: str) -> Carrier:
        """A connection that nothing else shares, to a node; it ends when that is no master any more. Raises `StoreError`."""
        return await self._nodes.alone(place, name)

    def _ended(self, channel: SharedChannel) -> None:
        self.channels.discard(channel)
        if self.lacks_connection:
            self._look()

    def log_lost(self, level: int, reason: str, calls: int) -> None:
        """All partitions of a node say the same at once."""
        self._nodes.log_lost(level, reason, calls)

    def log_failed(self, reason: str) -> None:
        """All partitions of a node say the same, each in its time."""
        self._nodes.log_failed(reason)

    # -- when it moves

    def leave(self, found_by: Carrier, refusal: str) -> None:
        """A node has refused a call. MOVED names the node that serves the slot now: whose connection it is opens the next there."""
        self._noticed(refusal, found_by)

    def _noticed(self, refusal: str, found_by: Carrier | None = None) -> None:
        word, now = redirection_of(refusal), asyncio.get_running_loop().time()
        if word:
            self._refused_at = now
        if word == "MOVED":
            moved = MovedError(refusal.partition(" ")[2])
            self._sent_on = self._sent_on + 1 if now - self._sent_on_at < 1 else 1
            self._sent_on_at = now
            host = moved.host or (found_by.address.host if found_by is not None else self._host())
            self._found(self, (host, moved.port))
        elif word in REDIRECTIONS:
            self.is_refused = True
            self._look()

    def _host(self) -> str:
        return self.place[0] if self.place is not None else ""

    def is_at(self, place: Place | None) -> bool:
        """It is there. True where that is news."""
        if self.place == place:
            return False
        self.place = place
        if self._elsewhere is not None:
            if not self._elsewhere.done():
                self._elsewhere.set_result(None)
            self._elsewhere = None
        return True

    def _words(self) -> str:
        return "no node" if self.place is None else str(self._nodes.address.at(*self.place))


def _retrieved(node: asyncio.Future[SharedSocket]) -> None:
    """Why an opening failed that is not waited for any more is not reported as forgotten."""
    node.cancelled() or node.exception()
