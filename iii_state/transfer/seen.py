"""Which keys of a scope have been read already, however many: in a file that SQLite makes and removes."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from types import TracebackType
from typing import Self

PER_QUERY = 500


class Seen:
    """A set of keys that takes little memory. Nothing is made before the first `add`."""

    def __init__(self) -> None:
        self._database: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._database is not None:
            self._database.close()

    def add(self, keys: Sequence[str]) -> list[bool]:
        """Add keys; of each, whether it is new."""
        if self._database is None:
            self._database = sqlite3.connect("", isolation_level=None)
            self._database.execute("PRAGMA journal_mode=OFF")
            self._database.execute("PRAGMA synchronous=OFF")
            self._database.execute("CREATE TABLE seen (key BLOB PRIMARY KEY) WITHOUT ROWID")
            self._database.execute("BEGIN")
        insert = "INSERT OR IGNORE INTO seen VALUES (?)"
        execute = self._database.execute
        return [execute(insert, (key.encode(),)).rowcount == 1 for key in keys]

    def new(self, keys: Sequence[str]) -> list[str]:
        """Those that have not been added."""
        if self._database is None:
            return list(keys)
        found: set[bytes] = set()
        for start in range(0, len(keys), PER_QUERY):
            part = [key.encode() for key in keys[start : start + PER_QUERY]]
            query = f"SELECT key FROM seen WHERE key IN ({','.join('?' * len(part))})"
            found.update(key for (key,) in self._database.execute(query, part))
        return [key for key in keys if key.encode() not in found]
