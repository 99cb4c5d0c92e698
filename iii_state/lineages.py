"""Where a write comes from: its caller's trace, and how many deliveries have led to it, one behind the other.

A write that is made within a delivery is one *hop* further than the write whose event that delivers. What carries the count to the
handler, and back with what it writes, is the W3C trace of the call: SDKs put it into the calls that a handler makes. The Python SDK
keeps the trace's id and drops the baggage, the Node SDK keeps both where its telemetry is on, and none where it is off.

- Where the write had no trace, the delivery gets one of ours: the hops stand in the trace's id, so they travel with it, through any
  engine and any restart.
- Where it had one, that goes on, so that a trace stays whole: the hops stand in the baggage, and are remembered by the trace's id
  for as long as the delivery runs. Others may write within the same trace meanwhile, and count as well. So behind
  `HOPS_IN_ONE_TRACE` a delivery gets a trace of ours, which nobody else has: that count is exact.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextvars import ContextVar
from itertools import count
from secrets import randbits
from typing import Any, ParamSpec, TypeVar

import msgspec

from iii_state import values

P = ParamSpec("P")
T = TypeVar("T")

HOPS_IN_ONE_TRACE = 8
"""So many deliveries one behind the other keep the trace of the write that was the first."""

MOST_HOPS = 0xFFFF
MAX_BAGGAGE = 8192
"""The most characters of a baggage that are kept: what W3C asks of anybody who passes it on."""

within: ContextVar[bytes] = ContextVar("iii_state_within", default=b"")
"""What the call that is being carried out was made within: text of `messages.trace_members`, empty for nothing."""

_TRACE = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""As W3C has it: what is all zeros is no id (a tracer that is switched off sends that), and there is no version `ff`."""

_OURS = "00-696969737461"
"""How a traceparent of ours begins; four digits of hops follow, eight of the chain of deliveries, and eight of a number."""

_HOPS = re.compile(r"\s*iii-state-hops\s*=\s*([0-9]{1,5})\s*")
_HOPS_ROOM = 64
"""Characters in which they stand in a baggage, as another tracer may have spelled them."""


_numbers = count(1 + randbits(31))
_running: dict[str, list[int]] = {}
"""Trace → hops of the writes within each of the deliveries in it that run here."""


