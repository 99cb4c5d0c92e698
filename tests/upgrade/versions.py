"""Two versions of this project side by side, each in processes of its own: the one of this checkout, and an earlier one."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import ROOT
from tests.support.engines.processes import STARTUP_SECONDS, Lines, free_port, started

EARLIER = {"0.1.0": "6cededc", "0.2.0": "b56f13c"}
"""The commits from which, and back to which, upgrades are made: neither has the event's member `cause` yet."""


@dataclass(frozen=True)
class Version:
    """A tree of source that can be run."""

    name: str
    tree: Path

    def command(self, *arguments: str) -> list[str]:
        """`iii-state` of this version; `environment` has to be there."""
        return [sys.executable, "-P", "-m", "iii_state", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(self.tree)}

    def runs_from(self) -> Path:
        """Where the package lies that its processes import."""
        done = subprocess.run(
            [sys.executable, "-P", "-c", "import iii_state; print(iii_state.__file__)"],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=True,
        )
        return Path(done.stdout.strip()).parents[1]


NEW = Version("new", ROOT)


def earlier(number: str, directory: Path) -> Version | str:
    """An earlier version, unpacked there; or why it cannot be had."""
    commit = EARLIER[number]
    done = subprocess.run(["git", "-C", str(ROOT), "archive", commit, "iii_state", "lua"], capture_output=True, check=False)
    if done.returncode != 0:
        return f"NO UPGRADE IS TESTED: this clone does not have commit {commit} ({done.stderr.decode().strip()}); fetch all of it"
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(directory, filter="data")
    return Version("old", directory)


class Seat:
    """A place that a process of one version has after the other: an engine's port, or an attached worker.

    Args:
        arguments: of `iii-state`, `{port}` being the port of this seat.
        ready: what its standard error says once it serves.
    """

    def __init__(self, name: str, arguments: Sequence[str], ready: str, config: dict[str, Any] | None = None) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"ws://127.0.0.1:{self.port}"
        self.version = ""
        """Of the process that serves here; empty while it is replaced."""
        self.logs: list[tuple[str, Lines]] = []
        """Version and standard error of each process that has been here."""
        self._arguments = [argument.replace("{port}", str(self.port)) for argument in arguments]
        self._ready = re.compile(ready)
        self._config = config
        self._folder = tempfile.TemporaryDirectory(prefix="iii-upgrade-")

    def start(self, version: Version) -> None:
        """Start a process of a version."""
        self.process = started(version.command(*self._arguments), self._folder.name, self._config, version.environment)
        assert self.process.stderr is not None
        lines = Lines(self.process.stderr)
        self.logs.append((version.name, lines))
        try:
            lines.wait_for(self._ready, STARTUP_SECONDS)
        except TimeoutError:
            self.close()
            raise
        self.version = version.name

    def replace(self, version: Version, *, kill: bool = False) -> None:
        """End the process, cleanly or not, and start one of a version."""
        self.end(kill=kill)
        self.start(version)

    def end(self, *, kill: bool = False) -> None:
        """End the process. A clean end is one with the code 0."""
        version, self.version = self.version, ""
        if kill:
            self.process.kill()
            self.process.wait(STARTUP_SECONDS)
        else:
            self.process.terminate()
            code = self.process.wait(STARTUP_SECONDS)
            assert code == 0, f"{self.name} ({version}) ended with {code}: {self.logs[-1][1].text()[-2000:]}"

    def close(self) -> None:
        """End it, whatever happens."""
        self.process.kill()
        self.process.wait(STARTUP_SECONDS)
        self._folder.cleanup()


def engine(name: str, *arguments: str, config: dict[str, Any] | None = None) -> Seat:
    """A seat of `iii-state serve`."""
    return Seat(name, ["serve", "--port", "{port}", *arguments], r"listening on ws://", config)


def attached(name: str, url: str, *arguments: str, config: dict[str, Any] | None = None) -> Seat:
    """A seat of `iii-state attach`."""
    return Seat(name, ["attach", "--engine", url, *arguments], r"attached to |standby at ", config)
