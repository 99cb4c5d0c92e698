"""What is written to the file of a kv store at once: rows, and the statements that write them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

CLOCK_HEAD, CLOCK_ROW, CLOCK_TAIL = "INSERT INTO meta VALUES", "('clock',?)", " ON CONFLICT DO UPDATE SET value=excluded.value"

ROWS_PER_STATEMENT = 256

Row = tuple[Any, ...]
Slot = tuple[str, int]
"""A session and one of its slots."""

EPOCH = -1
"""The slot that has a session's epoch as its number."""


FORGOTTEN, TRANSACTION = 1, 2
"""What is recorded is not the one text that was replaced: it was too large to be kept, or it is that of a transaction (a list). To
an older version both are the first: it takes the record of a transaction for no other call's."""


class Outcome(NamedTuple):
    """Of a slot: the number of its last call, and what that replaced; `forgotten` (0, or one of these) where that is not it.

    `revision` is that of its change where the scope has a change log. With `unmet` the call changed nothing: a condition did not
    hold for `old`, the one of this index (of this step, if it had any).
    """

    seq: int
    old: bytes | None
    forgotten: int
    unmet: tuple[int, int | None] | None = None
    revision: int | None = None

    def row(self) -> Row:
        """It as the file has it: `seq`, `old`, `forgotten`.

        A revision stands as its negative in the place of `forgotten`, which version 0.2.0 takes for a text that was forgotten. Of
        an unmet condition the number is half of one too large: version 0.2.0 takes it for that of another call, and refuses.
        """
        if self.unmet is None:
            return self.seq, self.old, self.forgotten if self.forgotten or self.revision is None else -self.revision
        index, step = self.unmet
        which = index + _CONDITIONS * (0 if step is None else step + 1)
        return self.seq + 0.5 if self.seq < _HALVES else self.seq, self.old, self.forgotten + 2 * which + _UNMET

    @classmethod
    def of_row(cls, seq: float, old: bytes | None, forgotten: int) -> Outcome:
        """What the file has."""
        if forgotten < 0:
            return cls(int(seq), old, 0, None, -forgotten)
        if forgotten < _UNMET:
            return cls(int(seq), old, forgotten)
        which, is_forgotten = divmod(forgotten - _UNMET, 2)
        step, index = divmod(which, _CONDITIONS)
        return cls(int(seq), old, is_forgotten, (index, step - 1 if step else None))


_UNMET = 4
"""From here on `forgotten` says which condition did not hold, and whether the text was forgotten."""
_HALVES = 2**52
"""Below it a float tells a number from half of one more."""
_CONDITIONS = 32
"""At most so many has a call, or a step of one (`MAX_CONDITIONS`)."""


