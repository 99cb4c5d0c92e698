"""How far long work is, shown to a person at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from iii_state.transfer.exporting import Exported
from iii_state.transfer.importing import Imported
from iii_state.transfer.moving.move import Moved


class Bar:
    """Shows how far something is; this one shows nothing."""

    def exported(self, done: Exported) -> None:
        """An export has come so far."""

    def imported(self, done: Imported) -> None:
        """An import has come so far."""

    def moved(self, done: Moved) -> None:
        """A move has come so far."""


class _TerminalBar(Bar):
    def __init__(self, progress: Any, task: Any) -> None:
        self._progress, self._task = progress, task

    def exported(self, done: Exported) -> None:
        if done.all_values:
            self._show(done.values, done.all_values, done.values)
        else:
            self._show(done.scopes, done.all_scopes, done.values)

    def imported(self, done: Imported) -> None:
        if done.all_values:
            self._show(done.done, done.all_values, done.done)
        elif done.size:
            self._show(done.position, done.size, done.checked or done.done)
        else:
            self._show(0, None, done.done)

    def moved(self, done: Moved) -> None:
        self._show(done.values + done.events, done.holding.values + done.holding.events, done.values + done.events)

    def _show(self, completed: int, total: int | None, count: int) -> None:
        self._progress.update(self._task, completed=completed, total=total, count=count)


@contextmanager
def progress_bar(what: str) -> Iterator[Bar]:
    """A progress bar with rate and time left, where a person looks at standard error."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield Bar()
        return
    from rich.console import Console  # takes its time to be imported
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class _Rate(ProgressColumn):
        """Values a second since the beginning."""

        def render(self, task: Task) -> Text:
            elapsed = task.finished_time or task.elapsed or 0.0
            count = task.fields["count"]
            return Text(f"{count:,} values" + (f", {count / elapsed:,.0f}/s" if elapsed > 0.5 else ""))

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _TerminalBar(progress, progress.add_task(what, total=None, count=0))
