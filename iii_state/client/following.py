"""Following the change log of a scope from outside its engine: what is there, then every change, with no gap and nothing twice.

What is there at a position is found with two functions that need not know of each other. The end of the log is `p`; then the values
are read, each as it was at some moment since `p`; then the log from `p` to its end, `q`. A value that no change since `p` is about
has been what was read all the time, and any other is what its last change says: that is the scope as it was at `q`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from iii_state.errors import Code, FunctionError
from iii_state.history import MOST_CHANGES

POLL_SECONDS = 5.0
"""So often the log is looked at though nothing says that there is something: who says so may have been away."""

RETRY_SECONDS = 0.25
"""Between two attempts to read a log whose store does not answer."""

MAX_READINGS = 10
"""So often the values are begun to be read again, because the log had forgotten meanwhile what had changed since."""

FINAL = frozenset({Code.COMPACTED, Code.FORBIDDEN, Code.DESERIALIZATION_ERROR, Code.FUNCTION_NOT_FOUND, Code.UNSUPPORTED})
"""Errors that do not pass by themselves."""

NO_PAGE = frozenset({Code.ROW_TOO_LARGE, Code.SNAPSHOT_CAPACITY})
"""What has these errors comes in no page of `state::list_entries`: those values are read one by one, each at its own moment."""


@dataclass(frozen=True, slots=True)
class Followed:
    """A change, or (`revision` None) a value that is there at the beginning: its key, the value now if there is one, its event.

    `after` is the position behind it: None of a value at the beginning but the last.
    """

    key: str
    is_there: bool
    value: Any
    event: Any
    after: str | None
    revision: int | None = None
    at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class FollowedPage:
    """A page of `state::history`."""

    changes: list[Followed]
    next_after: str
    first: int


class ScopeSource(Protocol):
    """Where a scope, or one of its keys, is read. Raises `FunctionError`, and `ConnectionLost` where it is another process."""

    async def page(self, after: str | None, limit: int) -> FollowedPage:
        """A page of the log; with the limit 0 none of it, and the position of its end."""
        ...

    def present(self) -> AsyncIterator[tuple[str, Any]]:
        """Keys and values, each as it was at some moment of the reading."""
        ...

    def event_of(self, seen: Followed) -> Any:
        """The event that shows a value that is there at the beginning; `seen` has none yet."""
        ...


class Woken(Protocol):
    """What says that the log may have something new."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more is wanted."""
        ...

    def clear(self) -> None:
        """Whatever has been said is seen to now."""
        ...

    async def wait(self) -> None:
        """Until something is said."""
        ...


class Following:
    """One reader. `after` is where it goes on; without it at the end of the log, or, with `initial`, at what is there."""

    def __init__(self, after: str | None = None, *, initial: bool = False) -> None:
        self.position = after
        """Up to here everything has been handed out; None before it has begun."""
        self._initial = initial and after is None
        self._read: str | None = after
        """Up to here everything has been read."""
        self._ready: deque[Followed] = deque()
        self.has_begun = False

    async def begin(self, source: ScopeSource) -> None:
        """Find out where to begin, once. Raises what the first reading raises."""
        if self.has_begun:
            return
        if self._initial:
            await self._read_present(source)
        else:
            page = await source.page(self._read, 0)
            if self._read is None:
                self._read = self.position = page.next_after
        self.has_begun = True

    async def next(self, source: ScopeSource, woken: Woken) -> Followed | None:
        """The next one, waited for; None when it is over. Giving it up loses nothing. Raises `FunctionError`, `ConnectionLost`."""
        while not self._ready:
            if woken.is_over:
                return None
            woken.clear()
            try:
                before = self._read
                page = await source.page(before, MOST_CHANGES)
            except FunctionError as error:
                if error.code in FINAL:
                    raise
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self._read = page.next_after
            self._ready.extend(page.changes)
            if self._read == before:
                try:
                    async with asyncio.timeout(POLL_SECONDS):
                        await woken.wait()
                except TimeoutError:
                    pass
            elif not page.changes:
                self.position = self._read
        seen = self._ready.popleft()
        self.position = seen.after or self.position
        return seen

    async def _read_present(self, source: ScopeSource) -> None:
        for attempt in range(1, MAX_READINGS + 1):
            position = (await source.page(None, 0)).next_after
            found = {key: value async for key, value in source.present()}
            try:
                position = await self._catch_up(source, position, found)
            except FunctionError as error:
                if error.code != Code.COMPACTED or attempt == MAX_READINGS:
                    raise
                continue
            break
        last = len(found)
        for number, (key, value) in enumerate(found.items(), 1):
            seen = Followed(key, True, value, None, position if number == last else None)
            self._ready.append(replace(seen, event=source.event_of(seen)))
        self._read = position
        if not found:
            self.position = position

    @staticmethod
    async def _catch_up(source: ScopeSource, position: str, found: dict[str, Any]) -> str:
        """Bring what was read up to the end of the log, whose position is the answer."""
        while True:
            page = await source.page(position, MOST_CHANGES)
            for change in page.changes:
                if change.is_there:
                    found[change.key] = change.value
                else:
                    found.pop(change.key, None)
            if page.next_after == position:
                return position
            position = page.next_after
