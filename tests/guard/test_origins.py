"""Whose pages may connect: Host and Origin, on every path, with all that was ever tried to get round such checks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from iii_state.engine import Engine
from iii_state.errors import AccessRefused
from iii_state.guard import Asked, Guard
from iii_state.guard.origins import check_host, check_origin, is_loopback
from tests.support.http import UPGRADE, answer_to, connected

Place = tuple[str, int]
PATHS = ("/", "/otel", "/ws/channels/x?key=y&dir=read", "/healthz", "/nowhere", "//", "/healthz/../")


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    guard = Guard.of({"allow_origins": ["https://App.example.com", "http://localhost:3000"], "allow_hosts": ["Proxy.internal"]})
    async with Engine(guard=guard) as engine:
        yield await engine.serve("127.0.0.1", 0)


@pytest.fixture
async def plain_place() -> AsyncIterator[Place]:
    async with Engine() as engine:
        yield await engine.serve("127.0.0.1", 0)


async def test_a_worker_without_origin_gets_in(place: Place) -> None:
    for host in (
        "localhost",
        f"127.0.0.1:{place[1]}",
        "LOCALHOST:1",
        "localhost.",
        "[::1]:80",
        "127.9.9.9",
        "0.0.0.0:5",
        "a.localhost",
    ):
        assert (await answer_to(place, host=host)).status == 101, host


FOREIGN_HOSTS = [
    "evil.example",
    "evil.example:49134",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "localhost@evil.example",
    "evil.example@localhost",
    "localhost:80@evil.example",
    "localhost evil.example",
    "localhost,evil.example",
    "localhost/evil",
    "localhost#evil",
    "localhost\\evil.example",
    "localhost\tevil",
    "127.1",
    "2130706433",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "127.0.0.256",
    "[::ffff:10.0.0.1]",
    "[::2]",
    "::1",
    "[::1",
    "[::1]evil",
    "[::1%25lo]",
    "localhost:",
    "localhost:99999",
    "localhost:80:80",
    "localhost:8o",
    "10.0.0.1",
    "192.168.0.1:49134",
    "notlocalhost",
    "localhosts",
    "xn--lcalhost-54a",
    "localhost\x00",
    "localhost..",
    ".localhost.",
    "*",
    "",
    " ",
]


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
async def test_a_host_that_is_no_loopback_name_is_refused(place: Place, host: str) -> None:
    """DNS rebinding: the page's own name was made to lead here. 400 where it is no host at all."""
    answer = await answer_to(place, host=host)
    assert answer.status in (400, 403), answer
    assert host.startswith(("evil.example:", "10.", "192.")) <= (answer.status == 403)


@pytest.mark.parametrize("path", PATHS)
async def test_every_path_refuses_a_foreign_host_and_origin(plain_place: Place, path: str) -> None:
    for lines in (
        (f"GET {path} HTTP/1.1", "Host: evil.example"),
        (f"GET {path} HTTP/1.1", "Host: localhost", "Origin: http://evil"),
    ):
        connection = await connected(plain_place)
        assert (await connection.answer("\r\n".join([*lines, "", ""]))).status == 403
        assert await connection.is_over()


@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS", "HEAD", "TRACE", "PROPFIND"])
async def test_every_method_refuses_a_foreign_host(plain_place: Place, method: str) -> None:
    assert (await answer_to(plain_place, host="evil.example", method=method)).status == 403
    assert (await answer_to(plain_place, "Origin: null", method=method)).status == 403


async def test_a_listed_host_gets_in(place: Place) -> None:
    for host in ("proxy.internal", "PROXY.internal:80", "proxy.internal."):
        assert (await answer_to(place, host=host)).status == 101, host


async def test_none_or_two_hosts_are_refused(place: Place) -> None:
    assert (await answer_to(place, host=None)).status == 400
    for first, second in (("localhost", "evil.example"), ("evil.example", "localhost"), ("localhost", "localhost")):
        assert (await answer_to(place, f"Host: {second}", host=first)).status == 400
    assert (await answer_to(place, "hOST: localhost", host="localhost")).status == 400


