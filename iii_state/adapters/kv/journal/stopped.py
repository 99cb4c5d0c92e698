"""The file of a kv store that no engine has open: its values are read, or others put there, with little memory however many."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from iii_state.adapters.kv.journal.file import FILE_NAME, check_format, close_file, connected, end_log, in_words
from iii_state.adapters.kv.journal.stopped_queues import StoppedQueues
from iii_state.adapters.wall_clock import now_ms
from iii_state.errors import StoreError
from iii_state.events import Subscription
from iii_state.history import MAX_REVISION, LogRule, LogRules

FETCHED = 256

_subscription = msgspec.json.Decoder(Subscription)

_SELECT = """
SELECT state.key, state.value, deadline.at_ms FROM state LEFT JOIN deadline USING (scope, key)
WHERE state.scope = ? AND (at_ms IS NULL OR at_ms > ?)
"""
_FIND = """
SELECT state.value, deadline.at_ms FROM state LEFT JOIN deadline USING (scope, key) WHERE state.scope = ? AND state.key = ?
"""
_STORE = "INSERT INTO state VALUES (?,?,?) ON CONFLICT DO UPDATE SET value=excluded.value"
_SET_DEADLINE = "INSERT INTO deadline VALUES (?,?,?) ON CONFLICT DO UPDATE SET at_ms=excluded.at_ms"
_NO_DEADLINE = "DELETE FROM deadline WHERE scope = ? AND key = ?"


class HeldValue(NamedTuple):
    """A value of the file, and when it goes: milliseconds since 1970."""

    key: str
    text: bytes
    deadline_ms: int | None


class StoppedFile:
    """The values of the file in a directory. Moments are those of the wall clock."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self.path = path
        self.store: str = connection.execute("SELECT printf('%016x', value) FROM meta WHERE name='store'").fetchone()[0]
        clock = connection.execute("SELECT value FROM meta WHERE name='clock'").fetchone()
        self._written: set[str] = set()
        """The scopes of which values were stored here."""
        # Where the wall clock has been set back, the next start moves the moments in the file back by this.
        self._ahead = 0 if clock is None else max(0, clock[0] - now_ms())

    @property
    def ahead_ms(self) -> int:
        """How much less the wall clock shows than when the file was written last; 0 where it shows more."""
        return self._ahead

    def damage(self) -> list[str]:
        """What is wrong with the file itself, in SQLite's words."""
        try:
            rows = self._connection.execute("PRAGMA integrity_check(20)").fetchall()
        except sqlite3.DatabaseError as error:
            return [str(error)]
        return [] if rows == [("ok",)] else [str(row[0]) for row in rows]

    def waiting(self) -> Counter[str]:
        """How many events wait, by function."""
        functions = dict(self._functions("subscription"))
        counted: Counter[str] = Counter()
        with self._in_words():
            for name, count in self._connection.execute("SELECT subscription, count(*) FROM delivery GROUP BY subscription"):
                if name in functions:  # else its retention is over, and they go at the next start
                    counted[functions[name]] += count
        return counted

    def dead_letters(self) -> Counter[str]:
        """How many dead letters there are, by function."""
        with self._in_words():
            return Counter(dict(self._connection.execute("SELECT function_id, count(*) FROM dead_letter GROUP BY function_id")))

    def paused(self) -> list[str]:
        """The functions of the subscriptions that are paused."""
        return sorted(function_id for _, function_id in self._functions("paused"))

    def _functions(self, table: str) -> list[tuple[str, str]]:
        with self._in_words():
            rows = self._connection.execute(f"SELECT id, definition FROM {table}").fetchall()
        return [(name, _subscription.decode(definition).function_id) for name, definition in rows]

    def logs(self) -> LogRules:
        """The scopes that have a change log there, as rules that let none of their changes go."""
        with self._in_words():
            rows = self._connection.execute("SELECT scope FROM log WHERE is_kept").fetchall()
        return LogRules([LogRule(scope.decode(), max_length=MAX_REVISION) for (scope,) in rows])

    def scopes(self) -> list[str]:
        """The scopes that have values, in the order of their bytes."""
        found: list[str] = []
        with self._in_words():
            query = "SELECT min(scope) FROM state"
            (scope,) = self._connection.execute(query).fetchone()
            while scope is not None:
                found.append(scope.decode())
                (scope,) = self._connection.execute(f"{query} WHERE scope > ?", (scope,)).fetchone()
        return found

    def count(self, scopes: Sequence[str]) -> int:
        """How many values these scopes hold."""
        with self._in_words():
            count = "SELECT count(*) FROM state WHERE scope = ?"
            return sum(self._connection.execute(count, (scope.encode(),)).fetchone()[0] for scope in scopes)

    def values(self, scope: str) -> Iterator[list[HeldValue]]:
        """The values of a scope, in parts."""
        ahead = self._ahead
        with self._in_words():
            cursor = self._connection.execute(_SELECT, (scope.encode(), now_ms() + ahead))
            while rows := cursor.fetchmany(FETCHED):
                yield [HeldValue(key.decode(), text, None if at is None else at - ahead) for key, text, at in rows]

    def find(self, scope: str, key: str) -> bytes | None:
        """One value, as its stored text; None where there is none, or it is over."""
        row = self._connection.execute(_FIND, (scope.encode(), key.encode())).fetchone()
        return None if row is None or (row[1] is not None and row[1] <= now_ms() + self._ahead) else row[0]

    def put(self, scope: str, key: str, text: bytes, deadline_ms: int | None) -> None:
        """Store a value, within `transaction`. No event tells of it, and so no change log does: that of the scope begins anew."""
        if scope not in self._written:
            self._written.add(scope)
            end_log(self._connection, scope.encode())
        place = (scope.encode(), key.encode())
        self._connection.execute(_STORE, (*place, text))
        if deadline_ms is None:
            self._connection.execute(_NO_DEADLINE, place)
        else:
            self._connection.execute(_SET_DEADLINE, (*place, deadline_ms + self._ahead))

    @contextmanager
    def reading_queues(self) -> Iterator[StoppedQueues]:
        """Its queues; they are changed within `transaction`. Raises `StoreError`."""
        with self._in_words():
            yield StoppedQueues(self._connection, self._ahead)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is put within it is written at once, or not at all. Raises `StoreError`."""
        with self._in_words():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise in_words(error, self.path) from None


@contextmanager
def stopped_file(directory: Path, *, is_written: bool) -> Iterator[StoppedFile]:
    """Open the file in a directory, made where there is none if it `is_written`, else left as it is.

    Raises `StoreError` in words: in use, none there, of another program, of a newer version.
    """
    path = directory / FILE_NAME
    if not is_written and not path.exists():
        hint = "; *.bin are files of a stock engine: iii-state import --from-iii reads them" if any(directory.glob("*.bin")) else ""
        raise StoreError(f"there is no store in {directory} ({path} is missing): give the file_path of its engine{hint}")
    try:
        connection = connected(path)
        try:
            connection.execute("BEGIN IMMEDIATE")
            check_format(connection, path)
            if is_written:
                connection.execute("COMMIT")
            yield StoppedFile(connection, path)
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            close_file(connection, path, None)
    except sqlite3.Error as error:
        raise _locked(error, path) from None


def _locked(error: sqlite3.Error, path: Path) -> StoreError:
    words = in_words(error, path)
    if "in use" in str(words):
        return StoreError(f"{path} is in use by a process: stop its engine first, or go through it with --url")
    return words
