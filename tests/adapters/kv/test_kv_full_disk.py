"""A kv store that is opened on a full disk: what it holds can be read, writes are refused in words, and it goes on by itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from iii_state import lineages
from iii_state.adapters.kv import KvAdapter
from iii_state.engine import Engine
from iii_state.errors import StoreError
from iii_state.state.module import StateModule
from tests.support.store_process import script
from tests.support.stores import ALL, FAILED, Store, drain, opened
from tests.support.waiting import until


class Disk:
    """A small file system of its own, mounted at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        """Leave no byte of room."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (65536, 4096, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"x" * size):
                        pass

    def clear(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a small file system can only be mounted by root")
    try:
        yield Disk(place)
    finally:
        subprocess.run(["umount", "-l", place], check=True)


async def _fill_store(disk: Disk) -> None:
    async with opened("kv-file", disk.path) as store:
        await store.subscribe(ALL)
        await store.set("s", "dead", b"0")
        (dead,) = await store.take(ALL.id, 1)
        await store.dead_letter(dead, FAILED)
        await store.set("s", "k", b"1")
        await store.set("s", "kept", b'"for long"', ttl_ms=10**9)


async def _writes(store: Store) -> bool:
    try:
        await store.set("s", "late", b"2")
    except StoreError:
        return False
    return True


async def test_it_serves_reads_refuses_writes_and_goes_on_when_there_is_room(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    await _fill_store(disk)
    disk.fill()
    async with opened("kv-file", disk.path) as store:
        assert "Values can be read" in caplog.text
        assert await store.entries("s") == [("dead", b"0"), ("k", b"1"), ("kept", b'"for long"')]
        assert len(await store.dead_letters()) == 1
        with pytest.raises(StoreError, match="full"):
            await store.set("s", "k", b"2")
        assert await store.get("s", "k") == b"1"
        assert "full" in await store.health()
        await store.subscribe(ALL)
        assert await store.take(ALL.id, 10) == [], "events wait: nothing about them could be written down"
        with pytest.raises(StoreError, match="in use by another process"):
            async with opened("kv-file", disk.path):
                pass
        store.bells.clear()
        disk.clear()
        await until(lambda: _writes(store))
        assert store.bells, "the dispatcher was told that there are events"
        assert await store.health() is None
        first = await store.take(ALL.id, 10)
        assert [delivery.event.key for delivery in first] == ["k", "kept", "late"]
    async with opened("kv-file", disk.path) as store:
        await store.subscribe(ALL)
        again = await store.take(ALL.id, 10)
        assert [delivery.event_id for delivery in again] == [delivery.event_id for delivery in first]
        assert again[0].fence > first[0].fence, "the file knows of the process in between"
        assert await store.get("s", "late") == b"2"


async def test_of_writes_that_were_refused_no_lineage_is_remembered(disk: Disk) -> None:
    await _fill_store(disk)
    async with opened("kv-file", disk.path) as store:
        await store.subscribe(ALL)
        adapter = store.adapter
        assert isinstance(adapter, KvAdapter)
        kept = adapter.queues._with_lineage
        token = lineages.within.set(b',"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"')
        try:
            await store.set("s", "first", b"1")
            assert len(kept) == 1
            disk.fill()
            refused = 0
            while refused < 20:
                try:
                    await store.set("s", f"k{refused}", b'"%b"' % (b"x" * 100_000))
                except StoreError:
                    refused += 1
                else:
                    await store.unsubscribe(ALL.id)
                    await store.subscribe(ALL)
            assert len(kept) <= 1
        finally:
            lineages.within.reset(token)
        disk.clear()
        await until(lambda: _writes(store))
        await drain(store, ALL)
        assert not kept
    with contextlib.closing(sqlite3.connect(disk.path / "state.sqlite3")) as file:
        assert file.execute("SELECT count(*) FROM lineage").fetchone() == (0,)


async def test_it_stops_on_a_full_disk_and_loses_nothing(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    await _fill_store(disk)
    disk.fill()
    for _ in range(2):
        async with opened("kv-file", disk.path) as store:
            await store.subscribe(ALL)
            assert len(await store.entries("s")) == 3
    disk.clear()
    async with opened("kv-file", disk.path) as store:
        await store.subscribe(ALL)
        assert [delivery.event.key for delivery in await store.take(ALL.id, 10)] == ["k", "kept"]
        assert len(await store.dead_letters()) == 1


async def test_it_opens_what_a_killed_process_left_on_a_disk_that_is_full_since(disk: Disk) -> None:
    process = script(
        """
        async with opened("kv-file", directory) as store:
            await store.subscribe(Subscription("all"))
            await store.set("s", "k", b"1")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        disk.path,
    )
    _, errors = await asyncio.to_thread(process.communicate, None, 60)
    assert process.returncode == -signal.SIGKILL, errors
    disk.fill()
    async with opened("kv-file", disk.path) as store:
        assert await store.get("s", "k") == b"1"
        assert not await _writes(store)
        disk.clear()
        await until(lambda: _writes(store))


async def test_a_file_of_the_first_format_can_be_read_on_a_full_disk(disk: Disk) -> None:
    await _fill_store(disk)
    with sqlite3.connect(disk.path / "state.sqlite3") as file:
        for table in ("session", "deadline", "crash"):
            file.execute(f"DROP TABLE {table}")
        file.execute("DELETE FROM meta WHERE name IN ('store', 'clock')")
        file.execute("PRAGMA user_version=1")
    file.close()
    disk.fill()
    async with opened("kv-file", disk.path) as store:
        assert await store.get("s", "k") == b"1"
        name = store.adapter.store
        disk.clear()
        await until(lambda: _writes(store))
    async with opened("kv-file", disk.path) as store:
        assert store.adapter.store == name, "who was told the name of the store finds the same one"


async def test_a_new_store_needs_room(disk: Disk) -> None:
    disk.fill()
    with pytest.raises(StoreError, match="full"):
        async with opened("kv-file", disk.path):
            pass
    disk.clear()
    async with opened("kv-file", disk.path) as store:
        assert await _writes(store)


async def test_an_engine_starts_and_serves_reads(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await _fill_store(disk)
    disk.fill()
    config = {"adapter": {"name": "kv", "config": {"store_method": "file_based", "file_path": str(disk.path)}}}
    async with Engine() as engine:
        await engine.add_module(StateModule(config))
        assert await engine.trigger({"function_id": "state::get", "payload": {"scope": "s", "key": "k"}}) == 1
        with pytest.raises(Exception, match="full"):
            await engine.trigger({"function_id": "state::set", "payload": {"scope": "s", "key": "k", "value": 2}})
        disk.clear()

        async def written() -> bool:
            return "is taken again" in caplog.text

        await until(written)
        await engine.trigger({"function_id": "state::set", "payload": {"scope": "s", "key": "k", "value": 2}})
        assert await engine.trigger({"function_id": "state::get", "payload": {"scope": "s", "key": "k"}}) == 2
