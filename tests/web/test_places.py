"""Where the page may be, and how somebody moves about in it: behind a prefix, by links, by keys alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web
from playwright.async_api import Browser

from tests.support.engines.processes import free_port, running_engine
from tests.support.engines.raw_worker import Port
from tests.web.browser import Tab, tab


@contextlib.asynccontextmanager
async def behind(prefix: str, target: str, port: int) -> AsyncIterator[None]:
    """A proxy that serves what is at `target` below a prefix."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def pass_on(request: web.Request) -> web.StreamResponse:
            path = request.match_info["path"]
            if request.headers.get("Upgrade", "").lower() == "websocket":
                socket = web.WebSocketResponse()
                await socket.prepare(request)
                headers = {"Origin": request.headers["Origin"]}
                async with session.ws_connect(f"{target}/{path}", headers=headers, max_msg_size=0) as engine:

                    async def forth() -> None:
                        async for message in socket:
                            await engine.send_str(message.data)
                        await engine.close()

                    task = asyncio.create_task(forth())
                    async for message in engine:
                        await socket.send_str(message.data)
                    task.cancel()
                return socket
            answer = await session.request(request.method, f"{target}/{path}", data=await request.read())
            headers = {
                name: answer.headers[name]
                for name in ("Content-Type", "Content-Encoding", "Content-Security-Policy")
                if name in answer.headers
            }
            return web.Response(status=answer.status, body=await answer.read(), headers=headers)

        app = web.Application()
        app.router.add_route("*", f"{prefix}/{{path:.*}}", pass_on)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield
        finally:
            await runner.cleanup()


async def test_it_works_behind_a_prefix(browser: Browser) -> None:
    number = free_port()
    with running_engine(["--allow-origins", f"http://127.0.0.1:{number}"]) as engine:
        async with aiohttp.ClientSession() as session, behind("/team/state", f"http://127.0.0.1:{engine.port}", number):
            worker = await Port(session, "127.0.0.1", engine.port).connect(name="w", runtime="x", pid=1)
            await worker.call("state::set", {"scope": "s", "key": "k", "value": 1})
            async with tab(browser, f"http://127.0.0.1:{number}/team/state") as opened:
                await opened.go("#/data?scope=s&key=k")
                await opened.page.get_by_role("treeitem", name="1").wait_for()
                await opened.page.get_by_role("link", name="Fleet").click()
                await opened.page.get_by_text("● The store answers.").wait_for()
                assert all(address.startswith(opened.base) for address in opened.requests if not address.startswith("about:"))
            await worker.socket.close()


async def test_everything_is_done_by_keys_alone(opened: Tab, port: Port) -> None:
    worker = await port.connect(name="w", runtime="x", pid=1)
    for scope in ("a", "b"):
        for key in ("k1", "k2", "k3"):
            await worker.call("state::set", {"scope": scope, "key": key, "value": {"n": f"{scope}{key}"}})
    keyboard = opened.page.keyboard
    await opened.go("#/")
    await opened.connected()
    await keyboard.press("g")
    await keyboard.press("d")
    await opened.page.get_by_text("2 scopes, all").wait_for()
    await keyboard.press("/")
    await keyboard.type("b")
    await opened.page.get_by_text("1 of 2 scopes").wait_for()
    await keyboard.press("Enter")
    await opened.page.get_by_text("3 keys, all").wait_for()
    await opened.page.locator("[aria-label=Keys].list:focus").wait_for()
    await keyboard.press("j")
    await opened.page.get_by_role("treeitem", name="bk2").wait_for()
    await keyboard.press("ArrowDown")
    await opened.page.get_by_role("treeitem", name="bk3").wait_for()
    await keyboard.press("k")
    await opened.page.get_by_role("treeitem", name="bk2").wait_for()
    await keyboard.press("e")
    await opened.page.locator("#draft:focus").wait_for()
    await keyboard.press("Control+a")
    await keyboard.type('{"n": 2}')
    await keyboard.press("Control+Enter")
    dialog = opened.page.get_by_role("dialog")
    await dialog.get_by_role("button", name="Back").wait_for()
    assert await dialog.get_by_role("button", name="Back").evaluate("each => each === document.activeElement")
    await keyboard.press("Tab")
    await keyboard.press("Enter")
    await opened.page.get_by_role("treeitem", name="n: 2").wait_for()
    assert (await worker.call("state::get", {"scope": "b", "key": "k2"}))["result"] == {"n": 2}
    await keyboard.press("Escape")
    await opened.page.get_by_text("Choose a key.").wait_for()
    await keyboard.press("c")
    await dialog.get_by_label("Key").wait_for()
    await keyboard.type("k4")
    await keyboard.press("Tab")
    await keyboard.press("Control+a")
    await keyboard.type("[]")
    await keyboard.press("Tab")
    await keyboard.press("Enter")
    await opened.page.get_by_text("4 keys, all").wait_for()
    await keyboard.press("?")
    await opened.page.get_by_role("dialog", name="Keys").wait_for()
    await keyboard.press("Escape")
    assert (await worker.call("state::get", {"scope": "b", "key": "k4"}))["result"] == []


async def test_a_tree_is_walked_by_keys_and_no_key_deletes(opened: Tab, port: Port) -> None:
    worker = await port.connect(name="w", runtime="x", pid=1)
    value = {"a": {"b": [1, 2]}, "many": list(range(250))}
    await worker.call("state::set", {"scope": "s", "key": "k", "value": value})
    await opened.go("#/data?scope=s&key=k")
    tree = opened.page.get_by_role("tree")
    await tree.wait_for()
    await tree.focus()
    press = opened.page.keyboard.press
    chosen = tree.locator('[aria-selected="true"]')
    await press("ArrowDown")
    assert "a: {1 member}" in str(await chosen.text_content())
    await press("ArrowLeft")
    assert await tree.get_by_role("treeitem", name="b: [2 items]").count() == 0
    await press("ArrowRight")
    await press("ArrowRight")
    assert "b: [2 items]" in str(await chosen.text_content())
    await press("End")
    assert "100 more of 150" in str(await chosen.text_content())
    await press("Enter")
    assert "100: 100" in str(await chosen.text_content())
    for key in ("Delete", "Backspace", "x"):
        await press(key)
    assert await opened.page.get_by_role("dialog").count() == 0
    assert (await worker.call("state::get", {"scope": "s", "key": "k"}))["result"] == value


async def test_going_back_restores_what_was_shown(opened: Tab, port: Port) -> None:
    worker = await port.connect(name="w", runtime="x", pid=1)
    for number in range(200):
        await worker.call("state::set", {"scope": f"s-{number:03}", "key": "k", "value": number})
    await opened.go("#/data")
    listed = opened.page.get_by_role("listbox", name="Scopes")
    await opened.page.get_by_text("200 scopes, all").wait_for()
    await listed.evaluate("each => (each.scrollTop = 3000)")
    await opened.option("Scopes", "s-110").click()
    await opened.option("Keys", "k").click()
    await opened.page.get_by_role("treeitem", name="110").wait_for()
    await opened.page.get_by_role("link", name="Fleet").click()
    await opened.page.get_by_role("heading", name="Workers").wait_for()
    await opened.page.go_back()
    await opened.page.get_by_role("treeitem", name="110").wait_for()
    await opened.option("Scopes", "s-110").wait_for()
    assert await listed.evaluate("each => each.scrollTop") == 3000
