"""What Redis tells of keys: that it is asked to, without taking anything away, and what starts when a key expires."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from iii_state.adapters.redis import RedisAdapter
from iii_state.adapters.redis.connection.durability import SETTINGS
from iii_state.config import RedisSettings
from iii_state.events import Subscription
from tests.support.redis.adapters import SMALLEST_RULES, adapter_on
from tests.support.redis.server import RedisServer
from tests.support.waiting import answer_of, until

ALL = Subscription("all")
SETTING = "notify-keyspace-events"


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server whose settings a test may change."""
    with RedisServer() as running:
        yield running


def setting(server: RedisServer) -> set[str]:
    return set(server.client.config_get(SETTING)[SETTING])


def config_calls(server: RedisServer) -> int:
    """How often CONFIG has been called: 6.2 counts its subcommands together."""
    stats = server.client.info("commandstats")
    return sum(counts["calls"] for name, counts in stats.items() if name.startswith("cmdstat_config"))


def warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What was warned of, but for what this server may forget: it keeps nothing."""
    return [record for record in caplog.records if record.levelno >= logging.WARNING and not record.name.endswith(".durability")]


@asynccontextmanager
async def limited(server: RedisServer, rules: str) -> AsyncIterator[RedisAdapter]:
    """An adapter whose user has no more than these permissions."""
    server.client.execute_command("ACL", "SETUSER", "app", "reset", "resetchannels", "on", ">pw", *rules.split())
    async with adapter_on(f"redis://app:pw@127.0.0.1:{server.port}") as adapter:
        yield adapter


async def test_what_another_program_has_redis_tell_stays_told(server: RedisServer) -> None:
    server.client.config_set(SETTING, "Elg")
    async with adapter_on(server.url):
        await until(lambda: "x" in setting(server))
        assert setting(server) == set("EKlgx")


async def test_what_is_told_already_is_left_as_it_is(server: RedisServer) -> None:
    server.client.config_set(SETTING, "KA")
    server.client.config_resetstat()
    async with adapter_on(server.url):
        await until(lambda: config_calls(server) > len(SETTINGS) + 1)
        await until(lambda: any(client["name"] == "iii-state:bells" for client in server.client.client_list()))
    assert config_calls(server) == len(SETTINGS) + 2, "the test's own, one that reads, and those that look what may be forgotten"
    assert setting(server) == set("KA")


@pytest.mark.parametrize("url", ["", "/3"])
async def test_the_expiry_of_a_key_wakes_who_waits_for_it(server: RedisServer, url: str) -> None:
    async with adapter_on(server.url + url) as adapter:
        client = server.client
        client.select(int(url[1:] or 0))
        woken = {b"alarm": 0, b"other": 0}

        def wake(key: bytes) -> None:
            woken[key] += 1

        for key in woken:
            adapter._notifications.on_expiry(key, partial(wake, key))
        await until(lambda: woken == {b"alarm": 1, b"other": 1})  # from now on it is heard
        client.set("alarm", "1", px=20)
        client.set("third", "1", px=20)
        client.set("other", "1")
        await until(lambda: woken[b"alarm"] == 2)
        assert woken[b"other"] == 1
        adapter._notifications.forget(b"alarm")
        client.set("alarm", "1", px=1)
        client.set("other", "1", px=50)
        await until(lambda: woken[b"other"] == 2)
        assert woken[b"alarm"] == 2


async def test_after_a_restart_of_redis_that_forgot_the_setting_it_tells_again(server: RedisServer) -> None:
    async with adapter_on(server.url) as adapter:
        woken: list[None] = []
        adapter._notifications.on_expiry(b"alarm", lambda: woken.append(None))
        await until(lambda: woken)
        server.kill()
        await asyncio.to_thread(server.start)
        await until(lambda: len(woken) == 2)  # for what may have been missed
        server.client.set("alarm", "1", px=20)
        await until(lambda: len(woken) == 3)


async def test_an_engine_that_dies_is_noticed_when_its_heartbeat_expires(server: RedisServer) -> None:
    dying = RedisAdapter(RedisSettings(redis_url=server.url, heartbeat_ttl_ms=600))
    await dying.start(lambda subscription_id: None)
    await answer_of(dying.queues.subscribe(ALL))
    await answer_of(dying.values.set("s", "k", b"1"))
    (held,) = await answer_of(dying.queues.take(ALL.id, 1))
    async with adapter_on(server.url, heartbeat_ttl_ms=3000) as other:
        await answer_of(other.queues.subscribe(ALL))
        await until(lambda: server.client.pubsub_channels("__keyspace@0__:iii-state:engine:*"))
        await dying._heartbeat.stop()  # its heart stops
        async with asyncio.timeout(20):
            while not (taken := await answer_of(other.queues.take(ALL.id, 1))):
                await asyncio.sleep(0.001)  # while it is not certain to be alive, it answers at once
        assert [delivery.event_id for delivery in taken] == [held.event_id]
        await answer_of(other.queues.ack(taken))
    await dying.stop()


async def test_where_it_may_not_be_set_one_warning_says_what_to_set(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async with limited(server, SMALLEST_RULES) as adapter:
        await until(lambda: "CONFIG SET notify-keyspace-events Kx" in caplog.text)
        await answer_of(adapter.queues.subscribe(ALL))
        await answer_of(adapter.values.set("s", "k", b"1"))
        assert len(await answer_of(adapter.queues.take(ALL.id, 1))) == 1
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("rules", ["+config|get", "+config|get +config|set", ""])
async def test_where_it_may_only_be_read_or_is_set_there_is_nothing_to_say(
    server: RedisServer, caplog: pytest.LogCaptureFixture, rules: str
) -> None:
    server.client.config_set(SETTING, "" if "set" in rules else "KEx$")
    async with limited(server, f"{SMALLEST_RULES} {rules}") as adapter:
        woken: list[None] = []
        adapter._notifications.on_expiry(b"iii-state:alarm", lambda: woken.append(None))
        await until(lambda: woken)
        server.client.set("iii-state:alarm", "1", px=20)
        await until(lambda: len(woken) == 2)
    assert warnings(caplog) == []


async def test_a_setting_that_may_be_read_only_is_named_whole(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    server.client.config_set(SETTING, "El")
    async with limited(server, f"{SMALLEST_RULES} +config|get"):
        await until(lambda: "CONFIG SET notify-keyspace-events" in caplog.text)
    assert "may not have it do so (NOPERM" in caplog.text
    assert set(caplog.text.split("CONFIG SET notify-keyspace-events ")[1].split()[0]) == set("ElKx")


async def test_a_user_that_may_not_listen_to_it_has_everything_else(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    rules = SMALLEST_RULES.replace("&__keyspace@*__:iii-state:*", "")
    async with limited(server, rules) as adapter:
        await answer_of(adapter.queues.subscribe(ALL))
        await until(lambda: server.client.pubsub_channels("iii-state:q:*"))
        async with limited(server, rules):
            await until(lambda: "not everything may be heard" in caplog.text)
        assert server.client.pubsub_channels("iii-state:q:*")
