"""The record of all that a process did to the files of a directory: making it, and reading it back."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_SOURCE = Path(__file__).with_name("recorder.c")
_HEAD = struct.Struct("=BiiqqII")


class Operation(NamedTuple):
    """One operation. `kind` is a letter:

    C made and opened, O opened, X closed, W written, T cut to `offset` bytes, S forced to disk, D removed, K directory made,
    R renamed (to `data`), M a mark (`data`, of the process itself), U something that is not followed (`path` says what).
    """

    kind: str
    process: int
    file: int
    offset: int
    time_ms: int
    path: str
    data: bytes


def missing() -> str | None:
    """Why nothing can be recorded here, or None."""
    if sys.platform != "linux":
        return "what a process does to its files can only be recorded on Linux"
    if shutil.which("cc") is None:
        return "what a process does to its files can only be recorded with a C compiler (cc), and there is none"
    return None


def compile_recorder(folder: Path) -> Path:
    """The library that records, made in a folder."""
    library = folder / "recorder.so"
    command: list[str | Path] = ["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", library, _SOURCE, "-ldl"]
    subprocess.run(command, check=True)
    return library


def environment(library: Path, directory: Path, record: Path) -> dict[str, str]:
    """What a process is started with that is recorded."""
    return {"LD_PRELOAD": str(library), "POWERCUT_DIRECTORY": str(directory), "POWERCUT_RECORD": str(record)}


def read(record: Path) -> list[Operation]:
    """All operations, in their order. Raises ValueError if anything was done that is not followed."""
    operations = list(_operations(record.read_bytes()))
    refused = {operation.path for operation in operations if operation.kind == "U"}
    if refused:
        raise ValueError(f"the files were changed in ways that are not followed: {', '.join(sorted(refused))}")
    return operations


def _operations(text: bytes) -> Iterator[Operation]:
    at = 0
    while at < len(text):
        kind, process, file, offset, time_ms, path_bytes, data_bytes = _HEAD.unpack_from(text, at)
        at += _HEAD.size
        path = text[at : at + path_bytes].decode()
        at += path_bytes
        yield Operation(chr(kind), process, file, offset, time_ms, path, text[at : at + data_bytes])
        at += data_bytes
