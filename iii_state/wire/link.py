"""The connection under a peer, as those see it that use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from iii_state.wire.backlog import Backlog

if TYPE_CHECKING:
    pass


class Link(Protocol):
    """The connection under a worker, as it sees it (`websocket.WebSocket`)."""

    @property
    def backlog(self) -> Backlog: ...

    @property
    def is_open(self) -> bool: ...

    @property
    def is_behind(self) -> bool: ...

    @property
    def times_behind(self) -> int: ...

    @property
    def takes_more(self) -> bool: ...

    @property
    def unsent(self) -> int: ...

    @property
    def position(self) -> int: ...

    @property
    def left(self) -> int: ...

    def send(self, message: bytes) -> None: ...

    def when_read(self, go_on: Callable[[], None]) -> None: ...

    def when_idle(self, go_on: Callable[[], None]) -> None: ...

    def end_turns(self) -> None: ...

    def hold(self) -> None: ...

    def release(self) -> None: ...

    def probe(self) -> None: ...

    def close(self, code: int, reason: bytes = b"") -> None: ...

    def abort(self) -> None: ...
