"""One open connection: bytes out, replies in, and the greeting that comes before anything else."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import cast

import hiredis

from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.carrier import Reply, ask, ignore, nothing
from iii_state.adapters.redis.connection.explain import explain, explain_failure
from iii_state.errors import StoreError

__all__ = ["Reply", "Socket", "open_server"]

OLDEST = (6, 2)


class Socket(asyncio.Protocol):
    """An open connection. `received` is called with the replies of each piece of data, `lost` once, when it is over."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.received: Callable[[list[Reply]], None] = ignore
        self.lost: Callable[[], None] = nothing
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.trouble = f"the connection to Redis at {address} was closed by the other side"
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self.soon: Callable[[Callable[[], None]], object] = self._loop.call_soon
        self.heard = self._loop.time()
        self.received_bytes = 0
        self.has_scripts = False
        self.mode = ""
        """What the server is: `standalone`, `cluster` or `sentinel`; empty for one that does not say."""
        self.version: tuple[int, ...] = ()
        """The first two numbers of the server's version."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are of another class

    def data_received(self, data: bytes) -> None:
        self.heard = self._loop.time()
        self.received_bytes += len(data)
        reader = self._reader
        reader.feed(data)
        next_reply = reader.gets
        replies: list[Reply] = []
        try:
            while (reply := next_reply()) is not False:
                replies.append(reply)
        except hiredis.ProtocolError:
            hint = "does it speak TLS there? then redis_url begins with rediss://" if data[:1] in b"\x15\x16" else "is it one?"
            self.trouble = f"what listens at {self.address} does not answer as a Redis does; {hint}"
            self.abort()
            return
        if replies:
            self.received(replies)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
        self.lost()

    def write(self, data: bytes, calls: int = 1) -> None:
        """Send, behind everything that was sent before. What is sent over a connection that has ended is lost, as `lost` will
        say: uvloop's transports would raise."""
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.write(data)

    def abort(self) -> None:
        """Close at once; nothing more is received. What is on its way may still be executed."""
        self.received = ignore
        if self._transport is not None:
            self._transport.abort()

    def leave(self, reason: str) -> None:
        """Close at once, as if the other side had; whoever uses the connection is told the reason."""
        self.trouble = reason
        if self._transport is not None:
            self._transport.abort()

    async def ask(self, *commands: Sequence[bytes]) -> list[Reply]:
        """Send commands and wait for their replies, error replies included. Raises `StoreError` when the connection breaks."""
        return await ask(self, commands)


async def open_server(address: Address, name: str) -> Socket:
    """Connect to one server and introduce oneself (HELLO, SELECT); `name` is what `CLIENT LIST` shows. The caller bounds the time.

    Raises `StoreError` in words.
    """
    socket = Socket(address)
    try:
        await address.connect(socket)
        await _greet(socket, name)
    except OSError as error:
        socket.abort()
        raise StoreError(explain_failure(address, error)) from None
    except ValueError:  # UnicodeError included: what can be no host name is refused before anybody is asked for it
        socket.abort()
        raise StoreError(f"Connection to Redis at {str(address)!r} failed: this can be no name of a host") from None
    except BaseException:
        socket.abort()
        raise
    return socket


async def _greet(socket: Socket, name: str) -> None:
    address = socket.address
    hello = [b"HELLO", b"2"]
    if address.password is not None or address.username is not None:
        hello += [b"AUTH", (address.username or "default").encode(), (address.password or "").encode()]
    hello += [b"SETNAME", name.encode()]
    (greeting,) = await socket.ask(hello)
    if isinstance(greeting, hiredis.ReplyError):
        text = str(greeting)
        if "unknown command" in text:
            raise StoreError(f"Redis at {address} is too old: iii-state needs {OLDEST[0]}.{OLDEST[1]} or later")
        raise StoreError(explain(address, text))
    if not isinstance(greeting, list):
        raise StoreError(f"what listens at {address} does not answer as a Redis does")
    told = dict(zip(greeting[::2], greeting[1::2], strict=False))
    version = bytes(told.get(b"version", b"0")).decode("ascii", "replace")
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST and told.get(b"server") != b"fakeredis":
        raise StoreError(f"Redis at {address} is too old: it is {version}, iii-state needs {OLDEST[0]}.{OLDEST[1]} or later")
    mode = told.get(b"mode")
    if address.is_sentinel and mode != b"sentinel":
        raise StoreError(f"what listens at {address} is a Redis, and no Sentinel")
    if mode == b"sentinel" and not address.is_sentinel:
        raise StoreError(f"what listens at {address} is a Sentinel: redis_url has to be redis+sentinel://{address}/NAME")
    if address.name and told.get(b"role") not in (b"master", None):
        raise StoreError(f"Redis at {address} is a replica by now, and its Sentinels do not know it yet")
    if mode == b"cluster" and address.is_node is False:
        raise StoreError(f"Redis at {address} is part of a Redis Cluster, and is to be used as a single server here")
    if mode == b"standalone" and address.is_node:
        raise StoreError(f"Redis at {address} is no part of a Redis Cluster")
    socket.version = numbers
    socket.mode = bytes(mode or b"").decode("ascii", "replace")
    if address.db and mode != b"cluster":  # that has one only, as `is_cluster` says
        (selected,) = await socket.ask([b"SELECT", b"%d" % address.db])
        if isinstance(selected, hiredis.ReplyError):
            raise StoreError(f"Redis at {address} has no database {address.db}: {selected}")
