"""URLs of a Redis Cluster, and how it is told from a single Redis."""

from __future__ import annotations

import ssl
from typing import Literal

import pytest

from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.cluster.recognition import is_cluster
from iii_state.errors import ConfigError, StoreError
from tests.support.redis.nodes import Nodes
from tests.support.redis.server import RedisServer


def test_several_nodes_have_one_login_and_one_tls() -> None:
    address = Address.parse("rediss://ada:p%40s%2Cs@one.example:7000,two.example,[::1]:7001/0?ssl_cert_reqs=none")
    assert [seed.place for seed in address.seeds] == [("one.example", 7000), ("two.example", 6379), ("::1", 7001)]
    assert address.nodes == address.seeds
    for seed in address.seeds:
        assert (seed.username, seed.password, seed.db, seed.seeds) == ("ada", "p@s,s", 0, ())
        assert seed.tls is not None
        assert seed.tls.verify_mode == ssl.CERT_NONE
    assert str(address) == "one.example:7000, two.example:6379, [::1]:7001"
    shown = f"{address} {address!r} {address.at('host', 1)!r} {address.seeds!r}"
    assert not [secret for secret in ("p@s", "p%40s") if secret in shown]
    found = address.of_cluster().at("10.0.0.1", 7002)
    assert (found.place, found.password, found.seeds, found.is_node) == (("10.0.0.1", 7002), "p@s,s", (), True)
    assert str(found) == "10.0.0.1:7002"


def test_one_node_is_an_address_like_any_other() -> None:
    address = Address.parse("redis://:p,w@host:7000")
    assert (address.seeds, address.nodes, address.password) == ((), (address,), "p,w")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://:secret@h:1,,k:2", "it lacks the host of a node"),
        ("redis://:secret@h:1,", "it lacks the host of a node"),
        ("redis://:secret@h:1,k:secret", "its port is no number"),
        ("redis://:secret@h:1,k:2/secret", "the database, behind the /, is no number"),
        ("redis://:secret@h:1,k:2#secret", "it holds a #"),
        ("rediss://:secret@h:1,k:2?ssl_ca_certs=/no/such/file", "the TLS options of redis_url cannot be used"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_quotes_nothing(url: str, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Address.parse(url)
    assert told in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("expected", ["auto", True])
async def test_a_cluster_is_recognised_by_any_of_its_nodes(nodes: Nodes, expected: Literal["auto", True]) -> None:
    for url in (nodes.url, nodes.replica(nodes.shards[0]).url, nodes.seeds, f"redis://127.0.0.1:1,127.0.0.1:{nodes.nodes[0].port}"):
        assert await is_cluster(Address.parse(url), expected)


async def test_what_a_cluster_has_not_is_refused(nodes: Nodes) -> None:
    with pytest.raises(ConfigError, match="redis_url names database 3, and a Redis Cluster has only database 0"):
        await is_cluster(Address.parse(f"{nodes.url}/3"), "auto")
    assert not await is_cluster(Address.parse(nodes.url), False)
    with pytest.raises(ConfigError, match=r"names several nodes, and adapter.config.cluster is false"):
        await is_cluster(Address.parse(nodes.seeds), False)
    with pytest.raises(ConfigError, match="cluster is true, but redis_url names Sentinels"):
        await is_cluster(Address.parse("redis+sentinel://h/m"), True)
    with pytest.raises(ConfigError, match="cluster is true, but redis_url is the path of a socket"):
        await is_cluster(Address.parse("unix:///tmp/redis.sock"), True)
    with pytest.raises(StoreError, match="nobody listens there"):
        await is_cluster(Address.parse("redis://127.0.0.1:1"), "auto")


async def test_a_single_redis_is_no_cluster(server: RedisServer) -> None:
    assert not await is_cluster(Address.parse(f"{server.url}/3"), "auto")
    with pytest.raises(ConfigError, match=r"cluster is true, but Redis at .* is no part of a Redis Cluster"):
        await is_cluster(Address.parse(server.url), True)
    with pytest.raises(ConfigError, match=r"names several servers, and Redis at .* is no Redis Cluster"):
        await is_cluster(Address.parse(f"{server.url},127.0.0.1:{server.port}"), "auto")
