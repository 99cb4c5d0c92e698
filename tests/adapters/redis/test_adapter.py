"""The Redis adapter: refusals in words, recovery, other writers' data, lists and groups."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from iii_state import values
from iii_state.adapters.redis import RedisAdapter
from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.keyspace import scopes
from iii_state.adapters.redis.mutations.commands import MAX_ANSWERED_BYTES
from iii_state.config import RedisSettings
from iii_state.errors import ConfigError, StoreError
from iii_state.events import Subscription
from tests.support.engines.processes import free_port
from tests.support.redis.adapters import INCREMENT, SMALLEST_RULES, adapter_on, increments, until_answers
from tests.support.redis.proxy import proxy_to
from tests.support.redis.server import RedisServer
from tests.support.waiting import answer_of, until

LIMIT = values.MAX_VALUE_BYTES


@pytest.fixture
async def adapter(server: RedisServer) -> AsyncIterator[RedisAdapter]:
    async with adapter_on(server.url) as started:
        yield started


async def refusal(url: str, **settings: Any) -> str:
    with pytest.raises(StoreError) as raised:
        async with adapter_on(url, **settings):
            pass
    return str(raised.value)


# -- no way in


async def test_nobody_listens() -> None:
    port = free_port()
    assert f"Connection to Redis at localhost:{port} refused" in await refusal(f"redis://localhost:{port}")


async def test_no_such_host() -> None:
    told = await refusal("redis://no-such-host.invalid")
    assert told.startswith("Connection to Redis at no-such-host.invalid:6379 failed")


@pytest.mark.parametrize("host", ["a..b", "a" * 70, "a%00b", "x\udcff"])
async def test_what_can_be_no_host_name(host: str) -> None:
    told = await refusal(f"redis://:secret@{host}")
    assert told.startswith("Connection to Redis at ")
    assert "failed" in told
    assert "secret" not in told


async def test_no_such_socket(tmp_path: Any) -> None:
    assert "no such socket" in await refusal(f"unix://{tmp_path}/redis.sock")


async def test_a_server_that_is_no_redis() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    other = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with other:
        port = other.sockets[0].getsockname()[1]
        assert "does not answer as a Redis does" in await refusal(f"redis://127.0.0.1:{port}")


async def test_a_server_that_says_nothing() -> None:
    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        assert "has not answered within 200 ms" in await refusal(f"redis://127.0.0.1:{port}", call_timeout_ms=200)


async def test_tls_where_there_is_none(server: RedisServer) -> None:
    told = await refusal(f"rediss://127.0.0.1:{server.port}", call_timeout_ms=3000)
    assert "TLS" in told


async def test_a_wrong_password_is_said_and_not_shown(own_server: RedisServer) -> None:
    own_server.client.config_set("requirepass", "right")
    own_server.client.execute_command("AUTH", "right")
    told = await refusal(f"redis://:wrong-secret@127.0.0.1:{own_server.port}")
    assert "does not accept the user name and password" in told
    assert "secret" not in told
    assert "asks for a password" in await refusal(own_server.url)
    async with adapter_on(f"redis://:right@127.0.0.1:{own_server.port}/3") as adapter:
        await answer_of(adapter.values.set("s", "k", b"1"))
    assert redis.Redis(port=own_server.port, db=3, password="right").hget("state:s", "k") == b"1"


async def test_missing_permissions_are_named_at_start(own_server: RedisServer) -> None:
    new_user = ("ACL", "SETUSER", "app", "reset", "resetchannels", "on", ">pw", *SMALLEST_RULES.split())
    for rules, named in (
        ("-hset", "hset"),
        ("-xadd", "xadd"),
        ("resetkeys ~iii-state:*", "state:"),
        ("resetkeys ~state:*", "iii-state:"),
    ):
        own_server.client.execute_command(*new_user, *rules.split())
        told = await refusal(f"redis://app:pw@127.0.0.1:{own_server.port}")
        assert "may not" in told or "no permission" in told, (
            told
        )  # the first is ours, the second of a server we do not know by heart
        assert named in told.lower(), told
        assert own_server.client.keys("state:*") == []
    own_server.client.execute_command(*new_user)
    async with adapter_on(f"redis://app:pw@127.0.0.1:{own_server.port}") as adapter:
        await answer_of(adapter.values.set("s", "k", b"1"))
        assert await answer_of(adapter.values.update("s", "n", INCREMENT, LIMIT))
        assert sorted(await answer_of(adapter.values.scopes())) == ["s"]
        assert await answer_of(adapter.values.delete("s", "k")) == b"1"


async def test_a_newer_layout_is_refused(server: RedisServer) -> None:
    server.client.set("iii-state:format", "99")
    assert "format 99" in await refusal(server.url)


async def test_urls_are_read_as_redis_py_reads_them_and_never_quoted() -> None:
    address = Address.parse("rediss://ada:p%40ss@redis.example:6380/2?ssl_cert_reqs=none")
    assert (address.host, address.port, address.db, address.username, address.password) == ("redis.example", 6380, 2, "ada", "p@ss")
    assert address.tls is not None
    assert address.tls.verify_mode == ssl.CERT_NONE
    assert "p@ss" not in f"{address} {address!r}"
    assert Address.parse("unix:///run/redis.sock?db=1").path == "/run/redis.sock"
    for url in ("redis://host/secret", "redis://:12/secret@host", "redis://:12#secret@host", "redis://host/-1", "unix://"):
        with pytest.raises(ConfigError, match="redis_url cannot be read") as raised:
            Address.parse(url)
        assert "secret" not in str(raised.value)
    for url in ("http://secret", "redis://:se:cret@host:port", "redis://host:99999", "rediss://h?ssl_ca_certs=/no/such/file"):
        with pytest.raises(ConfigError) as raised:
            Address.parse(url)
        assert "secret" not in str(raised.value)
        assert "cret" not in str(raised.value)


# -- bad days


async def test_a_replica_takes_no_writes_and_calls_work_again_when_it_is_promoted(
    own_server: RedisServer, server: RedisServer
) -> None:
    async with adapter_on(own_server.url, call_timeout_ms=1000) as adapter:
        await answer_of(adapter.values.set("s", "k", b"1"))
        own_server.client.replicaof("127.0.0.1", server.port)
        await until(lambda: own_server.client.info("replication")["master_link_status"] == "up")
        with pytest.raises(StoreError, match="read-only replica"):
            await answer_of(adapter.values.set("s", "k", b"2"))
        assert "read-only replica" in await refusal(own_server.url)
        own_server.client.replicaof("NO", "ONE")
        await until_answers(adapter)
        await answer_of(adapter.values.set("s", "k", b"3"))


async def test_out_of_memory_is_said_and_deletes_work(own_server: RedisServer) -> None:
    async with adapter_on(own_server.url) as adapter:
        await answer_of(adapter.values.set("s", "k", b"1"))
        await answer_of(adapter.values.update("s", "n", INCREMENT, LIMIT))
        own_server.client.config_set("maxmemory", "1")
        with pytest.raises(StoreError, match="out of memory"):
            await answer_of(adapter.values.set("s", "other", b"1"))
        with pytest.raises(StoreError, match="out of memory"):
            await answer_of(adapter.values.update("s", "n", INCREMENT, LIMIT))
        assert await answer_of(adapter.values.get("s", "k")) == b"1"
        assert await answer_of(adapter.values.delete("s", "k")) == b"1"
        own_server.client.config_set("maxmemory", "0")
        assert await answer_of(adapter.values.get("s", "other")) is None
        assert await answer_of(adapter.values.set("s", "other", b"1")) is None


async def test_keys_of_the_wrong_type_are_named(server: RedisServer, adapter: RedisAdapter) -> None:
    server.client.set("state:odd", "x")
    for call in (
        lambda: adapter.values.get("odd", "k"),
        lambda: adapter.values.set("odd", "k", b"1"),
        lambda: adapter.values.delete("odd", "k"),
        lambda: adapter.values.update("odd", "k", INCREMENT, LIMIT),
        lambda: adapter.values.entries("odd"),
    ):
        with pytest.raises(StoreError, match="wrong type: state:odd"):
            await answer_of(call())
    assert server.client.get("state:odd") == b"x"
    assert await answer_of(adapter.values.scopes()) == []


async def test_a_redis_that_stalls_for_less_than_the_timeout_costs_no_call(own_server: RedisServer) -> None:
    async with adapter_on(own_server.url, call_timeout_ms=4000) as adapter:
        await answer_of(adapter.values.get("s", "k"))
        own_server.client.execute_command("CLIENT", "PAUSE", "2500", "ALL")
        made = await increments(adapter, 64, 5)
        assert own_server.client.hget("state:s", "k") == values.to_stored(b'{"n":%d}' % len(made))


async def test_a_failover_under_traffic_is_survived(own_server: RedisServer) -> None:
    with RedisServer("--replicaof", "127.0.0.1", str(own_server.port)) as replica:
        await until(lambda: replica.client.info("replication")["master_link_status"] == "up")
        async with contextlib.AsyncExitStack() as stack:
            proxy = await stack.enter_async_context(proxy_to(own_server.port))
            adapter = await stack.enter_async_context(adapter_on(proxy.url, call_timeout_ms=10_000))
            first = await increments(adapter, 16, 10)
            working = asyncio.create_task(increments(adapter, 32, 100))
            await until(lambda: int((own_server.client.hget("state:s", "k") or b"00000000")[7:-2].decode() or 0) > 300)
            own_server.client.execute_command("CLIENT", "PAUSE", "10000", "WRITE")
            await until(
                lambda: (
                    own_server.client.info("replication")["master_repl_offset"]
                    == replica.client.info("replication")["master_repl_offset"]
                )
            )
            replica.client.replicaof("NO", "ONE")
            proxy.target = replica.port
            proxy.cut_all()
            made = await working
            assert replica.client.hget("state:s", "k") == values.to_stored(b'{"n":%d}' % (len(first) + len(made)))
            own_server.client.execute_command("CLIENT", "UNPAUSE")


# -- other writers


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (b'{"a": 1, "n": 2}', b'{\t\n"a":1,\n"n":2\n}'),
        (b'{\n "n": 2\n}', b'{\t\n"n":2\n}'),
        (b'  {"\\u006e":2}', b'{\t\n"n":2\n}'),
        (b'{"n":1,"n":2}', b'{\t\n"n":2\n}'),
        (b" [1, 2]", b"[1,2]"),
        (b'{\t\n"n":2}', b'{\t\n"n":2\n}'),
    ],
)
async def test_what_another_program_wrote_is_read_and_framed_by_the_first_update(
    server: RedisServer, adapter: RedisAdapter, text: bytes, read: bytes
) -> None:
    server.client.hset("state:s", "k", text)
    assert await answer_of(adapter.values.get("s", "k")) == read
    assert (await answer_of(adapter.values.entries("s"))).rows == [("k", read)]
    assert server.client.hget("state:s", "k") == text
    updated = await answer_of(adapter.values.update("s", "k", INCREMENT, LIMIT))
    assert updated.old == read
    assert server.client.hget("state:s", "k") == updated.new
    assert updated.new.startswith(read[:1])


@pytest.mark.parametrize(
    "text",
    [b"nonsense", b'{"a":', b'{\t\n"n":1,\n"a', b'{"a":"\xff"}', b"1e400", b"", b"\xff\x00", b'{"a":"\\ud800"}', b"[" * 5000],
)
async def test_what_is_no_json_goes_nowhere_and_can_be_replaced(
    server: RedisServer, adapter: RedisAdapter, text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    server.client.hset("state:s", "k", text)
    for call in (
        lambda: adapter.values.get("s", "k"),
        lambda: adapter.values.entries("s"),
        lambda: adapter.values.update("s", "k", INCREMENT, LIMIT),
    ):
        with pytest.raises(StoreError, match="the value at scope 's', key 'k' is not ours, and no JSON"):
            await answer_of(call())
    assert server.client.hget("state:s", "k") == text
    assert await answer_of(adapter.values.set("s", "k", b"1")) is None
    assert "scope 's', key 'k'" in caplog.text
    server.client.hset("state:s", "k", text)
    assert await answer_of(adapter.values.delete("s", "k")) is None
    assert not server.client.exists("state:s")


async def test_a_foreign_value_too_large_for_an_answer_is_replaced_and_counts_as_null(
    server: RedisServer, adapter: RedisAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    server.client.hset("state:s", "k", b'"' + b"x" * MAX_ANSWERED_BYTES + b'"')
    assert await answer_of(adapter.values.set("s", "k", b"1")) is None
    assert await answer_of(adapter.values.get("s", "k")) == b"1"
    assert f"the value of {MAX_ANSWERED_BYTES + 2} bytes at scope 's', key 'k' has been replaced" in caplog.text


async def test_a_framed_value_that_another_program_broke_is_left_alone_and_its_scope_named(
    server: RedisServer, adapter: RedisAdapter
) -> None:
    text = b'{\t\n"n":-\n}'
    server.client.hset("state:s", "k", text)
    with pytest.raises(StoreError, match=r"a script stumbled .* scope 's'.*nothing was changed"):
        await answer_of(adapter.values.update("s", "k", INCREMENT, LIMIT))
    assert server.client.hget("state:s", "k") == text
    assert await answer_of(adapter.values.set("s", "k", b"1")) == text


# -- lists and groups


async def test_a_large_scope_is_listed_whole_while_it_changes(server: RedisServer, adapter: RedisAdapter) -> None:
    pipeline = server.client.pipeline(transaction=False)
    for number in range(0, 20_000, 1000):
        pipeline.hset("state:s", mapping={f"k{n}": values.to_stored(b'{"n":%d}' % n) for n in range(number, number + 1000)})
    pipeline.execute()
    server.client.config_resetstat()
    listing = asyncio.ensure_future(answer_of(adapter.values.entries("s")))
    number = 0
    while not listing.done():
        await answer_of(adapter.values.set("s", f"new{number}", b"1"))
        await answer_of(adapter.values.delete("s", f"new{number - 50}"))
        number += 1
    entries = (await listing).rows
    kept = {key: text for key, text in entries if not key.startswith("new")}
    assert len(entries) == len({key for key, _ in entries})
    assert kept == {f"k{n}": values.to_stored(b'{"n":%d}' % n) for n in range(20_000)}
    assert server.client.info("commandstats")["cmdstat_hscan"]["calls"] > 20


async def test_a_scope_of_few_but_large_values_is_listed(adapter: RedisAdapter) -> None:
    text = b'"%b"' % (b"x" * 300_000)
    for number in range(20):
        await answer_of(adapter.values.set("s", str(number), text))
    assert sorted((await answer_of(adapter.values.entries("s"))).rows) == sorted((str(number), text) for number in range(20))


async def test_groups_are_found_in_data_that_is_older_than_their_set(server: RedisServer) -> None:
    for number in range(3000):
        server.client.hset(f"state:old{number}", "k", "1")
        server.client.set(f"other:{number}", "1")
    server.client.set("state:text", "1")
    async with adapter_on(server.url) as adapter:
        assert sorted(await answer_of(adapter.values.scopes())) == sorted(f"old{number}" for number in range(3000))


async def test_scopes_that_others_empty_disappear_and_those_they_make_appear(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scopes, "PAUSE_SECONDS", 0.05)
    async with adapter_on(server.url) as adapter:
        await answer_of(adapter.values.set("mine", "k", b"1"))
        await answer_of(adapter.values.set("emptied", "k", b"1"))
        assert sorted(await answer_of(adapter.values.scopes())) == ["emptied", "mine"]
        server.client.hdel("state:emptied", "k")
        server.client.hset("state:theirs", "k", "1")
        assert "emptied" not in await answer_of(adapter.values.scopes())
        async with asyncio.timeout(20):
            while sorted(await answer_of(adapter.values.scopes())) != ["mine", "theirs"]:
                await asyncio.sleep(0.01)
        assert server.client.smembers("iii-state:scopes") == {b"mine", b"theirs"}


async def test_another_prefix_keeps_its_own_books(server: RedisServer) -> None:
    async with adapter_on(server.url, prefix="other") as adapter:
        await answer_of(adapter.values.set("s", "k", b"1"))
        assert server.client.smembers("other:scopes") == {b"s"}
        assert not server.client.exists("iii-state:scopes")


async def test_a_stop_does_not_wait_for_a_redis_that_is_away(own_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    adapter = RedisAdapter(RedisSettings(redis_url=own_server.url, call_timeout_ms=300_000))
    await adapter.start(lambda subscription_id: None)
    for subscription in (Subscription("once"), Subscription("broadcast", delivery="broadcast")):
        await answer_of(adapter.queues.subscribe(subscription))
    await answer_of(adapter.values.set("s", "k", b"1"))
    await answer_of(adapter.queues.take(Subscription("once").id, 1))
    own_server.kill()
    await until(lambda: "was closed by the other side" in caplog.text)
    async with asyncio.timeout(60):  # far less than one call's time
        await adapter.stop()
    assert "what is pending here could not be given back, and will be taken over" in caplog.text
    own_server.start()


async def test_a_stop_gives_back_what_is_pending_and_ends_its_broadcasts(own_server: RedisServer) -> None:
    async with adapter_on(own_server.url) as adapter, adapter_on(own_server.url) as other:
        for subscription in (Subscription("once"), Subscription("broadcast", delivery="broadcast")):
            await answer_of(adapter.queues.subscribe(subscription))
        await answer_of(other.queues.subscribe(Subscription("once")))
        await answer_of(adapter.values.set("s", "k", b"1"))
        assert len(await answer_of(adapter.queues.take(Subscription("once").id, 1))) == 1
        await adapter.stop()
        assert len(await answer_of(other.queues.take(Subscription("once").id, 1))) == 1
        assert [queue.subscription.function_id for queue in await other.admin.stats()] == ["once"]
