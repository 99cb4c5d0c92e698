"""`iii-state attach --ui`: the page of an engine that has none, on the port of the worker that brings its state."""

from __future__ import annotations

import json
import re
from pathlib import Path

import aiohttp
from click.testing import CliRunner
from playwright.async_api import Browser

from iii_state.cli import main
from iii_state.guard import tokens as made
from tests.support.engines.attached import AttachProcess, attached
from tests.support.engines.processes import running_engine
from tests.support.engines.raw_worker import Port
from tests.web.browser import tab


def where(worker: AttachProcess) -> str:
    """Where a worker shows the page."""
    worker.wait_for("page at ")
    found = re.search(r"page at (\S+)/\n", worker.stderr.text())
    assert found is not None
    return found[1]


async def test_the_page_of_an_attached_worker_reads_writes_and_hears(browser: Browser) -> None:
    with running_engine(["--no-state", "--no-ui"]) as engine, attached(engine.url, "--metrics-port", "0", "--ui") as worker:
        worker.until_attached()
        async with aiohttp.ClientSession() as session, tab(browser, where(worker)) as opened:
            other = await Port(session, "127.0.0.1", engine.port).connect(name="w", runtime="x", pid=1)
            await other.call("state::set", {"scope": "s", "key": "k", "value": {"a": 1}})
            await opened.go("#/data?scope=s&key=k")
            await opened.page.get_by_role("treeitem", name="a: 1").wait_for()
            await opened.button("Edit").click()
            await opened.page.locator("#draft").fill('{"a": 2}')
            await opened.button("Save …").click()
            await opened.page.get_by_role("dialog").get_by_role("button", name="Save", exact=True).click()
            await opened.page.get_by_role("treeitem", name="a: 2").wait_for()
            assert (await other.call("state::get", {"scope": "s", "key": "k"}))["result"] == {"a": 2}
            await opened.go("#/rates")
            await opened.page.locator("svg").first.wait_for()
            await opened.go("#/fleet")
            await opened.page.get_by_text("● The store answers.").wait_for()


async def test_only_tokens_without_rights_are_let_in(tmp_path: Path) -> None:
    given = {"root": made.make(), "reader": made.make()}
    entries = [
        {"name": "root", "hash": made.hashed(given["root"])},
        {"name": "reader", "hash": made.hashed(given["reader"]), "rights": {"read_only": True}},
    ]
    (tmp_path / "tokens.json").write_text(json.dumps({"tokens": entries}))
    config = {"server": {"tokens_file": str(tmp_path / "tokens.json")}}
    options = ("--metrics-port", "0", "--ui")
    with running_engine(["--no-state"]) as engine, attached(engine.url, *options, config=config) as worker:
        worker.until_attached()
        base = where(worker)
        async with aiohttp.ClientSession() as session:
            assert (await session.get(f"{base}/")).status == 200
            for headers, status in (
                ({}, 401),
                ({"Authorization": f"Bearer {given['reader']}"}, 403),
                ({"Authorization": f"Bearer {given['root']}"}, 200),
            ):
                assert (await session.post(f"{base}/ui/hello", headers=headers)).status == status
                asked = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
                answer = await session.get(
                    f"{base}/", headers={**headers, **asked, "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
                )
                assert answer.status == {200: 101}.get(status, status)
                answer.close()
            foreign = await session.get(f"{base}/", headers={"Origin": "http://evil.example"})
            assert foreign.status == 403


def test_the_page_needs_a_port_and_the_usual_functions() -> None:
    for arguments, words in ((["--ui"], "--metrics-port"), (["--ui", "--metrics-port", "0", "--prefix", "own"], "--prefix")):
        done = CliRunner().invoke(main, ["attach", *arguments])
        assert done.exit_code == 2
        assert words in done.output
