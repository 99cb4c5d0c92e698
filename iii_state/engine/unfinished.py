"""Connections whose first request has not arrived in whole: so many of them, and for so long, and no more."""

from __future__ import annotations

import logging
from collections.abc import Callable

from aiohttp.web_protocol import RequestHandler

from iii_state.engine.listening import HANDSHAKE_SECONDS
from iii_state.wire.quiet_log import QuietLog

log = logging.getLogger(__name__)
quiet = QuietLog(log)


class Unfinished:
    """Connections that have been accepted and have asked for nothing yet, oldest first.

    Where there are more than `limit`, the oldest is dropped and not the newest refused: an honest client is done within a
    round trip, and those who only hold connections open push each other out.
    """

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._since: dict[RequestHandler, int] = {}
        self._now = 0

    def __len__(self) -> int:
        return len(self._since)

    def accepted(self, connection: RequestHandler) -> None:
        """A connection has been accepted."""
        self._since[connection] = self._now
        while len(self._since) > self._limit():
            self._drop(next(iter(self._since)))
            quiet.warning("more than %d connections are in the handshake: the oldest is dropped", self._limit())

    def asked(self, connection: object) -> None:
        """The head of its first request is there."""
        self._since.pop(connection, None)  # type: ignore[call-overload]

    def tick(self, seconds: int) -> None:
        """Called about once a second: drop those that take too long."""
        self._now += seconds
        for connection, since in list(self._since.items()):
            if self._now - since > HANDSHAKE_SECONDS:
                self._drop(connection)

    def _drop(self, connection: RequestHandler) -> None:
        del self._since[connection]
        if connection.transport is not None:
            connection.transport.abort()
