"""The file of a kv store: its format, what it holds when it is opened, and what SQLite's errors mean."""

from __future__ import annotations

import logging
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from iii_state.adapters.kv.journal.space import rewrite_if_mostly_free
from iii_state.adapters.kv.journal.transaction import CLOCK_HEAD, CLOCK_ROW, CLOCK_TAIL, Row
from iii_state.errors import StoreError
from iii_state.history import NO_LOGS, LogRules, ended_in_words

logger = logging.getLogger(__name__)

FILE_NAME = "state.sqlite3"
APPLICATION_ID = 0x6969_6973  # "iiis"
FORMAT = 2
"""`user_version` of the file: the layout below. A newer one is refused, an older one brought up to it."""

LOG_FORMAT = 3
"""That of a file of which scopes have a change log: a version that does not know of it would write values and no changes."""

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
# How often a delivery crashed its worker, where its write comes from, and which subscriptions are paused stand in tables of their
# own, of which a version that does not look at them need not know; one that does not know of a pause delivers.
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
CREATE TABLE IF NOT EXISTS lineage (number INTEGER PRIMARY KEY, lineage BLOB NOT NULL);
DELETE FROM lineage WHERE number NOT IN (SELECT number FROM delivery);
CREATE TABLE IF NOT EXISTS log (scope BLOB PRIMARY KEY, last INTEGER NOT NULL, is_kept INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS history (
    scope BLOB NOT NULL, revision INTEGER NOT NULL, at_ms INTEGER NOT NULL, key BLOB NOT NULL, old BLOB, new BLOB, cause TEXT,
    PRIMARY KEY (scope, revision)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS revision (
    scope BLOB NOT NULL, key BLOB NOT NULL, revision INTEGER NOT NULL, PRIMARY KEY (scope, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS paused (id TEXT PRIMARY KEY, definition BLOB NOT NULL, since_ms INTEGER NOT NULL) WITHOUT ROWID;
"""

LOG_PAGES = 8192
"""Pages of 4 KiB after which the log is copied into the file, which costs two forced writes."""

PAGE_BYTES = 4096


@dataclass(slots=True)
class Contents:
    """What a file held when it was opened. `epoch` has never been given before for this file."""

    epoch: int
    store: str
    values: list[tuple[bytes, bytes, bytes]]
    deadlines: list[tuple[bytes, bytes, int]]
    sessions: list[tuple[str, int, float, bytes | None, int]]
    subscriptions: list[Row]
    deliveries: list[Row]
    crashes: list[tuple[int, int]]
    lineages: list[tuple[int, bytes]]
    dead_letters: list[Row]
    logs: list[tuple[bytes, int]]
    revisions: list[tuple[bytes, bytes, int]]
    history: list[Row]
    paused: list[tuple[str, bytes, int]]
    unwritten: StoreError | None = None
    """Why the file could not be told that it was opened, which `note_opening` has to do before anything else is written."""


def open_file(path: Path, now: int, history: LogRules = NO_LOGS) -> tuple[sqlite3.Connection, Contents]:
    """Open or make the file and read it. Raises `StoreError` in words when that cannot be, and `sqlite3.Error`.

    `now` is what the store's clock shows, in milliseconds. Where it showed more when the file was written last, the moments in
    it are moved back by the difference, so that nothing waits for longer than was asked.

    `history` are the scopes that have a change log. That of any other scope ends, and does not go on later as if nothing had been.

    A file that was written before is opened on a full disk, too: `unwritten` of the contents then says so.
    """
    connection = connected(path)
    try:
        connection.execute("PRAGMA cache_spill=OFF")  # a full disk is met by the COMMIT, when everything has been read
        connection.execute("BEGIN IMMEDIATE")
        back = _note_opening(connection, path, now, history)
        contents = _read(connection)
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if not is_full(error) or contents.epoch == 1:  # a new file holds nothing to serve
                raise
            contents.unwritten = in_words(error, path)
        else:
            rewrite_if_mostly_free(connection, path)
        connection.execute("PRAGMA cache_spill=ON")
    except BaseException:
        connection.close()
        raise
    if back > 1000:
        logger.warning(
            "the clock shows %.0f s less than when %s was written last: deadlines and planned attempts are moved back",
            *(back / 1000, path),
        )
    return connection, contents


def connected(path: Path) -> sqlite3.Connection:
    """A connection to the file, made where there is none, that keeps all other processes out once it has read or written.

    Raises `StoreError` in words when that cannot be, and `sqlite3.Error`.
    """
    directory = path.parent
    try:
        if directory.exists() and not directory.is_dir():
            raise StoreError(f"file_path {str(directory)!r} is a file; it has to be a directory, in which {FILE_NAME} is kept")
    except OSError as error:
        raise StoreError(f"cannot look for the directory {str(directory)!r}: {error.strerror}") from None
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the directory {str(directory)!r}: {error.strerror}") from None
    for place, needs in ((directory, os.R_OK | os.W_OK | os.X_OK), (path, os.R_OK | os.W_OK)):
        if place.exists() and not os.access(place, needs, effective_ids=os.access in os.supports_effective_ids):
            raise StoreError(f"cannot write {place}: permission denied for this user")
    if not path.exists() and any(directory.glob("*.bin")):
        logger.warning(
            "%s holds a file store of the stock iii engine (*.bin); its values are not read, its files are left alone. "
            "Starting with an empty store in %s",
            directory,
            path,
        )
    if not path.exists():
        _force_names_to_disk(directory)
    connection = sqlite3.connect(path, isolation_level=None, timeout=1.0, cached_statements=256, check_same_thread=False)
    try:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        if connection.execute("PRAGMA page_count").fetchone()[0] == 0:
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # one that has tables keeps its own, and would be written
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint={LOG_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit={LOG_PAGES * PAGE_BYTES}")
    except BaseException:
        connection.close()
        raise
    return connection


def note_opening(connection: sqlite3.Connection, path: Path, now: int, history: LogRules, store: str) -> None:
    """Tell a file that was opened on a full disk, with the same `now`, that it was: what it then holds is what was read."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        _note_opening(connection, path, now, history)
        connection.execute("UPDATE meta SET value=? WHERE name='store'", (int(store, 16),))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def close_file(connection: sqlite3.Connection, path: Path, now: int | None) -> None:
    """Note what the store's clock shows, write the log into the database file, force it to disk, and close."""
    try:
        if now is not None:
            connection.execute(f"{CLOCK_HEAD} {CLOCK_ROW}{CLOCK_TAIL}", (now,))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        if not is_full(error):
            raise
        logger.warning("the log of %s stays beside it, and is read at the next start: %s", path, in_words(error, path))
    finally:
        connection.close()


def force_log_to_disk(path: Path) -> None:
    """Make the log outlive the machine."""
    force_path_to_disk(f"{path}-wal")


def force_path_to_disk(path: str | Path) -> None:
    """Force what a file holds, or the names in a directory, to disk. Raises `OSError`."""
    place = os.open(path, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def _force_names_to_disk(directory: Path) -> None:
    """Make the path to a new file outlive the machine: SQLite sees to the file's own name, and to none above it.

    Of all directories above, since who has made them may have been killed before this.
    """
    for parent in directory.absolute().parents:
        try:
            force_path_to_disk(parent)
        except OSError as error:  # not readable for this user, or a file system that forces no directories
            logger.debug("cannot force the names in %s to disk: %s", parent, error)


def _note_opening(connection: sqlite3.Connection, path: Path, now: int, history: LogRules) -> int:
    """Bring a file up to the format, give it the next epoch, and move its moments back, by what is answered."""
    check_format(connection, path, LOG_FORMAT if history else FORMAT)
    _end_logs(connection, history)
    connection.execute("UPDATE meta SET value = value + 1 WHERE name='epoch'")
    row = connection.execute("SELECT value FROM meta WHERE name='clock'").fetchone()
    back: int = 0 if row is None else row[0] - now
    if back > 0:
        connection.execute("UPDATE deadline SET at_ms = at_ms - ?", (back,))
        connection.execute("UPDATE delivery SET due_at_ms = due_at_ms - ? WHERE due_at_ms > 0", (back,))
    connection.execute(f"{CLOCK_HEAD} {CLOCK_ROW}{CLOCK_TAIL}", (now,))
    return back


def _end_logs(connection: sqlite3.Connection, history: LogRules) -> None:
    """Forget the changes of scopes that have no change log any more. One that has one again begins behind a revision that is no
    change: it stands for what was not logged meanwhile, and who has read up to there before is told so."""
    ended = []
    for scope, is_kept in connection.execute("SELECT scope, is_kept FROM log").fetchall():
        has_log = history.of(scope.decode()) is not None
        if is_kept and not has_log:
            ended.append(scope.decode())
            end_log(connection, scope)
        elif has_log and not is_kept:
            connection.execute("UPDATE log SET is_kept=1, last=last+1 WHERE scope=?", (scope,))
    if ended:
        logger.warning("%s", ended_in_words(ended))


def end_log(connection: sqlite3.Connection, scope: bytes) -> None:
    """Forget the changes of a scope, which is going to be written without them."""
    connection.execute("UPDATE log SET is_kept=0 WHERE scope=?", (scope,))
    connection.execute("DELETE FROM history WHERE scope=?", (scope,))
    connection.execute("DELETE FROM revision WHERE scope=?", (scope,))


def _read(connection: sqlite3.Connection) -> Contents:
    return Contents(
        epoch=connection.execute("SELECT value FROM meta WHERE name='epoch'").fetchone()[0],
        store=connection.execute("SELECT printf('%016x', value) FROM meta WHERE name='store'").fetchone()[0],
        sessions=connection.execute("SELECT * FROM session").fetchall(),
        values=connection.execute("SELECT scope, key, value FROM state").fetchall(),
        deadlines=connection.execute("SELECT scope, key, at_ms FROM deadline").fetchall(),
        subscriptions=connection.execute("SELECT * FROM subscription").fetchall(),
        deliveries=connection.execute("SELECT * FROM delivery ORDER BY number").fetchall(),
        crashes=connection.execute("SELECT number, crashes FROM crash").fetchall(),
        lineages=connection.execute("SELECT number, lineage FROM lineage").fetchall(),
        dead_letters=connection.execute("SELECT * FROM dead_letter ORDER BY rowid").fetchall(),
        logs=connection.execute("SELECT scope, last FROM log WHERE is_kept").fetchall(),
        revisions=connection.execute("SELECT scope, key, revision FROM revision").fetchall(),
        history=connection.execute("SELECT * FROM history ORDER BY scope, revision").fetchall(),
        paused=connection.execute("SELECT id, definition, since_ms FROM paused").fetchall(),
    )


def check_format(connection: sqlite3.Connection, path: Path, layout: int | None = None) -> None:
    """Bring a file up to a format (that which it has, or `FORMAT`), within a transaction. Raises `StoreError` for one of another
    program, or a newer version."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if application == 0 and version == 0 and empty:
        for statement in _SCHEMA.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    elif application != APPLICATION_ID:
        raise StoreError(f"{path} is an SQLite database of another program; nothing was changed")
    elif version > LOG_FORMAT:
        raise StoreError(f"{path} has format {version}; this version of iii-state knows up to {LOG_FORMAT}. Use a newer one")
    for statement in _ADDED.split(";"):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version={layout or max(version, FORMAT)}")


def is_full(error: sqlite3.Error) -> bool:
    """Whether the disk did not take what was written, for want of room or over a limit."""
    return "full" in str(error) or "disk I/O" in str(error)


def in_words(error: sqlite3.Error, path: Path) -> StoreError:
    """What SQLite refuses, in words that say what to do."""
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
