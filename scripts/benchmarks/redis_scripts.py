"""Server time of the mutation scripts, against the least that a script of their kind can cost.

    PYTHONPATH=.:scripts python -m benchmarks.redis_scripts [--server redis-server] [--rounds 20]

Starts a Redis of its own. Each figure is microseconds per EVALSHA as `INFO commandstats` counts them, the lowest of the rounds;
the scripts take turns within a round, so that a slow moment of the machine meets them all. `update` increments one member by 1.
Calls are made one at a time, and in batches of 50 on one connection, where everything is warm in the processor's caches.

- `bare`: a script that reads the old text, stores a new one of the same size, and returns both;
- `cjson`: decode, add, encode, store, with the cjson that Redis brings (which loses empty arrays and digits on the way). What
  it costs goes with the number of values in a document: from 4 times ours with long strings to 37 with arrays of digits;
- `set`, `delete`, `update`: ours, with the check of the routes and the record for retries, without and with one queue.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import redis
from rich.console import Console
from rich.table import Table

from iii_state import values
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.mutations import Route, Ticket, mutation, plan_arguments, update_arguments
from iii_state.adapters.redis.scripts import script
from iii_state.ops import OpRequest, compile_ops

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
UNBOUNDED = Route(QUEUE, 2**53, 2**53)


class Figure(NamedTuple):
    """Microseconds of server time per call; `floor` is that of the bare script in the same rounds."""

    name: str
    document_bytes: int
    microseconds: float
    floor: float

    @property
    def ratio(self) -> float:
        return self.microseconds / self.floor


@contextmanager
def server(binary: str) -> Iterator[redis.Redis]:
    """A Redis of our own on a Unix socket, gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="iii-bench-"))
    socket = folder / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no", "--dir", str(folder)]
    process = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL)
    try:
        client = redis.Redis(unix_socket_path=str(socket))
        for _ in range(500):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.01)
        yield client
        client.close()
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


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
    """A script to be measured; `arguments(n)` is what follows the digest in its call number n, `prepare` runs before a batch."""

    name: str
    source: bytes
    arguments: Callable[[int], list[bytes]]


def candidates(size: int) -> list[Candidate]:
    """What is measured on a document of a size."""
    members, positions = document(size)
    stored = values.to_stored(json.dumps(members).encode())
    bare = [b"1", KEYS.values(SCOPE), KEY]
    route = [UNBOUNDED]

    def ours(own: list[bytes], routes: list[Route]) -> Callable[[int], list[bytes]]:
        call = mutation(KEYS, Ticket(b"bench", 1, 7, 0), 0, SCOPE, KEY, routes, own)
        sequence = 1 + 5 + 3 * len(routes) + 2
        return lambda number: [*call[:sequence], b"%d" % number, *call[sequence + 1 :]]

    def increment(member: str) -> list[bytes]:
        plan = compile_ops(msgspec.convert([{"type": "increment", "path": member, "by": 1}], list[OpRequest]))
        return update_arguments(plan_arguments(plan), LIMIT)

    result = [Candidate("bare", BARE.encode(), lambda number: [*bare, stored])]
    update, put, remove = script("update").source, script("set").source, script("delete").source
    for member in positions:
        result.append(Candidate(f"update {member}", update, ours(increment(member), [])))
    result.append(Candidate("update last, 1 queue", update, ours(increment("last"), route)))
    result.append(Candidate("set", put, ours([stored], [])))
    result.append(Candidate("set, 1 queue", put, ours([stored], route)))
    result.append(Candidate("delete", remove, ours([], [])))
    if size >= 1000:
        result.append(Candidate("cjson last", CJSON.encode(), lambda number: [*bare, b"last"]))
    return result


def measure(client: redis.Redis, size: int, rounds: int, *, batch: int) -> list[Figure]:
    """The figures for documents of a size, with `batch` calls written together."""
    stored = values.to_stored(json.dumps(document(size)[0]).encode())
    lowest: dict[str, float] = {}
    number = 0
    client.flushall()
    client.hset(KEYS.session(b"bench").decode(), "epoch", 1)
    all_candidates = [(candidate, str(client.script_load(candidate.source.decode()))) for candidate in candidates(size)]
    for _ in range(rounds):
        for candidate, digest in all_candidates:
            calls = max(1, min(300, 5_000_000 // len(stored)) // batch)
            spent = 0.0
            for _ in range(calls):
                number += batch
                spent += _run(client, candidate, digest, range(number - batch, number), stored)
            lowest[candidate.name] = min(lowest.get(candidate.name, float("inf")), spent / (calls * batch))
    return [Figure(name, len(stored), microseconds, lowest["bare"]) for name, microseconds in lowest.items()]


def _run(client: redis.Redis, candidate: Candidate, digest: str, numbers: range, stored: bytes) -> float:
    """Microseconds that the calls of these numbers take, each on a document that is there and a lane that is idle."""
    client.config_resetstat()
    pipeline = client.pipeline(transaction=False)
    for number in numbers:
        pipeline.hset(KEYS.values(SCOPE).decode(), KEY.decode(), stored.decode())
        call = candidate.arguments(number + 1)
        pipeline.evalsha(digest, int(call[0]), *call[1:])
        if "queue" in candidate.name:
            pipeline.delete(KEYS.stream(QUEUE), KEYS.busy(QUEUE))
    replies = pipeline.execute()
    assert candidate.name.startswith(("bare", "cjson")) or replies[1][0] == b"OK", replies[1]
    return float(client.info("commandstats")["cmdstat_evalsha"]["usec"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="redis-server", help="the binary to start")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--sizes", default="100,1000,10000,100000,500000", help="bytes of the documents")
    options = parser.parse_args()
    console = Console()
    with server(options.server) as client:
        version = client.info("server")["redis_version"]
        table = Table(
            "document", "script", "alone µs", "of bare", "of 50 µs", "of bare", title=f"server time per call, Redis {version}"
        )
        for column in (2, 3, 4, 5):
            table.columns[column].justify = "right"
        for size in map(int, options.sizes.split(",")):
            alone = measure(client, size, options.rounds, batch=1)
            together = measure(client, size, options.rounds, batch=50)
            for one, many in zip(alone, together, strict=True):
                cells = [cell for figure in (one, many) for cell in (f"{figure.microseconds:,.1f}", f"{figure.ratio:.2f}")]
                table.add_row(f"{one.document_bytes:,} B", one.name, *cells)
            table.add_section()
        console.print(table)


if __name__ == "__main__":
    main()