@pytest.mark.parametrize(
    "target",
    ["http://evil.example/", "http://localhost/", "https://localhost:1/healthz", "localhost:80", "*", "evil", "?", "@evil/"],
)
async def test_a_target_that_is_no_path_is_refused(place: Place, target: str) -> None:
    """A target with a host in it would count for more than the Host header, by HTTP's rules."""
    for host in ("localhost", "evil.example"):
        assert (await answer_to(place, target=target, host=host)).status in (400, 403)
    assert (await answer_to(place, target="localhost:80", method="CONNECT")).status in (400, 403, 404, 405)


FOREIGN_ORIGINS = [
    "null",
    "NULL",
    "",
    " ",
    "*",
    "http://evil.example",
    "https://localhost:{port}",
    "http://localhost:1",
    "http://localhost",
    "ws://localhost:{port}",
    "file://",
    "http://localhost:{port}.evil.example",
    "http://localhost:{port}@evil.example",
    "http://evil.example@localhost:{port}",
    "http://user:pw@localhost:{port}",
    "http://localhost:{port}/",
    "http://localhost:{port}#",
    "http://localhost:{port}?x",
    "http://localhost:0{port}9",
    "http://localhost:",
    "http://localhost:{port} http://evil.example",
    "http://localhost:{port}, http://evil.example",
    "http://evil.example\thttp://localhost:{port}",
    "http://127.0.0.1:{port}",
    "http://[::1]:{port}",
    "http://[0:0:0:0:0:0:0:1]:{port}",
    "http://notlocalhost:{port}",
    "http://evil.localhost:{port}",
    "http://localhost.evil.example:{port}",
    "http://локалхост:{port}",
    "//localhost:{port}",
    "localhost:{port}",
    "http:localhost:{port}",
    "https://app.example.com.evil.example",
    "https://evil-app.example.com",
    "https://app.example.com:444",
    "http://app.example.com",
    "https://appXexample.com",
    "https://x.app.example.com",
    "https://app.example.com@evil.example",
    "https://app.example.com\\.evil.example",
    "http://localhost:3001",
    "http://127.0.0.1:3000",
]


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
async def test_an_origin_that_is_not_the_servers_own_or_listed_is_refused(place: Place, origin: str) -> None:
    port = place[1]
    line = f"Origin: {origin.format(port=port)}".encode().decode("latin-1")
    answer = await answer_to(place, line, host=f"localhost:{port}")
    assert answer.status in (400, 403), answer
    assert "origin" not in "".join(answer.headers), "nothing is said to a page that may be read there"


async def test_the_own_origin_and_listed_ones_get_in(place: Place) -> None:
    port = place[1]
    own = {
        f"localhost:{port}": f"http://localhost:{port}",
        f"LocalHost:{port}": f"HTTP://LOCALHOST:{port}",
        f"localhost.:{port}": f"http://localhost.:{port}",
        f"[::1]:{port}": f"http://[0:0::1]:{port}",
        f"127.0.0.1:{port}": f"http://127.0.0.1:{port}",
        "localhost": "http://localhost:80",
        "localhost:80": "http://localhost",
        "proxy.internal": "http://proxy.internal",
    }
    for host, origin in own.items():
        assert (await answer_to(place, f"Origin: {origin}", host=host)).status == 101, origin
    for origin in ("https://app.example.com", "https://app.example.com:443", "HTTPS://APP.example.com", "http://localhost:3000"):
        assert (await answer_to(place, f"Origin: {origin}")).status == 101, origin


