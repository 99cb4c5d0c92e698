"""How the files of the page are served: headers, tags, compression, tokens; and that they stay within their budget."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from iii_state.engine import Engine
from iii_state.guard import Guard
from iii_state.web.assets import assets
from tests.support import ROOT

MOST_BYTES, MOST_COMPRESSED, MOST_REQUESTS = 160 * 1024, 50 * 1024, 20


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False) as opened:
        yield opened


async def test_the_page_is_sent_with_headers_that_let_it_do_nothing_else(session: aiohttp.ClientSession) -> None:
    async with Engine() as engine:
        _, port = await engine.serve("127.0.0.1", 0)
        for path in ("/", "/ui/main.js", "/ui/app.css", "/ui/parts/json.js", "/ui/icon.svg"):
            answer = await session.get(f"http://127.0.0.1:{port}{path}")
            assert answer.status == 200, path
            policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["Content-Security-Policy"].split(";"))
            assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
            assert {policy[name] for name in ("script-src", "style-src", "img-src", "connect-src", "worker-src")} == {"'self'"}
            assert policy["require-trusted-types-for"] == "'script'"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            assert answer.headers["Cache-Control"] == "no-cache"


async def test_a_file_that_is_the_same_is_not_sent_again_and_head_sends_none(session: aiohttp.ClientSession) -> None:
    async with Engine() as engine:
        _, port = await engine.serve("127.0.0.1", 0)
        address = f"http://127.0.0.1:{port}/ui/main.js"
        first = await session.get(address, headers={"Accept-Encoding": "gzip"})
        assert first.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(await first.read()) == assets()["ui/main.js"].content
        plain = await session.get(address, headers={"Accept-Encoding": "identity"})
        assert await plain.read() == assets()["ui/main.js"].content
        again = await session.get(address, headers={"If-None-Match": first.headers["ETag"]})
        assert (again.status, await again.read()) == (304, b"")
        head = await session.head(address)
        assert (head.status, await head.read(), head.headers["ETag"]) == (200, b"", first.headers["ETag"])


@pytest.mark.parametrize(
    "path", ["/ui/", "/ui/none.js", "/ui/../assets.py", "/ui/%2e%2e/assets.py", "/ui/..%2fpage.py", "/ui/index.html"]
)
async def test_nothing_else_is_served(session: aiohttp.ClientSession, path: str) -> None:
    async with Engine() as engine:
        _, port = await engine.serve("127.0.0.1", 0)
        reader_status = (await session.get(f"http://127.0.0.1:{port}{path}")).status
        assert reader_status == 404
        assert (await session.post(f"http://127.0.0.1:{port}/ui/main.js")).status == 405


async def test_the_page_can_be_turned_off(session: aiohttp.ClientSession) -> None:
    async with Engine(guard=Guard.of({"ui": False})) as engine:
        _, port = await engine.serve("127.0.0.1", 0)
        answer = await session.get(f"http://127.0.0.1:{port}/")
        assert (answer.content_type, "iii engine" in await answer.text()) == ("text/plain", True)
        assert (await session.get(f"http://127.0.0.1:{port}/ui/main.js")).status == 404
        assert (await session.post(f"http://127.0.0.1:{port}/ui/hello")).status == 404


async def test_the_page_is_told_why_it_is_not_let_in(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-token-that-is-long-enough-for-this")
    async with Engine(guard=Guard.of({"token_file": str(tmp_path / "token")})) as engine:
        _, port = await engine.serve("127.0.0.1", 0)
        base = f"http://127.0.0.1:{port}"
        assert (await session.get(f"{base}/")).status == 200, "it asks for the token"
        assert (await session.post(f"{base}/ui/hello")).status == 401
        wrong = await session.post(f"{base}/ui/hello", headers={"Authorization": "Bearer wrong"})
        assert (wrong.status, "not known" in await wrong.text()) == (401, True)
        headers = {"Authorization": "Bearer a-token-that-is-long-enough-for-this"}
        assert (await session.post(f"{base}/ui/hello", headers=headers)).status == 200
        foreign = await session.post(f"{base}/ui/hello", headers={**headers, "Origin": "http://evil.example"})
        assert (foreign.status, "Origin" in await foreign.text()) == (403, True)


def test_the_files_stay_within_their_budget_and_name_nothing_foreign() -> None:
    found = assets()
    assert sum(len(each.content) for each in found.values()) <= MOST_BYTES
    assert sum(len(each.compressed) for each in found.values()) <= MOST_COMPRESSED
    for name, each in found.items():
        text = each.content.decode()
        assert re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z]", text.replace("http://www.w3.org/", "")) == [], name
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|\sstyle=|javascript:", text
        ), name


def test_the_wheel_brings_the_page(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"iii_state/web/static/{name}" for name in assets()} <= names
