"""Every screen, light, dark and on a phone: nothing sticks out, axe-core finds nothing. The pictures are to be looked at."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser

from tests.support.engines.processes import EngineProcess
from tests.support.engines.raw_worker import Port
from tests.web.browser import base_of, tab
from tests.web.workers import handling, hears

ORDER = '{"total": 129.90, "items": [{"sku": "A-1", "count": 2}, {"sku": "B-7"}], "id": 18446744073709551615, "paid": false}'
PLACES = {
    "overview": "#/",
    "data": "#/data?scope=orders%2F2026&key=o-1",
    "live": "#/live?scope=orders%2F2026",
    "triggers": "#/triggers",
    "dead": "#/dead",
    "fleet": "#/fleet",
    "rates": "#/rates",
}
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True},
    "narrow": {"viewport": {"width": 320, "height": 640}},
    "tablet": {"viewport": {"width": 768, "height": 1024}},
}


def pictures(tmp_path: Path) -> Path:
    """Where they are kept: `III_STATE_PICTURES`, or the test's own folder."""
    folder = Path(os.environ.get("III_STATE_PICTURES", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize("look", LOOKS)
async def test_every_screen_can_be_used_by_everybody(
    browser: Browser, engine: EngineProcess, port: Port, tmp_path: Path, look: str
) -> None:
    folder = pictures(tmp_path)
    writer = await port.connect(name="shop", runtime="python", version="1", pid=2)
    config = {"scope": "orders/2026", "retry": {"max_attempts": 1}}
    async with handling(port, "orders::charge", config), tab(browser, base_of(engine.url), **LOOKS[look]) as opened:
        for number in range(40):
            frame = '{"type":"invokefunction","function_id":"state::set","action":{"type":"void"},"data":{"scope":"orders/2026",'
            await writer.socket.send_str(f'{frame}"key":"o-{number}","value":{ORDER}}}}}')
        await writer.call("state::set", {"scope": "users", "key": "ann", "value": {"name": "Ann"}})
        await opened.go(PLACES["data"])
        found: dict[str, list[str]] = {}
        for name, place in PLACES.items():
            await opened.go(place)
            await opened.connected()
            await opened.page.locator("main h1").first.wait_for(state="attached")
            if name == "data":
                await opened.page.get_by_role("tree").wait_for()
            if name == "live":
                await hears(opened, writer, "orders/2026")
                for number in range(12):
                    await writer.call("state::set", {"scope": "orders/2026", "key": f"o-{number}", "value": {"n": number}})
                rows = opened.page.get_by_role("listbox", name="Changes").get_by_role("option")
                await rows.nth(11).wait_for()
                await rows.nth(3).click()
            if name == "triggers":
                await opened.page.get_by_text("orders::charge").first.wait_for()
            if name == "dead":
                await opened.button("Retry", exact=True).first.wait_for()
            if name == "fleet":
                await opened.page.get_by_text("cards").first.wait_for()
            if name in ("rates", "overview"):
                await opened.page.locator("svg").first.wait_for()
            wide = await opened.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, f"{name} has to be scrolled sideways by {wide} px"
            await opened.page.screenshot(path=folder / f"{name}-{look}.png")
            results = await Axe().run(opened.page)
            found[name] = [
                f"{each['id']}: {node['target']} {node['failureSummary']}"
                for each in results.response["violations"]
                for node in each["nodes"]
            ]
        assert {name: faults for name, faults in found.items() if faults} == {}