class Lineage(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a write was made within: trace and baggage of the call, None where there is none; and how many hops it is away from a
    write that was made within no delivery."""

    hops: int = 0
    traceparent: str | None = None
    baggage: str | None = None

    @property
    def chain(self) -> str:
        """The same for all deliveries that follow from one write, as far as can be told."""
        if self.traceparent is None:
            return ""
        return self.traceparent[19:27] if self.traceparent.startswith(_OURS) else self.traceparent[3:35]


class _Members(msgspec.Struct):
    traceparent: Any = None
    baggage: Any = None


_members = msgspec.json.Decoder(_Members)
_lineage = msgspec.json.Decoder(Lineage)


def current() -> Lineage | None:
    """The lineage of a write that is made now; None for one that is made within nothing."""
    text = within.get()
    return read(text) if text else None


def inside(text: bytes, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Call a function within what a call with these members is made within."""
    token = within.set(text)
    try:
        return function(*arguments, **named)
    finally:
        within.reset(token)


def read(text: bytes) -> Lineage | None:
    """The lineage of a write that is made within a call with these members."""
    try:
        members = _members.decode(b"{%b}" % text[1:])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    traceparent, baggage = members.traceparent, members.baggage
    trace = _TRACE.fullmatch(traceparent) if isinstance(traceparent, str) else None
    if trace is None:
        traceparent = None
    if not isinstance(baggage, str) or len(baggage) > MAX_BAGGAGE + _HOPS_ROOM:
        baggage = None
    hops = 0
    if baggage is not None and "iii-state-hops" in baggage:
        baggage, hops = _without_hops(baggage)
    if baggage is not None and len(baggage) > MAX_BAGGAGE:
        baggage = None
    if trace is not None and traceparent.startswith(_OURS):
        hops = int(traceparent[15:19], 16)
    elif trace is not None and not hops and _running:
        hops = max(_running.get(trace[1], (0,)))
    return Lineage(hops, traceparent, baggage) if traceparent is not None or baggage is not None else None


def with_trace(text: bytes, traceparent: str) -> bytes:
    """These members of a call, made within this trace in place of theirs: a span of ours has begun in between."""
    try:
        members = _members.decode(b"{%b}" % text[1:])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return _text(traceparent, None)
    return _text(traceparent, members.baggage if isinstance(members.baggage, str) else None)


def before_delivery(lineage: Lineage | None) -> Lineage | None:
    """The lineage of the write whose event is delivered by a call that is made within `lineage`: one hop less."""
    if lineage is None or lineage.hops == 0:
        return lineage
    if lineage.hops == 1 and lineage.traceparent is not None and lineage.traceparent.startswith(_OURS):
        return None if lineage.baggage is None else Lineage(baggage=lineage.baggage)
    return msgspec.structs.replace(lineage, hops=lineage.hops - 1)


def _without_hops(baggage: str) -> tuple[str | None, int]:
    hops, others = 0, []
    for member in baggage.split(","):
        found = _HOPS.fullmatch(member)
        if found is None:
            others.append(member)
        else:
            hops = min(int(found[1]), HOPS_IN_ONE_TRACE)  # more stand in no baggage of ours
    return ",".join(others) or None, hops


def encode(lineage: Lineage) -> bytes:
    """As text, to be kept with an event."""
    return values.encode(lineage)


def decode(text: bytes) -> Lineage | None:
    """What `encode` made; None for anything else."""
    try:
        lineage = _lineage.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    traceparent = lineage.traceparent
    is_trace = traceparent is None or _TRACE.fullmatch(traceparent) is not None
    return lineage if is_trace and 0 <= lineage.hops <= MOST_HOPS else None


def call_members(lineage: Lineage) -> bytes:
    """The members of a call that is made within the same as a write of this lineage: to pass that on to another engine."""
    if lineage.traceparent is not None and lineage.traceparent.startswith(_OURS):
        return _text(lineage.traceparent, lineage.baggage)
    return _text(lineage.traceparent, _with_hops(lineage.baggage, lineage.hops) if lineage.hops else lineage.baggage)


def delivery_members(lineage: Lineage | None) -> tuple[bytes, tuple[str, int] | None]:
    """The members of the call that delivers the event of a write of this lineage; and the trace that has to be remembered
    (`begin`) for as long as it runs, with its hops, None for none. What is written within that call is one hop further."""
    if lineage is None:
        number = next(_numbers) & 0xFFFFFFFF
        return b',"traceparent":"00-6969697374610001%08x%08x-%08x%08x-01"' % (number, number, number, number | 1), None
    hops = min(lineage.hops + 1, MOST_HOPS)
    traceparent = lineage.traceparent
    if traceparent is not None and hops <= HOPS_IN_ONE_TRACE and not traceparent.startswith(_OURS):
        return _text(traceparent, _with_hops(lineage.baggage, hops)), (traceparent[3:35], hops)
    number = next(_numbers) & 0xFFFFFFFF
    is_ours = traceparent is not None and traceparent.startswith(_OURS)
    chain = lineage.chain if is_ours else f"{number:08x}"
    flags = "01" if traceparent is None else traceparent[-2:]
    return _text(f"{_OURS}{hops:04x}{chain}{number:08x}-{chain}{number | 1:08x}-{flags}", lineage.baggage), None


def begin(trace: str, hops: int) -> None:
    """A delivery in a trace that is not ours runs from now on; what is written within it has so many hops."""
    _running.setdefault(trace, []).append(hops)


def end(trace: str, hops: int) -> None:
    """It runs no more."""
    running = _running[trace]
    running.remove(hops)
    if not running:
        del _running[trace]


def _with_hops(baggage: str | None, hops: int) -> str:
    member = f"iii-state-hops={hops}"
    return member if baggage is None else f"{baggage},{member}"


def _text(traceparent: str | None, baggage: str | None) -> bytes:
    text = b"" if traceparent is None else b',"traceparent":"%b"' % traceparent.encode()
    return text if baggage is None else text + b',"baggage":' + values.encode_string(baggage)
