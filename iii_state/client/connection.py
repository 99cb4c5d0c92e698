"""The connection of a worker of ours to its engine: what it is now, and what the engine at its other end can do."""

from __future__ import annotations

from collections.abc import Callable

from iii_state.errors import ConnectionLost
from iii_state.wire import messages
from iii_state.wire.calls import IncomingCalls
from iii_state.wire.frames import NORMAL
from iii_state.wire.websocket import WebSocket


class ClientConnection:
    """The connection there is, or none; with `reconnects`, another one follows each that is lost."""

    def __init__(self, url: str, *, reconnects: bool) -> None:
        self.url = url
        self.reconnects = reconnects
        self.socket: WebSocket | None = None
        self.answering: IncomingCalls | None = None
        self.is_greeted = False
        """Whether calls that wait can be sent."""
        self.is_over = False
        """Whether none follows."""
        self.why_lost = ConnectionLost(f"there is no connection to {url} yet")
        self.worker_id = ""
        """What the engine calls this worker, on the connection there is; empty before it has said so."""
        self.max_frame_depth = messages.STOCK_FRAME_DEPTH
        """How deep a frame may nest that the engine can read."""
        self.hears_fates = False
        """Whether the engine says what became of a call that failed (`messages.FATES`); a stock one does not."""

    @property
    def trouble(self) -> str | None:
        """Why calls do not reach the engine now, in words."""
        return None if self.is_greeted else str(self.why_lost)

    @property
    def is_behind(self) -> bool:
        """Whether the engine has still to read much of what it was sent."""
        return self.socket is not None and self.socket.is_behind

    def when_read(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` once, when the engine is not behind any more, or the connection is gone."""
        if self.socket is None:
            go_on()
        else:
            self.socket.when_read(go_on)

    def takes_events(self, go_on: Callable[[], None]) -> bool:
        """Whether the engine can be sent an event now. If not, `go_on` is called once, in its turn."""
        if self.socket is None or self.socket.takes_more:
            return True
        self.socket.when_idle(go_on)
        return False

    def tell(self, frame: bytes) -> None:
        """Send a frame that wants no answer, if there is a connection."""
        if self.socket is not None:
            self.socket.send(frame)

    def close(self) -> None:
        """Close the connection there is."""
        if self.socket is not None:
            self.socket.close(NORMAL)
