"""A copy of a store's file: made while it is written, of one moment, and another store when it is put to use."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from iii_state.adapters.base import Adapter
from iii_state.adapters.kv import KvAdapter
from iii_state.errors import StoreError
from iii_state.events import Subscription
from iii_state.sessions import Request
from iii_state.tasks.results import result_of
from tests.support.stores import stored

LARGE = b'"%b"' % (b"x" * 200_000)


async def opened(directory: Path) -> Adapter:
    adapter: Adapter = KvAdapter(directory)
    await adapter.start(lambda subscription_id: None)
    return adapter


async def count_of(adapter: Adapter) -> int:
    """How many of the large values there are."""
    keys: list[str] = await result_of(adapter.values.keys("large"))
    return len(keys)


async def number_at(adapter: Adapter, key: str) -> int:
    """One of the pair."""
    text: bytes | None = await result_of(adapter.values.get("pairs", key))
    return -1 if text is None else int(text)


def restored(copy: str, directory: Path) -> Path:
    """A store's directory with the copy as its file."""
    directory.mkdir()
    Path(copy).rename(directory / "state.sqlite3")
    return directory


async def test_what_is_written_meanwhile_waits_for_no_copy_and_the_copy_is_of_one_moment(tmp_path: Path) -> None:
    adapter = await opened(tmp_path / "store")
    for number in range(100):
        await result_of(adapter.values.set("large", str(number), LARGE))
    making = asyncio.ensure_future(result_of(adapter.admin.backup("copy")))
    written = 0
    while not making.done():
        # Always in this order: no moment has the second without the first.
        await result_of(adapter.values.set("pairs", "first", stored(written)))
        await result_of(adapter.values.set("pairs", "second", stored(written)))
        written += 1
    made = await making
    await result_of(adapter.values.set("pairs", "after", stored(True)))
    assert written > 1
    with pytest.raises(StoreError, match="is there already"):
        await result_of(adapter.admin.backup("copy"))
    await adapter.stop()
    assert sorted(path.name for path in (tmp_path / "store" / "backups").iterdir()) == ["copy"]
    assert made.bytes > 100 * len(LARGE)

    copy = await opened(restored(made.path, tmp_path / "restored"))
    assert (await count_of(copy), await result_of(copy.values.get("large", "99"))) == (100, LARGE)
    first, second = [await number_at(copy, key) for key in ("first", "second")]
    assert first - 1 <= second <= first
    assert await result_of(copy.values.get("pairs", "after")) is None
    await copy.stop()


async def test_a_copy_is_another_store(tmp_path: Path) -> None:
    adapter = await opened(tmp_path / "store")
    await result_of(adapter.queues.subscribe(Subscription("f", retention_ms="forever")))
    await result_of(adapter.sessions.open("session", 0, 1))
    await result_of(adapter.values.set("s", "k", stored(1), request=Request("session", 1, 0, 1)))
    made = await result_of(adapter.admin.backup("copy"))
    taken = await result_of(adapter.queues.take(Subscription("f").id, 10))
    store = adapter.store
    await adapter.stop()

    copy = await opened(restored(made.path, tmp_path / "restored"))
    await result_of(copy.queues.subscribe(Subscription("f", retention_ms="forever")))
    waiting = await result_of(copy.queues.take(Subscription("f").id, 10))
    assert [each.event.key for each in waiting] == [each.event.key for each in taken] == ["k"]
    assert copy.store != store
    with pytest.raises(StoreError, match="the session is not known here"):
        await result_of(copy.values.set("s", "k", stored(2), request=Request("session", 1, 0, 2)))
    await result_of(copy.values.set("s", "other", stored(2)))
    new = await result_of(copy.queues.take(Subscription("f").id, 10))
    await copy.stop()

    again = await opened(tmp_path / "store")
    await result_of(again.queues.subscribe(Subscription("f", retention_ms="forever")))
    await result_of(again.values.set("s", "another", stored(2)))
    there = await result_of(again.queues.take(Subscription("f").id, 10))
    await again.stop()
    ids = [each.event_id for each in (*new, *there) if each.event.key != "k"]
    assert len(set(ids)) == 2, "each store gives ids of its own"


async def test_an_engine_that_stops_makes_no_copy(tmp_path: Path) -> None:
    adapter = await opened(tmp_path / "store")
    for number in range(100):
        await result_of(adapter.values.set("large", str(number), LARGE))
    making = asyncio.ensure_future(result_of(adapter.admin.backup("copy")))
    await asyncio.sleep(0)
    await adapter.stop()
    (made,) = await asyncio.gather(making, return_exceptions=True)
    if isinstance(made, BaseException):
        assert str(made) == "the engine stops: there is no copy"
        assert list((tmp_path / "store" / "backups").iterdir()) == []
    else:  # it was faster
        assert sqlite3.connect(made.path).execute("SELECT count(*) FROM state").fetchone() == (100,)
    again = await opened(tmp_path / "store")
    assert await count_of(again) == 100
    await again.stop()
