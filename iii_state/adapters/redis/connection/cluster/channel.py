"""A connection to a node that the calls of many partitions share: each writes to a channel, replies come back in order.

What all channels write in one turn of the event loop is written together. A channel ends without the others; silence or a break of
the connection ends them all.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

import hiredis

from iii_state.adapters.redis.connection.carrier import Reply, ask, ignore, nothing
from iii_state.adapters.redis.connection.socket import Socket

logger = logging.getLogger(__name__)

BYTES_PER_WRITE = 16 * 1024
"""So many are written at once; Redis begins with them while the next are put together."""

QUIET_SECONDS = 0.25
"""A node that owes replies and has been quiet for so long is suspected: the cluster may know that it has been replaced."""


class SharedChannel:
    """A share of a connection to a node; a `Carrier`. `refused` is called with each error reply to what was asked (`ask`)."""

    def __init__(self, node: SharedSocket, refused: Callable[[str], None]) -> None:
        self.address = node.address
        self.received: Callable[[list[Reply]], None] = ignore
        self.lost: Callable[[], None] = nothing
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.trouble = node.socket.trouble
        self.has_scripts = node.socket.has_scripts
        self.received_bytes = 0
        """What came together is counted for one of the channels that it was for."""
        self._node = node
        self._refused = refused
        self._is_over = False

    @property
    def heard(self) -> float:
        """When the node has sent something last, to any channel."""
        return self._node.socket.heard

    def soon(self, callback: Callable[[], None]) -> None:
        """Call something at the end of this turn of the event loop."""
        self._node.soon(callback)

    def write(self, data: bytes, calls: int = 1) -> None:
        """Send, behind everything that was sent before. What is sent when it is over is lost, as `lost` will say."""
        if not self._is_over:
            self._node.write(self, data, calls)

    def abort(self) -> None:
        """End it; nothing more is received. What is on its way may still be executed."""
        self.received = ignore
        if not self._is_over:
            self._is_over = True
            self._node.channels.discard(self)
            asyncio.get_running_loop().call_soon(self._tell)

    def leave(self, reason: str) -> None:
        """End it as if the node had; whoever uses it is told the reason."""
        if not self._is_over:
            self.trouble = reason
            self.abort()

    def _tell(self) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
        self.lost()

    async def ask(self, *commands: Sequence[bytes]) -> list[Reply]:
        """Send commands and wait for their replies, error replies included. Raises `StoreError` when it is over before."""
        replies = await ask(self, commands)
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                self._refused(str(reply))
        return replies


class SharedSocket:
    """The connection to a node. It is ended when the node owes replies and is silent for `silence_seconds`; `quiet` is called
    while it has been quiet for a moment."""

    def __init__(self, socket: Socket, *, silence_seconds: float, quiet: Callable[[], None]) -> None:
        self.socket = socket
        self.address = socket.address
        self.channels: set[SharedChannel] = set()
        self.is_over = socket.closed.done()
        self._silence = silence_seconds
        self._quiet = quiet
        self._owed: deque[tuple[SharedChannel, int]] = deque()
        """The channels that replies are owed, and how many, in the order of the calls."""
        self._had = 0
        """How many of its replies the first of them has had."""
        self._owed_since = 0.0
        self._soon: list[Callable[[], None]] = []
        self._written: list[bytes] = []
        self._written_bytes = 0
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._counted_bytes = socket.received_bytes
        self._loop = asyncio.get_running_loop()
        socket.received = self._received
        socket.lost = self._lost

    @property
    def is_quiet(self) -> bool:
        """Whether it owes replies, and nothing has come for a moment."""
        return bool(self._owed) and self._quiet_seconds() >= QUIET_SECONDS

    def channel(self, refused: Callable[[str], None]) -> SharedChannel:
        """Another channel. `refused` is called with each error reply to what is asked on it."""
        channel = SharedChannel(self, refused)
        if self.is_over:
            channel.abort()
        else:
            self.channels.add(channel)
        return channel

    def soon(self, callback: Callable[[], None]) -> None:
        """Call something at the end of this turn of the event loop, before what is written in it is sent."""
        self._soon.append(callback)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._end_turn)

    def write(self, channel: SharedChannel, data: bytes, calls: int) -> None:
        """Send what a channel sends, at the end of this turn of the event loop, or before."""
        if self.is_over:
            return
        if not self._owed:
            self._owed_since = self._loop.time()
            if self._timer is None:
                self._timer = self._loop.call_later(QUIET_SECONDS, self._look_at_the_clock)
        self._owed.append((channel, calls))
        self._written.append(data)
        self._written_bytes += len(data)
        if self._written_bytes >= BYTES_PER_WRITE:
            self._flush()
        elif not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        callbacks, self._soon = self._soon, []
        for callback in callbacks:
            try:
                callback()
            except Exception:
                logger.exception("the calls of a partition could not be sent")
        self._scheduled = False
        if self._written:
            self._flush()

    def _flush(self) -> None:
        written = self._written
        self.socket.write(b"".join(written) if len(written) > 1 else written[0])
        written.clear()
        self._written_bytes = 0

    def _received(self, replies: list[Reply]) -> None:
        owed, first, count = self._owed, 0, len(replies)
        if owed:
            owed[0][0].received_bytes += self.socket.received_bytes - self._counted_bytes
            self._counted_bytes = self.socket.received_bytes
        while first < count:
            if not owed:  # of no call: this is no Redis, or a middlebox
                if not self.is_over:
                    self.end(f"Redis at {self.address} has sent what nobody asked for")
                return
            channel, calls = owed[0]
            last = first + calls - self._had
            if last > count:
                self._had += count - first
            else:
                self._had = 0
                owed.popleft()
            channel.received(replies[first:last])
            first = last

    # -- the end

    def end(self, reason: str) -> None:
        """End it, and all channels, which are told the reason."""
        self.socket.trouble = reason
        self.socket.abort()
        self._lost()

    def _lost(self) -> None:
        self.is_over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._owed.clear()
        self._written.clear()
        for channel in tuple(self.channels):
            channel.leave(self.socket.trouble)

    def _quiet_seconds(self) -> float:
        return self._loop.time() - max(self.socket.heard, self._owed_since)

    def _look_at_the_clock(self) -> None:
        self._timer = None
        if not self._owed:
            return
        quiet = self._quiet_seconds()
        if quiet >= self._silence:
            self.end(f"Redis at {self.address} has not answered for {self._silence * 1000:.0f} ms")
            return
        if quiet >= QUIET_SECONDS:
            self._quiet()
        self._timer = self._loop.call_later(min(QUIET_SECONDS, self._silence), self._look_at_the_clock)
