"""Deadlines of the kv adapter: over a kill, a full disk and an older file, and what they take of memory."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

from iii_state.adapters.kv import KvAdapter
from iii_state.adapters.kv.journal.file import FORMAT
from tests.support.store_process import script
from tests.support.stores import ALL, drain, opened, seen


async def test_killed_before_a_deadline_the_value_goes_at_the_next_start_with_one_event(tmp_path: Path) -> None:
    process = script(
        """
        async with opened("kv-file", directory) as store:
            await store.subscribe(Subscription("all"))
            await asyncio.gather(*(store.set("s", f"k{number}", b"1", ttl_ms=number % 400 + 1) for number in range(1000)))
            await store.set("s", "always", b"1")
            await asyncio.sleep(0.2)
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path,
    )
    _, errors = await asyncio.to_thread(process.communicate, None, 60)
    assert process.returncode == -9, errors
    deleted: list[str] = []
    for _ in range(2):
        async with opened("kv-file", tmp_path) as store:
            await store.subscribe(ALL)
            async with asyncio.timeout(10):
                while await store.entries("s") != [("always", b"1")]:
                    await asyncio.sleep(0.005)
            deleted += [key for event, _, key, _, _ in seen(await drain(store, ALL)) if event == "deleted"]
    assert sorted(deleted) == sorted(f"k{number}" for number in range(1000))


async def test_a_value_that_cannot_be_removed_from_a_full_disk_is_not_seen_and_goes_later(tmp_path: Path) -> None:
    process = script(
        """
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        async with opened("kv-file", directory) as store:
            await store.subscribe(Subscription("all"))
            await store.set("s", "k", b"1", ttl_ms=1000)
            resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(directory / "state.sqlite3-wal"), -1))
            while await store.get("s", "k") is not None:
                await asyncio.sleep(0.005)
            while (await store.health()) is None:
                await asyncio.sleep(0.005)
            say(len(await store.entries("s")), len(await store.take(Subscription("all").id, 5)))
            resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
            while (await store.stats())[0].waiting != 1:
                await asyncio.sleep(0.005)
        """,
        tmp_path,
    )
    output, errors = await asyncio.to_thread(process.communicate, None, 60)
    assert output == "0 1\n", errors
    async with opened("kv-file", tmp_path) as store:
        await store.subscribe(ALL)
        assert [event[0] for event in seen(await drain(store, ALL))] == ["created", "deleted"]


async def test_a_file_of_the_format_before_deadlines_is_brought_up_to_it(tmp_path: Path) -> None:
    async with opened("kv-file", tmp_path) as store:
        await store.set("s", "k", b"1")
    with sqlite3.connect(tmp_path / "state.sqlite3") as file:
        file.execute("DROP TABLE deadline")
        file.execute("PRAGMA user_version=1")
    file.close()
    async with opened("kv-file", tmp_path) as store:
        assert await store.get("s", "k") == b"1"
        await store.set("s", "k", b"2", ttl_ms=3_600_000)
    with sqlite3.connect(tmp_path / "state.sqlite3") as file:
        assert file.execute("PRAGMA user_version").fetchone() == (FORMAT,)
        assert file.execute("SELECT scope, key FROM deadline").fetchall() == [(b"s", b"k")]
    file.close()


async def test_a_deadline_that_fails_with_its_write_leaves_the_former_one_in_force(tmp_path: Path) -> None:
    process = script(
        """
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        async with opened("kv-file", directory) as store:
            await store.set("s", "k", b"1", ttl_ms=1500)
            resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(directory / "state.sqlite3-wal"), -1))
            for ttl_ms in (3600000, None):
                try:
                    await store.set("s", "k", b'"%s"' % (b"x" * 20_000), ttl_ms=ttl_ms)
                except StoreError:
                    say("failed", (await store.get("s", "k")).decode())
            resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
            while await store.entries("s"):
                await asyncio.sleep(0.005)
        """,
        tmp_path,
    )
    output, errors = await asyncio.to_thread(process.communicate, None, 60)
    assert (output, process.returncode) == ("failed 1\nfailed 1\n", 0), errors


async def test_what_is_set_again_and_again_takes_no_memory_for_its_former_deadlines() -> None:
    adapter = KvAdapter()
    await adapter.start(lambda subscription_id: None)
    for number in range(20_000):
        adapter.values.set("s", f"k{number % 10}", b"1", ttl_ms=3_600_000 + number)
    assert len(adapter.values._deadlines.watched) < 200
    for number in range(10):
        adapter.values.delete("s", f"k{number}")
    assert adapter.values._deadlines.over("s") == set()
    await adapter.stop()
