"""`--traces`: spans of calls and deliveries, sent to a collector of OpenTelemetry."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

import click

from iii_state.errors import ConfigError
from iii_state.host import engine_name
from iii_state.state.tracing import Tracing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

logger = logging.getLogger(__name__)

C = TypeVar("C", bound=Callable[..., Any])

FLUSH_SECONDS = 5
"""So long, at most, an end waits for the collector to take the last spans."""


def traces_option(command: C) -> C:
    """`--traces`. Where spans are sent, and how many, say the environment's variables `OTEL_*`."""
    return click.option("--traces", is_flag=True, help="Send traces over OTLP, to where OTEL_EXPORTER_OTLP_ENDPOINT says.")(command)


@asynccontextmanager
async def tracing(wanted: bool) -> AsyncIterator[Tracing | None]:
    """A tracer for the length of a block; None where none is wanted. Raises `ConfigError` where the extra is not installed."""
    if not wanted:
        yield None
        return
    try:
        from iii_state.observe.traces import Traces

        provider = _provider()
    except ImportError as error:
        raise ConfigError(f"--traces needs OpenTelemetry ({error}): pip install 'iii-state[otel]'") from None
    try:
        yield Traces(provider)
    finally:
        await _end(provider)


def _provider() -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    about = {"service.instance.id": engine_name(), "service.version": version("iii-state")}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        about["service.name"] = "iii-state"
    provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


async def _end(provider: TracerProvider) -> None:
    """Send what has not been sent yet; a collector that does not answer keeps nobody."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def shut_down() -> None:
        provider.shutdown()
        with contextlib.suppress(RuntimeError):  # nobody waits any more
            loop.call_soon_threadsafe(done.set)

    Thread(target=shut_down, daemon=True).start()
    try:
        async with asyncio.timeout(FLUSH_SECONDS):
            await done.wait()
    except TimeoutError:
        logger.warning("the last traces could not be sent within %d s", FLUSH_SECONDS)
