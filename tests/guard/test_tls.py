"""TLS of an engine: what is refused, frames of every size, mutual certificates, and other certificates without a gap."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from iii_state.client.address import EngineAddress
from iii_state.client.client import Client
from iii_state.engine import Engine
from iii_state.errors import ConfigError, ConnectionLost
from iii_state.guard import Guard, tokens
from iii_state.host import Caller
from iii_state.state.module import StateModule
from iii_state.values import Json
from tests.support.certificates import Authority
from tests.support.http import UPGRADE, connected
from tests.support.loops import LOOPS
from tests.support.slow import slow
from tests.support.waiting import until

Place = tuple[str, int]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def served(authority: Authority, **server: Any) -> dict[str, Any]:
    certificate, key = authority.issue("localhost", "127.0.0.1")
    return {"tls": {"cert": str(certificate), "key": str(key), **server.pop("tls", {})}, **server}


def replace(server: dict[str, Any], issued: tuple[Path, Path]) -> None:
    for name, file in zip(("cert", "key"), issued, strict=True):
        Path(server["tls"][name]).write_bytes(file.read_bytes())


def spoil(key: str) -> None:
    Path(key).write_text("no key")


def address(place: Place, authority: Authority, shown: tuple[Path, Path] | None = None, **more: Any) -> EngineAddress:
    certificate, key = shown or (None, None)
    return EngineAddress(f"wss://localhost:{place[1]}", ca_file=authority.file, cert_file=certificate, key_file=key, **more)


@pytest.fixture
async def engine(authority: Authority) -> AsyncIterator[Engine]:
    async with Engine(guard=Guard.of(served(authority))) as engine:
        await engine.add_module(StateModule())
        yield engine


async def test_a_client_that_trusts_the_authority_gets_in_and_no_other(
    engine: Engine, authority: Authority, tmp_path: Path
) -> None:
    place = await engine.serve("127.0.0.1", 0)
    async with Client(address(place, authority)) as client:
        assert await client.call("state::get", b'{"scope":"s","key":"k"}') is None
    other = Authority(tmp_path, "other")
    for wrong in (EngineAddress(f"wss://localhost:{place[1]}"), address(place, other)):
        with pytest.raises(ConnectionLost, match="its certificate is not trusted here"):
            await Client(wrong).__aenter__()
    with pytest.raises(ConnectionLost):
        await Client(f"ws://localhost:{place[1]}").__aenter__()


async def test_the_name_in_the_certificate_counts(authority: Authority) -> None:
    certificate, key = authority.issue("elsewhere.example.com")
    async with Engine(guard=Guard.of({"tls": {"cert": str(certificate), "key": str(key)}})) as engine:
        place = await engine.serve("127.0.0.1", 0)
        with pytest.raises(ConnectionLost, match="its certificate is not trusted here"):
            await Client(address(place, authority)).__aenter__()


async def test_old_tls_is_not_spoken(engine: Engine, authority: Authority) -> None:
    place = await engine.serve("127.0.0.1", 0)
    context = authority.trusting()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await connected(place, context)


@pytest.mark.parametrize("loop", ["uvloop", slow("asyncio")])
def test_frames_of_every_size_pass_both_ways_and_a_slow_reader_is_waited_for(
    authority: Authority, loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The transport is taken over from aiohttp in mid-connection, paused and resumed: over TLS it is another one."""

    async def main() -> None:
        async with Engine(guard=Guard.of(served(authority))) as engine:
            await engine.add_module(StateModule())
            place = await engine.serve("127.0.0.1", 0)
            async with Client(address(place, authority)) as client:
                for size in (0, 1, 100, 126, 65_530, 65_540, 1_000_000, 5_000_000):
                    value = json.dumps("x" * size).encode()
                    await client.call("state::set", b'{"scope":"s","key":"k","value":%b}' % value)
                    assert await client.call("state::get", b'{"scope":"s","key":"k"}') == value
                calls = [client.call("state::get", b'{"scope":"s","key":"k"}') for _ in range(12)]  # 60 MB at once
                assert {len(answer or b"") for answer in await asyncio.gather(*calls)} == {5_000_002}
            session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=authority.trusting()))
            async with session, session.ws_connect(f"https://localhost:{place[1]}/", max_msg_size=0) as slow:
                await slow.receive()
                call = {"type": "invokefunction", "function_id": "state::get", "data": {"scope": "s", "key": "k"}}
                for number in range(8):
                    invocation = f"9b1c9a57-9d6e-4ad6-8b9c-0b6ba1f6a3c{number}"
                    await slow.send_str(json.dumps({**call, "invocation_id": invocation}))
                (worker,) = engine.workers
                await until(lambda: worker.link.is_behind)
                for number in range(8):
                    answer = json.loads((await slow.receive()).data)
                    assert answer["invocation_id"].endswith(str(number))
                    assert len(answer["result"]) == 5_000_000

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_client_has_to_show_a_certificate_of_the_authority(authority: Authority, tmp_path: Path) -> None:
    clients, others = Authority(tmp_path, "clients"), Authority(tmp_path, "others")
    server = served(authority, tls={"client_ca": str(clients.file)})
    async with Engine(guard=Guard.of(server)) as engine:
        await engine.add_module(StateModule())
        place = await engine.serve("127.0.0.1", 0)
        async with Client(address(place, authority, clients.issue("client.example.com"))) as client:
            assert await client.call("state::get", b'{"scope":"s","key":"k"}') is None
        for shown in (None, others.issue("client.example.com"), authority.issue("client.example.com")):
            with pytest.raises(ConnectionLost):
                await Client(address(place, authority, shown)).__aenter__()
        await engine.serve("0.0.0.0", 0)  # who has to show a certificate needs no token


