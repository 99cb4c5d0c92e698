"""Workers that give the page something to show: they take events, and fail, or do not answer, as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Any

from tests.support.engines.raw_worker import Port, RawWorker
from tests.web.browser import SECONDS, Tab


class Handling:
    """A worker that takes the events of one trigger. `fails` says whether its handler raises."""

    def __init__(self, worker: RawWorker, function_id: str) -> None:
        self.worker = worker
        self.function_id = function_id
        self.fails = True
        self.handled: list[Any] = []

    async def run(self) -> None:
        """Answer what comes, until it is cancelled or its connection ends."""
        socket = self.worker.socket
        while True:
            frame = await socket.receive_json()
            if frame["type"] != "invokefunction" or "invocation_id" not in frame:
                continue
            if self.fails:
                error = {"code": "invocation_failed", "message": "<b>no</b> such card"}
                await self.worker.answer(frame, error=error)
            else:
                self.handled.append(frame["data"])
                await self.worker.answer(frame, result=None)


@contextlib.asynccontextmanager
async def handling(port: Port, function_id: str, config: dict[str, Any], *, fails: bool = True) -> AsyncIterator[Handling]:
    """A worker with a trigger, for the length of a `with` block."""
    worker = await port.connect(name="cards", runtime="python", version="1", pid=1)
    made = Handling(worker, function_id)
    made.fails = fails
    await worker.send("registerfunction", id=function_id)
    await worker.send("registertrigger", id=str(uuid.uuid4()), trigger_type="state", function_id=function_id, config=config)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, TypeError):
            await task


async def hears(opened: Tab, writer: RawWorker, scope: str) -> None:
    """Wait until the screen Live hears of changes, and has shown all that there were: it registers its trigger when it is there."""
    rows = opened.page.get_by_role("listbox", name="Changes").get_by_role("option")
    async with asyncio.timeout(SECONDS):
        number = 0
        while not await rows.count():
            number += 1  # another key each time: what is told of one key comes after what was told of it before
            await writer.call("state::set", {"scope": scope, "key": f"are you there? {number}", "value": 1})
            await asyncio.sleep(0.05)
    await writer.call("state::set", {"scope": scope, "key": "now we begin", "value": 1})
    await rows.filter(has_text="now we begin").first.wait_for()
