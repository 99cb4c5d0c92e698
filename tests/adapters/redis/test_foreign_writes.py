"""What other programs write has events: one for each difference, in the lanes and the order of all others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import redis

from iii_state import Engine, StateModule, values
from iii_state.adapters.bridge import BridgeAdapter
from iii_state.adapters.redis import RedisAdapter
from iii_state.adapters.redis.keyspace import scopes
from iii_state.adapters.redis.mutations.foreign_text import stored_form
from iii_state.config import BridgeSettings, RedisSettings
from iii_state.errors import ConfigError, StoreError
from iii_state.events import Change, Failure, QueueLimits, Subscription
from tests.support.redis.adapters import INCREMENT, SMALLEST_RULES, adapter_on
from tests.support.redis.server import RedisServer
from tests.support.waiting import answer_of, until

ALL = Subscription("all")
LIMIT = values.MAX_VALUE_BYTES
Open = Callable[..., Awaitable[RedisAdapter]]
Fact = tuple[str, str, str, bytes | None, bytes | None]
"""Kind, scope, key, old and new of an event."""


@pytest.fixture
async def opened(server: RedisServer) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def open_adapter(
            at: RedisServer = server, limits: QueueLimits | None = None, watch: bool = True, **settings: Any
        ) -> RedisAdapter:
            adapter = RedisAdapter(RedisSettings(redis_url=at.url, foreign_writes=watch, **settings), limits=limits)
            await adapter.start(lambda subscription_id: None)
            stack.push_async_callback(adapter.stop)
            if watch:
                await until(lambda: watches(at))
            return adapter

        yield open_adapter


def watches(server: RedisServer) -> bool:
    """Whether the shadows are complete, and an engine listens."""
    setting = server.client.hget("iii-state:routes", ":foreign_writes")
    return setting is not None and setting.isdigit() and server.client.pubsub_numpat() > 0


def shadows(server: RedisServer) -> dict[bytes, dict[bytes, bytes]]:
    generation = server.client.hget("iii-state:routes", ":foreign_writes") or b""
    names = server.client.keys(b"iii-state:shadow:%b:*" % generation)
    return {name.split(b":", 3)[3]: server.client.hgetall(name) for name in names}


def contents(server: RedisServer) -> dict[bytes, dict[bytes, bytes]]:
    return {name[len("state:") :]: server.client.hgetall(name) for name in server.client.keys("state:*")}


async def noticed(server: RedisServer) -> None:
    """Wait until everything that was written has been noticed."""
    await until(lambda: contents(server) == shadows(server))


async def drain(adapter: RedisAdapter, subscription: Subscription = ALL) -> list[Change]:
    events: list[Change] = []
    while taken := await answer_of(adapter.queues.take(subscription.id, 100)):
        events += [delivery.event for delivery in taken]
        await answer_of(adapter.queues.ack(taken))
    return events


def facts(events: list[Change]) -> list[Fact]:
    return [(event.event_type.removeprefix("state:"), event.scope, event.key, event.old, event.new) for event in events]


def chains(events: list[Change]) -> dict[tuple[str, str], list[Change]]:
    """The events by scope and key; each begins with what the one before has left."""
    found: dict[tuple[str, str], list[Change]] = {}
    for event in events:
        chain = found.setdefault((event.scope, event.key), [])
        assert event.old == (chain[-1].new if chain else None), (event, chain)
        kind = "deleted" if event.new is None else "created" if event.old is None else "updated"
        assert event.event_type == f"state:{kind}"
        chain.append(event)
    return found


STOCK = """
local old = redis.call('HGET', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return old
"""
"""As the stock engine writes: without a word to anybody."""


def in_a_transaction(client: redis.Redis) -> None:
    with client.pipeline(transaction=True) as pipeline:
        pipeline.hset("state:s", "k", "2")
        pipeline.hset("state:s", "new", "3")
        pipeline.execute()


def restored(client: redis.Redis) -> None:
    client.hset("elsewhere", "k", "9")
    client.restore("state:r", 0, client.dump("elsewhere") or b"")


CASES: dict[str, tuple[Callable[[redis.Redis], object], list[Fact]]] = {
    "HSET of a new key": (lambda client: client.hset("state:s", "new", "[2]"), [("created", "s", "new", None, b"[2]")]),
    "HSET": (lambda client: client.hset("state:s", "k", "2"), [("updated", "s", "k", b"1", b"2")]),
    "HSETNX": (lambda client: client.hsetnx("state:s", "new", "2"), [("created", "s", "new", None, b"2")]),
    "HINCRBY": (lambda client: client.hincrby("state:s", "k", 4), [("updated", "s", "k", b"1", b"5")]),
    "HINCRBYFLOAT": (lambda client: client.hincrbyfloat("state:s", "k", 0.5), [("updated", "s", "k", b"1", b"1.5")]),
    "HDEL": (lambda client: client.hdel("state:two", "b"), [("deleted", "two", "b", b"2", None)]),
    "HDEL of the last": (lambda client: client.hdel("state:s", "k"), [("deleted", "s", "k", b"1", None)]),
    "DEL": (
        lambda client: client.delete("state:two"),
        [("deleted", "two", "a", b"1", None), ("deleted", "two", "b", b"2", None)],
    ),
    "UNLINK": (lambda client: client.unlink("state:s"), [("deleted", "s", "k", b"1", None)]),
    "RENAME": (
        lambda client: client.rename("state:s", "state:t"),
        [("created", "t", "k", None, b"1"), ("deleted", "s", "k", b"1", None)],
    ),
    "RENAME away": (lambda client: client.rename("state:s", "elsewhere"), [("deleted", "s", "k", b"1", None)]),
    "COPY": (lambda client: client.copy("state:s", "state:t"), [("created", "t", "k", None, b"1")]),
    "RESTORE": (restored, [("created", "r", "k", None, b"9")]),
    "MOVE": (lambda client: client.move("state:s", 5), [("deleted", "s", "k", b"1", None)]),
    "expiry": (lambda client: client.pexpire("state:s", 30), [("deleted", "s", "k", b"1", None)]),
    "expiry in the past": (lambda client: client.expireat("state:s", 1), [("deleted", "s", "k", b"1", None)]),
    "a script": (lambda client: client.eval(STOCK, 1, "state:s", "k", '{"a": 1}'), [("updated", "s", "k", b"1", b'{\t\n"a":1\n}')]),
    "a transaction": (in_a_transaction, [("created", "s", "new", None, b"3"), ("updated", "s", "k", b"1", b"2")]),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_foreign_write_has_its_events(server: RedisServer, opened: Open, case: str) -> None:
    adapter = await opened()
    for scope, key, text in (("s", "k", b"1"), ("two", "a", b"1"), ("two", "b", b"2")):
        await answer_of(adapter.values.set(scope, key, text))
    await answer_of(adapter.queues.subscribe(ALL))
    write, expected = CASES[case]
    write(server.client)
    events: list[Change] = []
    async with asyncio.timeout(20):
        while len(events) < len(expected):
            events += await drain(adapter)
    await noticed(server)
    events += await drain(adapter)
    assert sorted(facts(events)) == sorted(expected)
    assert all(event.write_id.startswith("foreign-") for event in events)
    assert {event.cause for event in events} == {"foreign"}
    assert sorted(await answer_of(adapter.values.scopes())) == sorted(scope.decode() for scope in contents(server))
    server.client.select(5)
    server.client.flushdb()
    server.client.select(0)


async def test_own_writes_have_no_events_but_their_own_and_start_no_comparison(server: RedisServer, opened: Open) -> None:
    adapters = [await opened(), await opened()]
    await answer_of(adapters[0].queues.subscribe(ALL))
    await until(lambda: not server.client.keys("iii-state:comparing:*"))
    server.client.config_resetstat()
    for number in range(50):
        adapter = adapters[number % 2]
        await answer_of(adapter.values.set("s", "k", b"1"))
        await answer_of(adapter.values.update("s", "k", INCREMENT, LIMIT))
        await answer_of(adapter.values.delete("s", "missing"))
        await answer_of(adapter.values.delete("s", "k"))
    server.client.hset("state:last", "k", "1")
    await until(lambda: b"last" in shadows(server))
    assert server.client.info("commandstats")["cmdstat_hscan"]["calls"] <= 2  # of the one foreign write
    events = await drain(adapters[0])
    assert len(events) == 201
    assert [event.write_id.startswith("foreign-") for event in events].count(True) == 1
    assert {(event.scope, event.cause) for event in events} == {("s", None), ("last", "foreign")}


async def test_a_write_over_what_nobody_has_noticed_yet_makes_the_foreign_event_first(
    own_server: RedisServer, opened: Open
) -> None:
    adapter = await opened(own_server)
    await answer_of(adapter.queues.subscribe(ALL))
    await answer_of(adapter.values.set("s", "k", b"1"))
    own_server.client.config_set("notify-keyspace-events", "")  # nobody is told
    own_server.client.hset("state:s", "k", '{"n": 5}')
    updated = await answer_of(adapter.values.update("s", "k", INCREMENT, LIMIT))
    assert updated.old == values.to_stored(b'{"n":5}')
    own_server.client.hdel("state:s", "k")
    await answer_of(adapter.values.set("s", "k", b"7"))
    own_server.client.hset("state:s", "k", "8")
    assert await answer_of(adapter.values.delete("s", "k")) == b"8"
    own_server.client.hset("state:s", "k", "9")
    await answer_of(adapter.values.delete("s", "k"))
    chain = chains(await drain(adapter))[("s", "k")]
    news = [event.new for event in chain]
    assert news == [b"1", values.to_stored(b'{"n":5}'), updated.new, None, b"7", b"8", None, b"9", None]
    assert shadows(own_server) == {}


async def test_what_is_there_when_watching_begins_has_no_events_and_what_changes_then_has(
    server: RedisServer, opened: Open
) -> None:
    for number in range(1300):
        server.client.hset("state:large", f"k{number}", number)
    server.client.hset("state:small", "k", "1")
    quiet = await opened(watch=False)
    await answer_of(quiet.queues.subscribe(ALL))
    await quiet.stop()
    adapter = await opened()
    await answer_of(adapter.queues.subscribe(ALL))
    await noticed(server)
    assert await drain(adapter) == []
    server.client.hset("state:large", "k7", "x7")
    server.client.hset("state:large", "k8", "80")
    await noticed(server)
    assert sorted(facts(await drain(adapter))) == [
        ("updated", "large", "k7", b"7", None),  # no JSON
        ("updated", "large", "k8", b"8", b"80"),
    ]


async def test_what_was_written_while_no_engine_ran_has_events_at_the_next_start(server: RedisServer, opened: Open) -> None:
    before = await opened()
    await answer_of(before.queues.subscribe(ALL))
    for key in ("a", "b", "c"):
        await answer_of(before.values.set("s", key, b"1"))
    assert len(await drain(before)) == 3
    await before.stop()
    server.client.hset("state:s", "a", "2")
    server.client.hdel("state:s", "b")
    after = await opened()
    await answer_of(after.queues.subscribe(ALL))
    await noticed(server)
    assert sorted(facts(await drain(after))) == [("deleted", "s", "b", b"1", None), ("updated", "s", "a", b"1", b"2")]


async def test_what_was_written_while_nothing_was_heard_is_found_after_the_reconnect(own_server: RedisServer, opened: Open) -> None:
    adapter = await opened(own_server)
    await answer_of(adapter.queues.subscribe(ALL))
    await answer_of(adapter.values.set("s", "k", b"1"))
    own_server.client.config_set("notify-keyspace-events", "")
    own_server.client.hset("state:s", "k", "2")
    own_server.client.client_kill_filter(_type="pubsub")
    await noticed(own_server)
    assert facts(await drain(adapter))[-1] == ("updated", "s", "k", b"1", b"2")
    own_server.client.hset("state:s", "k", "3")  # and the setting is back
    await noticed(own_server)
    assert facts(await drain(adapter)) == [("updated", "s", "k", b"2", b"3")]


async def test_a_scope_that_was_made_unheard_is_found_by_the_scan(
    own_server: RedisServer, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scopes, "PAUSE_SECONDS", 0.05)
    adapter = await opened(own_server)
    await answer_of(adapter.queues.subscribe(ALL))
    await answer_of(adapter.values.set("emptied", "k", b"1"))
    own_server.client.config_set("notify-keyspace-events", "")
    own_server.client.hset("state:theirs", "k", "1")
    own_server.client.delete("state:emptied")
    assert "emptied" not in await answer_of(adapter.values.scopes())
    await noticed(own_server)
    assert sorted(facts(await drain(adapter)))[-2:] == [
        ("created", "theirs", "k", None, b"1"),
        ("deleted", "emptied", "k", b"1", None),
    ]
    assert own_server.client.smembers("iii-state:scopes") == {b"theirs"}


async def test_what_is_no_json_is_null_in_events_and_named(
    server: RedisServer, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = await opened()
    await answer_of(adapter.queues.subscribe(ALL))
    for text in ("nonsense", b'"\xff"', '{"a":1', "1e999"):
        server.client.hset("state:s", "k", text)
        await noticed(server)
    server.client.hset("state:s", "k", " [1, 2]")
    await noticed(server)
    server.client.hdel("state:s", "k")
    await noticed(server)
    events = facts(await drain(adapter))
    assert [(event[0], *event[3:]) for event in events] == [
        ("created", None, None),
        *[("updated", None, None)] * 3,
        ("updated", None, b"[1,2]"),
        ("deleted", b"[1,2]", None),
    ]
    assert caplog.text.count("scope 's', key 'k' has null") == 8


async def test_names_that_are_no_utf8_have_no_events_and_harm_none(
    server: RedisServer, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = await opened()
    await answer_of(adapter.queues.subscribe(ALL))
    server.client.hset(b"state:\xff", "k", "1")
    server.client.hset("state:s", mapping={b"\xff": "1", "k": "1"})
    await until(lambda: shadows(server) == {b"s": {b"k": b"1"}})
    server.client.hset("state:s", "k", "2")
    await until(lambda: shadows(server) == {b"s": {b"k": b"2"}})
    assert facts(await drain(adapter)) == [("created", "s", "k", None, b"1"), ("updated", "s", "k", b"1", b"2")]
    assert caplog.text.count("no UTF-8: that has no events") == 2


async def test_many_engines_make_one_event_of_each_difference(server: RedisServer, opened: Open) -> None:
    adapters = [await opened() for _ in range(3)]
    await answer_of(adapters[0].queues.subscribe(ALL))
    names = [f"k{number}" for number in range(3000)]
    server.client.hset("state:s", mapping=dict.fromkeys(names, "1"))
    await noticed(server)
    server.client.hset("state:s", mapping=dict.fromkeys(names[:1500], "2"))
    server.client.hdel("state:s", *names[1000:2000])
    await noticed(server)
    server.client.delete("state:s")
    await noticed(server)
    found = chains(await drain(adapters[0]))
    assert len(found) == 3000
    for (_, key), chain in found.items():
        number, news = int(key[1:]), [event.new for event in chain]
        two_at_once = 1000 <= number < 1500  # changed and removed before anybody may have looked
        assert news in ([[b"1", None]] if number >= 1000 else []) + ([[b"1", b"2", None]] if number < 1000 or two_at_once else [])


async def test_a_comparison_whose_engine_has_died_is_made_by_another(server: RedisServer, opened: Open) -> None:
    adapter = await opened()
    await answer_of(adapter.queues.subscribe(ALL))
    await until(lambda: not server.client.keys("iii-state:comparing:*"))
    server.client.set("iii-state:comparing:s", "dead", px=500)
    server.client.hset("state:s", "k", "1")
    server.client.hset("state:other", "k", "1")
    await until(lambda: b"other" in shadows(server))  # it holds up no other scope
    await noticed(server)
    assert len(await drain(adapter)) == 2


async def test_an_event_that_finds_no_room_comes_when_there_is_some(server: RedisServer, opened: Open) -> None:
    adapter = await opened(limits=QueueLimits(max_queue_length=2))
    await answer_of(adapter.queues.subscribe(ALL))
    server.client.hset("state:s", mapping={"a": "1", "b": "1", "c": "1"})
    await until(lambda: len(shadows(server).get(b"s", {})) == 2)
    (left,) = {b"a", b"b", b"c"} - set(shadows(server)[b"s"])
    with pytest.raises(StoreError, match=r"could not be noticed: the queue of all is full"):
        await answer_of(adapter.values.set("s", left.decode(), b"2"))
    events = await drain(adapter)
    await noticed(server)
    events += await drain(adapter)
    assert sorted(facts(events)) == [("created", "s", key, None, b"1") for key in "abc"]


async def test_an_eviction_is_a_deletion(own_server: RedisServer, opened: Open) -> None:
    adapter = await opened(own_server)
    await answer_of(adapter.queues.subscribe(ALL))
    text = b'"%b"' % (b"x" * 5000)
    for number in range(400):
        await answer_of(adapter.values.set(f"s{number}", "k", text))
        await drain(adapter)
    for name in own_server.client.keys("state:*"):
        own_server.client.expire(name, 1000)
    for name in own_server.client.keys("iii-state:session:*"):
        own_server.client.persist(name)
    await until(lambda: own_server.client.object("idletime", "state:s399") >= 3)  # longer than any heartbeat: these are to stay
    own_server.client.config_set("maxmemory-samples", "64")
    own_server.client.config_set("maxmemory-policy", "volatile-lru")
    own_server.client.config_set("maxmemory", own_server.client.info("memory")["used_memory"] - 500_000)
    own_server.client.set("other", "1")
    await until(lambda: len(own_server.client.keys("state:*")) < 400)
    own_server.client.config_set("maxmemory", "0")
    await noticed(own_server)
    events = await drain(adapter)
    assert len(events) == 400 - len(contents(own_server))
    assert {event.event_type for event in events} == {"state:deleted"}


@pytest.mark.parametrize("told", [True, False])
async def test_values_with_deadlines_are_watched_too(own_server: RedisServer, opened: Open, told: bool) -> None:
    adapter = await opened(own_server)
    await answer_of(adapter.queues.subscribe(ALL))
    if not told:
        own_server.client.config_set("notify-keyspace-events", "")
    await answer_of(adapter.values.set("s", "own", b"1", ttl_ms=400))
    await answer_of(adapter.values.set("s", "theirs", b"1", ttl_ms=400))
    await answer_of(adapter.values.set("s", "gone", b"1", ttl_ms=400))
    own_server.client.hset("state:s", "theirs", "2")  # the deadline stays
    if told:
        own_server.client.hdel("state:s", "gone")
    await until(lambda: not own_server.client.exists("state:s"))
    await noticed(own_server)
    found = chains(await drain(adapter))
    news = {key: [event.new for event in chain] for (_, key), chain in found.items()}
    assert news == {"own": [b"1", None], "theirs": [b"1", b"2", None], "gone": [b"1", None]}
    await until(lambda: not own_server.client.exists("iii-state:deadlines:s"))
    await answer_of(adapter.values.set("s", "own", b"3"))
    assert [event.event_type for event in await drain(adapter)] == ["state:created"]


async def test_the_smallest_permissions_with_one_channel_more_suffice(
    own_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    rules = (*SMALLEST_RULES.split(), "&__keyspace@0__:state:*", "+config|get", "+config|set")
    own_server.client.execute_command("ACL", "SETUSER", "app", "reset", "resetchannels", "on", ">pw", *rules)
    async with adapter_on(f"redis://app:pw@127.0.0.1:{own_server.port}", foreign_writes=True) as adapter:
        await until(lambda: watches(own_server))
        await answer_of(adapter.queues.subscribe(ALL))
        await answer_of(adapter.values.set("s", "k", b"1"))
        own_server.client.hset("state:s", "k", "2")
        await noticed(own_server)
        assert [event.new for event in await drain(adapter)] == [b"1", b"2"]
    about_writes = [record for record in caplog.records if not record.name.endswith(".durability")]  # this server keeps nothing
    assert [record for record in about_writes if record.levelname == "WARNING"] == []


# -- one setting of the whole fleet


async def test_an_engine_that_disagrees_with_the_fleet_is_refused(server: RedisServer, opened: Open) -> None:
    watching = await opened()
    with pytest.raises(ConfigError, match=r"foreign_writes is false here, and true at the engine .* To change it, stop them all"):
        await opened(watch=False)
    await watching.stop()
    quiet = await opened(watch=False)
    assert server.client.hget("iii-state:routes", ":foreign_writes") is None
    with pytest.raises(ConfigError, match="foreign_writes is true here, and false at"):
        await opened()
    await answer_of(quiet.values.set("s", "k", b"1"))
    await quiet.stop()
    await opened()


async def test_the_setting_of_engines_that_have_died_binds_nobody(server: RedisServer, opened: Open) -> None:
    dying = await opened(heartbeat_ttl_ms=200)
    await dying._heartbeat.stop()  # its heart stops
    await dying.takeover.stop()
    await until(lambda: not server.client.keys("iii-state:engine:*"))
    await opened(watch=False)


async def test_shadows_of_an_earlier_time_are_not_compared_with_and_go(server: RedisServer, opened: Open) -> None:
    first = await opened()
    await answer_of(first.queues.subscribe(ALL))
    await answer_of(first.values.set("s", "k", b"1"))
    await drain(first)
    await first.stop()
    quiet = await opened(watch=False)
    await answer_of(quiet.values.set("s", "k", b"2"))
    await quiet.stop()
    again = await opened()
    await answer_of(again.queues.subscribe(ALL))
    await noticed(server)
    await until(lambda: len(server.client.keys("iii-state:shadow:*")) == 1)
    assert [event.new for event in await drain(again)] == [b"2"]


async def test_without_the_setting_nothing_is_kept_or_published(server: RedisServer, opened: Open) -> None:
    adapter = await opened(watch=False)
    await answer_of(adapter.values.set("s", "k", b"1"))
    server.client.config_resetstat()
    await answer_of(adapter.values.set("s", "k", b"2"))
    used = {name: stats["calls"] for name, stats in server.client.info("commandstats").items()}
    writes = {"cmdstat_hmget": 1, "cmdstat_get": 1, "cmdstat_hget": 1, "cmdstat_hset": 2}
    assert {name: used.get(name) for name in writes} == writes
    assert "cmdstat_publish" not in used
    assert server.client.keys("iii-state:shadow:*") == []


async def test_after_a_flush_engines_say_so_register_again_and_watch_again(
    server: RedisServer, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    writing, idle = await opened(heartbeat_ttl_ms=600), await opened(heartbeat_ttl_ms=600)
    await answer_of(idle.queues.subscribe(ALL))
    version = int(server.client.get("iii-state:routes:version"))
    server.client.flushdb()
    await answer_of(writing.values.set("s", "k", b"1"))
    await until(lambda: caplog.text.count("the database has been emptied") == 2)
    await until(lambda: watches(server) and len(server.client.hkeys("iii-state:routes")) == 3)
    assert int(server.client.get("iii-state:routes:version")) > version
    server.client.hset("state:s", "k", "2")
    await noticed(server)
    await answer_of(writing.values.set("s", "k", b"3"))
    news = [event.new for event in await drain(idle)]
    assert news[-2:] == [b"2", b"3"]
    assert "taken for dead" not in caplog.text


# -- everything at once


@pytest.mark.parametrize("seed", range(4))
async def test_own_and_foreign_writes_mixed_leave_unbroken_chains(server: RedisServer, opened: Open, seed: int) -> None:
    """Several foreign writes between two looks may be one difference: it begins where the chain stood, and the end is the end."""
    dice = random.Random(seed)
    adapters = [await opened(), await opened()]
    await answer_of(adapters[0].queues.subscribe(ALL))
    names = [(scope, key) for scope in ("s", "t") for key in ("a", "b", "c")]
    events: list[Change] = []
    own_writes = 0

    async def own(adapter: RedisAdapter, dice: random.Random) -> None:
        nonlocal own_writes
        for _ in range(150):
            scope, key = dice.choice(names)
            match dice.randrange(4):
                case 0:
                    await answer_of(adapter.values.delete(scope, key))
                case 1:
                    await answer_of(adapter.values.set(scope, key, b"%d" % dice.randrange(10**6)))
                case _:
                    await answer_of(adapter.values.update(scope, key, INCREMENT, LIMIT))
            own_writes += 1

    def foreign(dice: random.Random) -> None:
        client = redis.Redis(port=server.port)
        for _ in range(150):
            scope, key = dice.choice(names)
            name = f"state:{scope}"
            text = json.dumps(dice.choice([dice.randrange(10**6), {"n": dice.randrange(100), "by": "others"}]))
            match dice.randrange(8):
                case 0:
                    client.hdel(name, key)
                case 1:
                    client.delete(name)
                case 2:
                    with contextlib.suppress(redis.ResponseError):  # there is nothing to rename
                        client.rename("state:s", "state:t")
                case 3:
                    client.eval(STOCK, 1, name, key, text)
                case _:
                    client.hset(name, key, text)
        client.close()

    done = asyncio.Event()

    async def take() -> None:
        while not done.is_set():
            events.extend(await drain(adapters[0]))
            await asyncio.sleep(0.001)

    async with asyncio.TaskGroup() as group:
        group.create_task(take())
        async with asyncio.TaskGroup() as writers:
            for adapter in (*adapters, adapters[0]):
                writers.create_task(own(adapter, random.Random(dice.random())))
            for _ in range(2):
                writers.create_task(asyncio.to_thread(foreign, random.Random(dice.random())))
        done.set()
    await noticed(server)
    events += await drain(adapters[0])
    own_events = [event for event in events if not event.write_id.startswith("foreign-")]
    assert len(own_events) == own_writes == 450
    left = {name: chain[-1].new for name, chain in chains(events).items() if chain[-1].new is not None}
    assert left == {
        (scope.decode(), key.decode()): stored_form(text)
        for scope, fields in contents(server).items()
        for key, text in fields.items()
    }


async def test_a_bridge_and_its_dead_letters_say_that_a_write_was_foreign(server: RedisServer) -> None:
    settings = {"adapter": {"name": "redis", "config": {"redis_url": server.url, "foreign_writes": True}}}
    async with Engine() as engine:
        await engine.add_module(StateModule(settings))
        host, port = await engine.serve("127.0.0.1", 0)
        bridge = BridgeAdapter(BridgeSettings(bridge_url=f"ws://{host}:{port}"))
        await bridge.start(lambda subscription_id: None)
        try:
            await answer_of(bridge.queues.subscribe(ALL))
            bridge.queues.offer(ALL.id, True)
            await until(lambda: watches(server))
            server.client.hset("state:s", "k", "1")
            (delivery,) = await until(lambda: answer_of(bridge.queues.take(ALL.id, 1)))
            assert (delivery.event.cause, delivery.event.payload()[-19:]) == ("foreign", b',"cause":"foreign"}')
            bridge.queues.dead_letter(delivery, Failure("invocation_failed", "boom"))
            (dead,) = await until(lambda: answer_of(bridge.admin.dead_letters()))
            assert dead.event.cause == "foreign"
        finally:
            await bridge.stop()
