"""What a stored value takes of Redis's memory, against its plain JSON."""

from __future__ import annotations

from typing import Any

import redis

from benchmarks import frames
from benchmarks.plan import Plan
from benchmarks.report import Report, Table, bar
from iii_state import values
from iii_state.adapters.redis.keys import Keys
from tests.support.redis.server import RedisServer

SIZES = (100, 1000, 10_000, 100_000)
_BYTES = 2_000_000
"""Of the values of one size, all together; at least 20 of them."""


def memory(plan: Plan, report: Report, server: RedisServer) -> None:
    """Fill a scope with values of each size, as we store them and as plain JSON, and ask `MEMORY USAGE`."""
    columns = ["bytes of JSON", "bytes stored", "memory", "of the JSON", "as plain JSON", "of plain JSON", "of the JSON"]
    table = Table("Memory per value of a scope, its key's share included", columns)
    for size in SIZES:
        plan.progress(f"redis-memory: {size:,} bytes")
        plain = frames.document(size).encode()
        stored = values.to_stored(plain)
        count = max(20, min(2000, _BYTES // size))
        ours, bare = (_bytes_each(server.client, text, count) for text in (stored, plain))
        table.add(size, len(stored), ours, ours / size, bare, ours / bare, bar(ours / size, 2))
    report.tables.append(table)
    report.notes.append(
        "A full bar is twice the JSON. 'As plain JSON' is the same hash with the values as a stock engine writes them."
    )


def _bytes_each(client: redis.Redis, text: bytes, count: int) -> float:
    client.flushall()
    name = Keys().values(b"bench")
    pipeline = client.pipeline(transaction=False)
    for number in range(count):
        pipeline.hset(name.decode(), f"user:{number:06d}", text.decode())
    pipeline.execute()
    usage: Any = client.memory_usage(name.decode(), samples=0)  # of every field
    return float(usage) / count
