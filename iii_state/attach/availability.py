"""Which functions an engine has been found to lack, so that events for them wait and burn no attempts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

Function = tuple[str, str]
"""Namespace and id."""

MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.25, 2.0
"""Between two questions for what is missing."""

TRY_AGAIN_SECONDS = 15.0
"""After so long a missing function counts as there again until a call shows otherwise: an engine may list less than it has."""


class Availability:
    """What is missing; everything else counts as there. `watch` tells of changes, `poll` finds out what has come back."""

    def __init__(self) -> None:
        self._missing: dict[Function, float] = {}
        self._unconfirmed: set[Function] = set()
        """Those that are missing by the word of a call alone."""
        self._disproved: set[Function] = set()
        """Those of which the engine's list has shown that they were there all the same."""
        self._doubted: set[Function] = set()
        """Those of them that are missing by the word of a call once more."""
        self._workers: dict[Function, str] = {}
        self._watchers: list[Callable[[str, str], None]] = []
        self._some = asyncio.Event()

    def has(self, namespace: str, function_id: str) -> bool:
        """Whether a function is there, as far as is known."""
        return (namespace, function_id) not in self._missing

    def worker_of(self, namespace: str, function_id: str) -> str:
        """The name of the worker that serves a function, as it was listed last; empty where that is not known."""
        return self._workers.get((namespace, function_id), "")

    def watch(self, changed: Callable[[str, str], None]) -> None:
        """Call `changed(namespace, function_id)` whenever a function is missing or has come back."""
        self._watchers.append(changed)

    def reported_missing(self, namespace: str, function_id: str) -> bool:
        """A call has been answered in the words for a function that is not there. Whether it is believed.

        Its handler can have answered so, too, for what it called itself. If the engine's list has shown so once, it is not believed
        again until the list says otherwise.
        """
        function = (namespace, function_id)
        if function in self._disproved:
            self._doubted.add(function)
            self._some.set()
            return False
        if function not in self._missing:
            self._unconfirmed.add(function)
            self._mark(function)
        return True

    def worker_left(self, namespace: str, function_id: str) -> None:
        """The worker of a function has gone: it may take a moment to come back."""
        function = (namespace, function_id)
        self._unconfirmed.discard(function)
        self._disproved.discard(function)
        if function not in self._missing:
            self._mark(function)

    def _mark(self, function: Function) -> None:
        self._missing[function] = asyncio.get_running_loop().time()
        self._some.set()
        self._tell(*function)

    def is_back(self, namespace: str, function_id: str) -> None:
        """A function is there, or is likely to be."""
        self._unconfirmed.discard((namespace, function_id))
        if self._missing.pop((namespace, function_id), None) is not None:
            self._tell(namespace, function_id)

    def forget(self) -> None:
        """Nothing is known any more: the engine is another, or will have changed."""
        self._missing.clear()
        self._unconfirmed.clear()
        self._disproved.clear()
        self._doubted.clear()
        self._workers.clear()
        self._some.clear()

    async def poll(self, functions: Callable[[], Awaitable[dict[Function, str] | None]]) -> None:
        """For ever, while something is missing: ask for the functions there are and their workers (None: unknown), with pauses."""
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
            if there is not None:
                self._workers = there
                self._disproved.update(function for function in self._unconfirmed if function in there)
                self._unconfirmed.clear()
                gone = [function for function in self._doubted if function not in there]
                self._doubted.clear()
                for function in gone:
                    self.worker_left(*function)
            for function in back:
                self.is_back(*function)
            if not self._missing and not self._doubted:
                self._some.clear()
            pause = MIN_PAUSE_SECONDS if back and there is not None else min(MAX_PAUSE_SECONDS, pause * 1.5)

    def _tell(self, namespace: str, function_id: str) -> None:
        for changed in self._watchers:
            changed(namespace, function_id)
