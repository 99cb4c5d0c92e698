"""The columns and words that commands for operators share: what is in a trigger's row, for how long, how many."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import click

from iii_state import values
from iii_state.cli.layout import columns, laid_out
from iii_state.cli.terminal import exact_name, is_terminal, name, print_line
from iii_state.events import known_cause

TRIGGER_HEAD = (
    *("FUNCTION", "SCOPE", "KEY", "DELIVERY", "HOSTS", "WAITING", "OUT", "RETRYING", "OLDEST", "DEAD", "DROPPED", "STATE", "ID"),
)
"""Of `trigger_cells`."""

ID_SHOWN = 8
"""So many digits of a subscription's id are shown: 32 leave no room for anything else."""

Row = dict[str, Any]
"""A row of `iii-state::triggers`."""


def by_name(answer: bytes | None) -> list[Row]:
    """The rows that `iii-state::triggers` has answered, in the order of their names."""
    rows: list[Row] = values.decode(answer or b"{}")["triggers"]
    return sorted(rows, key=lambda row: (row["namespace"], row["function_id"], row["scope"] or "", row["key"] or ""))


def counted(count: int, thing: str) -> str:
    """So many things."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def trigger_cells(row: Row) -> tuple[str, ...]:
    """A trigger in a table."""
    function = row["function_id"] if row["namespace"] == "default" else f"{row['namespace']}/{row['function_id']}"
    if row["condition_function_id"] is not None:
        function += f" if {row['condition_function_id']}"
    if only := _particulars(row):
        function += f" ({only})"
    counts = [str(row[name]) for name in ("waiting", "pending", "retrying")]
    oldest = "-" if row["oldest_at_ms"] is None else age(row["oldest_at_ms"])
    scope, key = (f"{row.get(f'{name}_prefix', '')}*" if row[name] is None else row[name] for name in ("scope", "key"))
    hosts = ", ".join(row["hosts"]) or "nobody"
    gone = (str(row["dead"]), str(row["dropped"]))
    return (function, scope, key, row["delivery"], hosts, *counts, oldest, *gone, state_of(row), row.get("id", "-")[:ID_SHOWN])


def state_of(row: Row) -> str:
    """What is to be known of a subscription beside its numbers."""
    paused_at_ms = row.get("paused_at_ms")
    told = [] if paused_at_ms is None else [f"paused {age(paused_at_ms)}"]
    return ", ".join([*told, "looping"] if row.get("looping") else told) or "-"


def _particulars(row: dict[str, Any]) -> str:
    """What else a trigger's config says of which events it wants, and how."""
    told = [kind.removeprefix("state:") for kind in row.get("event_types", ())]
    for member in ("changed", "when", "payload", "batch", "on_full", "max_queue_length", "max_queue_bytes"):
        if member in row:
            text = values.encode(row[member]).decode() if not isinstance(row[member], str) else row[member]
            told.append(f"{member} {text if len(text) <= 60 else text[:57] + '…'}")
    return ", ".join([*told, "coalesce"] if row.get("coalesce") else told)


def kind(row: Row) -> str:
    """What kind of event a dead letter is of, and what caused it where that was no call."""
    cause = known_cause(row.get("cause"))
    kind: str = row["event_type"].removeprefix("state:")
    return kind if cause is None else f"{kind} ({cause})"


def age(since_ms: int) -> str:
    """For how long something has been so."""
    seconds = max(0.0, time.time() - since_ms / 1000)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
    """Columns that fit on a terminal, tab-separated lines with a head in a pipe."""
    cells = [[name(cell) if is_terminal() else exact_name(cell) for cell in row] for row in rows]
    if not is_terminal():
        for row in (head, *cells):
            print_line("\t".join(row))
        return
    if not cells:
        click.secho(empty, dim=True)
        return
    for line in laid_out(head, cells, columns()):
        click.echo(line)
