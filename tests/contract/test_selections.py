"""Listings of a part of a scope: by prefix, in order, up to a number, behind a key."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from iii_state import values
from iii_state.adapters.selection import KeySelection
from tests.contract.test_reading import Reader
from tests.support.stores import Store

KEYS = ["", "a", "a/1", "a/10", "a/2", "a*", "a[b]c", "a\\d", "a?", "A", "b", "é", "éa", "\uffff", "😀", "\x00", "z\n", "a" * 300]
IN_ORDER = sorted(KEYS, key=str.encode)


async def fill(store: Store, keys: list[str], scope: str = "s") -> None:
    await asyncio.gather(*(store.set(scope, key, values.encode(key)) for key in keys))


@pytest.mark.parametrize("prefix", ["", "a", "a/", "a*", "a[", "a\\", "a?", "é", "😀", "\x00", "none"])
async def test_a_prefix_is_taken_literally(store: Store, prefix: str) -> None:
    await fill(store, KEYS)
    expected = [key for key in IN_ORDER if key.startswith(prefix)]
    assert sorted(await store.keys("s", KeySelection(prefix)), key=str.encode) == expected
    assert await store.keys("s", KeySelection(prefix, "asc")) == expected
    assert await store.keys("s", KeySelection(prefix, "desc")) == expected[::-1]
    assert await store.texts("s", KeySelection(prefix, "desc")) == [values.encode(key) for key in expected[::-1]]
    assert sorted(await store.texts("s", KeySelection(prefix))) == sorted(map(values.encode, expected))
    entries = await store.entries("s", KeySelection(prefix, "asc"))
    assert entries == [(key, values.encode(key)) for key in expected]


async def test_pages_of_keys_are_the_whole_in_both_orders(store: Store) -> None:
    await fill(store, KEYS)
    for order, expected in (("asc", IN_ORDER), ("desc", IN_ORDER[::-1])):
        found: list[str] = []
        while page := await store.keys("s", KeySelection("", order, 4, found[-1] if found else None)):  # type: ignore[arg-type]
            found += page
        assert found == expected
    assert (
        await store.keys("s", KeySelection("a", "asc", 3, "a/1"))
        == [key for key in IN_ORDER if key.startswith("a") and key > "a/1"][:3]
    )
    assert await store.keys("s", KeySelection("a", "desc", 2, "0")) == []
    assert await store.keys("s", KeySelection("a", "asc", 2, "0")) == [key for key in IN_ORDER if key.startswith("a")][:2]
    assert await store.keys("s", KeySelection("a", "desc", 2, "b")) == [key for key in IN_ORDER if key.startswith("a")][:-3:-1]


async def test_a_number_of_values(store: Store) -> None:
    await fill(store, KEYS)
    assert (
        await store.texts("s", KeySelection("a", "asc", 2)) == [values.encode(key) for key in IN_ORDER if key.startswith("a")][:2]
    )
    some = await store.texts("s", KeySelection("a", None, 3))
    assert len(set(some)) == 3
    assert all(values.decode(text).startswith("a") for text in some)
    assert len(await store.texts("s", KeySelection("", "desc", 100))) == len(KEYS)
    assert await store.texts("unknown", KeySelection("", "desc", 100)) == []
    assert await store.keys("unknown", KeySelection("", "desc", 100)) == []


async def test_the_order_follows_what_changes(store: Store) -> None:
    await fill(store, [f"k{number:03}" for number in range(0, 200, 2)])
    assert (await store.keys("s", KeySelection("", "asc", 3))) == ["k000", "k002", "k004"]
    for changes in ([1, 3, 150], list(range(1, 200, 2))):  # a few, and many
        await fill(store, [f"k{number:03}" for number in changes])
        await asyncio.gather(*(store.delete("s", f"k{number - 1:03}") for number in changes))
        expected = sorted(await store.keys("s"))
        assert await store.keys("s", KeySelection("", "asc")) == expected
        assert await store.keys("s", KeySelection("", "desc", 5)) == expected[:-6:-1]
    await asyncio.gather(*(store.delete("s", key) for key in await store.keys("s")))
    assert await store.keys("s", KeySelection("", "asc")) == []
    await fill(store, ["b", "a"])
    await store.delete("s", "a")
    await fill(store, ["a"])
    assert await store.keys("s", KeySelection("", "asc")) == ["a", "b"]


async def test_what_is_over_is_not_counted(store: Store) -> None:
    for number in range(10):
        await store.set("s", f"k{number}", b"%d" % number, ttl_ms=1000 if number % 2 else 100_000)
    store.elapse(2000)
    assert await store.keys("s", KeySelection("k", "asc", 3)) == ["k0", "k2", "k4"]
    assert await store.texts("s", KeySelection("k", "desc", 2)) == [b"8", b"6"]
    assert [key for key, _ in await store.entries("s", KeySelection("k", "desc"))] == ["k8", "k6", "k4", "k2", "k0"]


@pytest.mark.parametrize("kind", ["kv-memory", "redis", "bridge-kv"])  # fakeredis takes too long over so many
async def test_a_larger_scope(store: Store) -> None:
    keys = [f"{'ab'[number % 2]}{number * 7919 % 12_000:05}" for number in range(12_000)]
    await fill(store, keys)
    of_a = sorted(key for key in keys if key.startswith("a"))
    assert await store.keys("s", KeySelection("a", "asc", 100, of_a[2000])) == of_a[2001:2101]
    assert await store.keys("s", KeySelection("", "desc", 3)) == sorted(keys)[:-4:-1]
    assert await store.texts("s", KeySelection("a", "desc", 300)) == [values.encode(key) for key in of_a[:-301:-1]]
    assert len(set(await store.texts("s", KeySelection("a", None, 50)))) == 50
    assert sorted(await store.keys("s", KeySelection("a1"))) == [key for key in of_a if key.startswith("a1")]


async def test_entries_are_read_in_pages_in_order(store: Store) -> None:
    await fill(store, KEYS)
    reader = Reader(store)
    found: list[list[Any]] = await reader.all("s", prefix="a", order="desc", limit=2)
    assert found == [[key, key] for key in IN_ORDER[::-1] if key.startswith("a")]
    first = await reader.page("s", prefix="a", order="asc", limit=2)
    await store.set("s", "a/0", b"1")
    assert first["total"] == len(found)
    rest = await reader.page("s", first["next_cursor"])
    assert [key for key, _ in first["entries"] + rest["entries"]] == [key for key, _ in found[::-1]]
