"""Python functions as handlers of events: what they are called with, which can be handlers, and how they are registered."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from iii_state.errors import words
from iii_state.events import Cause, EventType, known_cause
from iii_state.host import Module
from iii_state.state.features import check_features
from iii_state.tasks.background import Background

log = logging.getLogger(__name__)

AGAIN_SECONDS = 1.0
"""How long the background waits before it tries again to register a handler."""

EventHandler: TypeAlias = Callable[["Event"], object]
"""`def f(event)` or `async def f(event)`; what it returns is ignored."""


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one value, as a handler of `State.on_change` or a reader of `State.watch` gets it.

    `event_type` is `"state:created"`, `"state:updated"` or `"state:deleted"`. `old_value` and `new_value` are Python objects of the
    JSON values before and after, None where there was or is none (and for a stored null). `cause` is `"expired"` where a deadline
    (`ttl_ms`) was the cause, `"foreign"` where another program's write was found by comparison, None where it was a call, or where
    the engine does not tell.

    An event may come more than once: `event_id` is the same then, `attempt` counts from 1. `fence` grows whenever another engine
    takes over: work of a lower fence is late.

    `after` is its position in the change log of its scope, where it comes from a watch that reads one: `State.watch(after=...)`
    goes on behind it.

        >>> Event("orders", "o1", "state:created", None, {"n": 1})
        Event(scope='orders', key='o1', event_type='state:created', old_value=None, new_value={'n': 1}, ...)
    """

    scope: str
    key: str
    event_type: EventType
    old_value: Any
    new_value: Any
    cause: Cause | None = None
    event_id: str = ""
    attempt: int = 1
    fence: int = 0
    after: str | None = None


class EmbeddingEngine(Protocol):
    """What is needed of an engine to call functions from its own process, and to be called: `iii_state.Engine` has it."""

    async def trigger(self, request: dict[str, Any]) -> Any:
        """Call a function."""
        ...

    def register_function(self, function_id: str, function: Callable[..., Any], *, description: str | None = None) -> _Function:
        """Serve a function with a Python callable."""
        ...

    async def register_trigger(self, request: dict[str, Any]) -> _Trigger:
        """Register a trigger."""
        ...

    async def add_module(self, module: Module) -> None:
        """Start a module, which is stopped with the engine."""
        ...


class _Function(Protocol):
    def unregister(self) -> None: ...


class _Trigger(Protocol):
    async def unregister(self) -> None: ...


def event_of(payload: Mapping[str, Any], metadata: object) -> Event:
    """The event of a handler's call: its payload, and the metadata that says which delivery it is."""
    delivery = metadata.get("iii_state") if isinstance(metadata, dict) else None
    about = delivery if isinstance(delivery, dict) else {}
    return Event(
        payload["scope"],
        payload["key"],
        payload["event_type"],
        payload.get("old_value"),
        payload.get("new_value"),
        known_cause(payload.get("cause")),
        about.get("event_id", ""),
        about.get("attempt", 1),
        about.get("fence", 0),
    )


@dataclass(frozen=True, slots=True)
class _Pending:
    """A handler that is still to be registered for the events that `config` matches."""

    function_id: str
    handler: EventHandler
    config: dict[str, Any]
    features: Sequence[str]
    """What the engine has to be able to for it."""


class Handlers:
    """The handlers of one `State`: named and checked at once, registered with the engine as soon as it runs.

    Registering waits for the store, which a decorator cannot do. So it is done in the background where an event loop runs already,
    else by the next call of the state; whichever comes first, a later call waits for it. What cannot be registered stays pending:
    it is tried again, and each call that comes upon it raises why.
    """

    def __init__(self, engine: EmbeddingEngine) -> None:
        self.pending: list[_Pending] = []
        self._engine = engine
        self._named: dict[str, EventHandler] = {}
        self._registered: dict[str, _Function] = {}
        self._one_at_a_time = asyncio.Lock()
        self._background = Background()
        self._registering: asyncio.Task[None] | None = None

    def add(self, handler: EventHandler, function_id: str | None, config: dict[str, Any], features: Sequence[str] = ()) -> None:
        """Take a handler on, which needs these features. Raises `TypeError` and `ValueError` as `State.on_change` says."""
        _check_signature(handler)
        name = _default_name(handler) if function_id is None else function_id
        known = self._named.setdefault(name, handler)
        if known != handler:
            raise ValueError(f"{name} is the name of another handler already: give each a function_id of its own")
        self.pending.append(_Pending(name, handler, config, features))
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        if self._registering is None or self._registering.done():
            self._registering = self._background.start(self._register_in_background(), "registering handlers")

    async def _register_in_background(self) -> None:
        said = ""
        while self.pending:
            try:
                await self.register()
            except Exception as error:
                if words(error) != said:
                    said = words(error)
                    log.warning("no events come to %s yet: %s", ", ".join(waiting.function_id for waiting in self.pending), said)
                if isinstance(error, RuntimeError):  # the engine does not run: `start`, or the next call, tries again
                    return
                await asyncio.sleep(AGAIN_SECONDS)

    async def register(self) -> None:
        """Register what is pending, in the order of the program. Raises what the engine raises for the first that fails."""
        async with self._one_at_a_time:
            while self.pending:
                await self._register(self.pending[0])
                del self.pending[0]

    async def _register(self, pending: _Pending) -> None:
        name = pending.function_id
        if pending.features:
            await check_features(self._engine, pending.features)
        registered = self._registered.get(name)
        function = registered or self._engine.register_function(name, _called_with_events(pending.handler))
        try:
            await self._engine.register_trigger({"type": "state", "function_id": name, "config": pending.config})
        except BaseException:
            if registered is None:
                function.unregister()
            raise
        self._registered[name] = function


def _called_with_events(handler: EventHandler) -> Callable[[dict[str, Any], object], Awaitable[None] | None]:
    """The function that an engine calls: it hands over an `Event`, and has no result, whatever the handler returns."""

    async def until_done(work: Awaitable[object]) -> None:
        await work

    def call(payload: dict[str, Any], metadata: object) -> Awaitable[None] | None:
        outcome = handler(event_of(payload, metadata))
        return until_done(outcome) if inspect.isawaitable(outcome) else None

    return call


def _check_signature(handler: EventHandler) -> None:
    """Raises `TypeError` for what can never be called with an event, or would do nothing when it is."""
    if not callable(handler):
        raise TypeError(f"a handler has to be a function that takes an event, not {handler!r}")
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise TypeError(
            f"{_shown(handler)} yields: a handler has to be a function that does its work when it is called with an event"
        )
    try:
        signature = inspect.signature(handler)
    except ValueError:  # a builtin without a signature
        return
    try:
        signature.bind(object())
    except TypeError:
        raise TypeError(
            f"{_shown(handler)}{signature} cannot be called with an event alone: a handler takes one argument, an iii_state.Event"
        ) from None


def _default_name(handler: EventHandler) -> str:
    """`<module>.<qualname>`, the same whenever the program runs again: a subscription is found again by it."""
    module, name = getattr(handler, "__module__", None), getattr(handler, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        raise TypeError(f"{handler!r} has no name of its own to be found again by: give a function_id")
    if name.rpartition(".")[2] == "<lambda>":
        raise TypeError(f"a lambda of {module} has no name of its own to be found again by: use def, or give a function_id")
    return f"{module}.{name}"


def _shown(handler: EventHandler) -> str:
    return getattr(handler, "__qualname__", None) or repr(handler)
