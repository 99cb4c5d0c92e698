"""The id of what a Redis holds: kept for as long as the data lasts, another one once the database has been emptied."""

from __future__ import annotations

from itertools import combinations

import pytest

from iii_state.adapters.redis import RedisAdapter
from iii_state.errors import SessionLost
from tests.support.redis.adapters import Open
from tests.support.redis.server import RedisServer
from tests.support.stores import ALL
from tests.support.waiting import answer_of, until

PREFIX = "iii-state:"
STORE, ROUTES, VERSION, ENGINES = (PREFIX + name for name in ("store", "routes", "routes:version", "engines"))


def stored_id(server: RedisServer) -> str | None:
    found = server.client.get(STORE)
    return found.decode() if isinstance(found, bytes) else None


async def looked(*adapters: RedisAdapter) -> None:
    for adapter in adapters:
        assert await adapter.checking._shared_keys.check()


async def test_a_database_that_has_been_emptied_is_another_store_to_all_engines(opened: Open, server: RedisServer) -> None:
    one, other = await opened(), await opened()
    await answer_of(one.queues.subscribe(ALL))
    before = one.store
    assert before == other.store == stored_id(server)
    server.client.flushall()
    await looked(one, other)
    await until(lambda: one.store == other.store != before, lambda: f"{before} is {one.store} and {other.store}")
    newcomer = await opened()
    await looked(one, other)
    assert one.store == other.store == newcomer.store == stored_id(server)


async def test_who_opens_a_session_after_that_is_told_the_new_store_at_once(opened: Open, server: RedisServer) -> None:
    adapter = await opened(heartbeat_ttl_ms=3_600_000)  # it does not notice by itself
    await answer_of(adapter.sessions.open("session-0", 0, 1))
    before = adapter.store
    server.client.flushall()
    with pytest.raises(SessionLost):
        await answer_of(adapter.sessions.open("session-0", 1, 2))
    await answer_of(adapter.sessions.open("session-1", 0, 1))
    assert adapter.store == stored_id(server) != before


@pytest.mark.parametrize("gone", [(STORE,), *((STORE, *pair) for pair in combinations((ROUTES, VERSION, ENGINES), 2))])
async def test_an_id_that_another_program_has_removed_is_written_down_again(
    opened: Open, server: RedisServer, gone: tuple[str, ...]
) -> None:
    one, other = await opened(), await opened()
    await answer_of(one.queues.subscribe(ALL))
    before = one.store
    server.client.delete(*gone)
    await looked(one)
    await until(lambda: stored_id(server) == before)
    await looked(other)
    assert one.store == other.store == before


async def test_what_another_engine_has_written_down_counts(opened: Open, server: RedisServer) -> None:
    one = await opened()
    server.client.set(STORE, "an-older-one")  # as a backup that was brought back
    newcomer = await opened()
    await looked(one)
    assert one.store == newcomer.store == "an-older-one"
