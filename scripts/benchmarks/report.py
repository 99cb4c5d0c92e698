"""What a section reports: tables, bars, and targets; for a terminal, for a pipe, and as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable

Cell = str | float | int | None


@dataclass
class Table:
    """Rows under headings. Numbers are kept as they are, and rounded only when shown."""

    title: str
    columns: list[str]
    rows: list[list[Cell]] = field(default_factory=list)

    def add(self, *cells: Cell) -> None:
        """Add a row."""
        if len(cells) != len(self.columns):
            raise ValueError(f"{self.title}: a row of {len(cells)} cells under {len(self.columns)} headings")
        self.rows.append(list(cells))


@dataclass(frozen=True)
class Target:
    """A figure that was promised, and what it is.

    Args:
        name: what is promised.
        wanted: the figure.
        got: what was measured; None where it could not be.
        unit: of both.
        at_most: whether `wanted` is the most it may be; otherwise it is the least.
        figures: what a share was made from.
    """

    name: str
    wanted: float
    got: float | None
    unit: str
    at_most: bool = False
    figures: str = ""

    @property
    def is_met(self) -> bool:
        """Whether it was reached."""
        if self.got is None or math.isnan(self.got):
            return False
        return self.got <= self.wanted if self.at_most else self.got >= self.wanted

    @property
    def verdict(self) -> str:
        """`met`, or by how much it was missed."""
        if self.got is None or math.isnan(self.got):
            return "not measured"
        if self.is_met:
            return "met"
        return f"missed by {abs(self.got / self.wanted - 1):.0%}"


@dataclass
class Report:
    """What one section found.

    Args:
        name, title: of the section.
        skipped: why it did not run, if it did not.
        errors: answers that were errors, and calls or events that were lost. Not 0, and the figures are worthless.
    """

    name: str
    title: str
    tables: list[Table] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: str | None = None
    errors: int = 0

    def as_json(self) -> dict[str, Any]:
        """All of it, for `--json`."""
        told = asdict(self)
        told["targets"] = [{**asdict(t), "met": t.is_met, "verdict": t.verdict} for t in self.targets]
        return told


def number(value: Cell) -> str:
    """A number as a person reads it: three digits that mean something, thousands apart."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if math.isnan(value):
        return "–"
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def bar(value: float, largest: float, width: int = 12) -> str:
    """A bar of text, in eighths of a character, as long as `value` is of `largest`."""
    eighths = round(max(0.0, min(1.0, value / largest if largest else 0.0)) * width * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def show(console: Console, report: Report) -> None:
    """Write a section: columns and colour on a terminal, tabs in a pipe."""
    if console.is_terminal:
        console.rule(f"[bold]{report.title}")
    else:
        _line(console, f"\n## {report.title} ({report.name})")
    if report.skipped:
        _line(console, f"skipped: {report.skipped}")
    for table in report.tables:
        _show_table(console, table)
    if report.targets:
        _show_table(console, targets_table(report.targets))
    for note in report.notes:
        _line(console, note)
    if report.errors:
        _line(console, f"ERRORS: {report.errors} answers were errors or never came; these figures are worth nothing")


def targets_table(targets: list[Target]) -> Table:
    """Targets as rows."""
    table = Table("Targets", ["target", "wanted", "got", "unit", "figures", "verdict"])
    for t in targets:
        table.add(t.name, f"{'≤' if t.at_most else '≥'} {number(t.wanted)}", number(t.got), t.unit, t.figures, t.verdict)
    return table


def _show_table(console: Console, table: Table) -> None:
    if not console.is_terminal:
        _line(console, f"\n# {table.title}")
        _line(console, "\t".join(table.columns))
        for row in table.rows:
            _line(console, "\t".join(number(cell) for cell in row))
        return
    drawn = RichTable(title=table.title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=0, show_edge=False)
    for position, heading in enumerate(table.columns):
        textual = all(isinstance(row[position], str) for row in table.rows)
        drawn.add_column(heading, justify="left" if textual else "right", no_wrap=True)
    for row in table.rows:
        drawn.add_row(*(_coloured(number(cell)) for cell in row))
    console.print(drawn)


def _coloured(text: str) -> str:
    if text == "met":
        return f"[green]{text}"
    return f"[red]{text}" if text.startswith("missed") else text


def _line(console: Console, text: str) -> None:
    console.file.write(text + "\n")
    console.file.flush()
