"""The file of a kv store gets shorter when what was in it is gone."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
from pathlib import Path

import pytest

from iii_state.adapters.kv import KvAdapter
from tests.support.slow import slow
from tests.support.store_process import script
from tests.support.stores import Store

MIB = 1024 * 1024
TEXT = b'"%b"' % (b"x" * 20_000)
COUNT = 1000
KEPT = {f"k{number}": TEXT for number in range(0, COUNT, 125)}


def file_bytes(directory: Path) -> int:
    return sum(os.path.getsize(directory / name) for name in os.listdir(directory))


async def started(directory: Path) -> Store:
    store = Store(lambda limits: KvAdapter(directory, limits=limits, save_interval_ms=100))
    await store.start()
    return store


async def fill_and_empty(store: Store) -> None:
    await asyncio.gather(*(store.set("s", f"k{number}", TEXT) for number in range(COUNT)))
    await asyncio.gather(*(store.delete("s", f"k{number}") for number in range(COUNT) if f"k{number}" not in KEPT))


async def check(directory: Path) -> None:
    """It holds what it is to hold, and is sound."""
    store = await started(directory)
    assert dict(await store.entries("s")) == KEPT
    await store.adapter.stop()
    with sqlite3.connect(directory / "state.sqlite3") as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert file.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    file.close()


async def test_what_is_free_is_given_back_while_the_store_is_in_use(tmp_path: Path) -> None:
    store = await started(tmp_path)
    await fill_and_empty(store)
    assert file_bytes(tmp_path) > 10 * MIB
    async with asyncio.timeout(60):
        while file_bytes(tmp_path) > 4 * MIB:
            await store.set("s", "k0", TEXT)
            await asyncio.sleep(0.02)
    assert dict(await store.entries("s")) == KEPT
    await store.adapter.stop()
    await check(tmp_path)


async def test_a_file_that_cannot_give_back_is_rewritten_by_a_start_that_finds_it_mostly_free(tmp_path: Path) -> None:
    await (await started(tmp_path)).adapter.stop()
    with sqlite3.connect(tmp_path / "state.sqlite3", isolation_level=None) as file:
        file.execute("PRAGMA journal_mode=DELETE")
        file.execute("PRAGMA auto_vacuum=NONE")
        file.execute("VACUUM")
        assert file.execute("PRAGMA auto_vacuum").fetchone() == (0,)
    file.close()
    store = await started(tmp_path)
    await fill_and_empty(store)
    await store.adapter.stop()
    assert file_bytes(tmp_path) > 10 * MIB
    store = await started(tmp_path)
    assert file_bytes(tmp_path) < 2 * MIB
    assert dict(await store.entries("s")) == KEPT
    await store.adapter.stop()
    await check(tmp_path)


@pytest.mark.parametrize("seed", [0, slow(1), slow(2)])
async def test_killed_while_it_gives_back_it_loses_nothing(tmp_path: Path, seed: int) -> None:
    process = script(
        """
        from tests.adapters.kv.test_kv_file_size import fill_and_empty, started
        store = await started(directory)
        await fill_and_empty(store)
        say("emptied")
        await asyncio.sleep(60)
        """,
        tmp_path,
    )
    assert process.stdout is not None
    assert await asyncio.to_thread(process.stdout.readline) == "emptied\n"
    await asyncio.sleep(random.Random(seed).uniform(0.05, 0.5))
    process.kill()
    await asyncio.to_thread(process.communicate)
    await check(tmp_path)
