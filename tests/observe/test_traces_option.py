"""`--traces`: spans reach a collector, and one that is not there keeps nobody."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from iii_state.client.about import About
from iii_state.client.client import Client
from tests.support.engines.attached import attached
from tests.support.engines.processes import EngineProcess, free_port, running_engine

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Takes OTLP over HTTP: the names of spans by the name of their service."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[tuple[str, str]] = []
        self.traces: set[tuple[str, str]] = set()
        """Trace and parent of each span, in hexadecimal."""

    async def take(self, request: web.Request) -> web.Response:
        """Take what one process sends."""
        told = ExportTraceServiceRequest.FromString(await request.read())
        for resource in told.resource_spans:
            about = {each.key: each.value.string_value for each in resource.resource.attributes}
            spans = [span for scope in resource.scope_spans for span in scope.spans]
            self.spans += [(about["service.name"], span.name) for span in spans]
            self.traces |= {(span.trace_id.hex(), span.parent_span_id.hex()) for span in spans}
        return web.Response()


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield collector
    await runner.cleanup()


async def write(url: str) -> None:
    async with Client(url, About("a caller")) as client:
        trace = b',"traceparent":"00-%b-%b-01"' % (TRACE.encode(), SPAN.encode())
        await client.call("state::set", b'{"scope":"s","key":"k","value":1}', trace=trace)


async def test_an_engine_sends_its_spans_before_it_ends(collector: Collector) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    with running_engine(["--traces"], environment=environment) as engine:
        await write(engine.url)
        assert await asyncio.to_thread(engine.stop) == 0
    assert ("iii-state", "state::set") in collector.spans
    assert (TRACE, SPAN) in collector.traces


async def test_an_attached_worker_sends_its_spans(collector: Collector) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "orders-state"}
    with running_engine(["--no-state"]) as engine, attached(engine.url, "--traces", environment=environment) as worker:
        worker.until_attached()
        await write(engine.url)
        assert await asyncio.to_thread(worker.stop) == 0
    assert ("orders-state", "state::set") in collector.spans
    assert (TRACE, SPAN) in collector.traces, "the caller's trace goes through the engine to its state worker"


async def test_a_collector_that_is_away_keeps_nobody() -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    with running_engine(["--traces"], environment=environment) as engine:
        await write(engine.url)
        assert await asyncio.to_thread(engine.stop) == 0


def test_without_the_extra_it_says_how_to_get_it() -> None:
    code = "import sys; sys.modules['opentelemetry'] = None; from iii_state.cli import main; main()"
    with pytest.raises(TimeoutError) as ended:
        EngineProcess(["--traces"], serve=(sys.executable, "-c", code, "serve"))
    assert "pip install 'iii-state[otel]'" in str(ended.value)
