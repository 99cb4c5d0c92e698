"""How long a `list` of a large scope keeps other callers waiting. As a program: who lists, in a process of its own."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from contextlib import AbstractContextManager, ExitStack
from statistics import median

from benchmarks import frames, processes
from benchmarks.callers import Caller
from benchmarks.plan import Plan
from benchmarks.processes import ENVIRONMENT, Host
from benchmarks.report import Report, Table, Target, bar, number
from benchmarks.sockets import Socket, connect
from tests.support.redis.server import RedisServer

_VALUES = 100_000
_VALUES_QUICKLY = 10_000
_SIZE = 100
_IN_FLIGHT = 256
_WANTED_MS = 20.0
_SCOPE = "long-list"
_LAST_FRAME = 0x80
_QUIET_SECONDS = 0.3
"""For so long the other caller is alone before the list begins, and after it has ended."""


def long_list(plan: Plan, report: Report, stack: ExitStack) -> None:
    """A caller that makes one `get` after the other, and another that lists."""
    many = _VALUES if plan.runs > 1 else _VALUES_QUICKLY
    stores: dict[str, AbstractContextManager[Host]] = {"kv": processes.engine_in_memory()}
    if shutil.which("redis-server"):
        stores["redis"] = processes.engine_on_redis(stack.enter_context(RedisServer()).url)
    columns = ["store", "list ms", "longest get ms", "alone ms", "gets meanwhile", ""]
    table = Table(f"One get after the other, while {many:,} values of {_SIZE} bytes are listed", columns)
    report.tables.append(table)
    found: dict[str, list[tuple[float, ...]]] = {}
    for store, host in stores.items():
        plan.progress(f"long-list: {store}")
        found[store] = asyncio.run(_measured(stack.enter_context(host).url, many, plan.runs))
    largest = max(median(run[1] for run in runs) for runs in found.values())
    for store, runs in found.items():
        listing, longest, alone, meanwhile = (median(figures) for figures in zip(*runs, strict=True))
        table.add(store, listing, longest, alone, meanwhile, bar(longest, largest))
        told = f"{number(longest)} ms beside a list of {number(listing)} ms, {number(alone)} ms without"
        report.targets.append(Target(f"{many:,} values, {store}", _WANTED_MS, longest, "ms, the longest get", True, told))


async def _measured(url: str, many: int, runs: int) -> list[tuple[float, ...]]:
    """Of each run, in milliseconds: the list, the longest `get` beside it, and alone; and how many there were beside it."""
    caller = await connect(url, Caller)
    await _gets(caller, asyncio.create_task(asyncio.sleep(0)))  # what greets a connection is no answer that counts
    caller.start(frames.ring("set", _SIZE, many, 0, _SCOPE), _IN_FLIGHT, many, timed=False)
    if missing := await caller.finished() + caller.errors:
        raise RuntimeError(f"{missing} of {many} values could not be stored")
    asking = await connect(url, Socket)
    measured: list[tuple[float, ...]] = []
    with _lister(url) as lister:
        assert lister.stdin is not None
        assert lister.stdout is not None
        for _ in range(runs):
            alone = await _gets(asking, asyncio.create_task(asyncio.sleep(_QUIET_SECONDS)))
            lister.stdin.write(b"list\n")
            lister.stdin.flush()
            listed = asyncio.create_task(asyncio.to_thread(lister.stdout.readline))
            beside = await _gets(asking, listed)
            if not listed.result():
                raise RuntimeError("the list has got no answer")
            measured.append((float(listed.result()), max(beside), max(alone), float(len(beside))))
        lister.stdin.close()
    caller.transport.close()
    asking.transport.close()
    return measured


def _lister(url: str) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-m", "benchmarks.long_list", url]
    return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT)


async def _gets(asking: Socket, until: asyncio.Task[object]) -> list[float]:
    """How long each `get` took, in milliseconds, until something else is done."""
    took = []
    while not until.done():
        begun = time.perf_counter()
        await asking.ask("state::get", f'{{"scope":"{_SCOPE}","key":"none"}}')
        took.append((time.perf_counter() - begun) * 1000)
    return took


class _Lister(Socket):
    """Reads an answer in several frames, and keeps none of it."""

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.answered = asyncio.Event()

    def message(self, text: bytes) -> None:
        self.answered.set()

    def control(self, first: int, payload: bytes) -> None:
        if first == _LAST_FRAME:
            self.answered.set()
        else:
            super().control(first, payload)


async def _list_when_told(url: str) -> None:
    lister = await connect(url, _Lister)
    while await asyncio.to_thread(sys.stdin.readline):
        lister.answered.clear()
        begun = time.perf_counter()
        lister.send(frames.state_call("list", "", 0, "ffffffff-0000-4000-8000-000000000000", _SCOPE))
        async with asyncio.timeout(30):
            await lister.answered.wait()
        sys.stdout.write(f"{(time.perf_counter() - begun) * 1000}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_list_when_told(sys.argv[1]))
