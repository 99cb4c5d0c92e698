"""Transactions at a Redis: what is in their way, other programs, cut connections, full memory."""

from __future__ import annotations

import asyncio
import random

import pytest

from iii_state import values
from iii_state.adapters.redis import RedisAdapter
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.scripts.transactions import found_before
from iii_state.errors import OldValueUnknown, StoreError
from iii_state.events import Delivery
from iii_state.values.transactions import Done, Step
from tests.support.redis.adapters import INCREMENT, Open, adapter_on
from tests.support.redis.proxy import Proxy
from tests.support.redis.server import RedisServer
from tests.support.stores import ALL, plan, stored
from tests.support.waiting import answer_of, until

KEYS = Keys()
LIMIT = values.MAX_VALUE_BYTES
TWO = [Step("a", b"1"), Step("b", plan=INCREMENT)]


async def transact(adapter: RedisAdapter, steps: list[Step]) -> list[Done]:
    done: list[Done] = await answer_of(adapter.values.transact("s", steps, LIMIT))
    return done


async def events(adapter: RedisAdapter) -> list[Delivery]:
    found: list[Delivery] = []
    while taken := await answer_of(adapter.queues.take(ALL.id, 100)):
        found += taken
        await answer_of(adapter.queues.ack(taken))
    return found


async def test_what_others_have_written_is_taken_on_or_named(server: RedisServer, opened: Open) -> None:
    adapter = await opened()
    server.client.hset("state:s", mapping={"b": '{ "n": 1 }', "text": '"\\u00e9"', "odd": "no JSON"})
    done = await transact(
        adapter, [*TWO, Step("text", plan=plan({"type": "append", "value": "x"})), Step("odd", b"1"), Step("odd")]
    )
    assert [each.old for each in done] == [None, stored({"n": 1}), stored("é"), None, b"1"]
    assert done[2].new == stored("éx")
    before = server.client.hgetall("state:s")
    server.client.hset("state:s", "odd", "no JSON")
    with pytest.raises(StoreError, match="scope 's', key 'odd' is not ours"):
        await transact(adapter, [Step("a", b"2"), Step("odd", plan=INCREMENT)])
    assert server.client.hgetall("state:s") == {**before, b"odd": b"no JSON"}


async def test_what_is_of_a_wrong_type_refuses_all(server: RedisServer, opened: Open) -> None:
    adapter = await opened()
    await answer_of(adapter.queues.subscribe(ALL))
    await transact(adapter, [Step("a", b"1")])
    assert len(await events(adapter)) == 1
    queue = ALL.id.encode()
    for key in (KEYS.stream(queue), KEYS.busy(queue), KEYS.scopes, KEYS.wait(queue, b"1:sb")):
        held = server.client.dump(key)
        server.client.delete(key)
        server.client.set(key, "x")
        with pytest.raises(StoreError, match="WRONGTYPE"):
            await transact(adapter, [*TWO, Step("b", plan=INCREMENT)])
        assert server.client.hgetall("state:s") == {b"a": b"1"}
        server.client.delete(key)
        if held is not None:
            server.client.restore(key, 0, held)
    await transact(adapter, TWO)


async def test_when_memory_is_full_what_stores_is_refused_and_what_removes_goes_on(own_server: RedisServer) -> None:
    async with adapter_on(own_server.url) as adapter:
        await answer_of(adapter.queues.subscribe(ALL))
        await transact(adapter, [Step("a", b"1"), Step("b", b"1")])
        own_server.client.config_set("maxmemory", "1")
        with pytest.raises(StoreError, match="out of memory"):
            await transact(adapter, [Step("a"), Step("c", b"1")])
        assert own_server.client.hgetall("state:s") == {b"a": b"1", b"b": b"1"}
        assert [done.old for done in await transact(adapter, [Step("a"), Step("b")])] == [b"1", b"1"]
        own_server.client.config_set("maxmemory", "0")
        assert len(await events(adapter)) == 4


async def test_another_engines_subscription_misses_nothing(opened: Open) -> None:
    adapter, other = await opened(), await opened()
    await transact(adapter, TWO)
    await answer_of(other.queues.subscribe(ALL))
    await transact(adapter, TWO)
    found = await events(other)
    assert [(delivery.event.key, delivery.event.event_type) for delivery in found] == [
        ("a", "state:updated"),
        ("b", "state:updated"),
    ]


async def test_a_foreign_write_has_its_event_first(server: RedisServer) -> None:
    async with adapter_on(server.url, foreign_writes=True) as adapter:
        await until(lambda: (server.client.hget("iii-state:routes", ":foreign_writes") or b"").isdigit())
        await answer_of(adapter.queues.subscribe(ALL))
        await transact(adapter, [Step("a", b"1"), Step("b", b"1")])
        for number in range(1, 21):
            server.client.hset("state:s", mapping={"a": f"{number}0", "b": f"{number}1"})
            await transact(adapter, [Step("b", b"5"), Step("a", plan=INCREMENT), Step("a", b"6")])
        chains: dict[str, list[tuple[bytes | None, bytes | None]]] = {"a": [], "b": []}
        for delivery in await events(adapter):
            chains[delivery.event.key].append((delivery.event.old, delivery.event.new))
        for key, chain in chains.items():
            assert chain[0][0] is None
            assert [old for old, _ in chain[1:]] == [new for _, new in chain[:-1]], key
        assert len(chains["b"]) == 41


async def test_cut_connections_carry_each_transaction_out_once(server: RedisServer, proxy: Proxy) -> None:
    chance = random.Random(1)
    steps = [Step("a", plan=INCREMENT), Step("b", plan=INCREMENT), Step("a", plan=INCREMENT)]
    async with adapter_on(proxy.url, call_timeout_ms=30_000) as adapter:
        proxy.reply_bytes = lambda: chance.choice((0, 700, 1500, chance.randrange(20_000)))
        proxy.cut_all()
        made = await asyncio.gather(*(transact(adapter, steps) for _ in range(300)))
        proxy.reply_bytes = lambda: None
    assert proxy.cuts > 3
    assert server.client.hgetall("state:s") == {b"a": stored({"n": 600}), b"b": stored({"n": 300})}
    for first, second, third in made:
        assert third.old == first.new
        assert len({values.decode(first.new or b"")["n"], 2 * values.decode(second.new or b"")["n"] - 1}) == 1


def test_what_a_transaction_had_found() -> None:
    assert found_before([b"AGAIN", b"", b""]) == []
    assert found_before([b"AGAIN", b"3 - 1 -", b"abcd"]) == [b"abc", None, b"d", None]
    with pytest.raises(OldValueUnknown):
        found_before([b"FORGOTTEN"])
