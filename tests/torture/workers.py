"""Workers of an SDK as processes of a run."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from pathlib import Path

from tests.support import ROOT
from tests.support.sdk.workers import SOON, Sdk


class WorkerProcess:
    """A worker of an SDK (see `sdk_worker`), which reconnects to its engine by itself."""

    def __init__(self, sdk: Sdk, url: str, name: str, role: str, place: int, words: tuple[str, ...], directory: Path) -> None:
        self.name = name
        self._home = tempfile.TemporaryDirectory(prefix="iii-state-worker-", ignore_cleanup_errors=True)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("III_", "OTEL_"))}
        arguments = (url, name, role, str(place), str(directory), *words)
        with (directory / f"stderr-{name}.log").open("w") as stderr:
            self.process = subprocess.Popen(
                [str(sdk.directory / "bin" / "python"), "-m", "tests.torture.sdk_worker", *arguments],
                cwd=self._home.name,
                env={**inherited, "HOME": self._home.name, "OTEL_ENABLED": "false", "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )

    def finish(self) -> None:
        """Let it end what it is doing, and end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(SOON)
        self.kill()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        self.process.wait()
        self._home.cleanup()
