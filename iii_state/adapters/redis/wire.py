"""One open connection: bytes out, replies in, and the greeting that comes before anything else."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import cast

import hiredis

from iii_state.adapters.redis.address import Address
from iii_state.errors import StoreError

Reply = object
"""What hiredis makes of a reply: bytes, int, None, a list of these, or a `hiredis.ReplyError`."""

pack: Callable[[tuple[bytes, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]  # hiredis types it as a tuple of one
"""The bytes of a command."""

OLDEST = (6, 2)

_TROUBLE = re.compile(
    r"\b(WRONGPASS|NOAUTH|NOPERM|READONLY|OOM|LOADING|MASTERDOWN|BUSY|MISCONF|NOREPLICAS|WRONGTYPE|MOVED|ASK|CLUSTERDOWN|CROSSSLOT"
    r"|DENIED|can't run this command|can't access at least one of the keys|ACL failure|max number of clients)\b"
)


def trouble_of(text: str) -> str:
    """The word that tells what an error reply is about, wherever in it a script's error has put it; empty for any other."""
    found = _TROUBLE.search(text)
    if found is None:
        return ""
    return "NOPERM" if found[0].startswith(("can't", "ACL")) else found[0]


def explain(address: Address, text: str) -> str:
    """An error reply in words."""
    match trouble_of(text):
        case "WRONGPASS":
            return f"Redis at {address} does not accept the user name and password of redis_url"
        case "NOAUTH":
            return f"Redis at {address} asks for a password; give it in redis_url"
        case "NOPERM":
            return f"the user of redis_url may not do this on Redis at {address}: {_cause(text)}"
        case "READONLY":
            return f"Redis at {address} is a read-only replica; redis_url has to name its primary"
        case "OOM":
            return f"Redis at {address} is out of memory (maxmemory) and takes no writes that need more"
        case "LOADING":
            return f"Redis at {address} is still loading its data"
        case "MASTERDOWN":
            return f"Redis at {address} is a replica that has lost its primary"
        case "BUSY":
            return f"Redis at {address} is busy with a script that does not end"
        case "MISCONF":
            return f"Redis at {address} cannot write its data to disk, and takes no writes until it can (MISCONF)"
        case "NOREPLICAS":
            return f"Redis at {address} has fewer replicas than it wants (min-replicas-to-write), and takes no writes"
        case "MOVED" | "ASK" | "CLUSTERDOWN" | "CROSSSLOT":
            return f"Redis at {address} is part of a Redis Cluster, which is not supported yet"
        case "DENIED":
            return f"Redis at {address} is in protected mode: it has no password and takes no connections from other machines"
        case "max number of clients":
            return f"Redis at {address} has as many connections as it takes (maxclients)"
    return f"Redis at {address} answered: {_cause(text)}"


def _cause(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:297]}…"


def explain_failure(address: Address, error: Exception) -> str:
    """Why a connection could not be made, in words."""
    text = str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"Redis at {address} has a certificate that is not accepted: {error.verify_message or error.reason}"
    if isinstance(error, ssl.SSLError):
        return f"TLS with Redis at {address} failed: {error.reason or text}; does it speak TLS on this port?"
    if isinstance(error, TimeoutError):
        return f"Connection to Redis at {address} timed out"
    if isinstance(error, socket.gaierror):
        return f"Connection to Redis at {address} failed: there is no host of this name ({error.strerror})"
    if isinstance(error, ConnectionRefusedError) or "Errno 111" in text or "Errno 61]" in text:
        return f"Connection to Redis at {address} refused: nobody listens there"
    if isinstance(error, FileNotFoundError):
        return f"Connection to Redis at {address} failed: there is no such socket"
    if isinstance(error, ConnectionError):
        hint = " (does it speak TLS on this port?)" if address.tls is not None else ""
        return f"Connection to Redis at {address} was closed by the other side{hint}"
    return f"Connection to Redis at {address} failed: {getattr(error, 'strerror', None) or text or type(error).__name__}"


class Wire(asyncio.Protocol):
    """An open connection. `received` is called with the replies of each piece of data, `lost` once, when it is over."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.received: Callable[[list[Reply]], None] = _ignore
        self.lost: Callable[[], None] = _nothing
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.trouble = f"the connection to Redis at {address} was closed by the other side"
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self.heard = self._loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are of another class

    def data_received(self, data: bytes) -> None:
        self.heard = self._loop.time()
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

    def write(self, data: bytes) -> None:
        """Send, behind everything that was sent before. What is sent over a connection that has ended is lost, as `lost` will
        say: uvloop's transports would raise."""
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.write(data)

    def abort(self) -> None:
        """Close at once; nothing more is received. What is on its way may still be executed."""
        self.received = _ignore
        if self._transport is not None:
            self._transport.abort()

    async def ask(self, *commands: Sequence[bytes]) -> list[Reply]:
        """Send commands and wait for their replies, error replies included. Raises `StoreError` when the connection breaks."""
        replies: list[Reply] = []
        answered: asyncio.Future[None] = self._loop.create_future()

        def collect(received: list[Reply]) -> None:
            replies.extend(received)
            if len(replies) >= len(commands) and not answered.done():
                answered.set_result(None)

        self.received = collect
        self.write(b"".join([pack(tuple(command)) for command in commands]))
        try:
            await asyncio.wait((answered, self.closed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.received = _ignore
        if not answered.done():
            for reply in replies:  # a refusal that came before the end says more than the end
                if isinstance(reply, hiredis.ReplyError):
                    raise StoreError(explain(self.address, str(reply)))
            raise StoreError(self.trouble)
        return replies


def _ignore(replies: list[Reply]) -> None:
    """What comes after a connection has been given up is nobody's."""


def _nothing() -> None:
    """Nobody wants to know."""


async def open_wire(address: Address, name: str) -> Wire:
    """Connect and introduce oneself (HELLO, SELECT); `name` is what `CLIENT LIST` shows. The caller bounds the time.

    Raises `StoreError` in words.
    """
    wire = Wire(address)
    try:
        await address.connect(wire)
        await _greet(wire, name)
    except OSError as error:
        wire.abort()
        raise StoreError(explain_failure(address, error)) from None
    except ValueError:  # UnicodeError included: what can be no host name is refused before anybody is asked for it
        wire.abort()
        raise StoreError(f"Connection to Redis at {str(address)!r} failed: this can be no name of a host") from None
    except BaseException:
        wire.abort()
        raise
    return wire


async def _greet(wire: Wire, name: str) -> None:
    address = wire.address
    hello = [b"HELLO", b"2"]
    if address.password is not None or address.username is not None:
        hello += [b"AUTH", (address.username or "default").encode(), (address.password or "").encode()]
    hello += [b"SETNAME", name.encode()]
    (greeting,) = await wire.ask(hello)
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
    if told.get(b"mode") == b"cluster":
        raise StoreError(f"Redis at {address} is part of a Redis Cluster, which is not supported yet")
    if address.db:
        (selected,) = await wire.ask([b"SELECT", b"%d" % address.db])
        if isinstance(selected, hiredis.ReplyError):
            raise StoreError(f"Redis at {address} has no database {address.db}: {selected}")
