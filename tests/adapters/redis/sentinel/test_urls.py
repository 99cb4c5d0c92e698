"""URLs of a Redis behind Sentinels: what each part is, and errors that quote nothing."""

from __future__ import annotations

import ssl

import pytest

from iii_state.adapters.redis.connection.address import Address
from iii_state.errors import ConfigError


def test_every_part_of_a_url() -> None:
    address = Address.parse(
        "redis+sentinel://ada:p%40s%2Cs@one.example:26380,two.example,[::1]:26381/my%20master/3"
        "?sentinel_username=guest&sentinel_password=s%26cret"
    )
    assert (address.name, address.username, address.password, address.db) == ("my master", "ada", "p@s,s", 3)
    assert [sentinel.place for sentinel in address.sentinels] == [("one.example", 26380), ("two.example", 26379), ("::1", 26381)]
    for sentinel in address.sentinels:
        assert (sentinel.username, sentinel.password, sentinel.db, sentinel.tls) == ("guest", "s&cret", 0, None)
        assert sentinel.is_sentinel
    assert str(address) == "my master (Sentinels: one.example:26380, two.example:26379, [::1]:26381)"
    shown = f"{address} {address!r} {address.at('host', 1)!r} {address.sentinels!r}"
    assert not [secret for secret in ("p@s", "p%40s", "s&cret", "s%26cret") if secret in shown]
    found = address.at("10.0.0.1", 6380)
    assert (found.place, found.db, found.password, found.sentinels) == (("10.0.0.1", 6380), 3, "p@s,s", ())
    assert str(found) == "10.0.0.1:6380 (my master)"


def test_a_url_of_the_least() -> None:
    address = Address.parse("redis+sentinel://localhost/mymaster")
    assert (address.name, address.username, address.password, address.db, address.tls) == ("mymaster", None, None, 0, None)
    (sentinel,) = address.sentinels
    assert (sentinel.place, sentinel.username, sentinel.password) == (("localhost", 26379), None, None)
    assert Address.parse("redis+sentinel://:only@localhost/mymaster?sentinel_password=x").sentinels[0].username in (None, "")


@pytest.mark.parametrize(
    ("url", "redis", "sentinel"),
    [
        ("redis+sentinel://h/m", False, False),
        ("redis+sentinel://h/m?sentinel_tls=true", False, True),
        ("rediss+sentinel://h/m?ssl_cert_reqs=none", True, True),
        ("rediss+sentinel://h/m?ssl_cert_reqs=none&sentinel_tls=false", True, False),
    ],
)
def test_who_speaks_tls(url: str, redis: bool, sentinel: bool) -> None:
    address = Address.parse(url)
    assert (address.tls is not None, address.sentinels[0].tls is not None) == (redis, sentinel)
    if redis and address.tls is not None:
        assert address.tls.verify_mode == ssl.CERT_NONE


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis+sentinel://:secret@h:1", "lacks the primary's name"),
        ("redis+sentinel://:secret@h:1/", "lacks the primary's name"),
        ("redis+sentinel://:secret@/mymaster", "lacks a Sentinel's host"),
        ("redis+sentinel://:secret@h:1,,k:2/mymaster", "lacks a Sentinel's host"),
        ("redis+sentinel://:secret@h:1/mymaster/secret", "the database, behind the /, is no number"),
        ("redis+sentinel://:secret@h:secret/mymaster", "its port is no number"),
        ("redis+sentinel://:secret@h:99999/mymaster", "its port is no number"),
        ("redis+sentinel://:12#secret@h/mymaster", "it holds a #"),
        ("redis+sentinel://h/mymaster?sentinel_password=12#secret", "it holds a #"),
        ("redis+sentinel://:secret@h/mymaster?sentinel_tls=maybe", "sentinel_tls has to be true or false"),
        ("redis+sentinel://:secret@[::1/mymaster", "it is no URL"),
        (
            "sentinel://:secret@h/mymaster",
            "it has to begin with redis://, rediss://, redis+sentinel://, rediss+sentinel:// or unix://",
        ),
        ("rediss+sentinel://:secret@h/mymaster?ssl_ca_certs=/no/such/file", "the TLS options of redis_url cannot be used"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_quotes_nothing(url: str, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Address.parse(url)
    assert told in str(raised.value)
    assert "secret" not in str(raised.value)
