"""What calls go over: a connection to a server, or a share of one; bytes out, replies in, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import hiredis

from iii_state.adapters.redis.connection.address import Address, Place
from iii_state.adapters.redis.connection.explain import explain
from iii_state.adapters.redis.scripts.packing import pack
from iii_state.errors import StoreError
from iii_state.tasks.signal import Signal

Reply = object
"""What hiredis makes of a reply: bytes, int, None, a list of these, or a `hiredis.ReplyError`."""


class Carrier(Protocol):
    """A connection of its owner's own (`Socket`), or one of the channels on a shared one (`SharedChannel`)."""

    address: Address
    """Of the server."""
    received: Callable[[list[Reply]], None]
    """Called with replies, as they come."""
    lost: Callable[[], None]
    """Called once, when it is over."""
    closed: asyncio.Future[None]
    """Done when it is over."""
    trouble: str
    """Why it is over, or would be if it were now."""
    has_scripts: bool
    """Whether the scripts have been loaded over it."""
    received_bytes: int

    @property
    def heard(self) -> float:
        """When the server has sent something last, by the loop's clock."""

    def soon(self, callback: Callable[[], None]) -> object:
        """Call something once, at the end of this turn of the event loop: what is written then is sent together."""

    def write(self, data: bytes, calls: int = 1) -> None:
        """Send so many calls, behind everything that was sent before. What is sent when it is over is lost, as `lost` says."""

    def abort(self) -> None:
        """End it at once; nothing more is received. What is on its way may still be executed."""

    def leave(self, reason: str) -> None:
        """End it at once, as if the other side had; whoever uses it is told the reason."""

    async def ask(self, *commands: Sequence[bytes]) -> list[Reply]:
        """Send commands and wait for their replies, error replies included. Raises `StoreError` when it is over before."""


class PrimaryServer(Protocol):
    """The server that is written to, whichever that is at the moment: of a Redis, or of a slot of a cluster."""

    @property
    def address(self) -> Address:
        """Where it is looked for."""

    moved: Signal
    """Emitted when another server has become it, or may have, and what leads to the one before is ending."""

    @property
    def is_moving(self) -> bool:
        """Whether what was sent on opening has just been refused for where it was sent: it may be taken a little later."""

    def start(self) -> None:
        """Notice from now on when another server becomes it."""

    async def stop(self) -> None:
        """Notice no more. What has been opened stays."""

    async def open(self, name: str) -> Carrier:
        """Connect to it; `name` is what `CLIENT LIST` shows. The caller bounds the time. Raises `StoreError` in words."""

    async def open_alone(self, place: Place, name: str) -> Carrier:
        """A connection that nothing else shares, to a server of a cluster; it ends when that is no master any more."""

    def leave(self, found_by: Carrier, refusal: str) -> None:
        """A server is it no more, as an error reply says that came over a carrier which its owner replaces."""

    def log_lost(self, level: int, reason: str, calls: int) -> None:
        """Write into the log that a carrier is over, with so many calls on it; what several have alike is one line."""

    def log_failed(self, reason: str) -> None:
        """Write into the log that no carrier could be opened; likewise."""


async def ask(carrier: Carrier, commands: Sequence[Sequence[bytes]]) -> list[Reply]:
    """Send commands over a carrier that carries nothing else, and wait for their replies, error replies included.

    Raises `StoreError` when it is over before.
    """
    replies: list[Reply] = []
    answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def collect(received: list[Reply]) -> None:
        replies.extend(received)
        if len(replies) >= len(commands) and not answered.done():
            answered.set_result(None)

    carrier.received = collect
    carrier.write(b"".join([pack(tuple(command)) for command in commands]), len(commands))
    try:
        await asyncio.wait((answered, carrier.closed), return_when=asyncio.FIRST_COMPLETED)
    finally:
        carrier.received = ignore
    if not answered.done():
        for reply in replies:  # a refusal that came before the end says more than the end
            if isinstance(reply, hiredis.ReplyError):
                raise StoreError(explain(carrier.address, str(reply)))
        raise StoreError(carrier.trouble)
    return replies


def ignore(replies: list[Reply]) -> None:
    """Replies that come after a carrier has been given up belong to no call."""


def nothing() -> None:
    """The end of a carrier changes nothing yet."""
