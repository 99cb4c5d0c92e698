"""Recording the lives of a store, and opening it as it may be after many a cut of the power."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from iii_state.adapters.kv import KvAdapter
from iii_state.adapters.kv.journal.file import FILE_NAME, Contents
from iii_state.errors import StoreError
from iii_state.events import Subscription
from tests.powercut.disk import Cut, Disk
from tests.powercut.record import Operation, compile_recorder, environment, read
from tests.powercut.verdict import Expected, states
from tests.support import ROOT
from tests.support.waiting import SECONDS, answer_of

LIVES = ("stop", "kill", "stop", "kill")
STORE = Path("deep", "store")
PROBLEMS_KEPT = 20

_FAST = Path("/dev/shm")


@dataclass
class Found:
    """What came of cutting the power."""

    points: int = 0
    operations: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    manners: Counter[str] = field(default_factory=Counter)
    transactions: int = 0
    behind: int = 0
    """Cuts after which the newest transaction was gone, as it may be."""
    problems: list[str] = field(default_factory=list)


def recorded(folder: Path, seed: int, rounds: int, fault: str = "none") -> list[Operation]:
    """The operations of a store's lives, each a process, on the directory `disk` in a folder: it is made, and left as they left it.

    `fault` is planted by a double in those processes: SQLite forces nothing to disk by itself (`synchronous off`), values and
    events are written one after the other (`two transactions`), the log is not forced to disk regularly (`never forced`).
    """
    library, record, directory = compile_recorder(folder), folder / "record", folder / "disk"
    directory.mkdir()
    variables = {**os.environ, **environment(library, directory, record)}
    for life, end in enumerate(LIVES):
        arguments = (str(directory / STORE), str(seed), str(life), str(rounds), end, fault)
        command = (sys.executable, "-m", "tests.powercut.workload", *arguments)
        ended = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=SECONDS + rounds)
        if ended.returncode != (-9 if end == "kill" else 0):
            raise RuntimeError(f"life {life} ended with {ended.returncode}: {ended.stderr[-2000:]}")
    return read(record)


def cut(
    operations: list[Operation], seed: int, points: int, *, lies: bool = False, tell: Callable[[Found], None] = lambda found: None
) -> Found:
    """Cut the power at so many points of a record, and judge what is left each time. A disk that `lies` forces nothing."""
    found = Found(operations=len(operations), kinds=Counter(operation.kind for operation in operations))
    expected, disk = Expected(states(operations)), Disk(lies=lies)
    luck = random.Random(seed)
    places = sorted(luck.randint(1, len(operations)) for _ in range(points))
    done = 0
    with (
        tempfile.TemporaryDirectory(prefix="iii-powercut-", dir=_FAST if _FAST.is_dir() else None) as folder,
        asyncio.Runner() as runner,
    ):
        for number, place in enumerate(places):
            for operation in operations[done:place]:
                disk.do(operation)
                expected.do(operation)
            done = place
            chance = Cut(f"{seed}:{number}")
            target = Path(folder, str(number))
            target.mkdir()
            disk.put(target, chance)
            now_ms = operations[place - 1].time_ms + 5
            problems, newest = runner.run(judged(target / STORE, expected, now_ms))
            shutil.rmtree(target)
            found.points += 1
            found.behind += not newest
            found.manners[chance.manner] += 1
            found.transactions = expected.begun
            found.problems += [f"cut {number} behind operation {place} ({chance.manner}): {problem}" for problem in problems]
            tell(found)
            if len(found.problems) >= PROBLEMS_KEPT:
                break
    return found


async def judged(directory: Path, expected: Expected, now_ms: int) -> tuple[list[str], bool]:
    """What is wrong with a store when it is opened, and whether it holds the newest transaction."""
    adapter = KvAdapter(directory, clock=lambda: now_ms)
    journal = adapter._journal
    assert journal is not None
    opened: list[Contents] = []
    open_journal = journal.open

    async def open_noted(now: int) -> Contents:
        opened.append(await open_journal(now))
        return opened[0]

    setattr(journal, "open", open_noted)  # noqa: B010
    try:
        await adapter.start(lambda subscription_id: None)
    except Exception as error:
        return [f"it does not open: {error!r}"], False
    (contents,) = opened
    is_newest = expected.is_newest(contents)
    try:
        problems = expected.problems(contents, now_ms)
        problems += await _unserved(adapter, contents, now_ms)
    except (StoreError, UnicodeDecodeError) as error:
        problems = [f"it cannot be read or written: {error!r}"]
    finally:
        with contextlib.suppress(StoreError):  # says so at the next line, too
            await adapter.stop()
    problems += _damage(directory / FILE_NAME)
    return problems, is_newest


def _damage(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        damage = connection.execute("PRAGMA integrity_check").fetchall()
    except sqlite3.Error as error:
        damage = [(str(error),)]
    finally:
        connection.close()
    return [] if damage == [("ok",)] else [f"the file is damaged: {damage[:3]}"]


async def _unserved(adapter: KvAdapter, contents: Contents, now_ms: int) -> list[str]:
    """What the store does not do with what its file holds."""
    problems = []
    over = {(scope, key) for scope, key, at in contents.deadlines if at <= now_ms + SECONDS * 1000}
    for scope, key, text in contents.values:
        if (scope, key) not in over and adapter.values.get(scope.decode(), key.decode()) != text:
            problems.append(f"{scope!r}, {key!r} is not read")
    waiting = sum(stats.waiting for stats in adapter.admin.stats())
    if waiting < len(contents.deliveries):
        problems.append(f"{waiting} events wait, of {len(contents.deliveries)}")
    if len(adapter.admin.dead_letters()) != len(contents.dead_letters):
        problems.append("dead letters are not listed")
    after = Subscription("after", scope="after")
    adapter.queues.subscribe(after)
    await answer_of(adapter.values.set("after", "k", b"1"))
    if adapter.values.get("after", "k") != b"1" or len(adapter.queues.take(after.id, 10)) != 1:
        problems.append("it does not write any more")
    return problems