async def test_the_name_in_a_certificate_stands_for_a_token(authority: Authority, tmp_path: Path) -> None:
    clients = Authority(tmp_path, "clients")
    file = tmp_path / "tokens.yaml"
    token = tokens.make()
    entries = [
        {"name": "web", "certificate": "web.example.com"},
        {"name": "named", "certificate": "Common Name"},
        {"name": "ci", "hash": tokens.hashed(token)},
    ]
    file.write_text(yaml.safe_dump({"tokens": entries}))
    server = served(authority, tls={"client_ca": str(clients.file)}, tokens_file=str(file))
    seen: list[str | None] = []

    def look(data: Json, caller: Caller) -> bytes:
        seen.append(None if caller.identity is None else caller.identity.name)
        return b"null"

    class Looking:
        name = "looking"

        async def start(self, host: Any) -> None:
            host.register_function("look", look)

        async def stop(self) -> None: ...

        async def health(self) -> None: ...

    async with Engine(guard=Guard.of(server)) as engine:
        await engine.add_module(Looking())
        place = await engine.serve("127.0.0.1", 0)
        web, named, unnamed = (
            clients.issue("web.example.com"),
            clients.issue("x.example.com", common_name="Common Name"),
            clients.issue("other.example.com"),
        )
        for where in (
            address(place, authority, web),
            address(place, authority, named),
            address(place, authority, unnamed, token=token),
            address(place, authority, web, token=token),
        ):
            async with Client(where) as client:
                await client.call("look", b"{}")
        assert seen == ["web", "named", "ci", "ci"]
        for where in (address(place, authority, unnamed), address(place, authority, web, token=tokens.make())):
            with pytest.raises(ConnectionLost, match="a token that it knows"):
                await Client(where).__aenter__()

        async with Client(address(place, authority, web)) as client:
            file.write_text(yaml.safe_dump({"tokens": entries[1:]}))
            await engine.reload_guard()
            with pytest.raises(ConnectionLost):
                await client.closed()
        with pytest.raises(ConnectionLost, match="a token that it knows"):
            await Client(address(place, authority, web)).__aenter__()


@pytest.mark.parametrize("loop", ["uvloop", slow("asyncio")])
def test_other_certificates_are_taken_without_a_gap(
    authority: Authority, tmp_path: Path, loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        server = served(authority)
        async with Engine(guard=Guard.of(server)) as engine:
            await engine.add_module(StateModule())
            place = await engine.serve("127.0.0.1", 0)
            others = Authority(tmp_path, "others")
            stop = asyncio.Event()
            made = 0

            async def connect_on_and_on() -> None:
                """Neither refused nor broken off, whichever certificate it is."""
                nonlocal made
                context = ssl.create_default_context(cafile=authority.file)
                context.load_verify_locations(others.file)
                while not stop.is_set():
                    connection = await connected(place, context)
                    head = f"GET / HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}\r\n"
                    assert (await connection.answer(head)).status == 101
                    connection.close()
                    made += 1

            async with Client(address(place, authority)) as client, asyncio.TaskGroup() as group:
                group.create_task(connect_on_and_on())
                for issuer in (others, authority, others):
                    replace(server, issuer.issue("localhost"))
                    before = made
                    await engine.reload_guard()
                    await until(lambda at_least=before + 3: made > at_least)  # type: ignore[misc]
                    async with Client(address(place, issuer)) as another:
                        assert await another.call("state::get", b'{"scope":"s","key":"k"}') is None
                assert await client.call("state::get", b'{"scope":"s","key":"k"}') is None
                with pytest.raises(ConnectionLost):
                    await Client(address(place, authority)).__aenter__()
                stop.set()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_certificates_that_cannot_be_used_leave_everything_as_it_was(authority: Authority) -> None:
    server = served(authority)
    async with Engine(guard=Guard.of(server)) as engine:
        place = await engine.serve("127.0.0.1", 0)
        spoil(server["tls"]["key"])
        with pytest.raises(ConfigError, match=r"tls: .* cannot be used"):
            await engine.reload_guard()
        async with Client(address(place, authority)):
            pass


def test_files_that_cannot_be_used_are_named(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("localhost")
    _, of_another = authority.issue("localhost")
    (tmp_path / "nothing").write_text("")
    for cert, its_key, ca in (
        (certificate, of_another, None),
        (certificate, tmp_path / "missing", None),
        (tmp_path / "nothing", key, None),
        (certificate, key, tmp_path / "nothing"),
        (certificate, key, tmp_path / "missing"),
    ):
        tls = {"cert": str(cert), "key": str(its_key), **({} if ca is None else {"client_ca": str(ca)})}
        with pytest.raises(ConfigError, match=r"tls: .*cannot be used: "):
            Guard.of({"tls": tls})


async def test_half_open_tls_ends_by_itself(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that never shakes hands is dropped by the loop, after ten seconds; here after less."""
    monkeypatch.setattr("iii_state.engine.listening.HANDSHAKE_SECONDS", 0.2)
    place = await engine.serve("127.0.0.1", 0)
    silent = await connected(place)
    assert await silent.is_over()
