"""Places at which a process runs that is killed, stopped and started again: engines, attached workers, workers of an SDK."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tests.support.engines.processes import Process, paused
from tests.support.sdk.workers import Sdk
from tests.torture.journal import Journal
from tests.torture.plan import TTL_SECONDS
from tests.torture.workers import WorkerProcess

SIGNS_OF_TROUBLE = ("taken for dead", "is gone; its work", "no heartbeat", "connecting again", "asking again", "cannot connect")
"""What engines log when something happens to them; on a machine that is too busy that happens without being planned."""

START_SECONDS = 60.0

OnLine = Callable[[str], None]


class Running(Protocol):
    """A process of this project that has started."""

    process: Process

    def kill(self) -> None:
        """End it with SIGKILL; nothing, if it has ended."""
        ...

    def stop(self) -> int:
        """End it with SIGTERM."""
        ...


class Seat:
    """A place at which there is an engine (or an attached worker), as long as nobody has killed it.

    `begin` starts one, and is told where each line goes that it writes. `number` is that of the engine in the journals: whose end
    may cost what was broadcast to it. Of what has none, nothing is lost by its end.
    """

    def __init__(self, name: str, begin: Callable[[OnLine], Running], journal: Journal, log: Path, number: int | None) -> None:
        self.name = name
        self.number = number
        self.lock = asyncio.Lock()
        """Held while something is done to it."""
        self.tracebacks: list[str] = []
        self.starts = 0
        self._begin = begin
        self._journal = journal
        self._log = log.open("a", buffering=1)
        self.running: Running

    async def start(self) -> None:
        """Start it; again and again, where its store is away."""
        self.starts += 1
        give_up = time.monotonic() + START_SECONDS
        while True:
            try:
                self.running = await asyncio.to_thread(self._begin, self._heard)
            except TimeoutError:
                if time.monotonic() > give_up:
                    raise
            else:
                return

    async def kill(self, seconds: float) -> None:
        """SIGKILL, and a new one after so many seconds."""
        await self._end(self.running.kill, seconds)

    async def restart(self, seconds: float) -> None:
        """SIGTERM, and a new one so many seconds after its end. One that takes too long is killed, which is just another fault."""
        await self._end(self.running.stop, seconds)

    async def _end(self, how: Callable[[], object], seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.to_thread(how)
        if self.number is not None:
            self._journal.note(ended_engine=self.number)
        await asyncio.sleep(seconds)
        await self.start()

    async def stop(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so many seconds."""
        await paused(self.running.process, seconds)

    def _heard(self, line: str) -> None:
        now = time.monotonic_ns()
        self._log.write(f"{now} {line}")
        if any(sign in line for sign in SIGNS_OF_TROUBLE):
            self._journal.note(fault="noticed", target=self.name, begun=now - int(2e9 * TTL_SECONDS), what=line.strip())
        if "Traceback" in line:
            self.tracebacks.append(f"{self.name} has logged an exception, see {self._log.name}")

    def close(self) -> None:
        """End it, whatever happens."""
        with contextlib.suppress(ProcessLookupError):
            self.running.process.send_signal(signal.SIGCONT)
        self.running.kill()
        self._log.close()


class WorkerSeat:
    """A worker at an engine; a new one begins whenever the one before has been killed."""

    def __init__(self, sdk: Sdk, url: str, role: str, number: int, place: int, words: tuple[str, ...], directory: Path) -> None:
        self.lock = asyncio.Lock()
        self._settings = (sdk, url, role, place, words, directory)
        self._name = f"{role}-{sdk.version}-{place}-{number}"
        self._starts = 0
        self.role = role
        self.process: WorkerProcess

    async def start(self) -> None:
        """Start one."""
        sdk, url, role, place, words, directory = self._settings
        self._starts += 1
        name = f"{self._name}-{self._starts}"
        self.process = await asyncio.to_thread(WorkerProcess, sdk, url, name, role, place, words, directory)

    async def kill(self, seconds: float) -> None:
        """SIGKILL, and a new one after so many seconds."""
        await asyncio.to_thread(self.process.kill)
        await asyncio.sleep(seconds)
        await self.start()
