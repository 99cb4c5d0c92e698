"""The line of workers that serve one store to engines: who comes first is before all others until it is gone."""

from __future__ import annotations

import asyncio

from tests.support.redis.server import fake_server, shared_server
from tests.support.stores import Store

LONG = 60_000


async def test_who_lines_up_later_is_behind_for_as_long_as_the_first_counts(store: Store) -> None:
    assert await store.enter("a", LONG) == []
    assert await store.enter("b", LONG) == ["a"]
    assert sorted(await store.enter("c", LONG)) == ["a", "b"]
    assert await store.enter("a", LONG) == []
    await store.leave("a")
    assert await store.enter("b", LONG) == []
    assert await store.enter("a", LONG) in (["b", "c"], ["c", "b"])


async def test_who_has_not_been_heard_of_in_time_is_out_and_comes_back_at_the_end(store: Store) -> None:
    await store.enter("a", 1)
    async with asyncio.timeout(10):
        while await store.enter("b", LONG) == ["a"]:
            await asyncio.sleep(0.002)
    assert await store.enter("a", LONG) == ["b"]


async def test_of_many_at_once_one_is_first(store: Store) -> None:
    found = await asyncio.gather(*(store.enter(f"worker-{number}", LONG) for number in range(20)))
    assert sorted(map(len, found)) == list(range(20))


async def test_a_line_in_which_nobody_stands_any_more_leaves_nothing(store: Store, kind: str) -> None:
    if kind not in ("redis", "fakeredis"):
        return
    server = shared_server() if kind == "redis" else fake_server()
    await store.enter("a", LONG)
    await store.enter("b", 1)
    assert 1 < server.client.pttl("iii-state:line") <= LONG