async def test_two_origins_are_refused_even_where_both_would_get_in(place: Place) -> None:
    for first, second in (
        ("http://localhost:3000", "http://evil.example"),
        ("http://evil.example", "http://localhost:3000"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("", "http://localhost:3000"),
    ):
        assert (await answer_to(place, f"Origin: {first}", f"oRiGiN: {second}")).status in (400, 403)


async def test_a_foreign_page_under_a_rebound_name_is_refused_where_every_host_is_taken() -> None:
    """On an open address any Host is taken; a name that leads here is not thereby the server's own."""
    asked = Asked("/", "10.0.0.5", "10.0.0.9", hosts=["rebound.evil.example:49134"], origins=["http://rebound.evil.example:49134"])
    place = check_host(asked, ())
    with pytest.raises(AccessRefused) as refused:
        check_origin(asked, place, (), ())
    assert refused.value.status == 403
    check_origin(asked, place, (), ("rebound.evil.example",))
    by_address = Asked("/", "10.0.0.5", "10.0.0.9", hosts=["10.0.0.5:49134"], origins=["http://10.0.0.5:49134"])
    check_origin(by_address, check_host(by_address, ()), (), ())


@pytest.mark.parametrize("hosts", [[], ["localhost", "localhost"], ["localhost", "evil"], ["evil", "localhost"]])
def test_one_host_is_insisted_on_whatever_the_http_parser_lets_pass(hosts: list[str]) -> None:
    with pytest.raises(AccessRefused) as refused:
        check_host(Asked("/", "127.0.0.1", "127.0.0.1", hosts=hosts), ())
    assert refused.value.status == 400


@pytest.mark.parametrize("origins", [["http://localhost:80", "http://localhost:80"], ["http://localhost:80", "null"]])
def test_one_origin_is_insisted_on_whatever_the_http_parser_lets_pass(origins: list[str]) -> None:
    asked = Asked("/", "127.0.0.1", "127.0.0.1", hosts=["localhost"], origins=origins)
    with pytest.raises(AccessRefused):
        check_origin(asked, check_host(asked, ()), (), ())
    check_origin(msgspec.structs.replace(asked, origins=origins[:1]), ("localhost", 80), (), ())


@pytest.mark.parametrize(
    "smuggled",
    [
        "Host: localhost\r\n Origin: http://evil.example",
        "Host: localhost\r\nX: y\rOrigin: http://evil.example",
        "Host: localhost\r\nOrigin : http://localhost:3000",
        "Host: localhost\r\n\tevil.example",
        "Host : localhost",
        "Host: evil.example\r\nHost\t: localhost",
        "Host: localhost\nHost: evil.example",
        "Host: localhost\r\nOrigin: http://localhost:3000\r\n .evil.example",
        "Host: local\x00host",
        "X-Forwarded-Host: localhost\r\nHost: evil.example",
        "Forwarded: host=localhost\r\nHost: evil.example",
        "X-Host: localhost\r\nHost: evil.example",
        "Host: evil.example\r\nTransfer-Encoding: chunked\r\nContent-Length: 5",
    ],
)
async def test_headers_cannot_be_smuggled(place: Place, smuggled: str) -> None:
    connection = await connected(place)
    answer = await connection.answer(f"GET / HTTP/1.1\r\n{smuggled}\r\n{UPGRADE}\r\n")
    connection.close()
    assert answer.status in (0, 400, 403), answer


async def test_a_request_hidden_in_the_body_of_another_is_not_served(place: Place) -> None:
    """What is refused is the end of its connection: nothing behind it is looked at."""
    hidden = f"GET / HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}\r\n"
    for length in (f"Content-Length: {len(hidden)}", "Transfer-Encoding: chunked", "Content-Length: 0"):
        connection = await connected(place)
        answer = await connection.answer(f"POST / HTTP/1.1\r\nHost: evil.example\r\n{length}\r\n\r\n{hidden}{hidden}")
        assert answer.status in (400, 403)
        rest = b""
        async with asyncio.timeout(30):
            while more := await connection.reader.read(65536):
                rest += more
        assert b"101" not in rest
        connection.close()


async def test_old_http_gets_no_further(place: Place) -> None:
    for request in ("GET / HTTP/1.0\r\n\r\n", "GET / HTTP/0.9\r\n\r\n", f"GET / HTTP/1.0\r\nHost: evil\r\n{UPGRADE}\r\n"):
        connection = await connected(place)
        assert (await connection.answer(request)).status in (0, 400, 403)
        connection.close()


@pytest.mark.parametrize(
    ("name", "yes"),
    [
        ("localhost", True),
        ("x.y.localhost", True),
        ("127.0.0.1", True),
        ("127.255.255.254", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", True),
        ("::", True),
        ("128.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("fe80::1%lo", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_what_a_loopback_name_is(name: str, yes: bool) -> None:
    assert is_loopback(name) is yes


async def test_what_was_refused_is_logged_without_its_headers(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    await answer_to(place, host="evil.example")
    assert "a request from 127.0.0.1 was refused" in caplog.text
    assert "evil" not in caplog.text
