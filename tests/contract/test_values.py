"""Values: what goes in comes out, to the byte, and mutations are atomic."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from iii_state import values
from iii_state.errors import FunctionError, too_large
from tests.support.stores import LIMIT, Store, plan, stored
from tests.support.vectors import VECTORS, exact

AWKWARD = ["", "a", "a/b", "a:b", "{x}", "a\nb", "\x00", "😀", "é", " ", "1:1", "x" * 2000]


async def test_update_vectors(store: Store) -> None:
    for vector in VECTORS:
        name = vector["name"]
        old = stored(vector["old"]) if "old" in vector else None
        if old is not None:
            await store.set("s", name, old)
        updated = await store.update("s", name, plan(*vector["ops"]), LIMIT)
        assert updated.old == store.replaced(old), name
        assert exact(values.decode(updated.new)) == exact(vector["new"]), name
        assert [msgspec.to_builtins(error) for error in updated.errors] == vector["errors"], name
        assert await store.get("s", name) == updated.new, name


@pytest.mark.parametrize(
    "text",
    [b"null", b"true", b"0", b"-0", b"1.0", b"1E+5", b"18446744073709551615", b"9" * 300, b'""', b"[]", b"{}", b'{"b":1,"a":[{}]}'],
)
async def test_a_value_comes_out_as_it_went_in(store: Store, text: bytes) -> None:
    value = values.to_stored(text)
    assert await store.set("s", "k", value) is None
    assert await store.get("s", "k") == value
    assert await store.set("s", "k", b"1") == store.replaced(value)
    assert await store.delete("s", "k") == b"1"
    assert await store.get("s", "k") is None
    assert await store.delete("s", "k") is None


async def test_any_string_is_a_scope_and_a_key(store: Store) -> None:
    for scope in AWKWARD:
        for key in AWKWARD:
            await store.set(scope, key, stored([scope, key]))
    assert sorted(await store.scopes()) == sorted(AWKWARD)
    for scope in AWKWARD:
        entries = dict(await store.entries(scope))
        assert entries == {key: stored([scope, key]) for key in AWKWARD}


async def test_a_scope_without_values_is_no_group(store: Store) -> None:
    await store.set("s", "k", b"1")
    await store.set("t", "k", b"1")
    await store.delete("s", "k")
    await store.delete("unknown", "k")
    assert await store.scopes() == ["t"]
    assert await store.entries("s") == []


async def test_the_size_of_a_result_is_bounded_exactly_and_without_the_frame(store: Store) -> None:
    await store.set("s", "k", stored({"a": "x", "b": 1}))
    size = len(b'{"a":"x","b":2}')
    assert (await store.update("s", "k", plan({"type": "increment", "path": "b", "by": 1}), size)).new == stored({"a": "x", "b": 2})
    with pytest.raises(FunctionError) as raised:
        await store.update("s", "k", plan({"type": "append", "path": "a", "value": "y"}), size)
    assert str(raised.value) == str(too_large(size + 1, size))
    assert await store.get("s", "k") == stored({"a": "x", "b": 2})


async def test_concurrent_writers_lose_no_update_and_make_a_chain(store: Store) -> None:
    async def write(number: int) -> list[tuple[bytes | None, bytes]]:
        seen = []
        for _ in range(20):
            updated = await store.update("s", "k", plan({"type": "increment", "path": "n", "by": 1}), LIMIT)
            seen.append((updated.old, updated.new))
        return seen

    links = [link for seen in await asyncio.gather(*map(write, range(64))) for link in seen]
    assert await store.get("s", "k") == stored({"n": 1280})
    following = dict(links)
    assert len(following) == 1280, "every old value is one other write's new value"
    value, steps = None, 0
    while value in following:
        value, steps = following[value], steps + 1
    assert steps == 1280
