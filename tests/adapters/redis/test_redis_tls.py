"""TLS to Redis, really handshaken: whose certificate is trusted, the name in it, and the client's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from iii_state import config
from iii_state.engine import Engine
from iii_state.errors import ConfigError, StoreError
from iii_state.state.module import StateModule
from tests.support.certificates import Authority
from tests.support.engines.processes import free_port, running_engine
from tests.support.loops import LOOPS
from tests.support.redis.server import RedisServer, binary
from tests.support.slow import slow


class TlsRedis:
    """A Redis that speaks TLS on one port, and wants a certificate of its clients."""

    def __init__(self, folder: Path, executable: str) -> None:
        self.authority = Authority(folder)
        self.clients = Authority(folder, "clients")
        self.port = free_port()
        certificate, key = self.authority.issue("redis.example.com", "localhost")
        self.shown = self.clients.issue("engine.example.com")
        options = {
            "--tls-port": self.port,
            "--tls-cert-file": certificate,
            "--tls-key-file": key,
            "--tls-ca-cert-file": self.clients.file,
            "--tls-auth-clients": "yes",
        }
        self.server = RedisServer(*(str(word) for pair in options.items() for word in pair), executable=executable)
        self.url = f"rediss://localhost:{self.port}"

    def adapter(self, url: str | None = None, **tls: Any) -> dict[str, Any]:
        """The adapter of a configuration; what is None is left out."""
        given = {"ca": self.authority.file, "cert": self.shown[0], "key": self.shown[1], **tls}
        named = {name: str(value) for name, value in given.items() if value is not None}
        return {"name": "redis", "config": {"redis_url": url or self.url, "tls": named, "call_timeout_ms": 2000}}


@pytest.fixture(scope="module")
def tls_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsRedis]:
    with_tls = binary("7")  # the others are built without
    if with_tls is None:
        pytest.skip("TLS takes Debian's redis-server")
    there = TlsRedis(tmp_path_factory.mktemp("tls"), with_tls)
    with there.server:
        try:
            redis.Redis(
                port=there.port,
                ssl=True,
                ssl_ca_certs=str(there.authority.file),
                ssl_certfile=str(there.shown[0]),
                ssl_keyfile=str(there.shown[1]),
            ).ping()
        except redis.ConnectionError:
            pytest.skip("this redis-server was built without TLS")
        yield there


@pytest.mark.parametrize("loop", ["uvloop", slow("asyncio")])
def test_values_and_events_pass(tls_redis: TlsRedis, loop: str) -> None:
    async def main() -> None:
        heard: asyncio.Queue[Any] = asyncio.Queue()
        async with Engine() as engine:
            await engine.add_module(StateModule({"adapter": tls_redis.adapter()}))
            engine.register_function("heard", heard.put_nowait)
            await engine.register_trigger({"type": "state", "function_id": "heard", "config": {"scope": loop}})
            for size in (1, 100_000, 3_000_000):
                at = {"scope": loop, "key": "k"}
                await engine.trigger({"function_id": "state::set", "payload": {**at, "value": "x" * size}})
                assert await engine.trigger({"function_id": "state::get", "payload": at}) == "x" * size
                async with asyncio.timeout(30):
                    assert (await heard.get())["new_value"] == "x" * size

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


async def start(adapter: dict[str, Any]) -> None:
    async with Engine() as engine:
        await engine.add_module(StateModule({"adapter": adapter}))


async def test_what_the_certificate_is_for_counts_and_can_be_named(tls_redis: TlsRedis) -> None:
    by_address = f"rediss://127.0.0.1:{tls_redis.port}"
    with pytest.raises(StoreError, match="certificate"):
        await start(tls_redis.adapter(by_address))
    await start(tls_redis.adapter(by_address, server_name="redis.example.com"))
    with pytest.raises(StoreError, match="certificate"):
        await start(tls_redis.adapter(server_name="other.example.com"))


async def test_another_authority_is_not_trusted_and_a_client_has_to_show_its_certificate(tls_redis: TlsRedis) -> None:
    with pytest.raises(StoreError, match="certificate"):
        await start(tls_redis.adapter(ca=tls_redis.clients.file))
    with pytest.raises(StoreError, match="certificate"):
        await start(tls_redis.adapter(ca=None))
    with pytest.raises(StoreError):
        await start(tls_redis.adapter(cert=None, key=None))


async def test_the_options_of_a_url_do_the_same(tls_redis: TlsRedis) -> None:
    certificate, key = tls_redis.shown
    options = f"ssl_ca_certs={tls_redis.authority.file}&ssl_certfile={certificate}&ssl_keyfile={key}"
    await start({"name": "redis", "config": {"redis_url": f"{tls_redis.url}?{options}"}})
    with pytest.raises(StoreError, match="certificate"):
        await start({"name": "redis", "config": {"redis_url": f"rediss://127.0.0.1:{tls_redis.port}?{options}"}})


@pytest.mark.parametrize(
    ("url", "tls", "says"),
    [
        ("redis://localhost", {}, "it has to begin with rediss://"),
        ("rediss://localhost?ssl_cert_reqs=none", {}, "keep one of the two"),
        ("rediss://localhost", {"ca": "/nowhere"}, "adapter.config.tls.ca: /nowhere cannot be used"),
        ("rediss://localhost", {"cert": "/nowhere", "key": "/nowhere"}, "/nowhere and /nowhere cannot be used"),
        ("rediss://localhost", {"cert": "/nowhere"}, "cert and key belong together"),
        ("rediss://localhost", {"cafile": "x"}, "unknown key adapter.config.tls.cafile; did you mean adapter.config.tls.ca"),
    ],
)
def test_what_cannot_be_used_is_an_error_that_names_it(url: str, tls: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        StateModule({"adapter": {"name": "redis", "config": {"redis_url": url, "tls": tls}}})
    assert says in str(refused.value)


def test_a_served_engine_takes_it_from_its_configuration(tls_redis: TlsRedis) -> None:
    with running_engine(config={"adapter": tls_redis.adapter()}) as engine:
        assert engine.stop() == 0


def test_no_repr_shows_a_password_or_a_token() -> None:
    given = {"adapter": {"name": "redis", "config": {"redis_url": "redis://me:hidden@localhost"}}}
    assert "hidden" not in repr(config.parse(given))
    given = {"adapter": {"name": "bridge", "config": {"bridge_url": "ws://me:hidden@h?access_token=hidden", "token": "hidden"}}}
    assert "hidden" not in repr(config.parse(given))
