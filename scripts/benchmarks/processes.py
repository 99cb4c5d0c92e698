"""Starts the hosts under test and the load client, each a process of its own, and ends them."""

from __future__ import annotations

import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from benchmarks import jobs
from benchmarks.inprocess import Line, Settings

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT / "scripts"), str(ROOT), os.environ.get("PYTHONPATH")])),
    "PYTHONUNBUFFERED": "1",
}
_ADDRESS = re.compile(r"listening on (ws://\S+)")
_ATTACHED = re.compile(r"attached to (\S+)")
_CONNECTIONS = 100_000
"""More than the idle ones and those that make calls."""
_START_SECONDS = 30.0


class NotStarted(Exception):
    """A host did not come up, with what it said."""


@dataclass(frozen=True)
class Host:
    """A running host.

    Args:
        name: what the tables call it.
        url: where it listens.
        pid: its process.
    """

    name: str
    url: str
    pid: int


@contextmanager
def started(name: str, arguments: list[str], ready: re.Pattern[str] = _ADDRESS) -> Iterator[Host]:
    """Run `python -m …` until the end of the block. Raises NotStarted where it is not `ready` within 30 seconds."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        cwd=tempfile.gettempdir(),
    )
    try:
        assert process.stderr is not None
        yield Host(name, _address(process, process.stderr, ready), process.pid)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[str], stderr: IO[str], ready: re.Pattern[str]) -> str:
    """Read the host's stderr until it says its address; from then on only empty it."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in stderr:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    said: list[str] = []
    until = time.monotonic() + _START_SECONDS
    while (left := until - time.monotonic()) > 0:
        try:
            line = lines.get(timeout=left)
        except queue.Empty:
            break
        if found := ready.search(line):
            return found[1]
        said.append(line)
        if not line:
            break
    raise NotStarted("".join(said).strip()[-2000:] or f"no address within {_START_SECONDS:.0f} s")


@contextmanager
def sketch() -> Iterator[Host]:
    """The least that a Python host can do."""
    with started("sketch", ["benchmarks.sketch"]) as host:
        yield host


@contextmanager
def engine(name: str, *arguments: str) -> Iterator[Host]:
    """`iii-state serve` with these arguments, on a free port."""
    with started(name, ["iii_state", "serve", "--port", "0", *arguments]) as host:
        yield host


@contextmanager
def attached(url: str, *arguments: str) -> Iterator[Host]:
    """`iii-state attach` with these arguments, which serves the state of the engine at `url`."""
    with started("attached", ["iii_state", "attach", "--engine", url, *arguments], _ATTACHED) as host:
        yield host


@contextmanager
def engine_in_memory() -> Iterator[Host]:
    """Ours, with kv in memory."""
    with engine("ours, memory", "--adapter", "kv", "--limits", f"connections={_CONNECTIONS}") as host:
        yield host


@contextmanager
def engine_on_file() -> Iterator[Host]:
    """Ours, with kv on a file in a directory of its own."""
    with (
        tempfile.TemporaryDirectory() as directory,
        engine("ours, file", "--adapter", "kv", "--file-path", directory) as host,
    ):
        yield host


@contextmanager
def engine_on_redis(url: str) -> Iterator[Host]:
    """Ours, with values in this Redis."""
    with engine("ours, redis", "--adapter", "redis", "--redis-url", url) as host:
        yield host


class Measurer:
    """A process that does jobs: `python -m` with these arguments."""

    def __init__(self, stack: ExitStack, *arguments: str) -> None:
        self._name = arguments[0]
        self._process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=ENVIRONMENT,
            )
        )
        stack.callback(self._process.terminate)
        self._decode = msgspec.json.Decoder(jobs.Answer).decode

    def measure(self, job: jobs.Calls | jobs.Events | jobs.Drain | jobs.HotKey | jobs.Failover) -> jobs.Measured:
        """Do a job that measures. Raises RuntimeError where it could not be done."""
        self.begin(job)
        return self.measured()

    def do(self, job: jobs.OpenIdle | jobs.RegisterTriggers | jobs.Close) -> None:
        """Do a job that measures nothing. Raises RuntimeError where it could not be done."""
        self.begin(job)
        self._answer()

    def begin(self, job: jobs.Job) -> None:
        """Have a job begun; nothing else may be asked before its answer has been read."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(job) + b"\n")
        self._process.stdin.flush()

    def measured(self) -> jobs.Measured:
        """The answer to the job that measures and was begun last. Raises RuntimeError where it could not be done."""
        answer = self._answer()
        assert isinstance(answer, jobs.Measured)
        return answer

    def _answer(self) -> jobs.Answer:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} has died")
        answer: jobs.Answer = self._decode(line)
        if isinstance(answer, jobs.Failed):
            raise RuntimeError(answer.reason)
        return answer


def load_client(stack: ExitStack) -> Measurer:
    """The load client."""
    return Measurer(stack, "benchmarks.load")


def embedded_engine(stack: ExitStack, redis_url: str) -> Measurer:
    """A program with an engine of its own, whose state is in this Redis."""
    return Measurer(stack, "benchmarks.embedded", redis_url)


def in_process(settings: Settings) -> list[Line]:
    """Measure an engine in a process of its own, without a socket. Raises NotStarted where there is none to measure."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.inprocess", msgspec.json.encode(settings)],
        capture_output=True,
        env=ENVIRONMENT,
        cwd=tempfile.gettempdir(),
        check=False,
    )
    if done.returncode:
        raise NotStarted(done.stderr.decode()[-2000:].strip())
    return msgspec.json.decode(done.stdout, type=list[Line])
