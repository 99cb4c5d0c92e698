"""Calls that wait for the reply of a peer, and the timeout on them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Container
from typing import Protocol

from iii_state.errors import Code, FunctionError

NOT_SENT = sys.maxsize
"""Where the frame of a call ends that waits to be sent: behind all that has left."""


class Waiter(Protocol):
    """What waits for an answer: a Future, or something that takes the answer as a Future does, without a turn of the event loop."""

    def done(self) -> bool:
        """Whether the answer is there, or has been given up."""
        ...

    def set_result(self, result: bytes | None, /) -> None:
        """Take the result, None for no result."""
        ...

    def set_exception(self, exception: Exception, /) -> None:
        """Take the error."""
        ...


class PendingCalls:
    """Open calls by an id, in the order in which they were made, which is the order of their deadlines, too.

    `sweep`, called about once a second, ends those that have been open for longer than `timeout` seconds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        self._loop = loop
        self._timeout = timeout
        self._open: dict[str, tuple[Waiter, float, int]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, call_id: str) -> bool:
        return call_id in self._open

    def add(self, call_id: str, ends_at: int = 0) -> asyncio.Future[bytes | None]:
        """Open a call. One whose Future is cancelled leaves the table with the next sweep.

        `ends_at` is where its frame ends in all that is sent on its connection, in bytes, for `fail_unsent`.
        """
        future: asyncio.Future[bytes | None] = self._loop.create_future()
        self.add_outcome(call_id, future, ends_at)
        return future

    def add_outcome(self, call_id: str, outcome: Waiter, ends_at: int = 0) -> None:
        """Open a call whose answer is for `outcome`."""
        self._open[call_id] = (outcome, self._loop.time() + self._timeout, ends_at)

    def sent(self, call_id: str, ends_at: int) -> None:
        """The frame of an open call, which had waited, ends here."""
        if (entry := self._open.get(call_id)) is not None:
            self._open[call_id] = (entry[0], entry[1], ends_at)

    def take(self, call_id: str) -> Waiter | None:
        """What waits for an open call, which is to be settled now; None for one that is not open."""
        entry = self._open.pop(call_id, None)
        return None if entry is None or entry[0].done() else entry[0]

    def sweep(self, trouble: str | None = None, expired: Callable[[str], None] | None = None) -> None:
        """Fail with `TIMEOUT` what is overdue, for the trouble given if there is any; `expired` is told the ids."""
        because = "" if trouble is None else f": {trouble}"
        now = self._loop.time()
        for call_id, (future, deadline, _) in list(self._open.items()):
            if deadline > now and not future.done():
                continue
            del self._open[call_id]
            if not future.done():
                future.set_exception(FunctionError(Code.TIMEOUT, f"no answer within {self._timeout:g} seconds{because}"))
            if expired is not None:
                expired(call_id)

    def fail(self, error: Callable[[], Exception], spared: Container[str] = ()) -> None:
        """End every open call but those that are spared, each with an error of its own."""
        open_calls, self._open = self._open, {}
        for call_id, entry in open_calls.items():
            if call_id in spared:
                self._open[call_id] = entry
            elif not entry[0].done():
                entry[0].set_exception(error())

    def fail_unsent(self, left: int, error: Callable[[], Exception]) -> None:
        """End the calls of whose connection only `left` bytes have left, and whose frames end behind them."""
        for call_id, (future, _, ends_at) in list(self._open.items()):
            if ends_at > left:
                del self._open[call_id]
                if not future.done():
                    future.set_exception(error())
