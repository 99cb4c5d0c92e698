"""Watching: the changes of values as they happen, for a reader in the engine's own process.

What a watch gets lies in a bounded buffer until it is read. The function that the engine calls only puts events there, and so is
always done at once: a reader that is slow loses events, and is told so. Its queue is bounded as well, and drops its oldest events:
no writer fails because somebody looks.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any, Self

from iii_state.access import WATCH_FUNCTIONS
from iii_state.errors import Code, FunctionError, Gap
from iii_state.host import Host
from iii_state.state.handlers import EmbeddingEngine, Event, event_of
from iii_state.state.log_source import FollowedScope
from iii_state.tasks.background import Background
from iii_state.tasks.closing import in_turn

WATCH_BOUNDS: dict[str, Any] = {"retention_ms": 0, "on_full": "drop_oldest", "max_queue_length": 1000}
"""What every watch registers with, beside what it wants to see."""


def dropped_before(metadata: object) -> int:
    """How many events of its queue had been dropped when the one of a call with these metadata was handed out."""
    delivery = metadata.get("iii_state") if isinstance(metadata, dict) else None
    dropped = delivery.get("dropped") if isinstance(delivery, dict) else None
    return dropped if isinstance(dropped, int) else 0


class Watch:
    """The changes of values from its beginning on, as `State.watch` makes it: to iterate over, once.

    It begins with the first `async for`, or with `async with`, which also ends it at a certain place. Once it has begun, no change
    is missed; inside `async with` it has:

        >>> async with state.watch(scope="orders") as events:
        ...     await state.set("orders", "o1", {"n": 1})
        ...     async for event in events:
        ...         print(event.event_type, event.key, event.new_value)
        ...         break
        SetResult(old_value=None, new_value={'n': 1})
        state:created o1 {'n': 1}

    `async for` raises `Gap` where events were dropped because they were not read in time, and can be begun again behind it. It
    ends when the watch is closed, and behind what has come so far when the engine stops. A watch that is left with `break` and not
    kept in a variable is closed when Python drops it.
    """

    def __init__(self, watches: Watches, config: dict[str, Any], size: int, log: FollowedScope | None = None) -> None:
        self._watches = watches
        self._config = config
        self._buffer = Buffer(size)
        self._log = log
        self._beginning = asyncio.Lock()

    @property
    def after(self) -> str | None:
        """Up to which position of the change log everything has been read: `State.watch(after=...)` goes on from there. None for a
        watch without a change log, and before the last of the values that are there at the beginning."""
        return None if self._log is None else self._log.position

    async def __aenter__(self) -> Self:
        """Begin, if it has not. Raises `RuntimeError` for one that is over, and for an engine that does not run."""
        if self._buffer.is_over:
            raise RuntimeError("this watch is over: make another one")
        await self._begin()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """The next event. Waiting for it can be given up (`asyncio.timeout`) without losing one. Raises `Gap`, or, of a watch that
        reads a change log, `FunctionError`."""
        if not self._watches.has(self._buffer):
            await self._begin()
        event = await (self._buffer.next() if self._log is None else self._log.next(self._buffer))
        if event is None:
            raise StopAsyncIteration
        return event

    async def _begin(self) -> None:
        async with self._beginning:
            if not self._buffer.is_over and not self._watches.has(self._buffer):
                await self._watches.open(self._buffer, self._config)
                if self._log is not None:
                    try:
                        await self._log.begin()
                    except BaseException:
                        await self._watches.close(self._buffer)
                        raise

    async def aclose(self) -> None:
        """End it: what has not been read is dropped, and a loop that waits for an event ends. Any number of times."""
        self._buffer.drop_all()
        self._buffer.end()
        async with self._beginning:
            await self._watches.close(self._buffer)

    def __del__(self) -> None:
        if hasattr(self, "_beginning"):
            self._watches.abandon(self._buffer)


class Buffer:
    """Events of one watch that have not been read yet, `size` of them at most: the oldest are dropped for new ones."""

    def __init__(self, size: int) -> None:
        self.is_over = False
        """Whether no further event is taken."""
        self._size = size
        self._events: deque[Event] = deque()
        self._dropped = 0
        self._dropped_before = 0
        """How many its queue has dropped, as far as is known."""
        self._changed = asyncio.Event()

    def put(self, payload: dict[str, Any], metadata: object) -> None:
        """Take an event: the function that the engine calls."""
        if self.is_over:
            return
        if (dropped := dropped_before(metadata)) > self._dropped_before:
            self._dropped += dropped - self._dropped_before
            self._dropped_before = dropped
        if len(self._events) >= self._size:
            self._events.popleft()
            self._dropped += 1
        self._events.append(event_of(payload, metadata))
        self._changed.set()

    async def next(self) -> Event | None:
        """The oldest event, waited for; None when it is over and all have been read. Raises `Gap` where some were dropped."""
        while True:
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                raise Gap(dropped)
            if self._events:
                return self._events.popleft()
            if self.is_over:
                return None
            self._changed.clear()
            await self._changed.wait()

    def clear(self) -> None:
        """Forget what has come. Of a change log, which is read itself, events only say that there is something."""
        self.drop_all()
        self._changed.clear()

    async def wait(self) -> None:
        """Until an event has come since `clear`, or it is over."""
        if not self.is_over:
            await self._changed.wait()

    def drop_all(self) -> None:
        """Forget what has not been read."""
        self._events.clear()
        self._dropped = 0

    def end(self) -> None:
        """Take no further event."""
        self.is_over = True
        self._changed.set()


class Watches:
    """The open watches of one `State`. It is a module of the engine, so that they end when the engine stops.

    It knows their buffers and not the watches themselves: one that its reader has dropped is collected, and closed then.
    """

    name = "iii-state watches"

    def __init__(self, engine: EmbeddingEngine, before: Callable[[], Awaitable[None]]) -> None:
        self._engine = engine
        self._before = before
        self._open: dict[Buffer, Callable[[], Awaitable[None]]] = {}
        """Buffer → what unregisters it."""
        self._loop: asyncio.AbstractEventLoop | None = None
        """That of the engine, from the first watch on."""
        self._has_stopped = False
        self._background = Background()

    def has(self, buffer: Buffer) -> bool:
        """Whether a watch is open."""
        return buffer in self._open

    async def open(self, buffer: Buffer, config: dict[str, Any]) -> None:
        """Have the engine put events into a buffer; once this has returned, none is missed.

        Raises `FunctionError` `trigger_registration_failed` where there is no state, or the config cannot be used.
        """
        await self._before()
        if self._has_stopped:
            raise RuntimeError("this engine has been stopped: make another one")
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            try:
                await self._engine.add_module(self)
            except BaseException:
                self._loop = None
                raise
        types = await self._engine.trigger({"function_id": "engine::triggers::list"})
        if not any(row["id"] == "state" for row in types["triggers"]):
            raise FunctionError(
                Code.TRIGGER_REGISTRATION_FAILED, "this engine has no state to watch: add a StateModule to it first"
            )
        function_id = f"{WATCH_FUNCTIONS}{uuid.uuid4()}"
        function = self._engine.register_function(function_id, buffer.put, description="A watch of this process")
        try:
            trigger = await self._engine.register_trigger({"type": "state", "function_id": function_id, "config": config})
        except BaseException:
            function.unregister()
            raise

        async def unregister() -> None:
            try:
                await trigger.unregister()
            finally:
                function.unregister()

        self._open[buffer] = unregister
        if self._has_stopped:
            await self.close(buffer)

    async def close(self, buffer: Buffer) -> None:
        """End a watch, if it is open."""
        buffer.end()
        unregister = self._open.pop(buffer, None)
        if unregister is not None:
            await unregister()

    def abandon(self, buffer: Buffer) -> None:
        """Close a watch whose reader has gone without closing it; Python may say so in any thread."""
        if self._loop is not None and buffer in self._open:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and the engine with it
                self._loop.call_soon_threadsafe(self._close_in_background, buffer)

    def _close_in_background(self, buffer: Buffer) -> None:
        self._background.start(self.close(buffer), "the end of a watch")

    # -- as a module

    async def start(self, host: Host) -> None:
        """Nothing is registered: it is a module for its end."""

    async def stop(self) -> None:
        """The engine stops: the watches end behind what has come so far."""
        self._has_stopped = True
        await in_turn(*(partial(self.close, buffer) for buffer in list(self._open)), self._background.stop)

    async def health(self) -> str | None:
        """All is well."""
        return None
