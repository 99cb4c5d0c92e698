"""Which functions an engine has been found to lack, so that events for them wait and burn no attempts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

Function = tuple[str, str]
"""Namespace and id."""

MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.25, 2.0
"""Between two looks for what is missing."""

TRY_AGAIN_SECONDS = 15.0
"""After so long a missing function counts as there again until a call shows otherwise: an engine may list less than it has."""


class Presence:
    """What is missing; everything else counts as there. `watch` tells of changes, `look` finds out what has come back."""

    def __init__(self) -> None:
        self._missing: dict[Function, float] = {}
        self._watchers: list[Callable[[str, str], None]] = []
        self._some = asyncio.Event()

    def has(self, namespace: str, function_id: str) -> bool:
        """Whether a function is there, as far as is known."""
        return (namespace, function_id) not in self._missing

    def watch(self, changed: Callable[[str, str], None]) -> None:
        """Call `changed(namespace, function_id)` whenever a function is missing or has come back."""
        self._watchers.append(changed)

    def missing(self, namespace: str, function_id: str) -> None:
        """A call has shown that a function is not there."""
        if (namespace, function_id) not in self._missing:
            self._missing[namespace, function_id] = asyncio.get_running_loop().time()
            self._some.set()
            self._tell(namespace, function_id)

    def here(self, namespace: str, function_id: str) -> None:
        """A function is there, or is likely to be."""
        if self._missing.pop((namespace, function_id), None) is not None:
            self._tell(namespace, function_id)

    def forget(self) -> None:
        """Nothing is known any more: the engine is another, or will have changed."""
        self._missing.clear()
        self._some.clear()

    async def look(self, functions: Callable[[], Awaitable[set[Function] | None]]) -> None:
        """For ever, while something is missing: ask for the functions there are (None: unknown), with pauses."""
        pause = MIN_PAUSE_SECONDS
        while True:
            await self._some.wait()
            await asyncio.sleep(pause)
            there = await functions()
            now = asyncio.get_running_loop().time()
            back = [
                function
                for function, since in self._missing.items()
                if there is None or function in there or now - since > TRY_AGAIN_SECONDS
            ]
            for function in back:
                self.here(*function)
            if not self._missing:
                self._some.clear()
            pause = MIN_PAUSE_SECONDS if back and there is not None else min(MAX_PAUSE_SECONDS, pause * 1.5)

    def _tell(self, namespace: str, function_id: str) -> None:
        for changed in self._watchers:
            changed(namespace, function_id)
