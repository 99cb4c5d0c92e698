"""The sockets that an engine listens on: bound before anything is served, and served with other certificates without a gap."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable

from iii_state.tasks.background import Background
from iii_state.wire.quiet_log import QuietLog

logger = logging.getLogger(__name__)
quiet = QuietLog(logger)

HANDSHAKE_SECONDS = 10.0
BACKLOG = 1024
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_FULL_SECONDS = 1.0
"""How long is waited where the system has no room for one more connection."""

Accepting = Callable[[], asyncio.Protocol]
"""Makes the protocol of a connection that has just been accepted."""


async def resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    """The addresses of a host's name to listen on. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [(family, address) for family, address in dict.fromkeys((entry[0], entry[4]) for entry in found)]  # type: ignore[misc]


def bind(addresses: list[tuple[socket.AddressFamily, tuple[str, int]]]) -> list[socket.socket]:
    """Sockets that are bound to these, all or none; families that this machine has not are passed over. Raises `OSError`."""
    bound: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, address in addresses:
            try:
                bound.append(_bound(family, address))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) or len(addresses) == 1:
                    raise
                missing = error
        if not bound and missing is not None:
            raise missing
    except BaseException:
        for each in bound:
            each.close()
        raise
    return bound


def _bound(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made


class Listener:
    """One socket that connections are taken from, until `stop`. `accepting` makes the protocol of each.

    Not `asyncio.Server`: one that is replaced for other certificates forgets, on asyncio's own loop, what it accepted in that turn.
    """

    def __init__(self, bound: socket.socket, accepting: Accepting) -> None:
        self._accepting = accepting
        self._socket = bound
        self._tasks = Background()
        self._handing_over = Background()
        """What ends by itself within a turn of the event loop or two."""
        self._tls: ssl.SSLContext | None = None
        self.address: tuple[str, int] = bound.getsockname()[:2]

    def start(self, tls: ssl.SSLContext | None) -> None:
        """Take connections, with this TLS or none; called again, with another one from now on."""
        self._tls = tls
        if not self._tasks:
            self._socket.listen(BACKLOG)
            self._tasks.start(self._accept(), f"accepting at {self.address[0]}:{self.address[1]}")

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        with self._socket:
            while True:
                try:
                    connection, _ = await loop.sock_accept(self._socket)
                except OSError as error:
                    if is_full := error.errno in _FULL:
                        quiet.error("no connection can be accepted at %s:%d: %s", *self.address, error)
                    await asyncio.sleep(_FULL_SECONDS if is_full else 0)
                    continue
                self._tasks.start(self._take(connection), "a handshake of TLS")
                await asyncio.sleep(0)  # many that wait are accepted without a pause otherwise

    async def _take(self, connection: socket.socket) -> None:
        tls = self._tls
        if tls is not None:
            await self._hand_over(connection, tls)
        else:
            # Cancelled when the protocol has it already, uvloop would close it beneath the protocol, which is not told.
            await asyncio.shield(self._handing_over.call(self._hand_over(connection, None)))

    async def _hand_over(self, connection: socket.socket, tls: ssl.SSLContext | None) -> None:
        seconds = None if tls is None else HANDSHAKE_SECONDS
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._accepting, connection, ssl=tls, ssl_handshake_timeout=seconds
            )
        except (OSError, EOFError):  # it has gone, is silent, or speaks no TLS
            connection.close()

    async def stop(self) -> None:
        """Take no more, and let go of those whose handshake is under way."""
        await self._tasks.stop()
        self._socket.close()
