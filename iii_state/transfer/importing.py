"""An import: rows into a store, in order, what is at their places already as told. One that was cut off is gone on with."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from iii_state import values
from iii_state.errors import StateError, TransferError
from iii_state.transfer.files import STANDARD, Lines
from iii_state.transfer.lines import End, LineReader, Selection
from iii_state.transfer.queues.rows import QueueItem
from iii_state.transfer.rows import PART_BYTES, PART_ROWS, OnConflict, RowOutcome, Target, ValueRow

logger = logging.getLogger(__name__)

NOTED_SECONDS = 1.0
"""So often it is noted how far an import is."""


@dataclass(slots=True)
class Imported:
    """What an import has come to so far. `resumed` of the values had been put by an earlier one."""

    outcomes: Counter[RowOutcome] = field(default_factory=Counter)
    resumed: int = 0
    left_out: int = 0
    """Values of other scopes than those that are meant."""
    checked: int = 0
    """Values that have been read before anything was imported."""
    all_values: int | None = None
    position: int = 0
    """Bytes of the file that have been read, and of how many."""
    size: int | None = None

    @property
    def done(self) -> int:
        """How many values have been dealt with."""
        return sum(self.outcomes.values()) + self.resumed + self.left_out


Progress = Callable[[Imported], None]


class Rows(Protocol):
    """Where rows come from: a file, or files."""

    @property
    def name(self) -> str: ...

    @property
    def can_be_read_again(self) -> bool: ...

    def read(self, told: Callable[[int, int | None], None]) -> Iterator[tuple[str, ValueRow]]:
        """Each row, and where it stands, for people. Raises `TransferError`. `told` hears of the position and the size."""
        ...

    @property
    def id(self) -> str | None:
        """What tells this from any other, once it has been read; None where nothing does."""
        ...


class ExportFile:
    """The rows of an export."""

    def __init__(self, name: str) -> None:
        self.name = "standard input" if name == STANDARD else name
        self._file = name
        self.can_be_read_again = name != STANDARD and not Path(name).is_fifo()
        self.id: str | None = None
        self.end: End | None = None
        """The trailer, once it has been read."""
        self.has_queues = False
        """Whether the header says so, once it has been read."""

    def read(self, told: Callable[[int, int | None], None]) -> Iterator[tuple[str, ValueRow]]:
        for place, row in self._read(told):
            if isinstance(row, ValueRow):
                yield place, row

    def queue_items(self) -> Iterator[QueueItem]:
        """What it holds of queues. Raises `TransferError`."""
        for _, item in self._read(lambda position, size: None):
            if not isinstance(item, ValueRow):
                yield item

    def _read(self, told: Callable[[int, int | None], None]) -> Iterator[tuple[str, ValueRow | QueueItem]]:
        lines, reading = Lines(self._file), LineReader()
        try:
            for line in lines:
                try:
                    row = reading.take(line)
                except TransferError as error:
                    raise TransferError(f"{self.name}: {error}") from None
                if row is not None:
                    if reading.number & 255 == 0 and lines.size is not None:
                        told(lines.position, lines.size)
                    yield f"line {reading.number}", row
            try:
                self.end = end = reading.finish()
                self.has_queues = reading.header is not None and "queues" in reading.header.holds
            except TransferError as error:
                raise TransferError(f"{self.name}: {error}") from None
            self.id = end.sha256
        finally:
            lines.close()


def check(source: Rows, progress: Progress) -> int | None:
    """Read what can be read twice to its end, before anything is changed; how many values there are.

    Raises `TransferError` unless counts and checksum are right, and each value can be stored.
    """
    if not source.can_be_read_again:
        return None
    done = Imported()

    def told(position: int, size: int | None) -> None:
        done.position, done.size = position, size
        progress(done)

    try:
        for _ in source.read(told):
            done.checked += 1
    except TransferError as error:
        raise TransferError(f"{error}; nothing was imported") from None
    return done.checked


class _Note(msgspec.Struct):
    """How far an import is."""

    id: str
    store: str
    on_conflict: str
    selection: Selection
    rows: int


@dataclass(slots=True)
class Import:
    """An import of `source` into `target`.

    `note` is a file that says how far it is while it runs, for the next one; None where it cannot be gone on with.
    """

    source: Rows
    target: Target
    on_conflict: OnConflict = "error"
    selection: Selection = field(default_factory=Selection)
    note: Path | None = None
    all_values: int | None = None
    """How many values `check` has found."""
    progress: Progress = lambda imported: None
    _noted_at: float = 0.0

    async def run(self, *, is_dry: bool = False) -> Imported:
        """Import, or, `is_dry`, count what would become of the rows. Raises `StateError`, in words that say how far it came."""
        done = Imported(all_values=self.all_values)
        part: list[ValueRow] = []
        first, size = "", 0

        def told(position: int, of: int | None) -> None:
            done.position, done.size = position, of

        try:
            to_pass = done.resumed = 0 if is_dry else self._noted()
            for place, row in self.source.read(told):
                if not self.selection.has(row.scope):
                    done.left_out += 1
                    continue
                if to_pass:
                    to_pass -= 1
                    continue
                first = first or place
                part.append(row)
                size += len(row.text)
                if len(part) >= PART_ROWS or size >= PART_BYTES:
                    await self._part(part, first, done, is_dry=is_dry)
                    part, first, size = [], "", 0
            if part:
                await self._part(part, first, done, is_dry=is_dry)
        except StateError as error:
            if is_dry:
                raise
            raise self._told_how_far(error, done) from None
        if self.note is not None and not is_dry:
            with contextlib.suppress(OSError):
                self.note.unlink(missing_ok=True)
        return done

    async def _part(self, part: list[ValueRow], first: str, done: Imported, *, is_dry: bool) -> None:
        try:
            if is_dry:
                outcomes = await self.target.look(part)
            else:
                outcomes = await self.target.put(part, self.on_conflict)
        except StateError as error:
            more = f" and the {len(part) - 1} after it, of which some may have been imported" if len(part) > 1 else ""
            raise TransferError(f"{self.source.name}, {first}{more}: {error}") from None
        done.outcomes.update(outcomes)
        if RowOutcome.TAKEN in outcomes and self.on_conflict == "error" and not is_dry:
            row = part[outcomes.index(RowOutcome.TAKEN)]
            raise TransferError(
                f"scope {row.scope!r}, key {row.key!r} has another value in {self.target.name} already ({self.source.name}, "
                f"{first} or after it): give --on-conflict skip or overwrite; --dry-run counts them"
            )
        self.progress(done)
        if not is_dry:
            self._note(done)

    def _told_how_far(self, error: StateError, done: Imported) -> TransferError:
        put = done.outcomes[RowOutcome.STORED]
        if not put and not done.resumed:
            return TransferError(f"{error}; nothing was imported before that")
        goes_on = "; the same command goes on from there" if self.note is not None else ""
        return TransferError(f"{error}; {put} values were imported before that{goes_on}")

    # --- how far it is

    def _noted(self) -> int:
        """How many rows an import of the same into the same has put already."""
        if self.note is None:
            return 0
        try:
            note = msgspec.json.decode(self.note.read_bytes(), type=_Note)
        except FileNotFoundError:
            return 0
        except (OSError, msgspec.MsgspecError, UnicodeError):
            logger.warning("%s cannot be read: the import begins from the beginning", self.note)
            return 0
        return note.rows if note == self._noted_as(note.rows) else 0

    def _noted_as(self, rows: int) -> _Note:
        return _Note(self.source.id or "", self.target.store or "", self.on_conflict, self.selection, rows)

    def _note(self, done: Imported) -> None:
        now = time.monotonic()
        if self.note is None or now - self._noted_at < NOTED_SECONDS:
            return
        self._noted_at = now
        rows = done.resumed + sum(done.outcomes.values())
        beside = self.note.with_name(self.note.name + ".new")
        try:
            beside.write_bytes(values.encode(self._noted_as(rows)))
            beside.rename(self.note)
        except OSError as error:
            logger.warning("it cannot be noted how far the import is, so one that is cut off begins again: %s", error)
            self.note = None
