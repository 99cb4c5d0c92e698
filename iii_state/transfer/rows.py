"""What is moved: a value with its place, and what became of it where it was put."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from enum import Enum
from typing import Literal, NamedTuple, Protocol

OnConflict = Literal["error", "skip", "overwrite"]
"""What is done where another value is at a place already."""


class ValueRow(NamedTuple):
    """A value, as its stored text, and when it goes: milliseconds since 1970, None for never."""

    scope: str
    key: str
    text: bytes
    deadline_ms: int | None = None


class RowOutcome(Enum):
    """What became of a row that was put into a store."""

    STORED = "stored"
    SAME = "same"
    """The very value was there already."""
    TAKEN = "taken"
    """Another value is there, and was left alone."""
    EXPIRED = "expired"
    """It would have gone by now."""


class Source(Protocol):
    """A store that values are read from."""

    @property
    def name(self) -> str:
        """Where that is, for people."""
        ...

    @property
    def store(self) -> str | None:
        """The id of what is stored there; None where it has none."""
        ...

    async def scopes(self) -> list[str]:
        """The scopes that have values, each once, in any order."""
        ...

    async def count(self, scopes: Sequence[str]) -> int | None:
        """How many values these scopes hold, about; None where that would take too long to learn."""
        ...

    def rows(self, scope: str) -> AsyncIterator[Sequence[ValueRow]]:
        """The values of a scope, in parts; each that is there throughout exactly once."""
        ...


class Target(Protocol):
    """A store that values are put into."""

    @property
    def name(self) -> str:
        """Where that is, for people."""
        ...

    @property
    def store(self) -> str | None:
        """The id of what is stored there."""
        ...

    async def put(self, rows: Sequence[ValueRow], on_conflict: OnConflict) -> list[RowOutcome]:
        """Store values, in this order where two have one place; what became of each.

        Raises `StateError` where one cannot be stored: how many of the others were is not known then.
        """
        ...

    async def look(self, rows: Sequence[ValueRow]) -> list[RowOutcome]:
        """What would become of them; nothing is changed."""
        ...


PART_ROWS = 1000
PART_BYTES = 4_000_000
"""So much is read, or put, at once."""


def judged(row: ValueRow, there: ValueRow | None, now_ms: int) -> RowOutcome:
    """What would become of a row that is put where this one is."""
    if row.deadline_ms is not None and row.deadline_ms <= now_ms:
        return RowOutcome.EXPIRED
    return RowOutcome.STORED if there is None else RowOutcome.SAME if there.text == row.text else RowOutcome.TAKEN