@dataclass(slots=True)
class Transaction:
    """What is written at once. Of a key, a subscription or a planned attempt only the last state counts."""

    values: dict[tuple[bytes, bytes], bytes | None] = field(default_factory=dict)
    deadlines: dict[tuple[bytes, bytes], int | None] = field(default_factory=dict)
    logged: list[Row] = field(default_factory=list)
    last_revisions: dict[bytes, int] = field(default_factory=dict)
    revisions: dict[tuple[bytes, bytes], int | None] = field(default_factory=dict)
    trimmed: dict[bytes, int] = field(default_factory=dict)
    outcomes: dict[Slot, Outcome] = field(default_factory=dict)
    ended_sessions: list[str] = field(default_factory=list)
    subscriptions: dict[str, Row | None] = field(default_factory=dict)
    paused: dict[str, Row | None] = field(default_factory=dict)
    deliveries: list[Row] = field(default_factory=list)
    coalesced: list[Row] = field(default_factory=list)
    """Deliveries that are written anew."""
    attempts: dict[int, tuple[int, int]] = field(default_factory=dict)
    clock: int | None = None
    """What the store's clock shows, in one that holds moments: none of them is further from it than was asked."""
    crashes: dict[int, int] = field(default_factory=dict)
    dead_letters: list[Row] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    """Numbers of deliveries that are done with."""
    gone_dead_letters: list[str] = field(default_factory=list)
    lineages: list[Row] = field(default_factory=list)
    """Of deliveries, by their numbers."""
    gone_lineages: list[int] = field(default_factory=list)

    def statements(self) -> list[tuple[str, str, str, Sequence[Row]]]:
        """Head, row template, tail and rows of every multi-row statement, in an order that may be followed blindly."""
        upserts = [(scope, key, value) for (scope, key), value in self.values.items() if value is not None]
        removals = [(scope, key) for (scope, key), value in self.values.items() if value is None]
        deadlines = [(scope, key, at) for (scope, key), at in self.deadlines.items() if at is not None]
        no_deadlines = [(scope, key) for (scope, key), at in self.deadlines.items() if at is None]
        revisions = [(scope, key, revision) for (scope, key), revision in self.revisions.items() if revision is not None]
        no_revisions = [(scope, key) for (scope, key), revision in self.revisions.items() if revision is None]
        outcomes = [(*slot, *outcome.row()) for slot, outcome in self.outcomes.items()]
        kept = [row for row in self.subscriptions.values() if row is not None]
        ended = [(name,) for name, row in self.subscriptions.items() if row is None]
        paused = [row for row in self.paused.values() if row is not None]
        resumed = [(name,) for name, row in self.paused.items() if row is None]
        clock = [] if self.clock is None else [(self.clock,)]
        return [
            ("INSERT INTO state VALUES", "(?,?,?)", " ON CONFLICT DO UPDATE SET value=excluded.value", upserts),
            ("DELETE FROM state WHERE (scope, key) IN (VALUES", "(?,?)", ")", removals),
            ("INSERT INTO deadline VALUES", "(?,?,?)", " ON CONFLICT DO UPDATE SET at_ms=excluded.at_ms", deadlines),
            ("DELETE FROM deadline WHERE (scope, key) IN (VALUES", "(?,?)", ")", no_deadlines),
            ("INSERT INTO history VALUES", "(?,?,?,?,?,?,?)", "", self.logged),
            (
                "INSERT INTO log VALUES",
                "(?,?,1)",
                " ON CONFLICT DO UPDATE SET last=excluded.last",
                list(self.last_revisions.items()),
            ),
            ("INSERT INTO revision VALUES", "(?,?,?)", " ON CONFLICT DO UPDATE SET revision=excluded.revision", revisions),
            ("DELETE FROM revision WHERE (scope, key) IN (VALUES", "(?,?)", ")", no_revisions),
            (CLOCK_HEAD, CLOCK_ROW, CLOCK_TAIL, clock),
            ("DELETE FROM session WHERE id IN (VALUES", "(?)", ")", [(session,) for session in self.ended_sessions]),
            ("INSERT OR REPLACE INTO session VALUES", "(?,?,?,?,?)", "", outcomes),
            ("INSERT OR REPLACE INTO subscription VALUES", "(?,?,?,?)", "", kept),
            ("INSERT INTO delivery VALUES", "(?,?,?,?,?,?,?,?,?,?)", "", self.deliveries),
            ("INSERT OR REPLACE INTO delivery VALUES", "(?,?,?,?,?,?,?,?,?,?)", "", self.coalesced),
            ("INSERT OR REPLACE INTO crash VALUES", "(?,?)", "", list(self.crashes.items())),
            ("INSERT INTO dead_letter VALUES", "(?,?,?,?,?,?,?,?,?,?,?,?)", "", self.dead_letters),
            ("DELETE FROM delivery WHERE number IN (VALUES", "(?)", ")", [(number,) for number in self.finished]),
            ("DELETE FROM dead_letter WHERE id IN (VALUES", "(?)", ")", [(name,) for name in self.gone_dead_letters]),
            ("INSERT OR REPLACE INTO lineage VALUES", "(?,?)", "", self.lineages),
            ("DELETE FROM lineage WHERE number IN (VALUES", "(?)", ")", [(number,) for number in self.gone_lineages]),
            ("DELETE FROM subscription WHERE id IN (VALUES", "(?)", ")", ended),
            ("INSERT OR REPLACE INTO paused VALUES", "(?,?,?)", "", paused),
            ("DELETE FROM paused WHERE id IN (VALUES", "(?)", ")", resumed),
        ]


def commit(connection: sqlite3.Connection, transaction: Transaction) -> None:
    """Write a transaction, or raise and leave everything as it was."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for head, template, tail, rows in transaction.statements():
            _execute_rows(connection, head, template, tail, rows)
        if transaction.attempts:
            planned = [(attempt, due, number) for number, (attempt, due) in transaction.attempts.items()]
            connection.executemany("UPDATE delivery SET attempt=?, due_at_ms=? WHERE number=?", planned)
        if transaction.trimmed:
            connection.executemany("DELETE FROM history WHERE scope=? AND revision<=?", list(transaction.trimmed.items()))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


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
