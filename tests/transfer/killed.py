"""A process that is killed in the middle of an export or import: `python -m tests.transfer.killed VALUES ARGUMENTS…`.

It runs `iii-state ARGUMENTS…`, and kills itself with SIGKILL as soon as so many values have been moved.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from iii_state.cli import main
from iii_state.cli.progress import Bar
from iii_state.transfer.exporting import Exported
from iii_state.transfer.importing import Imported
from iii_state.transfer.moving.move import Moved


class DeadlyBar(Bar):
    """Kills its process when so many values have been moved."""

    def __init__(self, values: int, what: str) -> None:
        self._values = values
        self._what = what

    def exported(self, done: Exported) -> None:
        if done.values - done.resumed >= self._values:
            os.kill(os.getpid(), signal.SIGKILL)

    def imported(self, done: Imported) -> None:
        if self._what == "importing" and sum(done.outcomes.values()) >= self._values:
            os.kill(os.getpid(), signal.SIGKILL)

    def moved(self, done: Moved) -> None:
        if done.values + done.events >= self._values:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    values = int(sys.argv[1])

    @contextmanager
    def deadly(what: str) -> Iterator[Bar]:
        yield DeadlyBar(values, what)

    for module in ("move", "moving"):
        vars(sys.modules[f"iii_state.cli.{module}"])["progress_bar"] = deadly
    main(sys.argv[2:])
