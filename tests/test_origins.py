"""Traces and hops as text: what calls carry, and what is read of it."""

from __future__ import annotations

import pytest

from iii_state import origins
from iii_state.origins import HOPS_IN_ONE_TRACE, MOST_HOPS, Origin

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def followed(origin: Origin | None, times: int) -> Origin | None:
    """The origin of what is written at the end of so many deliveries, one behind the other."""
    for _ in range(times):
        text, trace = origins.delivery_members(origin)
        if trace is not None:
            assert trace == TRACE[3:35]
        origin = origins.read(text)
    return origin


@pytest.mark.parametrize("first", [None, Origin(0, TRACE), Origin(0, TRACE, "user=ada"), Origin(0, None, "user=ada")])
@pytest.mark.parametrize("times", [1, 2, HOPS_IN_ONE_TRACE, HOPS_IN_ONE_TRACE + 1, 300])
def test_each_delivery_is_one_hop_and_the_baggage_stays(first: Origin | None, times: int) -> None:
    last = followed(first, times)
    assert last is not None
    assert last.hops == times
    assert last.baggage == (None if first is None else first.baggage)
    keeps_trace = first is not None and first.traceparent is not None and times <= HOPS_IN_ONE_TRACE
    assert (last.traceparent == TRACE) is keeps_trace


def test_the_count_stops_where_it_has_no_more_room() -> None:
    assert followed(Origin(MOST_HOPS - 1, None, "a=b"), 3) is not None
    last = followed(Origin(MOST_HOPS - 1, None, "a=b"), 3)
    assert last is not None
    assert last.hops == MOST_HOPS


def test_what_is_passed_on_to_another_engine_is_the_same_origin_there() -> None:
    for origin in (Origin(0, TRACE), Origin(5, TRACE, "a=b"), followed(None, 20), followed(Origin(0, TRACE, "a=b"), 20)):
        assert origin is not None
        assert origins.read(origins.call_members(origin)) == origin


def test_a_trace_of_which_the_baggage_is_lost_is_remembered_while_its_delivery_runs() -> None:
    text = b',"traceparent":"%b"' % TRACE.encode()
    origins.begin(TRACE[3:35], 4)
    origins.begin(TRACE[3:35], 2)
    assert origins.read(text) == Origin(4, TRACE)
    origins.end(TRACE[3:35], 4)
    assert origins.read(text) == Origin(2, TRACE)
    origins.end(TRACE[3:35], 2)
    assert origins.read(text) == Origin(0, TRACE)


@pytest.mark.parametrize(
    "text",
    [
        b',"traceparent":"00-x-y-01"',
        b',"traceparent":null',
        b',"traceparent":{}',
        b',"baggage":["a"]',
        b',"traceparent":"%b' % TRACE.encode(),
        b',"baggage":"%b"' % (b"x" * 9000),
    ],
)
def test_what_is_no_trace_is_nothing(text: bytes) -> None:
    assert origins.read(text) is None


def test_text_that_is_kept_reads_back_and_any_other_is_nothing() -> None:
    for origin in (Origin(), Origin(3), Origin(3, TRACE, 'a="ü"')):
        assert origins.decode(origins.encode(origin)) == origin
    for text in (b"", b"{", b"[]", b'{"hops":"x"}', b"\xff"):
        assert origins.decode(text) is None


def test_nothing_that_was_made_within_a_call_stays_behind_it() -> None:
    text = b',"traceparent":"%b"' % TRACE.encode()
    assert origins.inside(text, origins.current) == Origin(0, TRACE)
    assert origins.current() is None
    with pytest.raises(ZeroDivisionError):
        origins.inside(text, lambda: 1 // 0)
    assert origins.current() is None
