"""Asking Sentinels for the primary: who is believed, and what it says when nobody can tell."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner

from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.primary import Primary
from iii_state.adapters.redis.connection.sentinel import find_primary
from iii_state.adapters.redis.scripts.loader import names
from iii_state.cli import main
from iii_state.config import RedisTls
from iii_state.errors import StoreError
from tests.support.certificates import Authority
from tests.support.engines.processes import free_port
from tests.support.redis.adapters import adapter_on
from tests.support.redis.sentinels import NAME, SentinelGroup, SentinelProcess, sentinel_group
from tests.support.redis.server import RedisServer, binary, shared_server
from tests.support.waiting import answer_of, until


@pytest.fixture(scope="module")
def group() -> Iterator[SentinelGroup]:
    """One that no test hurts."""
    with sentinel_group() as running:
        for sentinel in running.sentinels:
            sentinel.client.sentinel_set(NAME, "auth-pass", "right")
        for server in running.servers:
            server.client.config_set("masterauth", "right")
            server.client.config_set("requirepass", "right")
        yield running


@pytest.fixture
def url(group: SentinelGroup) -> str:
    return group.url.replace("://", "://:right@")


async def refusal(url: str) -> str:
    with pytest.raises(StoreError) as raised:
        async with adapter_on(url):
            pass
    return str(raised.value)


async def test_it_reads_and_writes_the_database_of_the_primary(group: SentinelGroup, url: str) -> None:
    async with adapter_on(f"{url}/3") as adapter:
        await answer_of(adapter.values.set("s", "k", b"1"))
        assert adapter._shared.connection._pipeline.socket is not None
        assert adapter._shared.connection._pipeline.socket.address.place == ("127.0.0.1", group.first.port)
    assert redis.Redis(port=group.first.port, db=3, password="right").hget("state:s", "k") == b"1"


async def test_one_sentinel_that_answers_is_enough(group: SentinelGroup, url: str) -> None:
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    async with silent:
        hosts = f"127.0.0.1:{free_port()},127.0.0.1:{silent.sockets[0].getsockname()[1]},127.0.0.1:{group.sentinels[0].port}"
        found = await find_primary(Address.parse(f"redis+sentinel://{hosts}/{NAME}"))
    assert found.place == ("127.0.0.1", group.first.port)


async def test_no_sentinel_answers() -> None:
    one, other = free_port(), free_port()
    told = await refusal(f"redis+sentinel://:secret@127.0.0.1:{one},127.0.0.1:{other}/{NAME}?sentinel_password=secret")
    assert told.startswith(f"no Sentinel of {NAME} answers: ")
    for port in (one, other):
        assert f"Connection to Sentinel at 127.0.0.1:{port} refused: nobody listens there" in told
    assert "secret" not in told


async def test_no_sentinel_knows_the_name(group: SentinelGroup, url: str) -> None:
    told = await refusal(url.replace(NAME, "nobody"))
    assert told.startswith("the Sentinels of redis_url know no Redis by the name nobody (127.0.0.1:")


async def test_a_redis_where_a_sentinel_should_be_and_the_other_way_round(group: SentinelGroup) -> None:
    port = shared_server().port
    told = await refusal(f"redis+sentinel://127.0.0.1:{port}/{NAME}")
    assert f"what listens at 127.0.0.1:{port} is a Redis, and no Sentinel" in told
    port = group.sentinels[0].port
    told = await refusal(f"redis://127.0.0.1:{port}")
    assert told == f"what listens at 127.0.0.1:{port} is a Sentinel: redis_url has to be redis+sentinel://127.0.0.1:{port}/NAME"


async def test_the_passwords_of_the_redis_are_asked_for_as_always(group: SentinelGroup) -> None:
    assert f"Redis at 127.0.0.1:{group.first.port} ({NAME}) asks for a password" in await refusal(group.url)


async def test_sentinels_with_a_password_of_their_own() -> None:
    with sentinel_group() as group:
        for sentinel in group.sentinels:
            sentinel.client.execute_command("ACL", "SETUSER", "default", "on", ">sesame", "~*", "&*", "+@all")
            sentinel.client.execute_command("ACL", "SETUSER", "app", "on", ">open", "&*", "-@all", "+hello", "+auth", "+ping")
            sentinel.client.execute_command(
                "ACL", "SETUSER", "app", "+subscribe", "+sentinel|master", "+sentinel|get-master-addr-by-name"
            )
        told = await refusal(group.url)
        assert "Sentinel at 127.0.0.1:" in told
        assert "asks for a password; give it in redis_url as sentinel_password" in told
        told = await refusal(f"{group.url}?sentinel_password=secret")
        assert "does not accept sentinel_username and sentinel_password of redis_url" in told
        assert "secret" not in told
        async with adapter_on(f"{group.url}?sentinel_username=app&sentinel_password=open") as adapter:
            await answer_of(adapter.values.set("s", "k", b"1"))
            primary = adapter._shared.connection.primary
            assert isinstance(primary, Primary)
            watches = primary._watches
            await until(lambda: all(watch._socket is not None for watch in watches))


async def test_tls_with_the_redis_and_with_its_sentinels(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("127.0.0.1")
    files = {"tls-cert-file": cert, "tls-key-file": key, "tls-ca-cert-file": authority.file, "tls-auth-clients": "no"}
    tls_port, sentinel_tls_port = free_port(), free_port()
    options = [word for name, value in {**files, "tls-port": tls_port}.items() for word in (f"--{name}", str(value))]
    lines = [f"{name} {value}" for name, value in {**files, "tls-port": sentinel_tls_port, "tls-replication": "yes"}.items()]
    with_tls = binary("7")  # the others are built without
    if with_tls is None:
        pytest.skip("TLS takes Debian's redis-server")
    with RedisServer(*options, executable=with_tls), ExitStack() as stack:
        sentinel = SentinelProcess(
            free_port(), secrets.token_hex(20), tls_port, {}, *lines, down_after_ms=600_000, executable=with_tls
        )
        stack.callback(sentinel.close)
        url = f"rediss+sentinel://127.0.0.1:{sentinel_tls_port}/{NAME}"
        ways: list[tuple[dict[str, Any], str]] = [
            ({}, f"?ssl_ca_certs={authority.file}"),
            ({"tls": RedisTls(ca=authority.file)}, ""),
        ]
        for settings, trust in ways:
            async with adapter_on(url + trust, **settings) as adapter:
                await answer_of(adapter.values.set("s", "k", b"1"))
                assert adapter._shared.connection._pipeline.socket is not None
                assert adapter._shared.connection._pipeline.socket.address.place == ("127.0.0.1", tls_port)
            plain = f"rediss+sentinel://127.0.0.1:{sentinel.port}/{NAME}{trust}{'&' if trust else '?'}sentinel_tls=false"
            async with adapter_on(plain, **settings) as adapter:
                await answer_of(adapter.values.set("s", "k", b"2"))
        assert "Sentinel at 127.0.0.1" in (told := await refusal(url))
        assert "has a certificate that is not accepted" in told


async def test_commands_that_look_at_a_redis_take_the_url(url: str) -> None:
    async with adapter_on(url):
        for command in (["triggers"], ["dead", "list"]):
            shown = await asyncio.to_thread(CliRunner().invoke, main, [*command, "--json", "--redis-url", url])
            assert (shown.exit_code, "[]" in shown.stdout) == (0, True), shown.output
        shown = await asyncio.to_thread(CliRunner().invoke, main, ["triggers", "--redis-url", url.replace(NAME, "nobody")])
        assert shown.exit_code == 1
        assert "the Sentinels of redis_url know no Redis by the name nobody" in shown.stderr
        assert "right" not in shown.output


async def test_lua_load_finds_the_primary(group: SentinelGroup, url: str) -> None:
    result = await asyncio.to_thread(CliRunner().invoke, main, ["lua-load", "--redis-url", url])
    assert result.exit_code == 0, result.output
    assert f"{NAME} (Sentinels: 127.0.0.1:{group.sentinels[0].port}" in result.output
    assert result.output.count("loaded") + result.output.count("there") == len(names())
    assert "right" not in result.output


async def test_without_sentinels_nothing_is_watched() -> None:
    primary = Primary(Address.parse(shared_server().url))
    primary.start()
    socket = await primary.open("test")
    assert (primary._watches, len(primary._background)) == ([], 0)
    socket.abort()
    await primary.stop()
