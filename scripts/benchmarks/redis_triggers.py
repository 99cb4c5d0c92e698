"""What triggers cost Redis: the server time that they add to a write, and the memory of the events that wait.

Writes go through the adapter of an engine, as they do in use. Server time is what `INFO commandstats` counts for EVALSHA, the
lowest of the rounds, of writes made one at a time and of writes made together; the kinds of writes take turns within a round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import redis

from benchmarks import backlog, frames
from benchmarks.plan import Plan
from benchmarks.report import Report, Table, Target, bar, number
from iii_state import values
from iii_state.adapters.redis import RedisAdapter
from iii_state.events import Subscription
from iii_state.values.ops import compile_text
from tests.support.redis.server import RedisServer

_CALLS = 50
_SIZE = 500
"""Of a value: old and new together make an event of 1 KB."""
_DOCUMENT = values.to_stored(frames.document(_SIZE).encode())
_PLAN = compile_text(b'[{"type":"increment","path":"visits","by":1}]')
_WAITING = 2000


class _Kind(NamedTuple):
    """Writes to a scope of an adapter, and the subscriptions that want them."""

    name: str
    server: RedisServer
    adapter: RedisAdapter
    scope: str
    matching: list[Subscription]

    def write(self, op: str, number: int) -> Awaitable[Any]:
        """Make one."""
        key = f"user:{number:06d}"
        if op == "set":
            return backlog.given(self.adapter.values.set(self.scope, key, _DOCUMENT))
        return backlog.given(self.adapter.values.update(self.scope, key, _PLAN, values.MAX_VALUE_BYTES))

    async def microseconds(self, op: str, *, together: bool) -> float:
        """Server time of one of them, when nothing of its lane waits."""
        client = self.server.client
        client.config_resetstat()
        if together:
            await asyncio.gather(*(self.write(op, number) for number in range(_CALLS)))
        else:
            for number in range(_CALLS):
                await self.write(op, number)
        counted = client.info("commandstats")["cmdstat_evalsha"]
        for subscription in self.matching:
            if await backlog.take_all(self.adapter, subscription) != _CALLS:
                raise RuntimeError(f"a {op} with {self.name} has not had one event for each trigger that matches")
        return float(counted["usec"]) / int(counted["calls"])


def triggers(plan: Plan, report: Report, server: RedisServer) -> None:
    """Writes with and without triggers that match, beside many that do not."""
    with RedisServer() as crowded:
        found = asyncio.run(_writes(plan, server, crowded))
    none, one, ten, others, one_of_many = dict.fromkeys(name for name, _, _ in found)
    ways = [(op, together) for op in ("set", "update") for together in (False, True)]
    headings = [f"{op}, {'together' if together else 'alone'}" for op, together in ways]
    columns = ["triggers that match", *(column for heading in headings for column in (f"{heading} µs", "adds")), ""]
    table = Table("Server time of a write to a value of 500 bytes", columns)
    report.tables.append(table)
    largest = max(found.values())
    for name in (none, one, ten, others, one_of_many):
        cells = [cell for way in ways for cell in (found[name, *way], found[name, *way] - found[none, *way])]
        table.add(name, *cells, bar(found[name, "set", False], largest))
    for op in ("set", "update"):
        got = max(found[others, op, together] / found[none, op, together] for together in (False, True))
        told = f"{number(found[others, op, False])} of {number(found[none, op, False])} µs alone"
        report.targets.append(Target(f"{op} beside {others}", 1.05, got, "of without", at_most=True, figures=told))


async def _writes(plan: Plan, server: RedisServer, crowded: RedisServer) -> dict[tuple[str, str, bool], float]:
    found: dict[tuple[str, str, bool], float] = {}
    async with AsyncExitStack() as stack:
        quiet = await stack.enter_async_context(backlog.adapter(server.url))
        busy = await stack.enter_async_context(backlog.adapter(crowded.url))
        kinds: list[_Kind] = []
        for name, on, adapter, matching in (
            ("none", server, quiet, 0),
            ("1", server, quiet, 1),
            ("10", server, quiet, 10),
            (f"none, of {plan.many:,}", crowded, busy, 0),
            (f"1, of {plan.many:,}", crowded, busy, 1),
        ):
            scope = f"bench-{matching}"
            wanted = [Subscription(function_id=f"bench::handled-{number}", scope=scope) for number in range(matching)]
            kinds.append(_Kind(name, on, adapter, scope, wanted))
        others = [Subscription(function_id="bench::nothing", scope=f"other:{number}") for number in range(plan.many)]
        for adapter, wanted in [(busy, others), *((kind.adapter, kind.matching) for kind in kinds)]:
            await asyncio.gather(*(backlog.given(adapter.queues.subscribe(subscription)) for subscription in wanted))
        for round_ in range(max(2, round(plan.runs * plan.seconds * 33))):
            plan.progress(f"redis-triggers: round {round_ + 1}")
            for op in ("set", "update"):
                for together in (False, True):
                    for kind in kinds:
                        measured = await kind.microseconds(op, together=together)
                        way = (kind.name, op, together)
                        found[way] = min(found.get(way, float("inf")), measured)
    return found


class _Waited(NamedTuple):
    """Bytes of an event that waits, by `used_memory` and by `MEMORY USAGE`, and keys and bytes that stayed when none did."""

    used: float
    usage: float
    keys_left: int
    bytes_left: int


def backlogs(plan: Plan, report: Report, server: RedisServer) -> None:
    """Memory of the events that wait, and what is left of it when they have been handled."""
    text = 2 * len(_DOCUMENT)
    table = Table(
        f"{_WAITING:,} events that wait, old and new {text:,} bytes", ["events", "bytes each", "of the text", "by usage", ""]
    )
    report.tables.append(table)
    found: dict[str, _Waited] = {}
    for name, keys in (("of as many keys", _WAITING), ("of one key", 1)):
        plan.progress(f"redis-backlog: {name}")
        found[name] = waited = asyncio.run(_waited(server, name, keys))
        table.add(name, waited.used, waited.used / text, waited.usage, bar(waited.used / text, 2))
    bare = _bare_stream(server.client)
    table.add("entries of a bare stream", bare, bare / text, None, bar(bare / text, 2))
    for what, left in (("keys", max(w.keys_left for w in found.values())), ("bytes", max(w.bytes_left for w in found.values()))):
        report.targets.append(Target(f"left when all have been handled: {what}", 0, left, what, at_most=True))
    report.notes.append(
        "'Bytes each' is used_memory, 'by usage' what MEMORY USAGE says of the queue's keys. A full bar is twice the text."
    )


async def _waited(server: RedisServer, name: str, keys: int) -> _Waited:
    subscription = Subscription(function_id="bench::handled", scope=name)
    async with backlog.adapter(server.url) as adapter:
        await backlog.given(adapter.queues.subscribe(subscription))

        async def write() -> None:
            # The values have the same size before and after, so all that grows is the queue.
            await backlog.write(adapter, name, (f"user:{number % keys:06d}" for number in range(_WAITING)), _SIZE)

        await write()
        handled = await backlog.take_all(adapter, subscription)
        used, before = int(server.client.info("memory")["used_memory"]), _usage(server.client)
        await write()
        full, waiting = int(server.client.info("memory")["used_memory"]), _usage(server.client)
        handled += await backlog.take_all(adapter, subscription)
        after = _usage(server.client)
    if handled != 2 * _WAITING:
        raise RuntimeError(f"{handled:,} events have been taken of {2 * _WAITING:,}")
    grown = sum(waiting.values()) - sum(before.values())
    return _Waited(
        (full - used) / _WAITING, grown / _WAITING, len(after.keys() - before.keys()), sum(after.values()) - sum(before.values())
    )


def _usage(client: redis.Redis) -> dict[bytes, int]:
    """Of every key but the values and the engines' sessions, which hold the last outcome of each slot."""
    names = [name for name in client.scan_iter(count=1000) if not name.startswith((b"state:", b"iii-state:session:"))]
    usage: dict[bytes, Any] = {name: client.memory_usage(name, samples=0) for name in names}
    return {name: int(size) for name, size in usage.items() if size is not None}


def _bare_stream(client: redis.Redis) -> float:
    """Memory of one entry with the fields of an event."""
    before = int(client.info("memory")["used_memory"])
    pipeline = client.pipeline(transaction=False)
    for entry in range(_WAITING):
        names = {"w": f"0123456789ab-{entry}", "s": "bench", "k": f"user:{entry:06d}", "t": "updated"}
        pipeline.xadd("bench:stream", {**names, "o": _DOCUMENT, "n": _DOCUMENT})  # type: ignore[dict-item]
    pipeline.execute()
    return (int(client.info("memory")["used_memory"]) - before) / _WAITING
