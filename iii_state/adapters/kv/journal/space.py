"""Space that a file does not need any more: given back a little at a time, or, for a file of an older version, by rewriting it."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

logger = logging.getLogger(__name__)

MAX_FREE_PAGES = 256
"""So many free pages a file keeps, or a quarter of those in use: what has been used will be again. The rest it gives back."""
PAGES_PER_STEP = 128
"""So many it gives back before anything else that waits to be written is."""
MAX_PAGES_TO_REWRITE = 65_536
"""A file of an older version gives nothing back. Where most of it is free, and no more than this in use, a start rewrites it."""


class FreeSpace:
    """What an open file can give back."""

    def __init__(self) -> None:
        self._gave_back = False
        """Whether pages have been given back since the log was copied into the file: that is when it gets shorter."""

    def give_back(self, connection: sqlite3.Connection) -> bool:
        """Give back some pages; whether there are more to give back."""
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


def rewrite_if_mostly_free(connection: sqlite3.Connection, path: Path) -> None:
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
        logger.warning("%s is mostly free, but could not be rewritten: %s", path, error)
    else:
        after = _pages(connection)[1]
        logger.info("%s was mostly free: rewritten, from %d to %d MiB", path, *(size >> 8 for size in (pages, after)))


def _pages(connection: sqlite3.Connection) -> tuple[int, int]:
    """How many pages of a file are free, and how many it has."""
    free: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
    return free, connection.execute("PRAGMA page_count").fetchone()[0]
