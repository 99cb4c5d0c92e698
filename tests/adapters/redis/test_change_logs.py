"""Change logs in a shared Redis: what the fleet agrees on, what other programs do, what is damaged, and what goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from iii_state import values
from iii_state.adapters.redis import RedisAdapter
from iii_state.adapters.redis.mutations.logs import LogSetting, setting_of
from iii_state.config import RedisSettings
from iii_state.errors import Compacted, ConfigError, StoreError
from iii_state.history import LogPage, LogRule, LogRules
from iii_state.values.transactions import Step
from tests.support.redis.adapters import INCREMENT
from tests.support.redis.server import RedisServer
from tests.support.waiting import answer_of, until

LOGGED = LogRules([LogRule(scope="s")])
NOTHING = LogRules()
LIMIT = values.MAX_VALUE_BYTES
STREAM, HASH = "iii-state:history:s", "iii-state:revisions:s"


@asynccontextmanager
async def engine_on(server: RedisServer, history: LogRules = LOGGED, **settings: Any) -> AsyncIterator[RedisAdapter]:
    settings = {"heartbeat_ttl_ms": 1000, **settings}
    adapter = RedisAdapter(RedisSettings(redis_url=server.url, **settings), history=history)
    await adapter.start(lambda subscription_id: None)
    try:
        yield adapter
    finally:
        await adapter.stop()


async def page(adapter: RedisAdapter, after: str | None = None, scope: str = "s") -> LogPage:
    found: LogPage = await answer_of(adapter.history.page(scope, None, after, 1000))
    return found


def told(found: LogPage) -> list[tuple[Any, ...]]:
    events = [values.decode(change.event) for change in found.changes]
    return [
        (change.revision, event["event_type"].removeprefix("state:"), event["key"], event["new_value"], event.get("cause"))
        for change, event in zip(found.changes, events, strict=True)
    ]


async def test_engines_count_on_together(server: RedisServer) -> None:
    async with engine_on(server) as one, engine_on(server) as two:
        await asyncio.gather(*(answer_of(engine.values.set("s", "k", b"1")) for engine in (one, two) for _ in range(100)))
        assert [change[0] for change in told(await page(one))] == list(range(1, 201))
        assert await page(one) == await page(two)


async def test_an_engine_that_disagrees_is_refused_while_others_live(server: RedisServer) -> None:
    async with engine_on(server):
        for other in (NOTHING, LogRules([LogRule(scope="s", max_length=7)]), LogRules([*LOGGED.rules, LogRule(scope_prefix="x")])):
            with pytest.raises(ConfigError, match="history is not what it is at the engine"):
                async with engine_on(server, other):
                    pass
    async with engine_on(server, NOTHING):
        with pytest.raises(ConfigError, match="history is not what it is at the engine"):
            async with engine_on(server):
                pass


async def test_it_cannot_be_set_while_an_engine_lives_that_does_not_know_of_it(server: RedisServer) -> None:
    async with engine_on(server, NOTHING) as older:
        server.client.hset("iii-state:features", older._shared.engine.id.decode(), "lineages")
        with pytest.raises(ConfigError, match="is of a version without change logs"):
            async with engine_on(server):
                pass


async def test_engines_that_do_not_know_of_it_refuse_to_start_while_a_scope_has_a_log(server: RedisServer) -> None:
    async with engine_on(server):
        assert server.client.get("iii-state:format") == b"2"  # 0.1.0 and 0.2.0 read up to 1
    async with engine_on(server, NOTHING):
        assert server.client.get("iii-state:format") == b"1"


async def test_a_log_that_was_off_does_not_go_on_as_if_nothing_had_been(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with engine_on(server) as engine:
        await answer_of(engine.values.set("s", "k", b"1"))
        before = await page(engine)
    async with engine_on(server, LogRules([LogRule(scope="s", max_length=7)])) as engine:  # the same scopes: it goes on
        assert (await page(engine)).changes == before.changes
        await answer_of(engine.values.set("s", "k", b"2"))
        before = await page(engine)
        assert [change[0] for change in told(before)] == [1, 2]
    async with engine_on(server, NOTHING) as engine:
        with pytest.raises(StoreError, match="has no change log"):
            await page(engine)
        await answer_of(engine.values.set("s", "k", b"3"))
        await until(lambda: not server.client.exists(STREAM))
        await until(lambda: any("`history` does not name 's' any more" in line for line in caplog.messages))
    async with engine_on(server) as engine:
        with pytest.raises(Compacted):
            await page(engine, before.next_after)
        fresh = await page(engine)
        assert (fresh.changes, fresh.first, fresh.next_after.rpartition(":")[2]) == ([], 4, "3")
        await answer_of(engine.values.set("s", "k", b"4"))
        assert told(await page(engine, fresh.next_after)) == [(4, "updated", "k", 4, None)]
        with pytest.raises(Compacted):
            await page(engine, before.next_after)


def test_a_rule_that_stays_keeps_its_generation() -> None:
    first = setting_of(LogRules([LogRule(scope="a"), LogRule(scope_prefix="")]), b"")
    second = setting_of(LogRules([LogRule(scope_prefix="", max_length=3), LogRule(scope="b")]), first)
    before, after = LogSetting(first), LogSetting(second)
    every, other = before.of("x"), after.of("x")
    assert every is not None
    assert other is not None
    assert every.generation == other.generation
    assert other.rule.max_length == 3
    assert before.of("a") != every
    assert after.of("a") == other
    assert setting_of(after.rules, second) == second
    assert setting_of(NOTHING, second) == b""


async def test_what_other_programs_write_is_logged_where_it_is_noticed(server: RedisServer) -> None:
    async with engine_on(server, foreign_writes=True) as engine:
        await until(lambda: (server.client.hget("iii-state:routes", ":foreign_writes") or b" ").isdigit())
        await answer_of(engine.values.set("s", "k", b"1"))
        await until(lambda: server.client.pubsub_numpat() > 0)
        server.client.hset("state:s", "k", "2")
        server.client.hset("state:s", "broken", "{")
        async with asyncio.timeout(20):
            while len(found := told(await page(engine))) < 3:
                await asyncio.sleep(0.01)
        assert found[0] == (1, "created", "k", 1, None)
        assert sorted(change[1:] for change in found[1:]) == [
            ("created", "broken", None, "foreign"),
            ("updated", "k", 2, "foreign"),
        ]
        server.client.hset("state:s", "k", "3")
        await answer_of(engine.values.set("s", "k", b"4"))  # finds it first
        server.client.delete("state:s")
        async with asyncio.timeout(20):
            while len(found := told(await page(engine))) < 7:
                await asyncio.sleep(0.01)
        assert [change[1:] for change in found[3:5]] == [("updated", "k", 3, "foreign"), ("updated", "k", 4, None)]
        assert sorted(change[1:] for change in found[5:]) == [
            ("deleted", "broken", None, "foreign"),
            ("deleted", "k", None, "foreign"),
        ]


async def test_a_database_that_was_emptied_is_another_store(server: RedisServer) -> None:
    async with engine_on(server) as engine:
        await answer_of(engine.values.set("s", "k", b"1"))
        before = await page(engine)
        server.client.flushdb()
        with pytest.raises(Compacted):
            await page(engine, before.next_after)

        async def is_another_store() -> bool:
            return not (await page(engine)).next_after.startswith(before.next_after.partition(":")[0])

        await until(is_another_store)
        await answer_of(engine.values.set("s", "k", b"1"))
        await answer_of(engine.values.set("s", "k", b"2"))
        with pytest.raises(Compacted):
            await page(engine, before.next_after)
        assert [change[0] for change in told(await page(engine))] == [1, 2]


@pytest.mark.parametrize("gone", [[STREAM], [HASH]])
async def test_writes_go_on_where_a_key_of_the_log_was_removed_and_readers_are_told(server: RedisServer, gone: list[str]) -> None:
    async with engine_on(server) as engine:
        for number in range(3):
            await answer_of(engine.values.set("s", "k", b"%d" % number))
        before = (await page(engine)).next_after.replace(":3", ":2")
        server.client.delete(*gone)
        await answer_of(engine.values.set("s", "k", b"3"))
        with pytest.raises(Compacted):
            await page(engine, before)
        found = told(await page(engine))
        assert [change[1:] for change in found] == [("updated", "k", 3, None)]
        assert found[0][0] >= 4


@pytest.mark.parametrize("key", [STREAM, HASH])
async def test_a_key_of_the_log_that_is_another_type_fails_the_call_whole(server: RedisServer, key: str) -> None:
    async with engine_on(server) as engine:
        await answer_of(engine.values.set("s", "k", b"1"))
        server.client.delete(key)
        server.client.set(key, "in the way")
        steps = [Step("k", b"2")]
        for call in (
            lambda: engine.values.set("s", "k", b"2"),
            lambda: engine.values.update("s", "k", INCREMENT, LIMIT),
            lambda: engine.values.delete("s", "k"),
            lambda: engine.values.transact("s", steps, LIMIT),
        ):
            with pytest.raises(StoreError, match="WRONGTYPE"):
                await answer_of(call())
        assert await answer_of(engine.values.get("s", "k")) == b"1"


async def test_a_stream_that_somebody_has_written_to_fails_no_call(server: RedisServer) -> None:
    async with engine_on(server) as engine:
        await answer_of(engine.values.set("s", "k", b"1"))
        server.client.xadd(STREAM, {"no": "change"}, id="99-1")
        await answer_of(engine.values.set("s", "k", b"2"))
        assert told(await page(engine)) == [(2, "updated", "k", 2, None)]


async def test_removing_a_value_is_logged_when_memory_is_full(own_server: RedisServer) -> None:
    async with engine_on(own_server) as engine:
        await answer_of(engine.values.set("s", "k", b"1"))
        own_server.client.config_set("maxmemory", "1")
        with pytest.raises(StoreError):
            await answer_of(engine.values.set("s", "k", b"2"))
        assert await answer_of(engine.values.delete("s", "k")) == b"1"
        assert [change[:2] for change in told(await page(engine))] == [(1, "created"), (2, "deleted")]
        own_server.client.config_set("maxmemory", "0")


async def test_old_changes_go_in_parts_also_where_nobody_writes(server: RedisServer) -> None:
    async with engine_on(server, LogRules([LogRule(scope_prefix="", max_age_ms=500)])) as engine:
        await asyncio.gather(*(answer_of(engine.values.set("s", "k", b"1")) for _ in range(1200)))
        assert server.client.xlen(STREAM) == 1200
        await until(lambda: server.client.xlen(STREAM) == 0)
        assert (await page(engine)).first == 1201
        await answer_of(engine.values.set("s", "k", b"1"))
        assert (await page(engine)).first == 1201


async def test_a_key_is_found_by_the_revision_of_its_value(server: RedisServer) -> None:
    async with engine_on(server) as engine:
        for key in ("a", "b", "a"):
            await answer_of(engine.values.set("s", key, b"1"))
        await answer_of(engine.values.delete("s", "b"))
        held = server.client.hgetall(HASH)
        assert {name: text for name, text in held.items() if name != b"generation"} == {b"last": b"4", b"ka": b"3"}
