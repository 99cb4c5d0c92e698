"""A Redis that fails over: a primary, replicas, and Sentinels that watch them, all of them processes of the tests' own."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import redis

from tests.support.engines.processes import free_port
from tests.support.redis.server import RedisServer, default_binary
from tests.support.waiting import wait_until

NAME = "mymaster"
DOWN_AFTER_MS = 500
PATIENT_MS = 600_000
"""While nothing is to happen: on a machine that is busy half a second of silence tells nothing."""

QUICK = {
    "info-period": 500,
    "ping-period": 300,
    "ask-period": 100,
    "publish-period": 200,
    "election-timeout": 2000,
    "slave-reconf-timeout": 1000,
}
"""What Sentinels do every second, two or ten, they do so often: a failover is over sooner, and goes as it always does."""


class SentinelProcess:
    """One Sentinel, which watches the Redis at a port.

    Args:
        primary: the port.
        others: ports and ids of the other Sentinels, so that they need not find one another first.
        lines: more of its configuration.
        executable: the server to run; `default_binary` unless given.
    """

    def __init__(
        self,
        port: int,
        own_id: str,
        primary: int,
        others: dict[int, str],
        *lines: str,
        down_after_ms: int,
        executable: str | None = None,
    ) -> None:
        self.port = port
        self._executable = executable or default_binary()
        self._folder = Path(tempfile.mkdtemp(prefix="iii-sentinel-"))
        settings = [
            f"port {port}",
            "bind 127.0.0.1",
            f"dir {self._folder}",
            f"sentinel myid {own_id}",
            f"sentinel monitor {NAME} 127.0.0.1 {primary} 2",
            f"sentinel down-after-milliseconds {NAME} {down_after_ms}",
            f"sentinel failover-timeout {NAME} 1000",
            f"sentinel parallel-syncs {NAME} 2",
            *lines,
            *(f"sentinel known-sentinel {NAME} 127.0.0.1 {other} {its_id}" for other, its_id in others.items()),
        ]
        (self._folder / "sentinel.conf").write_text("\n".join(settings) + "\n")
        self.client: Any = redis.Redis(port=port, protocol=2, socket_timeout=10)
        self.process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        """Start it, on what it knew."""
        command = [self._executable, str(self._folder / "sentinel.conf"), "--sentinel"]
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._answers, lambda: f"no Sentinel on port {self.port}: {(self._folder / 'log').read_text()}")

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.AuthenticationError:
            return True
        except redis.ConnectionError:
            return False

    def knows(self, replicas: int, sentinels: int) -> bool:
        """Whether it knows so many replicas that follow the primary, and so many other Sentinels."""
        state = self.client.sentinel_master(NAME)
        following = [each for each in self.client.sentinel_slaves(NAME) if each["master-link-status"] == "ok"]
        return (len(following), state["num-other-sentinels"], state["is_sdown"]) == (replicas, sentinels, False)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        self.process.wait()
        self.client.connection_pool.disconnect()

    def close(self) -> None:
        """End it, and remove what it knew."""
        self.kill()
        self.client.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class SentinelGroup:
    """A primary, two replicas and three Sentinels.

    No server counts as down until `set_down_after`.

    Args:
        stack: closes all of it.
        options: those of each redis-server.
        quick: whether Sentinels look more often than they do out of the box.
        front: the port at which the first primary is known to all others; its own unless given.
    """

    def __init__(
        self,
        stack: ExitStack,
        *options: str,
        quick: bool = True,
        down_after_ms: int = PATIENT_MS,
        primary: RedisServer | None = None,
        front: int = 0,
    ) -> None:
        first = primary or RedisServer(*options)
        self.servers = [first]
        stack.callback(first.close)
        self._front = front or first.port
        for _ in range(2):
            self.servers.append(RedisServer(*options, "--replicaof", "127.0.0.1", str(self._front)))
            stack.callback(self.servers[-1].close)
        stack.callback(self._continue)
        for replica in self.servers[1:]:
            wait_until(partial(_follows, replica), "a replica does not follow the primary")
        self.first = first
        ids = {free_port(): secrets.token_hex(20) for _ in range(3)}
        self.sentinels: list[SentinelProcess] = []
        for port, own_id in ids.items():
            others = {other: its_id for other, its_id in ids.items() if other != port}
            sentinel = SentinelProcess(port, own_id, self._front, others, down_after_ms=down_after_ms)
            self.sentinels.append(sentinel)
            stack.callback(sentinel.close)
            if quick:
                with contextlib.suppress(redis.ResponseError):  # Redis 6.2 has it not
                    sentinel.client.execute_command("SENTINEL", "DEBUG", *(word for setting in QUICK.items() for word in setting))
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        self.url = f"redis+sentinel://{hosts}/{NAME}"
        for sentinel in self.sentinels:
            wait_until(partial(sentinel.knows, 2, 2), "the Sentinels have not found each other and the replicas")

    def primary(self) -> RedisServer:
        """The server that most of the Sentinels name by now."""
        ports = [int(sentinel.client.sentinel_get_master_addr_by_name(NAME)[1]) for sentinel in self.sentinels]
        port = max(ports, key=ports.count)
        (found,) = (
            server for server in self.servers if port in ((server.port, self._front) if server is self.first else (server.port,))
        )
        return found

    def set_down_after(self, ms: int = DOWN_AFTER_MS) -> None:
        """A server that has been silent for so long counts as down from now on."""
        for sentinel in self.sentinels:
            sentinel.client.sentinel_set(NAME, "down-after-milliseconds", ms)

    def fail_over(self) -> None:
        """Tell a Sentinel to promote a replica of a primary that works."""
        self.sentinels[0].client.execute_command("SENTINEL", "FAILOVER", NAME)

    def _continue(self) -> None:
        for server in self.servers:
            server.process.send_signal(signal.SIGCONT)


def _follows(replica: RedisServer) -> bool:
    return bool(replica.client.info("replication")["master_link_status"] == "up")


@contextmanager
def sentinel_group(*options: str, **settings: Any) -> Iterator[SentinelGroup]:
    """All of it, for the length of a block."""
    with ExitStack() as stack:
        yield SentinelGroup(stack, *options, **settings)
