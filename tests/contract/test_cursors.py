"""`state::list_entries` over every adapter, at engines in processes of their own: a cursor ends with its connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import pytest

from iii_state import FunctionError
from iii_state.state.functions.snapshots import MAX_SNAPSHOTS
from tests.support.bridge.processes import Worker, bridged, engine, remote
from tests.support.engines.attached import attached
from tests.support.engines.old_engine import OldEngine
from tests.support.redis.proxy import Proxy
from tests.support.slow import slow
from tests.support.waiting import until

KINDS = ["kv", "redis", "bridge-kv", *map(slow, ("bridge-redis", "bridge-bridge-kv"))]


@asynccontextmanager
async def served(kind: str) -> AsyncIterator[str]:
    """The address of an engine whose state is of a kind, or has been attached to it."""
    async with AsyncExitStack() as stack:
        if kind == "attached":
            url = (await stack.enter_async_context(engine(["--no-state"]))).url
        elif kind == "attached to an old one":
            url = (await stack.enter_async_context(OldEngine())).url
        else:
            url = (await stack.enter_async_context(remote(kind))).url
        if kind.startswith("attached"):
            process = stack.enter_context(attached(url))
            await asyncio.to_thread(process.until_attached)
        yield url


async def fill(worker: Worker) -> None:
    for number in range(20):
        await worker.set(number, key=str(number), scope="small")


async def page(worker: Worker) -> str:
    """Begin to read; the cursor."""
    cursor: str = (await worker("list_entries", scope="small", limit=1))["next_cursor"]
    return cursor


async def can_begin(worker: Worker) -> bool:
    try:
        await page(worker)
    except FunctionError as error:
        if error.code != "SNAPSHOT_CAPACITY":
            raise
        return False
    return True


@pytest.mark.parametrize("kind", [*KINDS, "attached", "attached to an old one"])
async def test_connections_that_have_closed_keep_no_places(kind: str) -> None:
    async with served(kind) as url, Worker(url) as worker:
        await fill(worker)
        kept = await page(worker)
        for _ in range(2):
            async with AsyncExitStack() as stack:
                readers = [await stack.enter_async_context(Worker(url)) for _ in range(MAX_SNAPSHOTS - 1)]
                await all_begin(readers)
                assert not await can_begin(worker)
        await until(lambda: can_begin(worker))
        rest = await worker("list_entries", scope="small", cursor=kept)
        assert len(rest["entries"]) == 19, "who is still there keeps his"


def is_cut(proxy: Proxy, cuts: int) -> bool:
    return proxy.cuts > cuts


async def all_begin(readers: list[Worker]) -> None:
    """Each takes a place, as soon as there is one: those of connections that have closed are free a moment later."""
    for reader in readers:
        await until(partial(can_begin, reader))


@pytest.mark.parametrize("kind", ["redis", *map(slow, ("kv", "bridge-kv"))])
async def test_a_scope_is_read_through_links_that_are_cut(kind: str) -> None:
    """Each reading takes three pages, and the link breaks behind one of them: nobody hears of cursors, and no place stays taken."""
    async with bridged(kind) as (store, proxy, writer, worker):
        # Pages of at most 8 MB, of which the third does not get through.
        await fill(writer)
        for number in range(5):
            await writer.set("x" * 3_900_000, key=str(number))
        for number in range(3):
            proxy.reply_bytes = lambda: 18_000_000
            proxy.cut_all()
            cuts = proxy.cuts
            reading = asyncio.ensure_future(worker("list_entries", scope="s", limit=1, max_bytes=8_000_000))
            await until(partial(is_cut, proxy, cuts))
            proxy.reply_bytes = lambda: None
            assert (await reading)["total"] == 5, number
        async with AsyncExitStack() as stack:
            readers = [await stack.enter_async_context(Worker(store.url)) for _ in range(MAX_SNAPSHOTS)]
            await all_begin(readers)


async def test_a_row_that_no_page_holds_leaves_no_place_taken() -> None:
    async with remote("kv") as store, engine(["--bridge-url", store.url]) as bridge, Worker(store.url) as worker:
        await fill(worker)
        for number in range(20):
            await worker.set(number, key=str(number))
        await worker.set("x" * 8_000_000, key="large")
        async with Worker(bridge.url) as reader, AsyncExitStack() as stack:
            assert (await reader("list_entries", scope="s", limit=1))["total"] == 21
            found = await worker("list_entries", scope="s", max_bytes=8_000_000)
            assert len(found["entries"]) == 20
            with pytest.raises(FunctionError, match="ROW_TOO_LARGE"):
                await worker("list_entries", scope="s", max_bytes=8_000_000, cursor=found["next_cursor"])
            # Both are still connected, and hold nothing at the store.
            await all_begin([await stack.enter_async_context(Worker(store.url)) for _ in range(MAX_SNAPSHOTS)])
