"""The connection to a remote engine, and what is known of the remote on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from iii_state.adapters.bridge.remote.session import RemoteSession
from iii_state.client.client import Client
from iii_state.errors import ConnectionLost


class Link:
    """What the greeting of a connection has found out, and calls go by."""

    def __init__(self, url: str, client: Client) -> None:
        self.url = url
        self.client = client
        self.is_ready = False
        """Whether calls can be sent: there is a connection, it has been greeted, and a session is open where the remote has any."""
        self.is_ours = False
        """Whether the remote is of this project: it delivers events until they are acknowledged."""
        self.features: frozenset[str] = frozenset()
        """What the remote announces that it can do, and older ones cannot."""
        self.store: str | None = None
        """What the remote calls its store, where calls made again are recognised."""
        self.session: RemoteSession | None = None
        self.why_unrecognised = ""
        """Why the remote does not recognise calls that were made before, as part of a sentence."""
        self.ring: str | None = None
        """In words that the remote leads back to this bridge; None where it does not."""
        self.obstacle: str | None = None
        """What stands in the way on a connection that there is."""

    @property
    def trouble(self) -> str | None:
        """Why calls do not reach the store now, in words."""
        if self.is_ready:
            return None
        return self.ring or self.obstacle or self.client.connection.trouble or f"the connection to {self.url} is being opened"

    def ask(self, function: bytes, data: bytes) -> Awaitable[bytes | None]:
        """Call a function on the connection there is, greeted or not, once. Raises `FunctionError` or `ConnectionLost`."""
        outcome: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        if not self.client.send(outcome, function, data):
            raise ConnectionLost(self.client.connection.trouble or f"there is no connection to {self.url}")
        return outcome
