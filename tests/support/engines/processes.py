"""Real processes for tests: reading what one prints line by line; starting, stopping and killing an engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from tests.support.engines.warm import IS_POSSIBLE, start_warm

STARTUP_SECONDS = 30.0
SHUTDOWN_SECONDS = 15.0

_LISTENING = re.compile(r"listening on (wss?://\S+?:(\d+))")

T = TypeVar("T")

IN_PYTHON = (sys.executable, "-m", "iii_state")
SERVE = (*IN_PYTHON, "serve")


class Process(Protocol):
    """A process that has been started, as `subprocess.Popen` describes it."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    @property
    def stderr(self) -> IO[Any] | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, number: int, /) -> None: ...
    def kill(self) -> None: ...
    def terminate(self) -> None: ...


class Lines:
    """What a process writes to one of its pipes, collected by a thread, with waiting for what is to come."""

    def __init__(self, pipe: IO[str], on_line: Callable[[str], None] | None = None) -> None:
        self._lines: list[str] = []
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, args=(pipe, on_line), daemon=True)
        self._thread.start()

    def _read(self, pipe: IO[str], on_line: Callable[[str], None] | None) -> None:
        # A line is handed on before the waiting are woken, so that what they wait for is there.
        try:
            with pipe:
                for line in pipe:
                    if on_line is not None:
                        on_line(line)
                    with self._changed:
                        self._lines.append(line)
                        self._changed.notify_all()
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()

    def text(self) -> str:
        """Everything that has been written so far."""
        with self._changed:
            return "".join(self._lines)

    def wait(self, find: Callable[[], T | None], within: float, what: str) -> T:
        """Waits until `find` gives something other than None, and returns it.

        Args:
            find: is called again after every line.
            within: seconds.
            what: the thing waited for, in words, for the error.

        Raises:
            TimeoutError: not within the time, or the pipe was closed before.
        """
        deadline = time.monotonic() + within
        with self._changed:
            while (found := find()) is None:
                left = deadline - time.monotonic()
                if self._closed or left <= 0:
                    why = "the process ended" if self._closed else f"not within {within} s"
                    raise TimeoutError(f"{what}: {why}\n{''.join(self._lines)[-4000:]}")
                self._changed.wait(left)
        return found

    def wait_for(self, pattern: re.Pattern[str], within: float) -> re.Match[str]:
        """Waits for a line in which `pattern` is found, and returns the match."""
        seen = 0

        def find() -> re.Match[str] | None:
            nonlocal seen
            for line in self._lines[seen:]:
                seen += 1
                if match := pattern.search(line):
                    return match
            return None

        return self.wait(find, within, f"no line with {pattern.pattern!r}")

    def join(self) -> None:
        """Waits for the end of the pipe (the process has to be over)."""
        self._thread.join(SHUTDOWN_SECONDS)


def started(
    command: Sequence[str],
    folder: str,
    config: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Process:
    """Start `iii-state` in a folder of its own, with this configuration: none that lies about changes a test, and no data does.

    It begins as the fork of a process that has imported everything, unless its environment has to be there from the beginning.
    """
    command = list(command)
    if config is not None:
        path = Path(folder, "config.yaml")
        path.write_text(json.dumps({"workers": [{"name": "iii-state", "config": config}]}))
        command += ["--config", str(path)]
    environment = {**os.environ, "NO_COLOR": "1", **(environment or {})}
    if IS_POSSIBLE and tuple(command[:3]) == IN_PYTHON and environment.get("LD_PRELOAD") == os.environ.get("LD_PRELOAD"):
        return start_warm(command[3:], folder, environment)
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


class EngineProcess:
    """An engine in a process of its own: `python -m iii_state serve …`, ready when this object exists.

    Args:
        arguments: of `serve`; `--port` is added.
        port: 0 lets the engine choose one.
        config: the configuration as an iii `config.yaml` holds it below `workers: - name: iii-state, config:`, written
            to a file that is passed with `--config`.
        environment: is added to the environment of the tests.
        serve: another way to start it.
        on_line: hears of every line that it writes, in a thread.

    Raises:
        TimeoutError: if it does not listen within 30 seconds; the message ends with what it has written.
    """

    is_stock = False

    def __init__(
        self,
        arguments: Sequence[str] = (),
        *,
        port: int = 0,
        config: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        serve: Sequence[str] = SERVE,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="iii-state-engine-")
        self.process = started([*serve, "--port", str(port), *arguments], self._directory.name, config, environment)
        assert self.process.stderr is not None
        self.stderr = Lines(self.process.stderr, on_line)
        try:
            match = self.stderr.wait_for(_LISTENING, STARTUP_SECONDS)
        except TimeoutError:
            self.kill()
            raise
        self.port = int(match[2])
        self.url = match[1].replace("0.0.0.0", "127.0.0.1")

    def stop(self) -> int:
        """Sends SIGTERM, waits for the end, and returns the exit code (raises as `wait`)."""
        self.ask_to_stop()
        return self.wait()

    def ask_to_stop(self) -> None:
        """Sends SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Waits until it has ended by itself, and returns the exit code.

        Raises:
            TimeoutError: if that takes more than 15 seconds; it is killed then.
        """
        try:
            code = self.process.wait(SHUTDOWN_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"the engine did not end\n{self.stderr.text()[-4000:]}") from None
        self._clean_up()
        return code

    def accepts_connections(self) -> bool:
        """Whether anybody listens on its port."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """Ends it with SIGKILL, and returns when it is gone. Does nothing to one that has ended."""
        self.process.kill()
        self.process.wait()
        self._clean_up()

    def _clean_up(self) -> None:
        self.stderr.join()
        self._directory.cleanup()


@contextlib.contextmanager
def running_engine(
    arguments: Sequence[str] = (),
    *,
    port: int = 0,
    config: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[EngineProcess]:
    """An engine for the length of a `with` block (see `EngineProcess`); killed at the end, whatever happened."""
    engine = EngineProcess(arguments, port=port, config=config, environment=environment)
    try:
        yield engine
    finally:
        engine.kill()


def free_port() -> int:
    """A port that nobody listens on, below the range from which the system picks ports for outgoing connections.

    A client that keeps trying to reach a port of that range on its own machine can end up connected to itself, and the
    engine that should come back there finds its port taken.
    """
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port between 20000 and 32000")


class Relay:
    """Passes TCP connections on to a port, and can leave one half dead: gone for the client, still open for the server.

    That is what a network leaves behind that drops a connection without a word to one of its ends.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[tuple[socket.socket, socket.socket]] = []
        self._half_dead: list[socket.socket] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                with self._lock:
                    self._open.append((client, server))
                threading.Thread(target=self._pass_on, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(server, client, False), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, to_server: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        # The end of one side is the end of the other, but not when it was this relay that cut the client off.
        server = sink if to_server else source
        with self._lock:
            if server in self._half_dead:
                return
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut_clients_off(self) -> None:
        """Closes every client's connection, and keeps those to the server open, with nobody behind them."""
        with self._lock:
            pairs, self._open = self._open, []
            self._half_dead += [server for _, server in pairs]
        for client, _ in pairs:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            client.close()

    def close(self) -> None:
        self._listener.close()
        with self._lock:
            ends = [end for pair in self._open for end in pair] + self._half_dead
        for end in ends:
            end.close()


async def paused(process: Process, seconds: float) -> None:
    """Stop a process with SIGSTOP, and let it go on."""
    process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def running_relay(port: int) -> Iterator[Relay]:
    """A relay for the length of a `with` block."""
    relay = Relay(port)
    try:
        yield relay
    finally:
        relay.close()
