"""Reading a scope: its keys, and pages over it as it was at one moment."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest

from iii_state import values
from iii_state.errors import FunctionError, InvalidValue
from iii_state.state.functions.requests import EntriesRequest
from iii_state.state.functions.snapshots import Snapshots
from tests.support.stores import Store, opened
from tests.support.waiting import until


class Reader:
    """A caller that pages through scopes."""

    def __init__(self, store: Store, worker_id: str = "w", **bounds: Any) -> None:
        self.snapshots = Snapshots(store.adapter, **bounds)
        self.worker_id = worker_id

    async def page(self, scope: str, cursor: str | None = None, worker_id: str | None = None, **given: Any) -> dict[str, Any]:
        request = EntriesRequest(scope, cursor, **given)
        answer = self.snapshots.page(request, self.worker_id if worker_id is None else worker_id)
        text = await asyncio.wait_for(answer, 20) if asyncio.isfuture(answer) else answer
        assert isinstance(text, bytes)
        page: dict[str, Any] = values.decode(text)
        assert page["done"] == (page["next_cursor"] is None)
        assert len(text) <= given.get("max_bytes", 1_000_000)
        assert len(page["entries"]) <= given.get("limit", 100)
        return page

    async def refused(self, *arguments: Any, **given: Any) -> tuple[str, str]:
        with pytest.raises(FunctionError) as raised:
            await self.page(*arguments, **given)
        return raised.value.code, raised.value.message

    async def all(self, scope: str, **given: Any) -> list[list[Any]]:
        found: list[list[Any]] = []
        page = await self.page(scope, **given)
        while True:
            assert page["offset"] == len(found)
            found += page["entries"]
            if page["done"]:
                assert page["total"] == len(found)
                return found
            assert page["entries"]
            page = await self.page(scope, page["next_cursor"], **given)


async def fill(store: Store, scope: str, count: int, text: bytes = b"1") -> None:
    await asyncio.gather(*(store.set(scope, f"k{number}", text) for number in range(count)))


async def test_the_keys_of_a_scope(store: Store) -> None:
    assert await store.keys("unknown") == []
    names = ["", "a", "a\nb", "\x00", "😀", "k" * 2000]
    for name in names:
        await store.set("s", name, b"1")
        await store.set("other", name + "x", b"1")
    await store.delete("s", "a")
    names.remove("a")
    assert sorted(await store.keys("s")) == sorted(names)


async def test_a_small_scope_is_one_page(store: Store) -> None:
    reader = Reader(store)
    empty: dict[str, Any] = {"entries": [], "next_cursor": None, "done": True, "offset": 0, "total": 0}
    assert await reader.page("unknown") == empty
    await store.set("s", 'a"b\n', values.to_stored(b'{"a":[],"b":1}'))
    assert await reader.page("s") == {**empty, "entries": [['a"b\n', {"a": [], "b": 1}]], "total": 1}


async def test_pages_are_of_the_scope_as_it_was_at_the_first(store: Store) -> None:
    reader = Reader(store)
    await fill(store, "s", 250, b'"old"')
    first = await reader.page("s")
    assert (len(first["entries"]), first["offset"], first["total"]) == (100, 0, 250)
    await fill(store, "s", 300, b'"new"')
    await store.delete("s", "k7")
    second = await reader.page("s", first["next_cursor"])
    third = await reader.page("s", second["next_cursor"], limit=1000)
    assert (second["offset"], third["offset"], third["done"]) == (100, 200, True)
    found = [tuple(entry) for page in (first, second, third) for entry in page["entries"]]
    assert sorted(found) == sorted((f"k{number}", "old") for number in range(250))


@pytest.mark.parametrize(("limit", "max_bytes"), [(1, 1_000_000), (1000, 256), (7, 300), (1000, 8_000_000)])
async def test_pages_keep_both_bounds_and_lose_nothing(store: Store, limit: int, max_bytes: int) -> None:
    texts = {f"k{number}": "x" * (number % 60) for number in range(120)}
    for key, text in texts.items():
        await store.set("s", key, values.encode(text))
    found = await Reader(store).all("s", limit=limit, max_bytes=max_bytes)
    assert sorted(map(tuple, found)) == sorted(texts.items())


async def test_a_row_that_does_not_fit_is_said_and_can_be_had_with_more_bytes(store: Store) -> None:
    reader = Reader(store)
    for key in ("a", "b", "c"):
        await store.set("s", key, values.encode("x" * 500))
    code, message = await reader.refused("s", max_bytes=256)
    assert (code, "max_bytes 256" in message) == ("ROW_TOO_LARGE", True)
    first = await reader.page("s", max_bytes=700)
    assert len(first["entries"]) == 1
    cursor = first["next_cursor"]
    assert (await reader.refused("s", cursor, max_bytes=256))[0] == "ROW_TOO_LARGE"
    assert len((await reader.page("s", cursor))["entries"]) == 2


@pytest.mark.parametrize("kind", ["kv-memory", "redis"])  # fakeredis closes the connection over so large a reply
async def test_a_value_that_no_page_can_hold_keeps_nobody_from_reading_the_others(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as store:
        reader = Reader(store)
        await fill(store, "s", 8)
        for key in ("k0", "k4"):
            await store.set("s", key, values.encode("x" * 8_000_000))
        first = await reader.page("s", max_bytes=8_000_000, limit=4)
        second = await reader.page("s", first["next_cursor"], max_bytes=8_000_000, limit=4)
        found = [key for page in (first, second) for key, _ in page["entries"]]
        assert sorted(found) == ["k1", "k2", "k3", "k5", "k6", "k7"]
        cursor = second["next_cursor"]
        code, message = await reader.refused("s", cursor, max_bytes=8_000_000)
        assert (code, "state::get" in message) == ("ROW_TOO_LARGE", True)


async def test_a_cursor_is_used_once_and_bound_to_its_scope_and_caller(store: Store) -> None:
    reader = Reader(store)
    await fill(store, "s", 250)
    cursor = (await reader.page("s"))["next_cursor"]
    for scope, given, worker_id in (("t", cursor, "w"), ("s", cursor, "other"), ("s", cursor + "x", "w"), ("s", "", "w")):
        assert (await reader.refused(scope, given, worker_id=worker_id))[0] == "INVALID_CURSOR"
    following = (await reader.page("s", cursor))["next_cursor"]
    assert (await reader.refused("s", cursor))[0] == "INVALID_CURSOR"
    assert (await reader.page("s", following))["done"]
    assert (await reader.refused("s", following))[0] == "INVALID_CURSOR"


async def test_a_cursor_that_is_not_used_expires_and_makes_room(store: Store) -> None:
    reader = Reader(store, expiry_seconds=0.05, max_snapshots=1)
    await fill(store, "s", 3)
    cursor = (await reader.page("s", limit=1))["next_cursor"]
    assert (await reader.refused("s", limit=1))[0] == "SNAPSHOT_CAPACITY"

    async def expired() -> bool:
        try:
            await reader.page("s", limit=1)
        except FunctionError as error:
            return error.code != "SNAPSHOT_CAPACITY"
        return True

    await until(expired)
    assert (await reader.refused("s", cursor))[0] == "INVALID_CURSOR"


async def test_too_many_or_too_large_snapshots_are_refused_and_none_is_dropped(store: Store) -> None:
    reader = Reader(store, max_snapshots=2, max_bytes=4000)
    await fill(store, "s", 3)
    await fill(store, "large", 3, values.encode("x" * 2200))
    code, message = await reader.refused("large", limit=1)
    assert (code, "4000 bytes" in message) == ("SNAPSHOT_CAPACITY", True)
    assert (await reader.page("large"))["done"], "what fits into one page needs no snapshot"
    cursors = [(await reader.page("s", limit=1))["next_cursor"] for _ in range(2)]
    assert (await reader.refused("s", limit=1))[0] == "SNAPSHOT_CAPACITY"
    assert (await reader.page("s"))["done"]
    for cursor in cursors:
        assert (await reader.page("s", cursor))["done"]
    cursor = (await reader.page("s", limit=1))["next_cursor"]
    assert (await reader.page("s", cursor))["done"]


async def test_what_has_been_handed_out_makes_room(store: Store) -> None:
    reader = Reader(store, max_bytes=9000)
    await fill(store, "s", 4, values.encode("x" * 2000))
    cursor = (await reader.page("s", limit=1))["next_cursor"]
    assert (await reader.refused("s", limit=1))[0] == "SNAPSHOT_CAPACITY"
    await reader.page("s", cursor, limit=2)
    assert not (await reader.page("s", limit=1))["done"]


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ({"limit": 0}, "limit: invalid value: 0, expected an integer from 1 to 1000"),
        ({"limit": 1001}, "limit: invalid value: 1001, expected an integer from 1 to 1000"),
        ({"max_bytes": 255}, "max_bytes: invalid value: 255, expected an integer from 256 to 8000000"),
        ({"max_bytes": 8_000_001}, "max_bytes: invalid value: 8000001, expected an integer from 256 to 8000000"),
    ],
)
async def test_bounds_out_of_range(store: Store, given: dict[str, Any], cause: str) -> None:
    with pytest.raises(InvalidValue) as raised:
        await Reader(store).page("s", **given)
    assert str(raised.value) == cause


async def test_what_state_list_cannot_hold_can_be_read(tmp_path: Path) -> None:
    async with opened("kv-memory", tmp_path) as store:
        text = values.encode("x" * 7_000_000)
        for number in range(20):
            await store.set("s", str(number), text)
        found = await Reader(store).all("s", max_bytes=8_000_000)
        assert sorted(int(key) for key, _ in found) == list(range(20))


async def test_a_large_scope_is_read_whole_from_redis(tmp_path: Path) -> None:
    async with opened("redis", tmp_path) as store:
        names = {f"k{number}" for number in range(12_000)}
        await fill(store, "s", 12_000)
        assert set(await store.keys("s")) == names
        assert {key for key, _ in await Reader(store).all("s", limit=1000)} == names


async def test_closing_forgets_every_snapshot(store: Store) -> None:
    reader = Reader(store)
    await fill(store, "s", 3)
    cursor = (await reader.page("s", limit=1))["next_cursor"]
    held = weakref.ref(reader.snapshots)
    reader.snapshots.close()
    assert (await reader.refused("s", cursor))[0] == "INVALID_CURSOR"
    del reader
    gc.collect()
    assert held() is None, "a timer still holds it"
