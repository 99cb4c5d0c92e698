"""Calls to Redis: what is sent, and what reads the reply."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, overload

T = TypeVar("T")

Command = Callable[[bytes, int, int, int], Sequence[bytes] | bytes]
"""Builds a call each time it is sent, as words or as packed bytes, of its ticket: session, epoch, slot, sequence number."""


Ahead = tuple[tuple[bytes, ...] | Command, Callable[[Any], object]]
"""A command that goes ahead of another, and what reads its reply. One that is built has a ticket of its own."""


def _as_it_is(reply: Any) -> Any:
    return reply


class Send(Protocol):
    """Sends one command and gives its reply: `Connection.send`."""

    def __call__(self, *words: bytes) -> asyncio.Future[Any]: ...


ScriptCall = Sequence[bytes] | Callable[[], Sequence[bytes]]
"""Keys and arguments of a script; or what gives them each time when they are sent."""


class Run(Protocol):
    """Calls a script by its name, with its keys and arguments; `result` reads the reply: `Connection.run`."""

    @overload
    def __call__(self, name: str, call: ScriptCall) -> asyncio.Future[Any]: ...

    @overload
    def __call__(self, name: str, call: ScriptCall, result: Callable[[Any], T]) -> asyncio.Future[T]: ...


class Again(Exception):
    """Raised by a call's `result`: nothing has changed; build the command anew and send it again, before anything newer.

    `first` are commands that are sent ahead of it, each with what reads its reply; the same one is sent once for all calls.
    """

    def __init__(self, *first: Ahead) -> None:
        super().__init__()
        self.first = first


class Call:
    """A call on its way. `command` builds it each time it is sent; `result` reads its reply, and may raise `Again`."""

    __slots__ = (
        "command",
        "deadline",
        "future",
        "mutates",
        "result",
        "scope",
        "sequence",
        "size",
        "slot",
        "ticketed",
        "tries",
        "uncertain",
    )

    def __init__(
        self,
        command: Command,
        result: Callable[[Any], Any],
        future: asyncio.Future[Any],
        deadline: float,
        size: int,
        mutates: bool,
        ticketed: bool,
        scope: str | None,
    ) -> None:
        self.command = command
        self.result = result
        self.future = future
        self.deadline = deadline
        self.size = size
        self.mutates = mutates
        self.ticketed = ticketed
        """Whether it is recognised by a ticket of this session; a mutation that is not bears a ticket of its caller's."""
        self.scope = scope
        self.slot = -1
        self.sequence = 0
        self.tries = 0
        self.uncertain = False
        """Whether an earlier connection broke with this mutation on it."""
