"""The tables of `iii-state stats` and `iii-state top`: calls, triggers, engines; columns and words as in `iii-state triggers`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from iii_state.cli.sampling import Counted, Sample, used
from iii_state.cli.tables import Row, age, counted, state_of


class Section(NamedTuple):
    """A table with a name."""

    title: str
    head: Sequence[str]
    rows: Sequence[tuple[str, ...]]


def sections(taken: Sample, seconds: float | None = None) -> list[Section]:
    """What a sample shows; with `seconds`, what it has counted is of so long, and shown as rates."""
    per = 1.0 if seconds is None else max(seconds, 0.001)
    many, failed = ("CALLS", "FAILED") if seconds is None else ("CALLS/S", "FAILED/S")
    handled = "HANDLED" if seconds is None else "HANDLED/S"
    found = []
    if taken.calls:
        rows = [(name, *_cells(each, per, seconds), *_times(each)) for name, each in used(taken.calls)]
        found.append(Section("Calls", ("FUNCTION", many, failed, "OPEN", "P50", "P99"), rows))
    trigger_head = ("FUNCTION", "WAITING", "OUT", "OLDEST", handled, failed, "DEAD", "STATE")
    found.append(Section("Triggers", trigger_head, [_trigger(row, taken, per, seconds) for row in _busiest(taken.rows)]))
    if taken.engines:
        engines = [(str(each["name"]), _heard(each.get("silent_ms"))) for each in taken.engines]
        found.append(Section("Engines", ("ENGINE", "HEARD OF"), engines))
    return found


def summary(taken: Sample, seconds: float | None = None, columns: int | None = None) -> str:
    """The whole in one line; where it has to fit into so many columns, without what does not, the tables' own lengths first."""
    waiting, out, dead = (sum(row[name] for row in taken.rows) for name in ("waiting", "pending", "dead"))
    told = [f"{waiting:,} waiting", f"{out:,} out", counted(dead, "dead letter"), counted(len(taken.rows), "trigger")]
    if taken.engines:
        told.append(counted(len(taken.engines), "engine"))
    if seconds is not None and taken.calls:
        per = max(seconds, 0.001)
        calls = sum(each.done + each.failed for each in taken.calls.values())
        handled = sum(each.done for each in taken.handlers.values())
        told = [f"{calls / per:,.0f} calls/s", f"{handled / per:,.0f} handled/s", *told]
    while columns is not None and len(told) > 1 and len(", ".join(told)) > columns:
        told.pop()
    return ", ".join(told)


def _busiest(rows: list[Row]) -> list[Row]:
    """Those with most to look at first."""
    return sorted(rows, key=lambda row: (-(row["waiting"] + row["pending"]), -row["dead"], row["function_id"]))


def _trigger(row: Row, taken: Sample, per: float, seconds: float | None) -> tuple[str, ...]:
    oldest = "-" if row["oldest_at_ms"] is None else age(row["oldest_at_ms"])
    handler = taken.handlers.get(row["function_id"])
    done, failed, _ = ("-", "-", "-") if handler is None else _cells(handler, per, seconds)
    state = state_of(row) if row["hosts"] or row.get("paused_at_ms") else "nobody"
    return (row["function_id"], f"{row['waiting']:,}", f"{row['pending']:,}", oldest, done, failed, f"{row['dead']:,}", state)


def _cells(each: Counted, per: float, seconds: float | None) -> tuple[str, str, str]:
    if seconds is None:
        return f"{each.done:,.0f}", f"{each.failed:,.0f}", f"{each.open:,.0f}"
    return _rate(each.done / per), _rate(each.failed / per), f"{each.open:,.0f}"


def _rate(rate: float) -> str:
    return "-" if not rate else f"{rate:,.1f}" if rate < 100 else f"{rate:,.0f}"


def _times(each: Counted) -> tuple[str, str]:
    found = [None if each.timing is None else each.timing.quantile(part) for part in (0.5, 0.99)]
    return _time(found[0]), _time(found[1])


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e6:.0f} µs" if seconds < 0.001 else f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _heard(silent_ms: int | None) -> str:
    return "-" if silent_ms is None else f"{silent_ms / 1000:.1f} s ago"
