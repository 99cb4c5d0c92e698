"""The long run, in parts: each leaves its result in a directory, and a later call goes on where an earlier one stopped.

Two calls may work side by side: who begins a part locks it.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """One part: what it is called (its result is `<name>.json`), and what does it. `work` is given a directory for histories, which
    stays where the result has `problems`."""

    name: str
    work: Callable[[Path, Tell], dict[str, Any]]

    def result(self, directory: Path) -> dict[str, Any] | None:
        """What it has come to; None where it has not been done."""
        path = directory / f"{self.name}.json"
        return json.loads(path.read_text()) if path.exists() else None


def go_on(parts: list[Part], directory: Path, tell: Tell) -> Generator[tuple[Part, dict[str, Any]], None, None]:
    """Do the parts that have not been done and that nobody else is doing, and give the result of each as soon as there is one."""
    directory.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(parts, 1):
        with _locked(directory / f"{part.name}.lock") as is_ours:
            if not is_ours or part.result(directory) is not None:
                continue
            yield part, _do(part, directory, lambda what, n=number: tell(f"part {n} of {len(parts)}: {what}"))  # type: ignore[misc]


def _do(part: Part, directory: Path, tell: Tell) -> dict[str, Any]:
    histories = Path(tempfile.mkdtemp(prefix=f"{part.name}-", dir=directory))
    begun = time.time()
    try:
        result = part.work(histories, tell)
    except Exception as error:  # a part that breaks off is a result, too: the others go on
        result = {"problems": [f"broke off: {error!r}"], "traceback": traceback.format_exc()}
    result |= {"part": part.name, "began_at": round(begun), "took_seconds": round(time.time() - begun, 1)}
    if result["problems"]:
        result["histories"] = str(histories)
    else:
        _remove(histories)
    unfinished = directory / f".{part.name}.json"
    unfinished.write_text(json.dumps(result, indent=1))
    os.replace(unfinished, directory / f"{part.name}.json")
    return result


def _remove(directory: Path) -> None:
    for path in sorted(directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    directory.rmdir()


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Whether nobody else holds the lock; held for the length of the block, and by the death of its holder let go."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
