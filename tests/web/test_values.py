"""Values on the page: every name and every value as it is, and edits that undo nobody's."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import aiohttp
from playwright.async_api import Browser

from tests.support.engines.processes import running_engine
from tests.support.engines.raw_worker import Port, RawWorker
from tests.web.browser import Tab, base_of, tab

NAMES = [
    "",
    "\x00",
    "a/b",
    "a%2Fb",
    "😀",
    "abc\u202edef",
    "x" * 10_240,
    "<img src=x onerror=alert(1)>",
    "__proto__",
    "a\nb",
    "&amp; ?key=1#/x",
    "+ +",
]


def place(scope: str, key: str) -> str:
    return f"#/data?scope={quote(scope, safe='')}&key={quote(key, safe='')}"


async def text_of(opened: Tab) -> str:
    """The value as text."""
    await opened.page.get_by_role("tab", name="Text").click()
    return str(await opened.page.locator("pre.text").text_content())


async def stored(worker: RawWorker, scope: str, key: str) -> str:
    """The value as it stands in the frame that the engine sends: as it is spelled."""
    await worker.send(
        "invokefunction",
        function_id="state::get",
        data={"scope": scope, "key": key},
        invocation_id="6f1c1d0e-0000-4000-8000-000000000001",
    )
    frame = await worker.socket.receive_str()
    text = frame[frame.index('"result":') + 9 :]
    return text[: text.rindex("}")].replace("\t", "").replace("\n", "")


async def put(worker: RawWorker, scope: str, key: str, value: str) -> None:
    """Store a text as it is."""
    data = f'{{"scope":{json.dumps(scope)},"key":{json.dumps(key)},"value":{value}}}'
    await worker.socket.send_str(
        f'{{"type":"invokefunction","function_id":"state::set","invocation_id":"6f1c1d0e-0000-4000-8000-000000000002","data":{data}}}'
    )
    frame = await worker.next()
    assert "error" not in frame, frame


async def edit(opened: Tab, change: Any) -> None:
    """Change the text of the value that is shown, as far as to the last question."""
    await opened.button("Edit").click()
    draft = opened.page.locator("#draft")
    await draft.fill(change(await draft.input_value()))
    await opened.button("Save …").click()


async def save(opened: Tab) -> None:
    await opened.page.get_by_role("dialog").get_by_role("button", name="Save", exact=True).click()


async def test_every_name_can_be_opened_linked_edited_and_deleted(opened: Tab, port: Port) -> None:
    worker = await port.connect(name="w", runtime="x", pid=1)
    for name in NAMES:
        await worker.call("state::set", {"scope": name, "key": name, "value": {"n": 1}})
    await opened.go("#/data")
    await opened.page.get_by_text(f"{len(NAMES)} scopes, all").wait_for()
    for name in NAMES:
        await opened.go(place(name, name))
        await opened.page.get_by_role("tree").wait_for()
        await opened.page.get_by_text("1 key, all").wait_for()
        await edit(opened, lambda text: text.replace("1", "2"))
        await save(opened)
        await opened.page.locator(".scalar", has_text="2").wait_for()
        assert (await worker.call("state::get", {"scope": name, "key": name}))["result"] == {"n": 2}
        await opened.button("Delete …").click()
        await opened.page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
        await opened.page.get_by_text("This scope has no keys").wait_for()
        assert (await worker.call("state::list_keys", {"scope": name}))["result"] == {"keys": []}
    assert (await worker.call("state::list_groups", {}))["result"] == {"groups": []}


async def test_a_click_opens_what_it_names(opened: Tab, port: Port) -> None:
    worker = await port.connect(name="w", runtime="x", pid=1)
    await worker.call("state::set", {"scope": "a\u202eb", "key": "<b>", "value": "<i>hostile</i>"})
    await opened.go("#/data")
    await opened.option("Scopes", r"a\u{202e}b").click()
    await opened.option("Keys", "<b>").click()
    await opened.page.get_by_role("treeitem", name='"<i>hostile</i>"').wait_for()
    assert await opened.page.evaluate("location.hash") == "#/data?scope=a%E2%80%AEb&key=%3Cb%3E"
    await opened.page.go_back()
    await opened.page.get_by_text("Choose a key.").wait_for()


EXACT = (
    '{"big":18446744073709551615,"f":1.0,"e":1E+5,"o":{},"a":[],"n":null,"10":1,'
    '"2":-0.0,"long":123456789012345678901234567890,"s":"\\u0000"}'
)


async def test_a_value_is_shown_as_it_is_spelled_and_an_edit_beside_leaves_it_so(opened: Tab, port: Port) -> None:
    worker = await port.connect(name="w", runtime="x", pid=1)
    await put(worker, "s", "k", EXACT)
    before = await stored(worker, "s", "k")
    await opened.go(place("s", "k"))
    await opened.page.get_by_role("treeitem", name="s:").wait_for()
    shown = await opened.page.get_by_role("treeitem").all_text_contents()
    assert [row.strip() for row in shown][1:10] == [
        "big: 18446744073709551615",
        "f: 1.0",
        "e: 1E+5",
        "▾o: {0 members}",
        "▾a: [0 items]",
        "n: null",
        "10: 1",
        "2: -0.0",
        "long: 123456789012345678901234567890",
    ]
    await edit(opened, lambda text: text.replace('"n": null', '"n": false'))
    await save(opened)
    await opened.page.get_by_role("treeitem", name="n: false").wait_for()
    assert await stored(worker, "s", "k") == before.replace('"n":null', '"n":false')


async def test_what_nests_512_levels_deep_is_shown_and_edited(opened: Tab, port: Port) -> None:
    worker = await port.connect(name="w", runtime="x", pid=1)
    await put(worker, "s", "deep", "[" * 512 + "]" * 512)
    await opened.go(place("s", "deep"))
    await opened.page.get_by_role("tree").wait_for()
    assert (await text_of(opened)).count("[") == 512
    await edit(opened, lambda text: text.replace("[]", "[1]"))
    await save(opened)
    await opened.page.get_by_role("tabpanel").wait_for()
    assert await stored(worker, "s", "deep") == "[" * 512 + "1" + "]" * 512


async def test_a_value_of_16_mib_is_shown_when_asked_for(opened: Tab, port: Port) -> None:
    worker = await port.connect(name="w", runtime="x", pid=1)
    text = json.dumps({"rows": ["x" * 1000] * 16_000, "last": 1}, separators=(",", ":"))
    await put(worker, "s", "large", text)
    await opened.go(place("s", "large"))
    await opened.page.get_by_text("This value is large").wait_for()
    await opened.button("Show all of it").click()
    await opened.page.get_by_role("treeitem", name="last: 1").wait_for()
    await opened.page.get_by_role("treeitem", name="100 more of 15,900").wait_for()


async def test_an_edit_of_what_was_changed_meanwhile_is_refused_and_the_draft_stays(opened: Tab, port: Port) -> None:
    worker = await port.connect(name="w", runtime="x", pid=1)
    await worker.call("state::set", {"scope": "s", "key": "k", "value": {"a": 1, "b": 1}})
    await opened.go(place("s", "k"))
    await edit(opened, lambda text: text.replace('"a": 1', '"a": 2'))
    await worker.call("state::set", {"scope": "s", "key": "k", "value": {"a": 1, "b": 7}})
    await save(opened)
    await opened.page.get_by_text("It was changed meanwhile. Nothing was saved.").wait_for()
    assert (await worker.call("state::get", {"scope": "s", "key": "k"}))["result"] == {"a": 1, "b": 7}
    theirs = opened.page.locator("details", has_text="Theirs: since you began").get_by_role("row")
    assert '["b"]17' in "".join(await theirs.all_text_contents())
    assert '"a": 2' in await opened.page.locator("#draft").input_value()
    await opened.button("Go on from theirs, with my draft").click()
    draft = opened.page.locator("#draft")
    await draft.fill((await draft.input_value()).replace('"b": 1', '"b": 7'))
    await opened.button("Save …").click()
    await save(opened)
    await opened.page.get_by_role("treeitem", name="a: 2").wait_for()
    assert (await worker.call("state::get", {"scope": "s", "key": "k"}))["result"] == {"a": 2, "b": 7}


async def test_a_delete_of_what_was_changed_and_an_edit_of_what_was_deleted_are_refused(opened: Tab, port: Port) -> None:
    worker = await port.connect(name="w", runtime="x", pid=1)
    await worker.call("state::set", {"scope": "s", "key": "k", "value": 1})
    await opened.go(place("s", "k"))
    await opened.button("Delete …").click()
    await worker.call("state::set", {"scope": "s", "key": "k", "value": 2})
    await opened.page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    await opened.page.get_by_text("CONDITION_FAILED").wait_for()
    assert (await worker.call("state::get", {"scope": "s", "key": "k"}))["result"] == 2
    await edit(opened, lambda text: "3")
    await worker.call("state::delete", {"scope": "s", "key": "k"})
    await save(opened)
    await opened.page.get_by_text("It was deleted meanwhile. Nothing was saved.").wait_for()
    assert (await worker.call("state::list_keys", {"scope": "s"}))["result"] == {"keys": []}


async def test_an_edit_keeps_the_deadline(opened: Tab, port: Port) -> None:
    worker = await port.connect(name="w", runtime="x", pid=1)
    await worker.call("state::set", {"scope": "s", "key": "k", "value": 1, "ttl_ms": 3_600_000})
    await opened.go(place("s", "k"))
    await opened.page.get_by_text("Expires").wait_for()
    await edit(opened, lambda text: "2")
    await save(opened)
    await opened.page.get_by_role("treeitem", name="2").wait_for()
    read = (await worker.call("state::get", {"scope": "s", "key": "k", "meta": True}))["result"]
    assert read["value"] == 2
    assert 3_000_000 < read["ttl_ms"] <= 3_600_000


async def test_a_value_is_created_where_there_is_none_and_only_there(opened: Tab, port: Port) -> None:
    worker = await port.connect(name="w", runtime="x", pid=1)
    await worker.call("state::set", {"scope": "s", "key": "old", "value": 1})
    await opened.go("#/data")
    await opened.button("Create …").click()
    dialog = opened.page.get_by_role("dialog")
    await dialog.get_by_label("Scope").fill("s")
    await dialog.get_by_label("Key").fill("old")
    await dialog.get_by_label("Value, as JSON").fill('{"x": 1.0')
    await dialog.get_by_role("button", name="Create").click()
    await dialog.get_by_text("no JSON").wait_for()
    await dialog.get_by_label("Value, as JSON").fill('{"x": 1.0}')
    await dialog.get_by_role("button", name="Create").click()
    await dialog.get_by_text("there is a value at this key already").wait_for()
    await dialog.get_by_label("Key").fill("new")
    await dialog.get_by_role("button", name="Create").click()
    await opened.page.get_by_role("treeitem", name="x: 1.0").wait_for()
    assert (await worker.call("state::get", {"scope": "s", "key": "old"}))["result"] == 1
    assert await stored(worker, "s", "new") == '{"x":1.0}'


async def test_leaving_a_draft_asks(opened: Tab, port: Port) -> None:
    worker = await port.connect(name="w", runtime="x", pid=1)
    await worker.call("state::set", {"scope": "s", "key": "k", "value": 1})
    await opened.go(place("s", "k"))
    await opened.button("Edit").click()
    await opened.page.locator("#draft").fill("12345")
    asked: list[str] = []

    async def stay(dialog: Any) -> None:
        asked.append(dialog.message)
        await dialog.dismiss()

    opened.page.on("dialog", stay)
    await opened.page.get_by_role("link", name="Live").click()
    await opened.page.wait_for_url("**/#/data?*")
    assert await opened.page.locator("#draft").input_value() == "12345"
    assert len(asked) == 1


async def test_an_edit_sees_that_a_value_went_away_and_came_back_where_there_is_a_change_log(browser: Browser) -> None:
    config = {"adapter": {"name": "kv"}, "history": [{"scope": "s", "max_length": 100}]}
    with running_engine(config=config) as engine:
        async with aiohttp.ClientSession() as session, tab(browser, base_of(engine.url)) as opened:
            worker = await Port(session, "127.0.0.1", engine.port).connect(name="w", runtime="x", pid=1)
            await worker.call("state::set", {"scope": "s", "key": "k", "value": 1})
            await opened.go(place("s", "k"))
            await edit(opened, lambda text: "3")
            for value in (2, 1):
                await worker.call("state::set", {"scope": "s", "key": "k", "value": value})
            await save(opened)
            await opened.page.get_by_text("It was changed meanwhile. Nothing was saved.").wait_for()
            assert (await worker.call("state::get", {"scope": "s", "key": "k"}))["result"] == 1


async def test_the_history_of_a_key_is_shown_where_there_is_a_change_log(browser: Browser) -> None:
    config = {"adapter": {"name": "kv"}, "history": [{"scope": "s", "max_length": 100}]}
    with running_engine(config=config) as engine:
        async with aiohttp.ClientSession() as session, tab(browser, base_of(engine.url)) as opened:
            worker = await Port(session, "127.0.0.1", engine.port).connect(name="w", runtime="x", pid=1)
            for number in range(3):
                await worker.call("state::set", {"scope": "s", "key": "k", "value": {"n": number}})
            await opened.go(place("s", "k"))
            await opened.page.get_by_role("tab", name="History").click()
            await opened.page.get_by_text("These are all that the change log keeps").wait_for()
            first = opened.page.locator("details.change").first
            assert str(await first.text_content()).startswith("3 updated")
            await first.locator("summary").click()
            assert "12" in str(await first.get_by_role("row").nth(1).text_content())
