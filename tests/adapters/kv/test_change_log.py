"""The change log of a kv store: it lasts as its values do, and never goes on as if nothing had been."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from iii_state import values
from iii_state.adapters.kv import KvAdapter
from iii_state.adapters.kv.journal.file import FILE_NAME
from iii_state.adapters.kv.journal.stopped import stopped_file
from iii_state.errors import Compacted, StoreError
from iii_state.history import LogPage, LogRule, LogRules
from tests.support.waiting import answer_of

LOGGED = LogRules([LogRule(scope="s"), LogRule(scope_prefix="short", max_length=3)])
NOTHING = LogRules()


@asynccontextmanager
async def opened(directory: Path, history: LogRules = LOGGED, **settings: Any) -> AsyncIterator[KvAdapter]:
    adapter = KvAdapter(directory, history=history, **settings)
    await adapter.start(lambda subscription_id: None)
    try:
        yield adapter
    finally:
        await adapter.stop()


async def page(adapter: KvAdapter, after: str | None = None, scope: str = "s") -> LogPage:
    found: LogPage = await answer_of(adapter.history.page(scope, None, after, 1000))
    return found


def revisions(found: LogPage) -> list[int]:
    return [change.revision for change in found.changes]


def version_of(directory: Path) -> int:
    with sqlite3.connect(directory / FILE_NAME) as connection:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.close()
    return version


async def test_it_is_there_after_a_restart_and_counts_on(tmp_path: Path) -> None:
    async with opened(tmp_path) as adapter:
        for number in range(5):
            await answer_of(adapter.values.set("s", "k", b"%d" % number))
            await answer_of(adapter.values.set("short", "k", b"%d" % number))
        await answer_of(adapter.values.delete("s", "k"))
        before, short = await page(adapter), await page(adapter, scope="short")
    async with opened(tmp_path) as adapter:
        assert await page(adapter) == before
        assert await page(adapter, scope="short") == short
        await answer_of(adapter.values.set("s", "k", b"7"))
        following = await page(adapter, before.next_after)
        assert revisions(following) == [7]
        assert values.decode(following.changes[0].event)["event_type"] == "state:created"
        assert adapter.history.revision("s", "k") == 7


async def test_a_write_that_does_not_last_is_no_change(tmp_path: Path) -> None:
    async with opened(tmp_path) as adapter:
        await answer_of(adapter.values.set("s", "k", b"1"))
        journal = adapter._journal
        assert journal is not None
        await journal._call(lambda: journal._opened().execute("PRAGMA query_only=ON"))
        failing = [adapter.values.set("s", f"k{number}", b"1") for number in range(3)]
        for outcome in await asyncio.gather(*map(answer_of, failing), return_exceptions=True):
            assert isinstance(outcome, StoreError)
        await journal._call(lambda: journal._opened().execute("PRAGMA query_only=OFF"))
        await answer_of(adapter.values.set("s", "k", b"2"))
        assert revisions(await page(adapter)) == [1, 2]
    async with opened(tmp_path) as adapter:
        assert revisions(await page(adapter)) == [1, 2]


async def test_changes_are_seen_when_they_last(tmp_path: Path) -> None:
    async with opened(tmp_path) as adapter:
        written = adapter.values.set("s", "k", b"1")
        assert revisions(await page(adapter)) == []
        await answer_of(written)
        assert revisions(await page(adapter)) == [1]


async def test_the_file_forgets_what_is_too_much_or_too_old(tmp_path: Path) -> None:
    rules = LogRules([LogRule(scope="s", max_length=10), LogRule(scope="old", max_age_ms=1)])
    async with opened(tmp_path, rules) as adapter:
        for number in range(300):
            await answer_of(adapter.values.set("s", "k", b"%d" % number))
            await answer_of(adapter.values.set("old", "k", b"%d" % number))
        async with asyncio.timeout(10):
            while (await page(adapter, scope="old")).first < 301:
                await asyncio.sleep(0.01)
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        kept = dict(connection.execute("SELECT scope, count(*) FROM history GROUP BY scope").fetchall())
    connection.close()
    assert set(kept) == {b"s"}
    assert 10 <= kept[b"s"] <= 10 + 64
    async with opened(tmp_path, rules) as adapter:
        assert revisions(await page(adapter)) == list(range(291, 301))
        assert (await page(adapter, scope="old")).first == 301


async def test_a_log_that_was_off_does_not_go_on_as_if_nothing_had_been(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(tmp_path) as adapter:
        await answer_of(adapter.values.set("s", "k", b"1"))
        before = await page(adapter)
    async with opened(tmp_path, NOTHING) as adapter:
        with pytest.raises(StoreError, match="has no change log"):
            await page(adapter)
    assert caplog.messages == [
        "the setting `history` does not name 's' any more: what their change logs held is gone (values are not)"
    ]
    for _ in range(2):  # it begins anew once
        async with opened(tmp_path) as adapter:
            with pytest.raises(Compacted):
                await page(adapter, before.next_after)
            fresh = await page(adapter)
            assert (fresh.changes, fresh.first) == ([], 3)
    async with opened(tmp_path) as adapter:
        await answer_of(adapter.values.set("s", "k", b"2"))
        assert revisions(await page(adapter, fresh.next_after)) == [3]
        with pytest.raises(Compacted):
            await page(adapter, before.next_after)


async def test_a_version_that_does_not_know_of_it_refuses_the_file_while_a_scope_has_a_log(tmp_path: Path) -> None:
    for rules, version in ((LOGGED, 3), (NOTHING, 2), (LOGGED, 3)):
        async with opened(tmp_path, rules) as adapter:
            await answer_of(adapter.values.set("s", "k", b"1"))
        assert version_of(tmp_path) == version


async def test_what_is_stored_without_an_engine_ends_the_log_of_its_scope(tmp_path: Path) -> None:
    async with opened(tmp_path) as adapter:
        for scope in ("s", "short"):
            await answer_of(adapter.values.set(scope, "k", b"1"))
        before, short = await page(adapter), await page(adapter, scope="short")
    with stopped_file(tmp_path, is_written=True) as file, file.transaction():
        file.put("s", "k", b"2", None)
    assert version_of(tmp_path) == 3
    async with opened(tmp_path) as adapter:
        with pytest.raises(Compacted):
            await page(adapter, before.next_after)
        assert await page(adapter, scope="short") == short
