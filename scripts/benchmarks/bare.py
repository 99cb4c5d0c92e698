"""The least that events over Redis can cost a Python program: PUBLISH to SUBSCRIBE, and a stream read through a group.

Nothing but commands packed and replies parsed by hiredis, on uvloop, and connections of which each read is one callback.

    python -m benchmarks.bare REDIS_URL      answers whatever is published to it, until killed
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import uvloop

from benchmarks import frames, jobs
from benchmarks.clock import Clock
from benchmarks.processes import ENVIRONMENT
from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.socket import Reply, Socket, open_server
from iii_state.adapters.redis.scripts.packing import pack

_THERE, _BACK = b"bench:there", b"bench:back"
_AT_ONCE = 64


async def _listen(url: str, channel: bytes, heard: Callable[[bytes], None]) -> Socket:
    socket = await open_server(Address.parse(url), "bench")
    await socket.ask((b"SUBSCRIBE", channel))

    def received(replies: list[Reply]) -> None:
        for reply in replies:
            assert isinstance(reply, list)
            heard(reply[2])

    socket.received = received
    return socket


async def _echo(url: str) -> None:
    out = await open_server(Address.parse(url), "bench")
    await _listen(url, _THERE, lambda text: out.write(pack((b"PUBLISH", _BACK, text))))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


@contextmanager
def echo(url: str) -> Iterator[None]:
    """Another process that answers, until the end of the block."""
    arguments = [sys.executable, "-m", "benchmarks.bare", url]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=ENVIRONMENT) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise RuntimeError("the process that answers has not started")
            yield
        finally:
            process.kill()


def published(url: str, size: int, seconds: float, store_pid: int, *, by_other: bool) -> jobs.Measured:
    """Messages one at a time, from PUBLISH to the callback that gets it: our own one, or with `by_other`, `echo`'s answer."""
    return uvloop.run(_published(url, size, seconds, store_pid, _THERE if by_other else _BACK))


async def _published(url: str, size: int, seconds: float, store_pid: int, channel: bytes) -> jobs.Measured:
    loop = asyncio.get_running_loop()
    heard: asyncio.Future[float]
    listening = await _listen(url, _BACK, lambda text: heard.set_result(time.perf_counter()))
    out = await open_server(Address.parse(url), "bench")
    message = pack((b"PUBLISH", channel, frames.document(size).encode()))
    times: list[float] = []
    clock = Clock([], store_pid)
    until = time.perf_counter() + seconds * 1.25
    async with asyncio.timeout(seconds + 10):
        while (now := time.perf_counter()) < until:
            if now < until - seconds:
                times.clear()
                clock.start()
            heard = loop.create_future()
            sent = time.perf_counter()
            out.write(message)
            times.append(await heard - sent)
    clock.stop()
    for socket in (out, listening):
        socket.abort()
    clock.server_cpu = clock.client_cpu
    return clock.measured(len(times), times, 0, 0)


def consumed(url: str, size: int, events: int, store_pid: int) -> jobs.Measured:
    """A stream of that many entries with the fields of ours, read through a group, acknowledged and deleted, 64 at a time."""
    return uvloop.run(_consumed(url, size, events, store_pid))


async def _consumed(url: str, size: int, events: int, store_pid: int) -> jobs.Measured:
    socket = await open_server(Address.parse(url), "bench")
    stream, document = b"bench:stream", frames.document(size).encode()
    fields = (b"w", b"0123456789ab-1000000", b"s", b"bench", b"k", b"user:000000", b"t", b"created", b"o", b"", b"n", document)
    added: Sequence[bytes] = (b"XADD", stream, b"*", *fields)
    await socket.ask((b"DEL", stream), (b"XGROUP", b"CREATE", stream, b"engines", b"0", b"MKSTREAM"), *[added] * events)
    read = (b"XREADGROUP", b"GROUP", b"engines", b"bench", b"COUNT", b"%d" % _AT_ONCE, b"STREAMS", stream, b">")
    done = 0
    clock = Clock([], store_pid)
    clock.start()
    (entries,) = await socket.ask(read)
    while entries:
        assert isinstance(entries, list)
        ids = [entry[0] for entry in entries[0][1]]
        done += len(ids)
        *_, entries = await socket.ask((b"XACK", stream, b"engines", *ids), (b"XDEL", stream, *ids), read)
    clock.stop()
    await socket.ask((b"DEL", stream))
    socket.abort()
    clock.server_cpu = clock.client_cpu
    return clock.measured(done, [], 0, events - done)


if __name__ == "__main__":
    uvloop.run(_echo(sys.argv[1]))
