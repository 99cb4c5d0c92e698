"""Spans of OpenTelemetry: a database call for each call of `state::*`, a message for each write with events and each delivery.

This needs the extra `iii-state[otel]`. Attributes are those of OpenTelemetry's semantic conventions for databases and for
messaging, and `iii_state.*` where these have none.
"""

from __future__ import annotations

import re
from asyncio import Future
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import ParamSpec, TypeVar

import msgspec
from opentelemetry import context, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace import Span as OtelSpan

from iii_state import lineages, values
from iii_state.errors import Code, FunctionError, words
from iii_state.events import Change, Delivery
from iii_state.figures import function_label
from iii_state.host import Caller, Handler
from iii_state.lineages import HOPS_IN_ONE_TRACE, Lineage
from iii_state.state.tracing import TracedStore
from iii_state.tasks.results import Result
from iii_state.values import Json

P = ParamSpec("P")
T = TypeVar("T")

SYSTEM = "iii_state"
MOST_EARLIER = 10_000
"""Of so many events that have failed here the last attempt is known, to be linked by the next one."""

_baggage = W3CBaggagePropagator()


class _Step(msgspec.Struct):
    key: str = ""


class _Request(msgspec.Struct):
    """What spans tell of a request."""

    scope: str | None = None
    key: str | None = None
    keys: list[str] = []
    items: list[_Step] = []
    steps: list[_Step] = []


_request = msgspec.json.Decoder(_Request)
_NOTHING = _Request()
_FIRST = re.compile(rb'\s*\{\s*"scope"\s*:\s*"([^"\\]*)"\s*,\s*"key"\s*:\s*"([^"\\]*)"')

_MUTATIONS = ("state::set", "state::update", "state::delete", "state::transact")


