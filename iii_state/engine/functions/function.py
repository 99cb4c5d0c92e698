"""One function of the engine: who serves it, in which order, and what its servers tell of it."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Protocol

import msgspec

from iii_state import values
from iii_state.host import LOCAL, Caller, Handler
from iii_state.rights import Identity
from iii_state.tasks.results import Result
from iii_state.values import Json
from iii_state.wire import messages


class Invocation(msgspec.Struct):
    """A call on its way to an executor. `trace` is text of `messages.trace_members`, `invocation_id` the caller's, if any."""

    data: Json
    caller: Caller = LOCAL
    metadata: Json | None = None
    trace: bytes = b""
    invocation_id: str | None = None


class Executor(Protocol):
    """Who serves a function that is not built in: a worker, or a Python function."""

    @property
    def id(self) -> str:
        """A worker's id, empty for the engine's own process."""
        ...

    @property
    def name(self) -> str:
        """What it calls itself."""
        ...

    @property
    def is_exclusive(self) -> bool:
        """Whether it keeps its functions to itself while it lives."""
        ...

    @property
    def outlet(self) -> Outlet | None:
        """How calls reach it, None where they always do at once."""
        ...

    @property
    def is_settled(self) -> bool:
        """Whether its functions stay where they are: a worker may be about to say that it belongs to another namespace."""
        ...

    @property
    def identity(self) -> Identity | None:
        """Whose token its connection came with, None where no tokens are used, and for the engine's own process."""
        ...

    @property
    def may_crash(self) -> bool:
        """Whether it may go away by itself, with all that it runs, because of what it runs."""
        ...

    def execute(self, function: Function, call: Invocation) -> Result[bytes | None]:
        """Run a call. Raises (or sets in the Future) `FunctionError`."""
        ...


class Outlet(Protocol):
    """What calls of an executor go through, and who reads it more slowly than it is sent to (`websocket.WebSocket`)."""

    @property
    def is_behind(self) -> bool:
        """Whether much of what was sent has still to be read."""
        ...

    @property
    def takes_more(self) -> bool:
        """Whether what can wait may be sent now."""
        ...

    def when_read(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` once, in its turn, when it is not behind any more, or gone."""
        ...

    def when_idle(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` once, in its turn, when it takes more, or is gone."""
        ...

    def end_turns(self) -> None:
        """Call now all that wait."""
        ...


class Details(msgspec.Struct, frozen=True):
    """What a function's server tells of it; all but the description are JSON texts."""

    description: str | None = None
    metadata: Json | None = None
    request_format: Json | None = None
    response_format: Json | None = None
    metadata_now: Callable[[], bytes] | None = None
    """Of a built-in function: its metadata, asked for each time."""


class Function:
    """A function of the engine: a built-in `handler`, or one or more executors in the order in which they came."""

    __slots__ = (
        "_details",
        "_turn",
        "executors",
        "handler",
        "id",
        "id_text",
        "namespace",
        "provider",
        "result_reply",
    )

    def __init__(self, namespace: str, function_id: str) -> None:
        self.namespace = namespace
        self.id = function_id
        self.id_text = values.encode_string(function_id)
        """The id as JSON text."""
        literal = self.id_text.replace(b"%", b"%%")
        self.result_reply = messages.RESULT_START + b'%%b,"function_id":%b,"result":%%b}' % literal
        """A successful answer, to be filled with the invocation's id and the result."""
        self.handler: Handler | None = None
        self.executors: list[Executor] = []
        self.provider = ""
        """The name of the module that it is built in by."""
        self._details: dict[Executor | None, Details] = {}
        self._turn = 0

    @property
    def server_name(self) -> str:
        """Who serves it, for people."""
        return self.provider if self.handler is not None else self.executors[0].name

    @property
    def details(self) -> Details:
        """What its server tells of it."""
        return self._details.get(None if self.handler is not None else self.executors[0], Details())

    def describe(self, details: Details, executor: Executor | None = None) -> None:
        """Keep what an executor, or the engine itself, tells of it."""
        self._details[executor] = details

    def details_of(self, executor: Executor) -> Details:
        """What an executor tells of it."""
        return self._details.get(executor, Details())

    def forget(self, executor: Executor) -> None:
        """An executor serves it no more."""
        self.executors.remove(executor)
        self._details.pop(executor, None)

    @property
    def is_served(self) -> bool:
        """Whether somebody serves it who will not turn out to belong elsewhere."""
        return self.handler is not None or any(executor.is_settled for executor in self.executors)

    def serving(self, first_wins: bool) -> list[Executor]:
        """Those that take its calls in turn."""
        executors = self.executors
        if len(executors) == 1:
            return executors
        executors = [executor for executor in executors if executor.is_settled] or executors
        if first_wins or any(executor.is_exclusive for executor in executors):
            return executors[:1]
        return executors

    def pick(self, first_wins: bool, avoid: Container[object] = ()) -> Executor:
        """Whose turn it is; one to `avoid`, or one that still has much to read, only where there is no other."""
        executors = self.executors
        if len(executors) == 1:
            return executors[0]
        serving = self.serving(first_wins)
        first = self._turn
        self._turn += 1
        second: Executor | None = None
        for turn in range(first, first + len(serving)):
            executor = serving[turn % len(serving)]
            if executor not in avoid:
                if (outlet := executor.outlet) is None or not outlet.is_behind:
                    self._turn = turn + 1
                    return executor
                second = second or executor
        return second or serving[first % len(serving)]

    def outlets(self, first_wins: bool) -> list[Outlet]:
        """The outlets of those who can be picked; empty where one of them takes calls at once."""
        outlets = [executor.outlet for executor in self.serving(first_wins)]
        return [outlet for outlet in outlets if outlet is not None] if None not in outlets else []
