"""A remote that hangs: it has not answered yet whether it takes a trigger, so the trigger is not refused, and what waits stays."""

from __future__ import annotations

import asyncio
import signal

from tests.support.bridge.processes import Worker, engine
from tests.support.waiting import until


async def test_a_trigger_is_not_refused_and_its_queue_not_ended_by_a_remote_that_hangs() -> None:
    times = {"adapter": {"name": "bridge", "config": {"call_timeout_ms": 300}}}
    async with engine() as store, Worker(store.url) as writer:
        times["adapter"]["config"]["bridge_url"] = store.url  # type: ignore[index]
        async with engine(config=times) as bridge:
            async with Worker(bridge.url) as worker:
                worker.serve("handler")
                await worker.on("handler")
            await writer.set(1)  # it waits for its worker
            async with Worker(bridge.url) as worker:
                worker.serve("handler", lambda event: None)
                store.process.send_signal(signal.SIGSTOP)
                try:
                    registering = asyncio.ensure_future(worker.on("handler"))
                    await asyncio.wait({registering}, timeout=2.0)
                finally:
                    store.process.send_signal(signal.SIGCONT)
                await registering
                await until(lambda: worker.values() == [1])
                await writer.set(2)
                await until(lambda: worker.values() == [1, 2])
