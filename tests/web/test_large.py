"""How long a large value takes to be shown, and what the page holds of it: measured, and kept."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.engines.raw_worker import Port
from tests.web.browser import Tab
from tests.web.measured import keep
from tests.web.test_values import put

OPEN = """async (address) => {
    const tasks = [];
    const observer = new PerformanceObserver((list) => tasks.push(...list.getEntries().map((each) => Math.round(each.duration))));
    observer.observe({type: "longtask"});
    const began = performance.now();
    location.hash = address;
    const found = () => document.querySelector("[role=tree], pre.text");
    await new Promise((resolve) => {
        const look = () => found() ? resolve() : requestAnimationFrame(look);
        look();
    });
    const took = performance.now() - began;
    await new Promise((resolve) => setTimeout(resolve, 500));
    observer.disconnect();
    return {ms: Math.round(took), long_tasks_ms: tasks, heap_mb: Math.round(performance.memory.usedJSHeapSize / 1048576)};
}"""


async def test_large_values_are_there_soon(opened: Tab, port: Port, tmp_path: Path) -> None:
    worker = await port.connect(name="w", runtime="x", pid=1)
    row = {"id": 1, "name": "x" * 60, "tags": ["a", "b"], "at": {"x": 1.5, "y": -2}}
    sizes = {"1_mb": 1_000_000, "16_mb": 16_000_000}
    for name, size in sizes.items():
        rows = [row] * (size // (len(json.dumps(row, separators=(",", ":"))) + 1))
        await put(worker, "s", name, json.dumps({"rows": rows}, separators=(",", ":")))
    figures = {}
    for name in sizes:
        await opened.go("#/data?scope=s")
        await opened.page.get_by_text("2 keys, all").wait_for()
        figures[name] = await opened.page.evaluate(OPEN, f"#/data?scope=s&key={name}")
    keep("large", figures, tmp_path)
    assert await opened.page.locator("*").count() < 1500
