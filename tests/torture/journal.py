"""Notes of what happened, a line of JSON each, that survive the SIGKILL of whoever wrote them.

Workers of an SDK run this in an environment of their own, so it needs nothing but Python.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """A file to which every note is appended by one write: what is in it has happened, and a line is whole."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def note(self, **members: Any) -> None:
        """Append a line; `t` is when, in nanoseconds of a clock that all processes of this machine share."""
        line = json.dumps({"t": time.monotonic_ns(), **members}, separators=(",", ":"))
        os.write(self._file, line.encode() + b"\n")

    def close(self) -> None:
        """Write nothing more."""
        os.close(self._file)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The notes of a journal. One that broke off in the middle is left out."""
    for line in path.read_bytes().split(b"\n")[:-1]:
        yield json.loads(line)