class Traces:
    """A tracer for `StateModule(tracing=...)`. `provider` is OpenTelemetry's own, the global one unless given."""

    def __init__(self, provider: trace.TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("iii_state", version("iii-state"), provider, "https://opentelemetry.io/schemas/1.37.0")
        self._earlier: dict[str, SpanContext] = {}
        """Event id → the last attempt, which has failed."""

    # --- calls

    def traced(self, function_id: str, handler: Handler, place: TracedStore, is_wanted: Callable[[str, str], bool]) -> Handler:
        """What stands in place of a function's handler, and makes a span of each call."""
        attributes: dict[str, str | int] = {
            "db.system.name": place.system,
            "db.operation.name": function_id.removeprefix("state::"),
            "db.query.summary": function_id,
        }
        of_place = {"server.address": place.host, "server.port": place.port, "db.namespace": place.namespace}
        attributes |= {name: value for name, value in of_place.items() if value is not None}
        kind = SpanKind.INTERNAL if place.host is None else SpanKind.CLIENT
        sends = function_id in _MUTATIONS

        def call(data: Json, caller: Caller) -> Result[bytes | None]:
            request = _read(data)
            text = lineages.within.get()
            parent = _parent(text, caller)
            span = self._tracer.start_span(function_id, parent, kind, {**attributes, **_about(request)})
            if not span.is_recording():
                span.end()
                return handler(data, caller)
            inner = self._producer(span, request) if sends and _has_readers(request, is_wanted) else span
            if not text and parent:
                text = _baggage_of(parent)
            within = lineages.with_trace(text, _traceparent(inner.get_span_context()))
            return _until_answered((inner, span) if inner is not span else (span,), within, handler, data, caller)

        return call

    def _producer(self, span: OtelSpan, request: _Request) -> OtelSpan:
        attributes: dict[str, str | int] = {
            "messaging.system": SYSTEM,
            "messaging.operation.type": "send",
            "messaging.operation.name": "send",
            "messaging.destination.name": request.scope or "",
        }
        if request.key is not None:
            attributes["iii_state.key"] = request.key
        if request.steps:
            attributes["messaging.batch.message_count"] = len(request.steps)
        return self._tracer.start_span("send state", trace.set_span_in_context(span, Context()), SpanKind.PRODUCER, attributes)

    # --- deliveries

    def begin(self, function_id: str, deliveries: Sequence[Delivery], event: Change) -> _Attempt:
        """An attempt begins; its span goes on in the trace of the write, and is linked to it and to the attempt before."""
        lineage = event.lineage or Lineage()
        text, remembered = lineages.delivery_members(event.lineage)
        begins = lineage.traceparent is None and lineage.hops < HOPS_IN_ONE_TRACE
        # Where so many hops lie behind it that they stand in the trace's own id, that one goes on.
        parent = lineage.traceparent if begins or remembered is not None else _traceparent_of(text)
        links = [Link(each) for each in _origins(deliveries)]
        links += [
            Link(earlier, {"iii_state.link": "attempt before"})
            for delivery in deliveries
            if (earlier := self._earlier.pop(delivery.event_id, None)) is not None
        ]
        name = f"process {function_label(function_id)}"
        attributes = _delivered(function_id, deliveries)
        span = self._tracer.start_span(name, _remote(_context_of(parent)), SpanKind.CONSUMER, attributes, links)
        if span.is_recording():
            traceparent = _traceparent(span.get_span_context())
            if begins or remembered is not None:
                text, remembered = lineages.delivery_members(msgspec.structs.replace(lineage, traceparent=traceparent))
            else:
                text = lineages.with_trace(text, traceparent)
        elif begins and (made := _traceparent_of(text)) is not None:
            text = lineages.with_trace(text, f"{made[:-2]}00")  # what follows from it is not recorded either
        return _Attempt(span, text, remembered, self._failed(deliveries))

    def _failed(self, deliveries: Sequence[Delivery]) -> Callable[[SpanContext], None]:
        def remember(span: SpanContext) -> None:
            for delivery in deliveries:
                self._earlier[delivery.event_id] = span
            while len(self._earlier) > MOST_EARLIER:
                del self._earlier[next(iter(self._earlier))]

        return remember


class _Attempt:
    """The span of an attempt (`tracing.Span`)."""

    def __init__(
        self, span: OtelSpan, text: bytes, remembered: tuple[str, int] | None, failed: Callable[[SpanContext], None]
    ) -> None:
        self.trace = text
        self.remembered = remembered
        self._span = span
        self._failed = failed
        self._is_recorded = span.is_recording()

    def within(self, function: Callable[P, T]) -> Callable[P, T]:
        """Python handlers of this process find it as the current span, with the baggage of its trace."""

        def call(*arguments: P.args, **named: P.kwargs) -> T:
            lineage = lineages.read(self.trace)
            base = Context()
            if lineage is not None and lineage.baggage is not None:
                base = _baggage.extract({"baggage": lineage.baggage}, base)
            token = context.attach(trace.set_span_in_context(self._span, base))
            try:
                return function(*arguments, **named)
            finally:
                context.detach(token)

        return call

    def end(self, error: BaseException | None) -> None:
        """The attempt is over, or has failed."""
        _end(self._span, error)
        if error is not None and self._is_recorded:
            self._failed(self._span.get_span_context())


def _until_answered(spans: Sequence[OtelSpan], within: bytes, handler: Handler, data: Json, caller: Caller) -> Result[bytes | None]:
    """Call a handler, and end the spans when it has answered."""

    def end(error: BaseException | None) -> None:
        for span in spans:
            _end(span, error)

    def answered(done: Future[bytes | None]) -> None:
        end(FunctionError(Code.INVOCATION_STOPPED, "the call was cancelled") if done.cancelled() else done.exception())

    try:
        answer = lineages.inside(within, handler, data, caller)
    except BaseException as error:
        end(error)
        raise
    if isinstance(answer, Future):
        answer.add_done_callback(answered)
    else:
        end(None)
    return answer


def _end(span: OtelSpan, error: BaseException | None) -> None:
    if error is not None:
        code = error.code if isinstance(error, FunctionError) else Code.INVOCATION_FAILED
        span.set_status(Status(StatusCode.ERROR, words(error)))
        span.set_attribute("error.type", str(code))
    span.end()


# --- what spans tell


def _read(data: Json) -> _Request:
    found = _FIRST.match(data)
    try:
        if found is not None:  # as most callers write it; the value behind it need not be looked at then
            return _Request(found[1].decode(), found[2].decode())
        return _request.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return _NOTHING  # what is wrong with it the function says


def _about(request: _Request) -> Mapping[str, str | int]:
    found: dict[str, str | int] = {}
    if request.scope is not None:
        found["db.collection.name"] = request.scope
    if request.key is not None:
        found["iii_state.key"] = request.key
    if (count := len(request.keys) or len(request.items) or len(request.steps)) > 1:
        found["db.operation.batch.size"] = count
    return found


def _has_readers(request: _Request, is_wanted: Callable[[str, str], bool]) -> bool:
    scope = request.scope
    if scope is None:
        return False
    if request.key is not None:
        return is_wanted(scope, request.key)
    return any(is_wanted(scope, step.key) for step in request.steps)


def _delivered(function_id: str, deliveries: Sequence[Delivery]) -> Mapping[str, str | int]:
    first = deliveries[0]
    found: dict[str, str | int] = {
        "messaging.system": SYSTEM,
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.subscription.name": function_label(function_id),
        "messaging.destination.name": first.event.scope,
    }
    if len(deliveries) > 1:
        found["messaging.batch.message_count"] = len(deliveries)
        return found
    return found | {
        "messaging.message.id": first.event_id,
        "messaging.message.body.size": first.event.size,
        "iii_state.key": first.event.key,
        "iii_state.event_type": first.event.event_type,
        "iii_state.attempt": first.attempt,
        "iii_state.fence": first.fence,
    }


# --- contexts


def _parent(text: bytes, caller: Caller) -> Context:
    """What a call is made within: the trace that came with it, or a span of this process that is a part of it; for a call of this
    process's own, where none came, the current span."""
    current = trace.get_current_span().get_span_context()
    lineage = lineages.read(text) if text else None
    remote = None if lineage is None else _context_of(lineage.traceparent)
    if current.is_valid and (not caller.worker_id if remote is None else remote.trace_id == current.trace_id):
        return context.get_current()
    return _remote(remote)


def _remote(span: SpanContext | None) -> Context:
    return Context() if span is None else trace.set_span_in_context(NonRecordingSpan(span), Context())


def _context_of(traceparent: str | None) -> SpanContext | None:
    if traceparent is None:
        return None
    _, trace_id, span_id, flags = traceparent.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))


def _origins(deliveries: Sequence[Delivery]) -> Iterator[SpanContext]:
    """The spans of the writes."""
    for delivery in deliveries:
        lineage = delivery.event.lineage
        if lineage is not None and (found := _context_of(lineage.traceparent)) is not None:
            yield found


def _traceparent_of(text: bytes) -> str | None:
    """That of the members of a call."""
    lineage = lineages.read(text)
    return None if lineage is None else lineage.traceparent


def _traceparent(span: SpanContext) -> str:
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"


def _baggage_of(within: Context) -> bytes:
    """The baggage of a context as members of a call."""
    carrier: dict[str, str] = {}
    _baggage.inject(carrier, within)
    found = carrier.get("baggage")
    return b',"baggage":' + values.encode_string(found) if found else b""
