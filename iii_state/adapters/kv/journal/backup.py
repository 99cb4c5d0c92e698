"""A copy of the file of a kv store, made while it is written."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from iii_state.adapters.base import Backup
from iii_state.adapters.kv.journal.file import force_path_to_disk
from iii_state.errors import StoreError

DIRECTORY = "backups"
PAGES_PER_STEP = 256
"""After so many pages (1 MiB, about a millisecond) what waits to be written is."""


def backup(connection: sqlite3.Connection, path: Path, name: str, meanwhile: Callable[[], None]) -> Backup:
    """Copy the file to a new one; `meanwhile` is called again and again. The copy is of the moment when it was finished.

    Where it is put in the place of the file one day, what comes then is not what came here: it is another store, in which no call
    is recognised as one that was made here, and its ids of writes are not given twice.
    """
    copy = path.parent / DIRECTORY / name
    part = copy.with_name(f"{name}.part")
    try:
        copy.parent.mkdir(exist_ok=True)
        if copy.exists():
            raise StoreError(f"{copy} is there already: give another name, or remove it")
        part.unlink(missing_ok=True)
        target = sqlite3.connect(part, isolation_level=None)
        try:
            connection.backup(target, pages=PAGES_PER_STEP, progress=lambda *_: meanwhile(), sleep=0)
            _become_another(target)
        finally:
            target.close()
        force_path_to_disk(part)
        part.rename(copy)
        force_path_to_disk(copy.parent)
        return Backup(str(copy.absolute()), copy.stat().st_size)
    except OSError as error:
        raise StoreError(f"cannot write {copy}: {error.strerror or error}") from None
    finally:
        for left in (part, part.with_name(f"{part.name}-journal")):
            left.unlink(missing_ok=True)


def _become_another(copy: sqlite3.Connection) -> None:
    copy.execute("PRAGMA journal_mode=DELETE")  # no other files beside it
    copy.execute("BEGIN IMMEDIATE")
    copy.execute("UPDATE meta SET value = random() & 0x7fffffffffffffff WHERE name='store'")
    # Openings count up by one: those of the store itself do not get here, nor do those of an older copy.
    copy.execute("UPDATE meta SET value = max(value + 1, ?) WHERE name='epoch'", (int(time.time()),))
    copy.execute("DELETE FROM session")
    copy.execute("COMMIT")
