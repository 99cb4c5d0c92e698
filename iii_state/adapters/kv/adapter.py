"""The kv adapter: values and queues in this process, and a journal behind both where they are to last."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from iii_state.adapters.figures import DEADLINES_DUE, DEADLINES_LATE, EVENTS_LOST, RECOGNISED, STORE_UP
from iii_state.adapters.kv.admin import KvAdmin
from iii_state.adapters.kv.clock import Clock
from iii_state.adapters.kv.journal.commits import Commits
from iii_state.adapters.kv.journal.file import FILE_NAME
from iii_state.adapters.kv.journal.journal import Journal
from iii_state.adapters.kv.log import KvHistory
from iii_state.adapters.kv.queues import KvQueues
from iii_state.adapters.kv.sessions import KvSessions
from iii_state.adapters.kv.succession import KvSuccession
from iii_state.adapters.kv.values import KvValues
from iii_state.adapters.local_dead_letters import DeadLetters
from iii_state.adapters.wakeup import WakeUp
from iii_state.adapters.wall_clock import now_ms
from iii_state.errors import StoreError
from iii_state.events import QueueLimits
from iii_state.figures import Figure
from iii_state.history import NO_LOGS, LogRules
from iii_state.sessions import SESSION_SECONDS
from iii_state.tasks.closing import Stopping, in_turn
from iii_state.tasks.starting import Starting

logger = logging.getLogger(__name__)

HEALTH_SECONDS = 2


class KvAdapter:
    """Values and queues of one engine. Without `directory` they live in memory, with it in an SQLite file there.

    `clock` gives the milliseconds since 1970 of the wall clock.
    """

    name = "kv"

    def __init__(
        self,
        directory: Path | None = None,
        *,
        save_interval_ms: int = 5000,
        limits: QueueLimits | None = None,
        clock: Callable[[], int] = now_ms,
        session_seconds: float = SESSION_SECONDS,
        history: LogRules = NO_LOGS,
    ) -> None:
        limits = limits or QueueLimits()
        self.store = secrets.token_hex(8)
        self._clock = Clock(clock)
        self._journal = None if directory is None else Journal(directory, save_interval_ms, history)
        self._commits = None if self._journal is None else Commits(self._journal, self._clock)
        self._wake_up = WakeUp()
        dead_letters = DeadLetters(limits, self._clock)
        self.sessions = KvSessions(self._commits, expiry_seconds=session_seconds)
        self.queues = KvQueues(limits, self._wake_up, self._commits, dead_letters, self._clock)
        self.history = KvHistory(history, self._commits, self._clock, lambda: self.store)
        self.values = KvValues(self.queues, self.sessions, self._commits, self._clock, self.history if history else None)
        self.admin = KvAdmin(self.queues, dead_letters, self._journal)
        self.succession = KvSuccession()
        if self._commits is not None:
            self._commits.on_commit(self.sessions.committed)
            self._commits.on_commit(self.history.committed)
            self._commits.on_commit(self.values.committed)
            self._commits.on_commit(self.queues.committed)  # last: a handler that is called with an event sees the value
        self._starting = Starting("kv adapter")
        self._stopping = Stopping(self._stop)

    def save_every(self, milliseconds: int) -> None:
        """Force the file to disk so often from now on."""
        if self._journal is not None:
            self._journal.save_every(milliseconds)

    async def start(self, wake: Callable[[str], None]) -> None:
        self._starting.check()
        contents = None if self._journal is None else await self._journal.open(self._clock())
        self._wake_up.begin(wake)
        self._starting.has_begun = True
        if contents is not None:
            self.store = contents.store
            self.history.load(contents)
            self.sessions.load(contents.sessions)
            self.values.load(contents)
            self.queues.load(contents)
            self.values.end_due()
            if contents.unwritten is not None and self._commits is not None:
                self._wait_for_room(self._commits, contents.unwritten)

        self.history.start()

    def _wait_for_room(self, commits: Commits, why: StoreError) -> None:
        """Serve what can be read. Events are delivered when the file knows that it was opened: until then their `fence`, and
        the ids of writes, would be those of the next process, too."""
        logger.warning("%s. Values can be read; writes are refused, and events wait, until there is room", why)
        self.queues.pause()

        def goes_on() -> None:
            logger.info("what is written to %s is taken again", FILE_NAME)
            self.queues.resume()

        commits.failing = why
        commits.keep(lambda changes: None, goes_on)

    async def stop(self) -> None:
        await self._stopping()

    async def _stop(self) -> None:
        self.queues.close()
        self.values.close()
        self.history.stop()
        self.sessions.close()
        if self._journal is not None and self._commits is not None:
            journal = self._journal
            await in_turn(self._commits.drain, lambda: journal.close(self._clock()))

    def absence(self) -> str | None:
        return None

    async def health(self) -> str | None:
        if self._journal is None:
            return None
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                await self._journal.check()
        except TimeoutError:
            return f"{self._journal.path} has not answered for {HEALTH_SECONDS} s"
        except StoreError as error:
            return str(error)
        failing = None if self._commits is None else self._commits.failing
        return None if failing is None else f"the last write failed: {failing}"

    def figures(self) -> Iterator[Figure]:
        """What has been counted here."""
        failing = None if self._commits is None else self._commits.failing
        deadlines = self.values.deadlines
        counted = {
            STORE_UP: int(failing is None),
            RECOGNISED: self.sessions.recognised,
            DEADLINES_DUE: deadlines.ended,
            DEADLINES_LATE: deadlines.late,
            EVENTS_LOST: 0,
        }
        return (Figure(family, value, (self.name,)) for family, value in counted.items())

    def tells_of_queues(self) -> bool:
        return True

    def has(self, feature: str) -> bool:
        """What stores itself has all that this version has."""
        return True

    def route(self, visited: list[str]) -> list[str]:
        return visited
