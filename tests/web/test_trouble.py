"""When something is away, refused or older: the page says which, keeps what it had, and comes back by itself."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest
from playwright.async_api import Browser

from tests.support.bridge.engines import stock
from tests.support.engines.processes import free_port, running_engine
from tests.support.engines.raw_worker import Port
from tests.support.engines.with_tokens import Entry, guarded, limited
from tests.support.redis.server import RedisServer
from tests.web.browser import base_of, chromium, tab


async def test_an_engine_that_is_restarted_is_found_again_and_read_again(browser: Browser, tmp_path: Path) -> None:
    number = free_port()
    config = {"adapter": {"name": "kv", "config": {"store_method": "file_based", "file_path": str(tmp_path / "data")}}}
    async with aiohttp.ClientSession() as session:
        with running_engine(config=config, port=number) as engine:
            worker = await Port(session, "127.0.0.1", number).connect(name="w", runtime="x", pid=1)
            await worker.call("state::set", {"scope": "s", "key": "k", "value": "before"})
            async with tab(browser, base_of(engine.url)) as opened:
                await opened.go("#/data?scope=s&key=k")
                await opened.page.get_by_role("treeitem", name='"before"').wait_for()
                engine.kill()
                await opened.page.get_by_text(re.compile(r"No connection; as of \d\d:\d\d:\d\d")).first.wait_for()
                assert await opened.page.get_by_role("treeitem", name='"before"').count() == 1, "what was there stays"
                with running_engine(config=config, port=number):
                    worker = await Port(session, "127.0.0.1", number).connect(name="w", runtime="x", pid=1)
                    await worker.call("state::set", {"scope": "s", "key": "k", "value": "after"})
                    await opened.connected()
                    await opened.button("Reload").last.click()
                    await opened.page.get_by_role("treeitem", name='"after"').wait_for()


async def test_a_store_that_was_replaced_is_said_to_be_another_one(browser: Browser) -> None:
    number = free_port()
    with running_engine(port=number) as engine:
        async with tab(browser, base_of(engine.url)) as opened:
            await opened.go("#/data")
            await opened.page.get_by_text("There are no scopes yet").wait_for()
            engine.kill()
            with running_engine(port=number):
                await opened.page.get_by_text("Another store answers now").wait_for()


async def test_a_redis_that_is_away_is_an_error_on_the_spot_which_can_be_tried_again(browser: Browser) -> None:
    with RedisServer() as server:
        server.client.hset("state:s", "k", '"v"')
        adapter = {"name": "redis", "config": {"redis_url": server.url, "call_timeout_ms": 1000}}
        with running_engine(config={"adapter": adapter}) as engine:
            async with tab(browser, base_of(engine.url)) as opened:
                await opened.go("#/data?scope=s&key=k")
                await opened.page.get_by_role("treeitem", name='"v"').wait_for()
                server.stop()
                await opened.page.locator(".value").get_by_role("button", name="Reload").click()
                await opened.page.get_by_text("GET_ERROR").wait_for()
                await opened.page.goto(f"{opened.base}/#/fleet")
                await opened.page.get_by_text("The store does not answer").first.wait_for()
                server.start()
                server.client.hset("state:s", "k", '"again"')
                await opened.page.get_by_text("● The store answers.").wait_for()
                await opened.page.goto(f"{opened.base}/#/data?scope=s&key=k")
                await opened.page.get_by_role("treeitem", name='"again"').wait_for()


async def test_a_token_is_asked_for_kept_in_the_tab_and_taken_out_of_the_address(browser: Browser, tmp_path: Path) -> None:
    entries: dict[str, Entry] = {"root": {}, "other": {}}
    async with guarded(tmp_path / "tokens.json", entries) as engine, tab(browser, engine.port.url) as opened:
        await opened.go("#/data")
        await opened.page.get_by_label("Token").fill("wrong")
        await opened.button("Connect").click()
        await opened.page.get_by_text("this token is not known here").wait_for()
        await opened.page.get_by_label("Token").fill(engine.tokens.of("root"))
        await opened.button("Connect").click()
        await opened.page.get_by_text("There are no scopes yet").wait_for()
        await opened.page.get_by_text("token root").wait_for()
        await opened.page.reload()
        await opened.page.get_by_text("There are no scopes yet").wait_for()
        assert await opened.page.evaluate("localStorage.length") == 0
        # it is revoked: the page is let go, and asks again
        engine.tokens.write({"other": {}})
        await engine.engine.reload_guard()
        await opened.page.get_by_label("Token").wait_for()
        given = quote(engine.tokens.of("other"))
        await opened.page.goto(f"{opened.base}/?access_token={given}#/data")
        await opened.page.get_by_text("token other").wait_for()
        assert "access_token" not in await opened.page.evaluate("location.href")
        assert not [address for address in opened.requests[-10:] if given in address and "?access_token" not in address]


async def test_rights_are_shown_and_kept(browser: Browser, tmp_path: Path) -> None:
    entries = {
        "root": {},
        "reader": limited(scopes=["mine*"], read_only=True),
        "operator": limited(operate=True, functions=["state::*"]),
    }
    async with guarded(tmp_path / "tokens.json", entries) as engine:
        root = await engine.join("root")
        for scope in ("mine", "secret"):
            await root.call("state::set", {"scope": scope, "key": "k", "value": scope})
        async with tab(browser, engine.port.url) as opened:
            await opened.page.goto(f"{opened.base}/?access_token={engine.tokens.of('reader')}#/data?scope=mine&key=k")
            await opened.page.get_by_role("treeitem", name='"mine"').wait_for()
            await opened.page.get_by_text("1 scope, all").wait_for()
            assert await opened.button("Edit").is_disabled()
            assert await opened.button("Delete …").is_disabled()
            assert await opened.page.get_by_text("This token is read-only.").count() == 1
            await opened.go("#/data?scope=secret&key=k")
            await opened.page.get_by_text("FORBIDDEN").first.wait_for()
            assert await opened.page.get_by_role("treeitem", name='"secret"').count() == 0
            for place in ("dead", "triggers", "fleet", "", "rates"):
                await opened.go(f"#/{place}")
                await opened.page.get_by_text("the right `operate`").first.wait_for()
            await opened.go("#/live")
            await opened.page.get_by_text("FORBIDDEN").first.wait_for()
        async with tab(browser, engine.port.url) as opened:
            await opened.page.goto(f"{opened.base}/?access_token={engine.tokens.of('operator')}#/")
            await opened.page.get_by_text("● The store answers.").wait_for()


@pytest.mark.slow
async def test_a_page_that_is_not_let_in_by_its_name_says_why() -> None:
    with running_engine(["--host", "0.0.0.0", "--insecure"]) as engine:
        async with (
            chromium("--host-resolver-rules=MAP elsewhere.test 127.0.0.1") as browser,
            tab(browser, f"http://elsewhere.test:{engine.port}") as opened,
        ):
            await opened.go()
            await opened.page.get_by_text("allow_hosts").first.wait_for()


async def test_an_engine_without_features_can_be_read_and_says_why_not_more(browser: Browser) -> None:
    async with stock() as (_, url), aiohttp.ClientSession() as session:
        worker = await Port(session, "127.0.0.1", int(url.rpartition(":")[2])).connect(name="w", runtime="x", pid=1)
        await worker.call("state::set", {"scope": "s", "key": "k", "value": {"a": 1}})
        async with tab(browser, base_of(url)) as opened:
            await opened.go("#/data?scope=s&key=k")
            await opened.page.get_by_role("treeitem", name="a: 1").wait_for()
            assert await opened.button("Edit").is_disabled()
            assert await opened.page.get_by_text("This engine has no conditions").count() == 1
            await opened.go("#/rates")
            await opened.page.get_by_text("an older one that tells none").wait_for()
