"""Processes of `iii-state attach`, and the engines without a state of their own that they are attached to."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.engines.processes import IN_PYTHON, SHUTDOWN_SECONDS, STARTUP_SECONDS, Lines, running_engine, started
from tests.support.waiting import until

STOCK_URL = "III_STOCK_URL"
"""The variable that names a stock engine without state, for the tests that can run against one."""

ATTACH = (*IN_PYTHON, "attach")


class AttachProcess:
    """`python -m iii_state attach …`. `config` is what an iii `config.yaml` holds for `iii-state`; `on_line` hears of every line
    that it writes, in a thread."""

    def __init__(
        self,
        url: str,
        *arguments: str,
        config: dict[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="iii-state-attach-")
        command = [*ATTACH, "--engine", url, *arguments]
        self.process = started(command, self._directory.name, config, environment)
        assert self.process.stderr is not None
        self.stderr = Lines(self.process.stderr, on_line)

    def wait_for(self, words: str, times: int = 1) -> None:
        """Wait for a line of its standard error with these words, for so many of them."""
        pattern = re.compile(re.escape(words))
        self.stderr.wait(lambda: len(pattern.findall(self.stderr.text())) >= times or None, STARTUP_SECONDS, f"no line {words!r}")

    def until_attached(self, times: int = 1) -> AttachProcess:
        """Wait until it serves, for so many times."""
        self.wait_for("attached to ", times)
        return self

    def until_standby(self) -> AttachProcess:
        """Wait until it stands by."""
        self.wait_for("standby at ")
        return self

    def pause(self, paused: bool) -> None:
        """Stop it, or let it go on."""
        self.process.send_signal(signal.SIGSTOP if paused else signal.SIGCONT)

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        code = self.process.wait(SHUTDOWN_SECONDS)
        self.stderr.join()
        return code

    def stop(self) -> int:
        """End it with SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """End it with SIGKILL. Does nothing to one that has ended."""
        self.process.kill()
        self.process.wait()
        self.stderr.join()
        self._directory.cleanup()


@contextmanager
def attached(
    url: str, *arguments: str, config: dict[str, Any] | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[AttachProcess]:
    """An attached worker for the length of a `with` block; killed at the end, whatever happened."""
    process = AttachProcess(url, *arguments, config=config, environment=environment)
    try:
        yield process
    finally:
        process.kill()


@contextmanager
def engine_without_state(kind: str) -> Iterator[str]:
    """The URL of an engine: `ours`, a process of its own, or `stock`, which `III_STOCK_URL` names, for one user at a time."""
    if kind == "ours":
        with running_engine(["--no-state"]) as engine:
            yield engine.url
        return
    url = os.environ.get(STOCK_URL)
    if not url:
        pytest.skip(f"{STOCK_URL} names no stock engine")
    with Path(tempfile.gettempdir(), "iii-state-stock-engine.lock").open("w") as lock:
        give_up = time.monotonic() + 600
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            assert time.monotonic() < give_up, "other tests hold the stock engine"
            time.sleep(0.1)
        yield url


async def said(process: AttachProcess, words: str, times: int = 1) -> None:
    """Wait until a process has said this so many times."""
    await until(lambda: process.stderr.text().count(words) >= times, words)
