"""An engine on Redis with a tracer, in a process of its own: `python -m tests.observe.traced_engine REDIS_URL`.

Its spans stay in its memory; the function `test::spans` tells those that are over.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from iii_state import Engine, StateModule
from iii_state.observe.traces import Traces


async def main(redis_url: str) -> None:
    """Serve until killed."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(resource=Resource({}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    def spans(_: object) -> list[Any]:
        return [json.loads(span.to_json()) for span in exporter.get_finished_spans()]

    config = {
        "adapter": {"name": "redis", "config": {"redis_url": redis_url, "heartbeat_ttl_ms": 1000}},
        "dispatch": {"backoff_ms": 1, "max_backoff_ms": 1},
    }
    async with Engine() as engine:
        engine.register_function("test::spans", spans)
        await engine.add_module(StateModule(config, tracing=Traces(provider)))
        host, port = await engine.serve("127.0.0.1", 0)
        print(f"listening on ws://{host}:{port}", file=sys.stderr, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
