"""The sockets that an engine listens on: bound before anything is served, and served with other certificates without a gap."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable

HANDSHAKE_SECONDS = 10.0
BACKLOG = 1024

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
    """One socket that connections are taken from, until `stop`. `accepting` makes the protocol of each."""

    def __init__(self, bound: socket.socket, accepting: Accepting) -> None:
        self._accepting = accepting
        self._socket = bound
        self._server: asyncio.Server | None = None
        self._tls: ssl.SSLContext | None = None
        self.address: tuple[str, int] = bound.getsockname()[:2]

    async def start(self, tls: ssl.SSLContext | None) -> None:
        """Take connections, with this TLS or none; called again, with another one from now on. No connection is refused meanwhile.

        The queue of connections that wait belongs to the socket: it outlives the server that is replaced.
        """
        before = self._server
        if before is not None and tls is self._tls is None:
            return
        self._tls = tls
        self._server = await asyncio.get_running_loop().create_server(
            self._accepting,
            sock=socket.socket(fileno=os.dup(self._socket.fileno())),
            backlog=BACKLOG,
            ssl=tls,
            ssl_handshake_timeout=None if tls is None else HANDSHAKE_SECONDS,
        )
        if before is not None:
            before.close()

    def stop(self) -> None:
        """Take no more."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._socket.close()
