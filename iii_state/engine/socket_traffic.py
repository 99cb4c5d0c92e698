"""What has gone over the WebSockets of an engine."""

from __future__ import annotations

from dataclasses import dataclass

from iii_state.wire.websocket import WebSocket


@dataclass(slots=True)
class SocketTraffic:
    """Counted since the start: connections that were taken, and the bytes of those that are over."""

    connections: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0

    def count(self, socket: WebSocket) -> None:
        """Add what has gone over one connection."""
        self.sent_bytes += socket.position
        self.received_bytes += socket.received_bytes
