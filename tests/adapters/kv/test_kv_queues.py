"""The queues of kv: what only their inside shows."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from iii_state.adapters.kv import KvAdapter
from iii_state.errors import StoreError
from iii_state.events import QueueLimits
from tests.support.stores import ALL, FAILED, drain, opened


async def test_what_a_full_queue_has_dropped_is_not_kept_while_nobody_takes(tmp_path: Path) -> None:
    async with opened("kv-memory", tmp_path, QueueLimits(max_queue_length=3, on_full="drop_oldest")) as store:
        await store.subscribe(ALL)
        assert isinstance(store.adapter, KvAdapter)
        (queue,) = store.adapter.queues
        for number in range(200):
            await store.set("s", str(number), b"1")
        assert len(queue._ready) < 100
        assert [d.event.key for d in await drain(store, ALL)] == ["197", "198", "199"]


async def test_a_revived_dead_letter_keeps_its_room_until_it_is_committed(tmp_path: Path) -> None:
    async with opened("kv-file", tmp_path, QueueLimits(max_queue_length=2)) as store:
        await store.subscribe(ALL)
        await store.set("s", "dead", b"1")
        (delivery,) = await store.take(ALL.id, 1)
        await store.dead_letter(delivery, FAILED)
        await store.set("s", "first", b"1")
        assert store.adapter.admin.dead_retry(delivery.event_id)
        with pytest.raises(StoreError, match="is full"):
            await store.set("s", "second", b"1")
        assert sorted(d.event.key for d in await drain(store, ALL)) == ["dead", "first"]


async def test_a_dead_letter_that_grows_too_old_while_the_store_is_closed_is_gone_from_the_file(tmp_path: Path) -> None:
    limits = QueueLimits(dead_letter_retention_ms=10**7)
    async with opened("kv-file", tmp_path, limits) as store:
        await store.subscribe(ALL)
        for key in ("old", "young"):
            await store.set("s", key, b"1")
            await store.dead_letter(*await store.take(ALL.id, 1), FAILED)
        assert len(await store.dead_letters()) == 2
    with sqlite3.connect(tmp_path / "state.sqlite3") as file:
        file.execute("UPDATE dead_letter SET buried_at_ms = buried_at_ms - 10000000 WHERE key = CAST('old' AS BLOB)")
    file.close()
    async with opened("kv-file", tmp_path, limits) as store:
        assert [letter.event.key for letter in await store.dead_letters()] == ["young"]
        (stats,) = await store.stats()
        assert (stats.dead, stats.dropped) == (1, 1)
    async with opened("kv-file", tmp_path) as store:
        assert [letter.event.key for letter in await store.dead_letters()] == ["young"], "what was dropped is not in the file"
        (stats,) = await store.stats()
        assert stats.dropped == 1
