"""Changes that are made in one turn of the event loop go to Redis as one call, and come to what they come to one by one."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from iii_state import values
from iii_state.adapters.redis.connection.pipeline import CALLS_PER_JOINT
from iii_state.adapters.redis.keys import Keys, lane
from iii_state.adapters.redis.scripts.loader import script
from iii_state.adapters.redis.scripts.mutations import RequestId, mutation, plan_arguments, update_arguments
from iii_state.adapters.redis.scripts.packing import Packing, PlainChange, pack, packed
from iii_state.errors import StoreError
from iii_state.events import Subscription
from iii_state.sessions import Request
from tests.adapters.redis.test_mutation_scripts import everything
from tests.support.redis.adapters import INCREMENT, Open, adapter_on
from tests.support.redis.proxy import proxy_to
from tests.support.redis.script_engine import Engine, plan_of
from tests.support.redis.server import RedisServer
from tests.support.strategies import DOCUMENTS, OP_LISTS
from tests.support.waiting import answer_of, until

KEYS = Keys()
LIMIT = 200
ALONE = {b"s": "values/set", b"d": "values/delete", b"u": "values/update"}
Change = tuple[bytes, bytes, bytes, list[bytes]]
"""Kind, scope, key, own arguments."""

PLACES = (st.sampled_from([b"s", b"t", b"text"]), st.sampled_from([b"a", b"b"]))
"""The scope `text` is no hash."""

SETS = st.tuples(st.just(b"s"), *PLACES, DOCUMENTS.map(lambda value: [values.to_stored(values.encode(value))]))
DELETES = st.tuples(st.just(b"d"), *PLACES, st.just(list[bytes]()))
UPDATES = st.tuples(st.just(b"u"), *PLACES, OP_LISTS.map(lambda ops: update_arguments(plan_arguments(plan_of(ops)), LIMIT)))


def together(engine: Engine, changes: list[Change], *, first: int = 1, version: int = 0) -> Any:
    """The reply of one call that makes them, in slots 0, 1, …, numbered from `first`."""
    scopes = list(dict.fromkeys(scope for _, scope, _, _ in changes))
    words = [
        *(b"EVALSHA", script("values/change_many").sha1, b"%d" % (4 + len(scopes))),
        *(KEYS.scopes, KEYS.session(engine.session), KEYS.routes_version, KEYS.routes_log, *map(KEYS.values, scopes)),
        *(b"%d" % engine.epoch, b"%d" % version, b"%d" % len(changes), *scopes),
    ]
    plain: list[PlainChange] = []
    for slot, (kind, scope, key, own) in enumerate(changes):
        place = b"%d" % (scopes.index(scope) + 1)
        words += (kind, b"%d" % slot, b"%d" % (first + slot), place, key, b"%d" % len(own), *own)
        plain.append((kind, scope, key, slot, first + slot, packed(own), len(own)))
    made = Packing(KEYS).changes(script("values/change_many"), engine.session, engine.epoch, version, plain)
    assert made == pack(tuple(words))
    engine.client.script_load(script("values/change_many").source)
    return engine.client.execute_command(*words)


def alone(engine: Engine, changes: list[Change], *, first: int = 1) -> list[Any]:
    """The replies of a call for each of them."""
    replies: list[Any] = []
    for slot, (kind, scope, key, own) in enumerate(changes):
        call = mutation(KEYS, RequestId(engine.session, engine.epoch, slot, first + slot), 0, scope, key, (), own)
        try:
            replies.append(engine.call(ALONE[kind], *call))
        except redis.exceptions.ResponseError as error:
            replies.append([b"ERROR", str(error)])
    return replies


def begin(client: redis.Redis, foreign: dict[bytes, bytes]) -> Engine:
    """An empty database, but for what another program has written."""
    client.flushall()
    client.set("state:text", "no hash")
    if foreign:
        client.hset("state:s", mapping=foreign)  # type: ignore[arg-type]
    return Engine(client, session=b"engine")


def alike(reply: Any) -> Any:
    """A reply, of which an error is told by its first word: each way of calling has its own words around it."""
    return [b"ERROR", "WRONGTYPE" in str(reply[1])] if reply[0] == b"ERROR" else reply


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    foreign=st.dictionaries(st.sampled_from([b"a", b"b"]), st.sampled_from([b'{"n":1}', b"[1, 2]", b"7", b"no JSON"])),
    changes=st.lists(st.one_of(SETS, UPDATES, DELETES), min_size=1, max_size=8),
)
@example(foreign={b"a": b'{"n":1}'}, changes=[(b"u", b"s", b"a", [b"9", b"s", b"0", b"1"]), (b"d", b"s", b"a", [])])
@example(foreign={}, changes=[(b"s", b"text", b"a", [b"1"]), (b"s", b"s", b"a", [b"1"]), (b"d", b"s", b"a", [])])
def test_they_come_to_what_they_come_to_one_by_one(real: redis.Redis, foreign: dict[bytes, bytes], changes: list[Change]) -> None:
    engine = begin(real, foreign)
    expected = [alike(reply) for reply in alone(engine, changes)]
    left = everything(real)
    engine = begin(real, foreign)
    assert [alike(reply) for reply in together(engine, changes)] == expected
    assert everything(real) == left
    if all(reply[0] == b"OK" for reply in expected):  # they are recognised when they are made again, in either way
        again = alone(engine, changes)
        assert together(engine, changes) == again
        assert {reply[0] for reply in again} == {b"AGAIN"}
        assert everything(real) == left


CHANGES: list[Change] = [(b"s", b"s", b"a", [b"1"]), (b"d", b"s", b"b", []), (b"u", b"t", b"a", [b"9", b"i", b"0", b"1"])]


def test_none_is_made_where_the_routes_have_changed_the_epoch_is_over_or_the_session_is_gone(client: redis.Redis) -> None:
    client.flushall()
    engine = Engine(client, session=b"engine")
    client.set(KEYS.routes_version, 5)
    before = everything(client)
    assert together(engine, CHANGES, version=4)[:2] == [b"STALE", b"5"]
    engine.epoch += 1
    assert together(engine, CHANGES, version=5) == [b"FENCED"]
    assert everything(client) == before
    client.delete(KEYS.session(engine.session))
    assert together(engine, CHANGES, version=5) == [b"LOST"]
    assert client.keys() == [KEYS.routes_version]


def test_a_slot_that_has_been_used_since_fences_its_change_alone(client: redis.Redis) -> None:
    client.flushall()
    engine = Engine(client, session=b"engine")
    assert together(engine, CHANGES, first=11) == [[b"OK", None], [b"OK", None], [b"OK", None, b"1", b""]]
    assert together(engine, CHANGES[:1], first=5) == [[b"FENCED"]]
    assert together(engine, CHANGES, first=11) == [[b"AGAIN", None, b""]] * 3
    assert together(engine, CHANGES, first=12) == [[b"OK", b"1"], [b"OK", None], [b"OK", b"1", b"2", b""]]


async def test_changes_of_a_turn_go_to_redis_as_few_calls(server: RedisServer, opened: Open) -> None:
    adapter = await opened()
    await answer_of(adapter.values.get("s", "k"))
    server.client.config_resetstat()
    made = [adapter.values.set("s", str(number), b"%d" % number) for number in range(10 * CALLS_PER_JOINT)]
    assert [await answer_of(change) for change in made] == [None] * len(made)
    assert server.client.info("commandstats")["cmdstat_evalsha"]["calls"] < 20
    assert server.client.hlen("state:s") == len(made)


async def test_changes_of_large_values_go_one_by_one(server: RedisServer, opened: Open) -> None:
    adapter = await opened()
    large = b'"%b"' % (b"x" * 100_000)

    async def calls_of(text: bytes) -> int:
        server.client.config_resetstat()
        made = [adapter.values.set("s", str(number), text) for number in range(CALLS_PER_JOINT)]
        made += [adapter.values.set("other", str(number), text) for number in range(CALLS_PER_JOINT)]
        assert len({await answer_of(change) for change in made}) == 1
        return int(server.client.info("commandstats")["cmdstat_evalsha"]["calls"])

    assert await calls_of(large) >= 2 * CALLS_PER_JOINT  # and a heartbeat now and then
    assert await calls_of(b"1") < CALLS_PER_JOINT  # nothing is known of them yet: what they find is large
    assert await calls_of(b"2") >= 2 * CALLS_PER_JOINT  # and a heartbeat now and then
    assert await calls_of(b"3") < CALLS_PER_JOINT


async def test_all_kinds_of_calls_keep_their_order(server: RedisServer, opened: Open) -> None:
    adapter = await opened()
    await answer_of(adapter.sessions.open("caller", 0, 1))
    set_one, update = partial(adapter.values.set, "s", "k"), partial(adapter.values.update, "s", "k", INCREMENT, 1000)
    made = [
        *(set_one(b"1"), adapter.values.get("s", "k"), set_one(b'"%b"' % (b"x" * 20_000)), set_one(b"2")),
        *(adapter.values.set("other", "k", b"0"), set_one(b"3"), set_one(b"4", request=Request("caller", 1, 0, 1)), set_one(b"{}")),
        *(update(), update(), adapter.values.delete("s", "k"), update(), set_one(b"9"), adapter.values.get("s", "k")),
    ]
    found = [await answer_of(change) for change in made]
    counted = [values.to_stored(b'{"n":%d}' % number) for number in (1, 2)]
    assert [found[0], found[1], found[3], found[5], found[6], found[7]] == [None, b"1", b'"%b"' % (b"x" * 20_000), b"2", b"3", b"4"]
    assert [(found[at].old, found[at].new) for at in (8, 9, 11)] == [(b"{}", counted[0]), tuple(counted), (None, counted[0])]
    assert found[10] == counted[1]
    assert found[12:] == [counted[0], b"9"]


async def test_a_change_that_redis_refuses_fails_alone(server: RedisServer, opened: Open) -> None:
    adapter = await opened()
    server.client.set("state:text", "no hash")
    made = [adapter.values.set(scope, "k", b"1") for scope in ("s", "text", "t")]
    assert await answer_of(made[0]) is None
    with pytest.raises(StoreError, match="wrong type"):
        await answer_of(made[1])
    assert await answer_of(made[2]) is None
    assert server.client.hget("state:t", "k") == b"1"


async def test_a_server_without_memory_refuses_what_needs_some(own_server: RedisServer) -> None:
    async with adapter_on(own_server.url) as adapter:
        await answer_of(adapter.values.set("s", "there", b"1"))
        own_server.client.config_set("maxmemory", 1)
        made = [adapter.values.set("s", "k", b"1"), adapter.values.update("s", "k", INCREMENT, 1000)]
        removed = adapter.values.delete("s", "there")
        for change in made:
            with pytest.raises(StoreError, match="out of memory"):
                await answer_of(change)
        assert await answer_of(removed) == b"1"
        own_server.client.config_set("maxmemory", 0)
        assert await answer_of(adapter.values.get("s", "k")) is None


async def test_no_event_is_missing_where_another_engine_registers_meanwhile(server: RedisServer, opened: Open) -> None:
    writer, other = await opened(), await opened()
    made: list[Any] = []
    for number in range(20):
        subscription = Subscription(f"number {number}", scope="s", key=f"{number}")
        made += [writer.values.set("s", f"{place}", b"%d" % number) for place in range(20)]
        await answer_of(other.queues.subscribe(subscription))
        last = [writer.values.set("s", f"{place}", b"%d" % (100 + number)) for place in range(20)]
        await asyncio.gather(*(answer_of(change) for change in (*made, *last)))
        made.clear()
        queue = subscription.id.encode()
        wait = server.client.lrange(KEYS.wait(queue, lane(b"s", b"%d" % number)).decode(), 0, -1)
        stream: Any = server.client.xrange(KEYS.stream(queue).decode())
        assert (wait[-1] if wait else stream[-1][1][b"n"]) == b"%d" % (100 + number)


def _is_stored(server: RedisServer, text: bytes) -> bool:
    return bool(server.client.hget("state:s", "k") == text)


async def test_what_was_made_together_is_recognised_over_the_next_connection(server: RedisServer) -> None:
    async with proxy_to(server.port) as proxy, adapter_on(proxy.url, call_timeout_ms=30_000) as adapter:
        made: list[Any] = []
        for _ in range(10):
            proxy.loses_replies = True
            calls = [adapter.values.update("s", "k", INCREMENT, 1000) for _ in range(50)]
            last = values.to_stored(b'{"n":%d}' % (len(made) + 50))
            await until(partial(_is_stored, server, last))
            proxy.cut_all()
            proxy.loses_replies = False
            made += [await answer_of(call) for call in calls]
        assert [updated.new for updated in made] == [values.to_stored(b'{"n":%d}' % (1 + number)) for number in range(500)]


async def test_callers_with_request_ids_keep_their_own_calls(server: RedisServer, opened: Open) -> None:
    adapter = await opened()
    await answer_of(adapter.sessions.open("caller", 0, 1))
    made = [adapter.values.set("s", "k", b"%d" % seq, request=Request("caller", 1, 0, seq)) for seq in (1, 2)]
    made.append(adapter.values.set("s", "k", b"3"))
    assert [await answer_of(change) for change in made] == [None, b"1", b"2"]
