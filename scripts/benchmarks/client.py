"""A client that keeps calls in flight, in a process of its own: our own, or the official SDK where this Python has it.

    python client.py ours|sdk URL IN_FLIGHT SECONDS

Prints calls answered, seconds, and CPU seconds of the process. Ours passes JSON text and runs on uvloop, as it does in an engine;
the SDK is used as its documentation says, from asyncio, and passes Python objects to the loop that it has in a thread of its own.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

_PAYLOAD = {"scope": "bench", "key": "user:0", "value": {"name": "Ada Lovelace", "tags": ["a", "b"], "visits": 3, "pad": "." * 40}}

Call = Callable[[str], Awaitable[object]]


@asynccontextmanager
async def _ours(url: str) -> AsyncIterator[Call]:
    from iii_state.client.client import Client

    text = json.dumps(_PAYLOAD).encode()
    async with Client(url) as client:
        yield lambda function_id: client.call(function_id, text)


@asynccontextmanager
async def _sdk(url: str) -> AsyncIterator[Call]:
    import iii  # type: ignore[import-not-found]  # of the SDK's own environment

    worker: Any = iii.register_worker(url, iii.InitOptions(worker_name="bench"))
    yield lambda function_id: worker.trigger_async({"function_id": function_id, "payload": _PAYLOAD})
    await asyncio.to_thread(worker.shutdown)


async def main(kind: str, url: str, in_flight: int, seconds: float) -> None:
    """Call for a quarter of the time, then measure."""
    done = 0

    async def caller(call: Call, until: float) -> None:
        nonlocal done
        while time.perf_counter() < until:
            await call("state::get")
            done += 1

    async with (_ours if kind == "ours" else _sdk)(url) as call:
        await call("state::set")
        wall = cpu = 0.0
        for length in (seconds / 4, seconds):
            done, wall, cpu = 0, time.perf_counter(), time.process_time()
            await asyncio.gather(*(caller(call, wall + length) for _ in range(in_flight)))
        sys.stdout.write(json.dumps([done, time.perf_counter() - wall, time.process_time() - cpu]) + "\n")


if __name__ == "__main__":
    arguments = (sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
    if sys.argv[1] == "ours":
        import uvloop

        uvloop.run(main(*arguments))
    else:
        asyncio.run(main(*arguments))
