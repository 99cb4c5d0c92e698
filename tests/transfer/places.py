"""Stores of every kind that values are moved from and to, and what is in them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import redis

from iii_state import values
from iii_state.adapters.wall_clock import now_ms
from iii_state.client.address import EngineAddress
from iii_state.config import RedisSettings
from iii_state.transfer import stores
from iii_state.transfer.rows import ValueRow
from iii_state.transfer.stores import StorePlace
from tests.support.redis.server import shared_server
from tests.support.stores import engine_over, stored

KINDS = ["file", "redis", "engine", "bridge"]

HOUR_MS = 3_600_000


def redis_place(number: int) -> StorePlace:
    """An empty database of the tests' Redis."""
    url = f"{shared_server().url}/{number}"
    client = redis.Redis.from_url(url)
    client.flushdb()
    client.close()
    return StorePlace(redis=RedisSettings(redis_url=url))


@asynccontextmanager
async def place_of(kind: str, folder: Path, number: int) -> AsyncIterator[StorePlace]:
    """An empty store. Several at a time have numbers of their own, 1 to 9."""
    if kind == "file":
        yield StorePlace(directory=folder / f"store-{number}")
    elif kind == "redis":
        yield await asyncio.to_thread(redis_place, number)
    else:
        async with engine_over("bridge-kv" if kind == "bridge" else "kv", folder, None) as (url, _):
            yield StorePlace(engine=EngineAddress(url))


async def fill(place: StorePlace, rows: Sequence[ValueRow]) -> None:
    """Put rows into a store."""
    async with stores.target(place, "overwrite", events=True, is_dry=False) as target:
        await target.put(rows, "overwrite")


async def held_in(place: StorePlace) -> list[ValueRow]:
    """Everything in a store, in order."""
    async with stores.source(place) as source:
        found = [row for scope in await source.scopes() async for rows in source.rows(scope) for row in rows]
    return sorted(found)


def assert_same(found: Sequence[ValueRow], wanted: Sequence[ValueRow]) -> None:
    """The same values; deadlines by about the same clock."""
    assert [row[:3] for row in found] == [row[:3] for row in sorted(wanted)]
    for row, other in zip(found, sorted(wanted), strict=True):
        assert (row.deadline_ms is None) == (other.deadline_ms is None), row.key
        if row.deadline_ms is not None and other.deadline_ms is not None:
            assert abs(row.deadline_ms - other.deadline_ms) < 120_000


HOSTILE_NAMES = [
    "",
    "a",
    "line\nbreak",
    "nul\0byte",
    "tab\t",
    '"quoted"',
    "back\\slash",
    "{",
    "emoji 🎈",
    "\u00e9",
    "e\u0301",
    " ",
    "/x/../y",
    "%2F",
]

HOSTILE_TEXTS = [
    b"18446744073709551615",
    b"-9223372036854775808",
    b"123456789012345678901234567890",
    b"1.0",
    b"1E+5",
    b"-0",
    b"[]",
    b"{}",
    b"null",
    b'""',
    b'"line\\nbreak \\u0000 \xf0\x9f\x8e\x88"',
    b'{"a":[],"b":{},"":null,"line\\nbreak":{"c":"\\t"}}',
    b'[{"a":1},[[]]]',
    b'{"end":{"scopes":1}}',
]


def hostile_rows() -> list[ValueRow]:
    """Names and values that have been lost somewhere before."""
    rows = [ValueRow(scope, key, stored("x")) for scope in HOSTILE_NAMES for key in HOSTILE_NAMES]
    rows += [ValueRow("texts", str(number), values.to_stored(text)) for number, text in enumerate(HOSTILE_TEXTS)]
    rows += [ValueRow("deadlines", "far", stored(1), now_ms() + HOUR_MS), ValueRow("deadlines", "none", stored([2]))]
    return rows


def many_rows(count: int, scopes: int = 3) -> list[ValueRow]:
    """So many rows in each of some scopes: more than is read at one instant."""
    return [
        ValueRow(f"many-{scope}", f"key-{number}", stored({"n": 2**63 + number, "text": "x" * (number % 50)}))
        for scope in range(scopes)
        for number in range(count)
    ]
