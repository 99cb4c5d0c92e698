"""Processes of `iii-state` that begin as a fork of one that has imported everything.

An engine that begins from nothing spends half a second of CPU on imports, and the tests start hundreds. One that begins here is a
process of its own like any other, with its own arguments, folder, environment and pipes, and is killed like any other; a test says
that both kinds behave alike (`test_warm.py`). What a person types is started from nothing by the tests of the command line.

`python -m tests.support.engines.warm` is the process that is forked; it ends with the one that has started it.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from typing import IO, Any, NoReturn

from tests.support import ROOT

IS_POSSIBLE = hasattr(os, "pidfd_open")
"""Whether the end of a process that is nobody's child can be waited for: on Linux."""

_NUMBER = struct.Struct("=i")
_REQUEST_BYTES = 1024 * 1024


class WarmProcess:
    """What is used of a `subprocess.Popen`, of a process that has been forked off a warm one. `stderr` is read as text."""

    def __init__(self, report: socket.socket, stderr: IO[str]) -> None:
        self._report = report
        self.stderr = stderr
        self.returncode: int | None = None
        self._reading = threading.Lock()
        """Held by the thread that reads the exit code, which comes once."""
        report.settimeout(None)
        self.pid = self._number()

    def _number(self) -> int:
        message = self._report.recv(_NUMBER.size)
        if not message:
            raise RuntimeError("the process that is forked has ended")
        return int(_NUMBER.unpack(message)[0])

    def poll(self) -> int | None:
        """The exit code, negative for a signal, or None while it runs."""
        if self.returncode is None and self._reading.acquire(blocking=False):
            try:
                self._read(0)
            except BlockingIOError:
                return None
            finally:
                self._reading.release()
        return self.returncode

    def _read(self, timeout: float | None) -> int:
        if self.returncode is None:
            self._report.settimeout(timeout)
            self.returncode = os.waitstatus_to_exitcode(self._number())
            self._report.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; the exit code.

        Raises:
            subprocess.TimeoutExpired: not within so many seconds.
        """
        with self._reading:
            try:
                return self._read(timeout)
            except TimeoutError:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0) from None

    def send_signal(self, number: int) -> None:
        """Send a signal. Does nothing to one that has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and how has not been reported yet
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end, with SIGTERM."""
        self.send_signal(signal.SIGTERM)


class _Warm:
    """The process that is forked, seen from the tests."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", __spec__.name, str(theirs.fileno())]
            self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self._lock = threading.Lock()
        atexit.register(self.close)

    def start(self, arguments: Sequence[str], folder: str, environment: Mapping[str, str]) -> WarmProcess:
        request = json.dumps({"arguments": arguments, "folder": folder, "environment": dict(environment)}).encode()
        report, its_report = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reading, writing = os.pipe()
        try:
            with self._lock:
                socket.send_fds(self._control, [request], [its_report.fileno(), writing])
        finally:
            its_report.close()
            os.close(writing)
        return WarmProcess(report, open(reading, encoding="utf-8", errors="replace"))

    def close(self) -> None:
        self._control.close()
        self._process.wait()


@cache
def _warm() -> _Warm:
    return _Warm()


def start_warm(arguments: Sequence[str], folder: str, environment: Mapping[str, str]) -> WarmProcess:
    """Start `iii-state` with these arguments in a folder. Its standard input and output are empty, its standard error is a pipe."""
    return _warm().start(arguments, folder, environment)


# -- in the process that is forked


def _serve(control: socket.socket) -> list[str]:
    """Fork for every request; returns in the processes that have been forked, with their arguments."""
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.data is None:
                message, files, _, _ = socket.recv_fds(control, _REQUEST_BYTES, 2)
                if not message:
                    os._exit(0)
                request = json.loads(message)
                if (pid := os.fork()) == 0:
                    _let_go(selector)
                    os.close(files[0])
                    _become(request, files[1])
                    arguments: list[str] = request["arguments"]
                    return arguments
                os.close(files[1])
                report = socket.socket(fileno=files[0])
                _tell(report, pid)
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, report))
            else:
                pid, report = key.data
                selector.unregister(key.fileobj)
                os.close(key.fd)
                _tell(report, os.waitpid(pid, 0)[1])
                report.close()


def _tell(report: socket.socket, number: int) -> None:
    try:
        report.send(_NUMBER.pack(number))
    except OSError:  # the test has gone on without it
        return


def _let_go(selector: selectors.BaseSelector) -> None:
    """Close what has been inherited; what libraries have open (libuv has a pipe) is theirs."""
    for key in selector.get_map().values():
        if key.data is not None:
            key.data[1].close()
            os.close(key.fd)
    selector.close()


def _become(request: dict[str, Any], stderr: int) -> None:
    """Take on what the process is to have of its own."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number, file in ((0, nothing), (1, nothing), (2, stderr)):
        os.dup2(file, number)
    os.close(nothing)
    os.close(stderr)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])


def _main() -> NoReturn:
    control = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the tests, whatever ends those
    from iii_state.cli import main

    gc.freeze()
    arguments = _serve(control)
    control.close()
    main(arguments, prog_name="iii-state")
    sys.exit()


if __name__ == "__main__":
    _main()
