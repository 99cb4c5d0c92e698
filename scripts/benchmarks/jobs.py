"""What the benchmark asks of a process that measures, and what that answers: one JSON line each way."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable

import msgspec


class Calls(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Call one function of the state as fast as the host answers.

    Args:
        urls: `ws://HOST:PORT/` of the host, or of several; connections take turns.
        pids: their processes, whose CPU time is read.
        store_pid: the process of the Redis behind them, if there is one, whose CPU time is read as well.
        op: get, set, update, delete or list.
        size: bytes of the value.
        callers: calls in flight.
        connections: over how many connections they are spread.
        seconds: how long is measured, after `warmup` seconds that are not.
    """

    urls: list[str]
    pids: list[int]
    op: str
    size: int
    callers: int
    connections: int
    seconds: float
    warmup: float
    store_pid: int | None = None


class Events(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Write, and handle the event of each write as a worker that answers at once.

    With `in_flight` of 1, one write waits for the event of the one before it, and the times are from write to handler.

    Args:
        url, pid: of the host, and its process; nothing where an embedded engine is asked, which is its own host.
        size: bytes of the value, and so of the event's old and of its new one.
        in_flight: events outstanding.
        seconds, warmup: as of `Calls`.
        store_pid: the process of the Redis behind the host, if there is one.
        idle: how many subscriptions are hosted besides, for which nobody writes; for an embedded engine.
    """

    size: int
    in_flight: int
    seconds: float
    warmup: float
    url: str = ""
    pid: int = 0
    store_pid: int | None = None
    idle: int = 0


class Drain(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Serve `HANDLER` for a scope whose events wait already, until the last of them has been handled.

    The time is from when the trigger has been registered to the last event.

    Args:
        urls, pids: of the hosts, each with a worker of its own; none where an embedded engine is asked.
        store_pid: the process of the Redis that holds the events.
        scope: whose events they are.
        expected: how many; when no more come although there should be, what was handled is the answer.
        shared: whether another process handles some of them, so that fewer are no loss.
    """

    scope: str
    expected: int
    store_pid: int
    urls: list[str] = []
    pids: list[int] = []
    shared: bool = False


class HotKey(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Write one key many times, and handle what waits when that is done, one event after the other.

    Args:
        url, pid, store_pid: as of `Events`.
        size: bytes of the value.
        events: how many.
    """

    url: str
    pid: int
    size: int
    events: int
    store_pid: int | None = None


class Failover(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Give events to the worker of one host, which never answers; kill the host, and see them come to a worker of another one.

    `p50` of the answer is the time from the kill to the first event at the other, `p99` that to the last.

    Args:
        victim, pid: the address of the host that is killed, and its process.
        heir: the address of the other.
        events: how many are outstanding.
        patience: seconds after which they count as lost.
    """

    victim: str
    pid: int
    heir: str
    events: int
    patience: float


class OpenIdle(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Open connections that say nothing, and keep them open until `Close`."""

    url: str
    connections: int


class RegisterTriggers(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Register state triggers that match none of the benchmark's calls, and keep them until `Close`."""

    url: str
    triggers: int


class Close(msgspec.Struct, frozen=True, tag=True):
    """Close what `OpenIdle` and `RegisterTriggers` keep."""


class Measured(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """What was counted in one run.

    Args:
        done: calls answered, or events handled.
        seconds: wall time in which they were.
        server_cpu, client_cpu: CPU seconds of the host and of the load client.
        store_cpu: CPU seconds of the Redis behind the host, if there is one.
        p50, p99: seconds from a call to its answer, or from a write to its handler; none for events in flight.
        errors: answers that were errors.
        lost: calls not answered, or events not delivered, some seconds after the last was sent.
    """

    done: int
    seconds: float
    server_cpu: float
    client_cpu: float
    p50: float | None
    p99: float | None
    errors: int
    lost: int
    store_cpu: float = 0.0

    @property
    def rate(self) -> float:
        """Calls or events per second."""
        return self.done / self.seconds

    @property
    def server_us(self) -> float:
        """Microseconds of the host's CPU per call or event."""
        return self.server_cpu / max(self.done, 1) * 1e6

    @property
    def client_us(self) -> float:
        """Microseconds of the load client's CPU per call or event."""
        return self.client_cpu / max(self.done, 1) * 1e6

    @property
    def store_us(self) -> float:
        """Microseconds of Redis's CPU per call."""
        return self.store_cpu / max(self.done, 1) * 1e6

    @property
    def store_share(self) -> float:
        """How much of a core Redis used."""
        return self.store_cpu / self.seconds


class Ready(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """A job that measures nothing is done."""

    note: str = ""


class Failed(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """A job could not be done, and why."""

    reason: str


Job = Calls | Events | Drain | HotKey | Failover | OpenIdle | RegisterTriggers | Close
Answer = Measured | Ready | Failed

HANDLER = "bench::handled"
"""The function that handles events, wherever it is served."""


def log_less() -> None:
    """The benchmark's Redis keeps nothing on disk, and each of fifty engines would say so."""
    logging.getLogger("iii_state.adapters.redis.connection.durability").setLevel(logging.ERROR)


async def serve(do: Callable[[Job], Awaitable[Answer]]) -> None:
    """Do the jobs that come on stdin, one after another, until it ends; each answer goes to stdout."""
    log_less()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    decode = msgspec.json.Decoder(Job).decode
    while line := await reader.readline():
        answer: Answer
        try:
            answer = await do(decode(line))
        except (OSError, TimeoutError, ValueError) as reason:
            answer = Failed(reason=f"{type(reason).__name__}: {reason}")
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.buffer.flush()
