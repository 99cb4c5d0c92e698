"""The SQLite file behind a kv store: one connection on one thread, and changes written in groups.

A group is everything that was asked for while the group before it was being written. It is one transaction: once it has been
committed (WAL, `synchronous=NORMAL`) it outlives the process; every `save_interval_ms` the log is forced to disk, so that it
outlives the machine, too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from iii_state.errors import StoreError

logger = logging.getLogger(__name__)

FILE_NAME = "state.sqlite3"
APPLICATION_ID = 0x6969_6973  # "iiis"
FORMAT = 2
"""`user_version` of the file: the layout below. A newer one is refused, an older one brought up to it."""

_SCHEMA = """
CREATE TABLE state (scope BLOB NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (scope, key)) WITHOUT ROWID;
CREATE TABLE subscription (
    id TEXT PRIMARY KEY, definition BLOB NOT NULL, orphaned_at_ms INTEGER, dropped INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE delivery (
    number INTEGER PRIMARY KEY, subscription TEXT NOT NULL, write_id TEXT NOT NULL, event_type TEXT NOT NULL,
    scope BLOB NOT NULL, key BLOB NOT NULL, old BLOB, new BLOB, attempt INTEGER NOT NULL, due_at_ms INTEGER NOT NULL
);
CREATE TABLE dead_letter (
    id TEXT PRIMARY KEY, subscription TEXT NOT NULL, function_id TEXT NOT NULL, write_id TEXT NOT NULL, event_type TEXT NOT NULL,
    scope BLOB NOT NULL, key BLOB NOT NULL, old BLOB, new BLOB,
    attempts INTEGER NOT NULL, error TEXT NOT NULL, buried_at_ms INTEGER NOT NULL
);
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('epoch', 0);
"""

# What an older format has not got; an older version must not write a file that has deadlines, and so refuses it by its number.
# How often a delivery crashed its worker stands in a table of its own, of which a version that does not count it need not know.
_ADDED = """
CREATE TABLE IF NOT EXISTS session (
    id TEXT NOT NULL, slot INTEGER NOT NULL, seq INTEGER NOT NULL, old BLOB, forgotten INTEGER NOT NULL, PRIMARY KEY (id, slot)
) WITHOUT ROWID;
INSERT OR IGNORE INTO meta VALUES ('store', random() & 0x7fffffffffffffff);
CREATE TABLE IF NOT EXISTS deadline (
    scope BLOB NOT NULL, key BLOB NOT NULL, at_ms INTEGER NOT NULL, PRIMARY KEY (scope, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS crash (number INTEGER PRIMARY KEY, crashes INTEGER NOT NULL);
DELETE FROM crash WHERE number NOT IN (SELECT number FROM delivery);
"""

_CLOCK_HEAD, _CLOCK_ROW, _CLOCK_TAIL = "INSERT INTO meta VALUES", "('clock',?)", " ON CONFLICT DO UPDATE SET value=excluded.value"

ROWS_PER_STATEMENT = 256
LOG_PAGES = 8192
"""Pages of 4 KiB after which the log is copied into the file, which costs two forced writes."""

JOIN_SECONDS = 10.0
"""For so long an end waits for a disk that does not answer."""

PAGE_BYTES = 4096
MAX_FREE_PAGES = 256
"""So many free pages a file keeps, or a quarter of those in use: what has been used will be again. The rest it gives back."""
PAGES_PER_STEP = 128
"""So many it gives back before anything else that waits to be written is."""
REST_PER_STEP = 4
"""And then for so many times as long as that took it gives back none."""
MAX_PAGES_TO_REWRITE = 65_536
"""A file of an older version gives nothing back. Where most of it is free, and no more than this in use, a start rewrites it."""

Row = tuple[Any, ...]
Slot = tuple[str, int]
"""A session and one of its slots."""

EPOCH = -1
"""The slot that has a session's epoch as its number."""
T = TypeVar("T")


class Outcome(NamedTuple):
    """Of a slot: the number of its last call, and what that replaced; `forgotten` where it was too large to be kept."""

    seq: int
    old: bytes | None
    forgotten: bool


@dataclass(slots=True)
class Group:
    """What one transaction writes. Of a key, a subscription or a planned attempt only the last state counts."""

    values: dict[tuple[bytes, bytes], bytes | None] = field(default_factory=dict)
    deadlines: dict[tuple[bytes, bytes], int | None] = field(default_factory=dict)
    outcomes: dict[Slot, Outcome] = field(default_factory=dict)
    ended_sessions: list[str] = field(default_factory=list)
    subscriptions: dict[str, Row | None] = field(default_factory=dict)
    deliveries: list[Row] = field(default_factory=list)
    attempts: dict[int, tuple[int, int]] = field(default_factory=dict)
    clock: int | None = None
    """What the store's clock shows, in a group that holds moments: none of them is further from it than was asked."""
    crashes: dict[int, int] = field(default_factory=dict)
    dead_letters: list[Row] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    discarded: list[str] = field(default_factory=list)

    def statements(self) -> list[tuple[str, str, str, Sequence[Row]]]:
        """Head, row template, tail and rows of every multi-row statement, in an order that may be followed blindly."""
        upserts = [(scope, key, value) for (scope, key), value in self.values.items() if value is not None]
        removals = [(scope, key) for (scope, key), value in self.values.items() if value is None]
        deadlines = [(scope, key, at) for (scope, key), at in self.deadlines.items() if at is not None]
        no_deadlines = [(scope, key) for (scope, key), at in self.deadlines.items() if at is None]
        outcomes = [(*slot, *outcome) for slot, outcome in self.outcomes.items()]
        kept = [row for row in self.subscriptions.values() if row is not None]
        ended = [(name,) for name, row in self.subscriptions.items() if row is None]
        clock = [] if self.clock is None else [(self.clock,)]
        return [
            ("INSERT INTO state VALUES", "(?,?,?)", " ON CONFLICT DO UPDATE SET value=excluded.value", upserts),
            ("DELETE FROM state WHERE (scope, key) IN (VALUES", "(?,?)", ")", removals),
            ("INSERT INTO deadline VALUES", "(?,?,?)", " ON CONFLICT DO UPDATE SET at_ms=excluded.at_ms", deadlines),
            ("DELETE FROM deadline WHERE (scope, key) IN (VALUES", "(?,?)", ")", no_deadlines),
            (_CLOCK_HEAD, _CLOCK_ROW, _CLOCK_TAIL, clock),
            ("DELETE FROM session WHERE id IN (VALUES", "(?)", ")", [(session,) for session in self.ended_sessions]),
            ("INSERT OR REPLACE INTO session VALUES", "(?,?,?,?,?)", "", outcomes),
            ("INSERT OR REPLACE INTO subscription VALUES", "(?,?,?,?)", "", kept),
            ("INSERT INTO delivery VALUES", "(?,?,?,?,?,?,?,?,?,?)", "", self.deliveries),
            ("INSERT OR REPLACE INTO crash VALUES", "(?,?)", "", list(self.crashes.items())),
            ("INSERT INTO dead_letter VALUES", "(?,?,?,?,?,?,?,?,?,?,?,?)", "", self.dead_letters),
            ("DELETE FROM delivery WHERE number IN (VALUES", "(?)", ")", [(number,) for number in self.finished]),
            ("DELETE FROM dead_letter WHERE id IN (VALUES", "(?)", ")", [(name,) for name in self.discarded]),
            ("DELETE FROM subscription WHERE id IN (VALUES", "(?)", ")", ended),
        ]


@dataclass(slots=True)
class Contents:
    """What a file held when it was opened. `epoch` has never been given before for this file."""

    epoch: int
    store: str
    values: list[tuple[bytes, bytes, bytes]]
    deadlines: list[tuple[bytes, bytes, int]]
    sessions: list[tuple[str, int, int, bytes | None, int]]
    subscriptions: list[Row]
    deliveries: list[Row]
    crashes: list[tuple[int, int]]
    dead_letters: list[Row]


class Journal:
    """Writes groups to the file of a directory, one after the other, off the event loop."""

    def __init__(self, directory: Path, save_interval_ms: int) -> None:
        self.path = directory / FILE_NAME
        self._interval = save_interval_ms / 1000
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._unsaved = False
        self._gave_back = False
        """Whether pages have been given back since the log was copied into the file: that is when it gets shorter."""

    async def open(self, now: int) -> Contents:
        """Open or make the file and read it. Raises `StoreError` in words when that cannot be.

        `now` is what the store's clock shows, in milliseconds. Where it showed more when the file was written last, the moments in
        it are moved back by the difference, so that nothing waits for longer than was asked.
        """
        self._thread = threading.Thread(target=self._run, name="iii-state-sqlite", daemon=True)
        self._thread.start()
        try:
            contents = await self._call(lambda: self._open(now))
        except BaseException:
            await self._join()
            raise
        self._tasks = [asyncio.create_task(work()) for work in (self._save_regularly, self._give_back_regularly)]
        return contents

    def write(self, group: Group, done: Callable[[StoreError | None], None]) -> None:
        """Commit a group; `done` is called on the event loop with None, or with why nothing of it was written."""
        loop = asyncio.get_running_loop()

        def work() -> None:
            error: StoreError | None = None
            try:
                self._commit(group)
            except sqlite3.Error as failure:
                error = _in_words(failure, self.path)
            except Exception as failure:  # the thread must live on: without it no call would ever be answered again
                logger.exception("a group could not be written to %s", self.path)
                error = StoreError(f"{self.path}: {failure}")
            loop.call_soon_threadsafe(done, error)

        self._unsaved = True
        self._work.put(work)

    async def check(self) -> None:
        """Raise `StoreError` unless the file answers."""
        await self._call(lambda: self._opened().execute("SELECT value FROM meta WHERE name='epoch'").fetchone())

    async def close(self, now: int) -> None:
        """Note what the store's clock shows, write the log into the database file, force it to disk, and close."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            if self._thread is not None:
                await self._call(lambda: self._close(now))
        finally:
            await self._join()

    async def _join(self) -> None:
        """End the thread, which closes what is open: whoever waited for it may have given up."""
        if self._thread is not None:
            thread, self._thread = self._thread, None
            self._work.put(None)
            await asyncio.to_thread(thread.join, JOIN_SECONDS)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
        try:
            self._close()
        except sqlite3.Error as error:
            logger.error("%s", _in_words(error, self.path))

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
                error = _in_words(failure, self.path)
            except Exception as failure:
                error = failure
            loop.call_soon_threadsafe(settle, result, error)

        self._work.put(work)
        return await answer

    async def _save_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            if self._unsaved:
                self._unsaved = False
                try:
                    await self._call(self._force_to_disk)
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
                    if not await self._call(self._give_back):
                        break
                    await asyncio.sleep(REST_PER_STEP * (loop.time() - begun))
            except StoreError as error:
                logger.info("what is free in %s cannot be given back yet: %s", self.path, error)

    # Everything below runs on the thread.

    def _opened(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection

    def _open(self, now: int) -> Contents:
        directory = self.path.parent
        if directory.exists() and not directory.is_dir():
            raise StoreError(f"file_path {str(directory)!r} is a file; it has to be a directory, in which {FILE_NAME} is kept")
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make the directory {str(directory)!r}: {error.strerror}") from None
        for place in (directory, self.path):
            if place.exists() and not os.access(place, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids):
                raise StoreError(f"cannot write {place}: permission denied for this user")
        if not self.path.exists() and any(directory.glob("*.bin")):
            logger.warning(
                "%s holds a file store of the stock iii engine (*.bin); its values are not read, its files are left alone. "
                "Starting with an empty store in %s",
                directory,
                self.path,
            )
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=1.0, cached_statements=256, check_same_thread=False)
        try:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # of a new file; one that has tables keeps its own
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(f"PRAGMA wal_autocheckpoint={LOG_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit={LOG_PAGES * PAGE_BYTES}")
            connection.execute("BEGIN IMMEDIATE")
            self._check_format(connection)
            connection.execute("UPDATE meta SET value = value + 1 WHERE name='epoch'")
            self._set_clock(connection, now)
            connection.execute("COMMIT")
            self._rewrite_if_mostly_free(connection)
            contents = Contents(
                epoch=connection.execute("SELECT value FROM meta WHERE name='epoch'").fetchone()[0],
                store=connection.execute("SELECT printf('%016x', value) FROM meta WHERE name='store'").fetchone()[0],
                sessions=connection.execute("SELECT * FROM session").fetchall(),
                values=connection.execute("SELECT scope, key, value FROM state").fetchall(),
                deadlines=connection.execute("SELECT scope, key, at_ms FROM deadline").fetchall(),
                subscriptions=connection.execute("SELECT * FROM subscription").fetchall(),
                deliveries=connection.execute("SELECT * FROM delivery ORDER BY number").fetchall(),
                crashes=connection.execute("SELECT number, crashes FROM crash").fetchall(),
                dead_letters=connection.execute("SELECT * FROM dead_letter ORDER BY rowid").fetchall(),
            )
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return contents

    def _rewrite_if_mostly_free(self, connection: sqlite3.Connection) -> None:
        """A file of an older version becomes one that can give back what is free."""
        free, pages = _pages(connection)
        is_large = free > max(MAX_FREE_PAGES, pages // 2)
        if not is_large or pages - free > MAX_PAGES_TO_REWRITE or connection.execute("PRAGMA auto_vacuum").fetchone()[0]:
            return
        try:
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:  # a full disk: the file is as it was
            logger.warning("%s is mostly free, but could not be rewritten: %s", self.path, error)
        else:
            after = _pages(connection)[1]
            logger.info("%s was mostly free: rewritten, from %d to %d MiB", self.path, *(size >> 8 for size in (pages, after)))

    def _give_back(self) -> bool:
        """Give back some pages; whether there are more to give back."""
        connection = self._opened()
        free, pages = _pages(connection)
        if free > max(MAX_FREE_PAGES, (pages - free) // 4):
            connection.executescript(f"PRAGMA incremental_vacuum({PAGES_PER_STEP})")  # `execute` ends after the first page
            if connection.execute("PRAGMA freelist_count").fetchone()[0] < free:  # a file of an older version gives nothing
                self._gave_back = True
                return True
        if self._gave_back:
            self._gave_back = False
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return False

    def _set_clock(self, connection: sqlite3.Connection, now: int) -> None:
        row = connection.execute("SELECT value FROM meta WHERE name='clock'").fetchone()
        back = 0 if row is None else row[0] - now
        if back > 0:
            if back > 1000:
                logger.warning(
                    "the clock shows %.0f s less than when %s was written last: deadlines and planned attempts are moved back",
                    *(back / 1000, self.path),
                )
            connection.execute("UPDATE deadline SET at_ms = at_ms - ?", (back,))
            connection.execute("UPDATE delivery SET due_at_ms = due_at_ms - ? WHERE due_at_ms > 0", (back,))
        connection.execute(f"{_CLOCK_HEAD} {_CLOCK_ROW}{_CLOCK_TAIL}", (now,))

    def _check_format(self, connection: sqlite3.Connection) -> None:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if application == 0 and version == 0 and empty:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        elif application != APPLICATION_ID:
            raise StoreError(f"{self.path} is an SQLite database of another program; nothing was changed")
        elif version > FORMAT:
            raise StoreError(f"{self.path} has format {version}; this version of iii-state knows up to {FORMAT}. Use a newer one")
        for statement in _ADDED.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version={FORMAT}")

    def _commit(self, group: Group) -> None:
        connection = self._opened()
        connection.execute("BEGIN IMMEDIATE")
        try:
            for head, template, tail, rows in group.statements():
                _execute_rows(connection, head, template, tail, rows)
            if group.attempts:
                planned = [(attempt, due, number) for number, (attempt, due) in group.attempts.items()]
                connection.executemany("UPDATE delivery SET attempt=?, due_at_ms=? WHERE number=?", planned)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _force_to_disk(self) -> None:
        log = os.open(f"{self.path}-wal", os.O_RDONLY)
        try:
            os.fsync(log)
        finally:
            os.close(log)

    def _close(self, now: int | None = None) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            try:
                if now is not None:
                    connection.execute(f"{_CLOCK_HEAD} {_CLOCK_ROW}{_CLOCK_TAIL}", (now,))
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                connection.close()


def _pages(connection: sqlite3.Connection) -> tuple[int, int]:
    """How many pages of a file are free, and how many it has."""
    free: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
    return free, connection.execute("PRAGMA page_count").fetchone()[0]


def _execute_rows(connection: sqlite3.Connection, head: str, template: str, tail: str, rows: Sequence[Row]) -> None:
    """One statement for many rows, since each gives up the interpreter lock once. Sizes are powers of two, to be cached."""
    position = 0
    while position < len(rows):
        left = len(rows) - position
        size = ROWS_PER_STATEMENT if left >= ROWS_PER_STATEMENT else 1 << (left.bit_length() - 1)
        chunk = rows[position : position + size]
        position += size
        parameters = chunk[0] if size == 1 else [item for row in chunk for item in row]
        connection.execute(f"{head} {','.join([template] * size)}{tail}", parameters)


def _in_words(error: sqlite3.Error, path: Path) -> StoreError:
    text = str(error)
    if "locked" in text or "busy" in text:
        return StoreError(
            f"{path} is in use by another process; one store has one engine (stop the other, or use another file_path)"
        )
    if "not a database" in text or "malformed" in text:
        return StoreError(f"{path} is no database, or is damaged ({text}); nothing was changed")
    if "full" in text:
        return StoreError(f"the disk is full, or over a quota: {path} cannot grow ({text})")
    if "readonly" in text or "unable to open" in text or "read-only" in text:
        return StoreError(f"cannot write {path}: {text}; check the permissions of the directory")
    if "disk I/O" in text:
        return StoreError(f"the disk does not take what is written to {path}: it is full, over a limit, or failing ({text})")
    return StoreError(f"{path}: {text}")
