"""The SQLite file behind a kv store: one connection on one thread, which writes one transaction after the other.

Once a transaction has been committed (WAL, `synchronous=NORMAL`) it outlives the process; every `save_interval_ms` the log is
forced to disk, so that it outlives the machine, too.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from iii_state.adapters.base import Backup
from iii_state.adapters.kv.journal.backup import backup
from iii_state.adapters.kv.journal.file import FILE_NAME, Contents, close_file, force_log_to_disk, in_words, note_opening, open_file
from iii_state.adapters.kv.journal.space import FreeSpace
from iii_state.adapters.kv.journal.transaction import Transaction, commit
from iii_state.errors import StoreError
from iii_state.history import NO_LOGS, LogRules
from iii_state.tasks.background import Background

logger = logging.getLogger(__name__)

T = TypeVar("T")

JOIN_SECONDS = 10.0
"""For so long an end waits for a disk that does not answer."""
REST_PER_STEP = 4
"""And then for so many times as long as that took it gives back none."""


class Journal:
    """Writes transactions to the file of a directory, one after the other, off the event loop."""

    def __init__(self, directory: Path, save_interval_ms: int, history: LogRules = NO_LOGS) -> None:
        self._history = history
        self.path = directory / FILE_NAME
        self._interval = save_interval_ms / 1000
        self._interval_changed = asyncio.Event()
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        self._note_opening: Callable[[sqlite3.Connection], None] | None = None
        """What has to be written before anything else, of a file that was opened on a full disk."""
        self._tasks = Background()
        self._unsaved = False
        self._free_space = FreeSpace()
        self._is_closing = False
        self._is_copying = False
        self._postponed: Callable[[], None] | None = None
        """What came while the file was being copied, and ends that."""

    async def open(self, now: int) -> Contents:
        """Open or make the file and read it. Raises `StoreError` in words when that cannot be.

        `now` is what the store's clock shows, in milliseconds. Where it showed more when the file was written last, the moments in
        it are moved back by the difference, so that nothing waits for longer than was asked. Of a file that cannot be written for
        want of room, the contents say so; the first transaction that can be written makes up for it.
        """
        self._thread = threading.Thread(target=self._run, name="iii-state-sqlite", daemon=True)
        self._thread.start()
        try:
            contents = await self._call(lambda: self._open(now))
        except BaseException:
            await self._join()
            raise
        self._tasks.start(self._save_regularly(), "iii-state kv: force to disk")
        self._tasks.start(self._give_back_regularly(), "iii-state kv: give space back")
        return contents

    def write(self, transaction: Transaction, done: Callable[[StoreError | None], None]) -> None:
        """Commit a transaction; `done` is called on the event loop with None, or with why nothing of it was written."""
        loop = asyncio.get_running_loop()

        def work() -> None:
            error: StoreError | None = None
            try:
                connection = self._opened()
                if self._note_opening is not None:
                    self._note_opening(connection)
                    self._note_opening = None
                commit(connection, transaction)
            except sqlite3.Error as failure:
                error = in_words(failure, self.path)
            except Exception as failure:  # the thread must live on: without it no call would ever be answered again
                logger.exception("a transaction could not be written to %s", self.path)
                error = StoreError(f"{self.path}: {failure}")
            loop.call_soon_threadsafe(done, error)

        self._unsaved = True
        self._work.put(work)

    async def check(self) -> None:
        """Raise `StoreError` unless the file answers."""
        await self._call(lambda: self._opened().execute("SELECT value FROM meta WHERE name='epoch'").fetchone())

    async def backup(self, name: str) -> Backup:
        """Copy the file into `backups` beside it. What is to be written meanwhile is written in between."""
        if self._is_copying:
            raise StoreError(f"{self.path} is being copied already: wait for that")
        self._is_copying = True
        try:
            return await self._call(lambda: backup(self._opened(), self.path, name, self._meanwhile))
        finally:
            self._is_copying = False

    async def close(self, now: int) -> None:
        """Note what the store's clock shows, write the log into the database file, force it to disk, and close."""
        await self._tasks.stop()
        self._is_closing = True
        try:
            if self._thread is not None:
                await self._call(lambda: self._close(now))
        finally:
            await self._join()

    async def _join(self) -> None:
        """End the thread, which closes the file if that is still open: the wait for it may have been given up."""
        if self._thread is not None:
            thread, self._thread = self._thread, None
            self._work.put(None)
            await asyncio.to_thread(thread.join, JOIN_SECONDS)

    def _run(self) -> None:
        while (work := self._next()) is not None:
            work()
        try:
            self._close()
        except sqlite3.Error as error:
            logger.error("%s", in_words(error, self.path))

    def _next(self) -> Callable[[], None] | None:
        work, self._postponed = self._postponed, None
        return work or self._work.get()

    async def _call(self, function: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def settle(result: Any, error: Exception | None) -> None:
            if not answer.done():
                if error is None:
                    answer.set_result(result)
                else:
                    answer.set_exception(error)

        def work() -> None:
            result: Any = None
            error: Exception | None = None
            try:
                result = function()
            except sqlite3.Error as failure:
                error = in_words(failure, self.path)
            except Exception as failure:
                error = failure
            loop.call_soon_threadsafe(settle, result, error)

        self._work.put(work)
        return await answer

    def save_every(self, milliseconds: int) -> None:
        """Force the log to disk so often from now on, for the first time so long from now."""
        if milliseconds / 1000 != self._interval:
            self._interval = milliseconds / 1000
            self._interval_changed.set()

    async def _save_regularly(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._interval):
                    await self._interval_changed.wait()
                self._interval_changed.clear()
                continue
            except TimeoutError:
                pass
            if self._unsaved:
                self._unsaved = False
                try:
                    await self._call(lambda: force_log_to_disk(self.path))
                except (StoreError, OSError) as error:
                    self._unsaved = True
                    logger.error("cannot force %s to disk: %s", self.path, error)

    async def _give_back_regularly(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._interval)
            try:
                while True:
                    begun = loop.time()
                    if not await self._call(lambda: self._free_space.give_back(self._opened())):
                        break
                    await asyncio.sleep(REST_PER_STEP * (loop.time() - begun))
            except StoreError as error:
                logger.info("what is free in %s cannot be given back yet: %s", self.path, error)

    # Everything below runs on the thread.

    def _opened(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection

    def _meanwhile(self) -> None:
        """Do what has come while the file is being copied. Raises `StoreError` when it is to be closed."""
        while not self._work.empty():
            work = self._work.get()
            if self._is_closing or work is None:
                self._postponed = work or _nothing
                if work is None:
                    self._work.put(None)
                raise StoreError("the engine stops: there is no copy")
            work()

    def _open(self, now: int) -> Contents:
        self._connection, contents = open_file(self.path, now, self._history)
        if contents.unwritten is not None:
            store = contents.store
            self._note_opening = lambda connection: note_opening(connection, self.path, now, self._history, store)
        return contents

    def _close(self, now: int | None = None) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            close_file(connection, self.path, None if self._note_opening is not None else now)


def _nothing() -> None:
    """What is done where there is nothing to do."""
