"""A wall clock that tests can shift, of processes that they start: a small library is loaded in front of the C library's."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

HOUR = 3600.0

_SOURCE = Path(__file__).with_name("clock_shim.c")
_SHIFT = struct.Struct("=q")


class Clock:
    """The wall clock of every process that is started with `environment`, however many.

    Only the wall clock is shifted: monotonic clocks, and so timers, go on as if nothing had happened.

    Args:
        library: what `compile_shim` has made.
        file: where the shift is kept; made here.
    """

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self._file.write_bytes(_SHIFT.pack(0))
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_SHIFT_FILE": str(file)}

    def set(self, seconds: float) -> None:
        """Put the clock so much before (or, negative, behind) the machine's, at once."""
        with self._file.open("r+b") as file:  # written in place: it is mapped
            file.write(_SHIFT.pack(int(seconds * 1e9)))

    def now(self) -> float:
        """What the processes take for the time, in seconds since 1970."""
        shift: int = _SHIFT.unpack(self._file.read_bytes())[0]
        return time.time() + shift / 1e9


def compile_shim(folder: Path) -> Path:
    """The library, made in a folder. Skips the test where it cannot be made."""
    if sys.platform != "linux":
        pytest.skip("the clock of a process can only be shifted on Linux")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("the clock of a process can only be shifted with a C compiler (cc or gcc), and there is none")
    library = folder / "clock_shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", library, _SOURCE], check=True)
    return library
