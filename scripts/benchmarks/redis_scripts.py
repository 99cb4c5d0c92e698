"""Server time of the mutation scripts, against the least that a script of their kind can cost.

Each figure is microseconds per EVALSHA as `INFO commandstats` counts them, the lowest of the rounds; the scripts take turns
within a round, so that a slow moment of the machine meets them all. `update` increments one member by 1. Calls are made one
at a time, and written together, where everything is warm in the processor's caches.

- `bare`: a script that reads the old text, stores a new one of the same size, and returns both;
- `cjson`: decode, add, encode, store, with the cjson that Redis brings (which loses empty arrays and digits on the way). What
  it costs goes with the number of values in a document: from 4 times ours with long strings to 37 with arrays of digits;
- `set`, `delete`, `update`: ours, with the check of the routes and the record for retries, without and with one queue, and where
  foreign writes are watched;
- `set ×16`, `update ×16`: what an engine sends for 16 made in one turn of its event loop (`values/change_many`), per change.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import redis

from benchmarks.plan import Plan
from benchmarks.report import Report, Table, Target, bar, number
from iii_state import values
from iii_state.adapters.redis.connection.pipeline import CALLS_PER_JOINT
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.scripts.loader import script
from iii_state.adapters.redis.scripts.mutations import BoundedQueue, RequestId, mutation, plan_arguments, update_arguments
from iii_state.values.ops import compile_text
from tests.support.redis.server import RedisServer

BARE = "local old = redis.call('HGET', KEYS[1], ARGV[1]) redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) return {old, ARGV[2]}"
CJSON = """
local old = redis.call('HGET', KEYS[1], ARGV[1])
local value = cjson.decode(old)
value[ARGV[2]] = value[ARGV[2]] + 1
local new = cjson.encode(value)
redis.call('HSET', KEYS[1], ARGV[1], new)
return {old, new}
"""
LIMIT = values.MAX_VALUE_BYTES
SCOPE, KEY, QUEUE = b"bench", b"key", b"0" * 32
KEYS = Keys()
WATCHED = (KEYS.shadow(b"1", SCOPE), KEYS.marks(0))
UNBOUNDED = BoundedQueue(QUEUE, 2**53, 2**53)
SIZES = (100, 1000, 10_000, 100_000, 500_000)
TOGETHER = {100: 1.9, 1000: 1.8}
"""Sizes of values that engines change several of in one call, and how many times the bare script that may cost."""
MOST_CALLS, MOST_BYTES = 50, 500_000
"""Of one script in one round; of large documents, fewer calls."""

JOINT = {b"u": "update", b"s": "set"}
"""What is measured of several changes in one call."""

_POSITIONS = ("update first", "update middle", "update last")


def document(size: int) -> tuple[dict[str, Any], list[str]]:
    """An object whose compact text has about `size` bytes, and three of its members that are numbers: first, middle, last."""
    members: dict[str, Any] = {"first": 1}
    length, count = len('{"first":1,"middle":1,"last":1}'), 0
    filler: dict[str, Any] = {}
    while length < size:
        name = f"member{count:05}"
        value = [{"id": count, "tags": [1, 2, 3], "last": None}, [count % 7] * 10, count, "ada@example.org"][count % 4]
        length += len(json.dumps({name: value}, separators=(",", ":"))) - 1
        filler[name] = value
        count += 1
    half = count // 2
    items = list(filler.items())
    members |= dict(items[:half])
    members["middle"] = 1
    members |= dict(items[half:])
    members["last"] = 1
    return members, ["first", "middle", "last"]


class Candidate(NamedTuple):
    """A script to be measured; `arguments(n)` is what follows the digest in its call number n, which makes so many changes."""

    name: str
    source: bytes
    arguments: Callable[[int], list[bytes]]
    changes: int = 1


def candidates(size: int) -> list[Candidate]:
    """What is measured on a document of a size."""
    members, positions = document(size)
    stored = values.to_stored(json.dumps(members).encode())
    bare = [b"1", KEYS.values(SCOPE), KEY]
    route = [UNBOUNDED]

    def ours(
        own: list[bytes], queues: list[BoundedQueue], watched: tuple[bytes, bytes] | None = None
    ) -> Callable[[int], list[bytes]]:
        call = mutation(KEYS, RequestId(b"bench", 1, 7, 0), 0, SCOPE, KEY, queues, own, watched)
        sequence = 1 + int(call[0]) + 2
        return lambda number: [*call[:sequence], b"%d" % number, *call[sequence + 1 :]]

    def joint(kind: bytes, own: list[bytes]) -> Candidate:
        keys = [KEYS.scopes, KEYS.session(b"bench"), KEYS.routes_version, KEYS.routes_log, KEYS.values(SCOPE)]
        head = [b"5", *keys, b"1", b"0", b"%d" % CALLS_PER_JOINT, SCOPE]

        def arguments(number: int) -> list[bytes]:
            words = list(head)
            for slot in range(CALLS_PER_JOINT):
                words += (kind, b"%d" % (100 + slot), b"%d" % number, b"1", KEY, b"%d" % len(own), *own)
            return words

        source = script("values/change_many").source
        return Candidate(f"{JOINT[kind]} ×{CALLS_PER_JOINT}", source, arguments, CALLS_PER_JOINT)

    def increment(member: str) -> list[bytes]:
        plan = compile_text(values.encode([{"type": "increment", "path": member, "by": 1}]))
        return update_arguments(plan_arguments(plan), LIMIT)

    result = [Candidate("bare", BARE.encode(), lambda number: [*bare, stored])]
    update, put, remove = script("values/update").source, script("values/set").source, script("values/delete").source
    for member in positions:
        result.append(Candidate(f"update {member}", update, ours(increment(member), [])))
    result.append(Candidate("update last, 1 queue", update, ours(increment("last"), route)))
    result.append(Candidate("set", put, ours([stored], [])))
    result.append(Candidate("set, 1 queue", put, ours([stored], route)))
    result.append(Candidate("delete", remove, ours([], [])))
    result.append(Candidate("update last, watched", update, ours(increment("last"), [], WATCHED)))
    result.append(Candidate("set, watched", put, ours([stored], [], WATCHED)))
    if size in TOGETHER:
        result += (joint(b"u", increment("last")), joint(b"s", [stored]))
    if size >= 1000:
        result.append(Candidate("cjson last", CJSON.encode(), lambda number: [*bare, b"last"]))
    return result


class Times(NamedTuple):
    """Microseconds of server time per call of each script, made one at a time and written together."""

    stored_bytes: int
    alone: dict[str, float]
    together: dict[str, float]

    def ratio(self, names: tuple[str, ...], to: str) -> float:
        """The dearest of some scripts against another, in whichever way of calling that is more."""
        return max(way[name] / way[to] for way in (self.alone, self.together) for name in names)

    def figures(self, names: tuple[str, ...], to: str) -> str:
        """What the ratio is made of."""
        alone, together = (max(way[name] for name in names) for way in (self.alone, self.together))
        return (
            f"{number(alone)} of {number(self.alone[to])} µs alone, {number(together)} of {number(self.together[to])} µs together"
        )


def measure(client: redis.Redis, size: int, rounds: int) -> Times:
    """The times for documents of a size."""
    stored = values.to_stored(json.dumps(document(size)[0]).encode())
    alone: dict[str, float] = {}
    together: dict[str, float] = {}
    calls = max(1, min(MOST_CALLS, MOST_BYTES // len(stored)))
    count = 0
    client.flushall()
    client.hset(KEYS.session(b"bench").decode(), "epoch", 1)
    client.hset(WATCHED[0].decode(), KEY.decode(), stored.decode())
    all_candidates = [(candidate, str(client.script_load(candidate.source.decode()))) for candidate in candidates(size)]
    for _ in range(rounds):
        for lowest, batch in ((alone, 1), (together, calls)):
            for candidate, digest in all_candidates:
                client.config_resetstat()
                for _ in range(calls // batch):
                    _call(client, candidate, digest, range(count, count + batch), stored)
                    count += batch
                microseconds = float(client.info("commandstats")["cmdstat_evalsha"]["usec"]) / calls / candidate.changes
                lowest[candidate.name] = min(lowest.get(candidate.name, float("inf")), microseconds)
    return Times(len(stored), alone, together)


def _call(client: redis.Redis, candidate: Candidate, digest: str, numbers: range, stored: bytes) -> None:
    """Make the calls of these numbers, each on a document that is there and a lane that is idle."""
    pipeline = client.pipeline(transaction=False)
    for count in numbers:
        pipeline.hset(KEYS.values(SCOPE).decode(), KEY.decode(), stored.decode())
        call = candidate.arguments(count + 1)
        pipeline.evalsha(digest, int(call[0]), *call[1:])
        if "watched" in candidate.name:
            pipeline.hset(WATCHED[0].decode(), KEY.decode(), stored.decode())
        if "queue" in candidate.name:
            pipeline.delete(KEYS.stream(QUEUE), KEYS.busy(QUEUE))
    step = 3 if candidate.name.endswith(("queue", "watched")) else 2
    for reply in pipeline.execute()[1::step]:
        first = reply if candidate.changes == 1 else reply[0]
        if not candidate.name.startswith(("bare", "cjson")) and first[0] != b"OK":
            raise RuntimeError(f"{candidate.name} answered {reply!r:.200}")


def scripts(plan: Plan, report: Report, server: RedisServer) -> None:
    """Server time per call of every mutation, at every size of document."""
    rounds = max(2, round(plan.runs * plan.seconds * 33))
    found: dict[int, Times] = {}
    for size in SIZES:
        plan.progress(f"redis-scripts: {size:,} bytes")
        found[size] = measure(server.client, size, rounds)
    version = server.client.info("server")["redis_version"]
    columns = ["bytes", "script", "alone µs", "of bare", "together µs", "of bare", "alone, of bare"]
    table = Table(f"Server time per call, Redis {version}", columns)
    ours = [(times, name) for times in found.values() for name in times.alone if not name.startswith("cjson")]
    largest = max(times.alone[name] / times.alone["bare"] for times, name in ours)
    for times in found.values():
        for name, alone in times.alone.items():
            together, floor = times.together[name], times.alone["bare"]
            table.add(
                times.stored_bytes,
                name,
                alone,
                alone / floor,
                together,
                together / times.together["bare"],
                bar(alone / floor, largest),
            )
    report.tables.append(table)
    for size, times in found.items():
        wanted = 2.0 if size <= 1000 else 1.8 if size <= 10_000 else 1.6
        for op, names in (("update", _POSITIONS), ("set", ("set",)), ("delete", ("delete",))):
            got, figures = times.ratio(names, "bare"), times.figures(names, "bare")
            report.targets.append(Target(f"{op}, {size:,} bytes", wanted, got, "of bare", at_most=True, figures=figures))
        for op in JOINT.values() if size in TOGETHER else ():
            joint = (f"{op} ×{CALLS_PER_JOINT}",)
            got, figures = times.ratio(joint, "bare"), times.figures(joint, "bare")
            told = f"{op} of {size:,} bytes, {CALLS_PER_JOINT} made together"
            report.targets.append(Target(told, TOGETHER[size], got, "of bare", at_most=True, figures=figures))
        if size >= 10_000:
            got, figures = times.ratio(_POSITIONS, "cjson last"), times.figures(_POSITIONS, "cjson last")
            report.targets.append(
                Target(f"update, {size:,} bytes, beside cjson", 1 / 12, got, "of cjson", at_most=True, figures=figures)
            )
    report.notes.append(
        "The lowest of the rounds. A target takes the dearest member of an update, and alone or together, whichever is the worse."
    )
