"""Traces and hops as text: what calls carry, and what is read of it."""

from __future__ import annotations

import pytest

from iii_state import lineages
from iii_state.lineages import HOPS_IN_ONE_TRACE, MAX_BAGGAGE, MOST_HOPS, Lineage

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def followed(lineage: Lineage | None, times: int) -> Lineage | None:
    """The lineage of what is written at the end of so many deliveries, one behind the other."""
    for _ in range(times):
        text, trace = lineages.delivery_members(lineage)
        if trace is not None:
            assert trace == (TRACE[3:35], (0 if lineage is None else lineage.hops) + 1)
        lineage = lineages.read(text)
    return lineage


@pytest.mark.parametrize("first", [None, Lineage(0, TRACE), Lineage(0, TRACE, "user=ada"), Lineage(0, None, "user=ada")])
@pytest.mark.parametrize("times", [1, 2, HOPS_IN_ONE_TRACE, HOPS_IN_ONE_TRACE + 1, 300])
def test_each_delivery_is_one_hop_and_the_baggage_stays(first: Lineage | None, times: int) -> None:
    last = followed(first, times)
    assert last is not None
    assert last.hops == times
    assert last.baggage == (None if first is None else first.baggage)
    keeps_trace = first is not None and first.traceparent is not None and times <= HOPS_IN_ONE_TRACE
    assert (last.traceparent == TRACE) is keeps_trace


def test_the_count_stops_where_it_has_no_more_room() -> None:
    assert followed(Lineage(MOST_HOPS - 1, None, "a=b"), 3) is not None
    last = followed(Lineage(MOST_HOPS - 1, None, "a=b"), 3)
    assert last is not None
    assert last.hops == MOST_HOPS


def test_what_is_passed_on_to_another_engine_is_the_same_lineage_there() -> None:
    for lineage in (Lineage(0, TRACE), Lineage(5, TRACE, "a=b"), followed(None, 20), followed(Lineage(0, TRACE, "a=b"), 20)):
        assert lineage is not None
        assert lineages.read(lineages.call_members(lineage)) == lineage


def test_a_trace_of_which_the_baggage_is_lost_is_remembered_while_its_delivery_runs() -> None:
    text = b',"traceparent":"%b"' % TRACE.encode()
    lineages.begin(TRACE[3:35], 4)
    lineages.begin(TRACE[3:35], 2)
    assert lineages.read(text) == Lineage(4, TRACE)
    lineages.end(TRACE[3:35], 4)
    assert lineages.read(text) == Lineage(2, TRACE)
    lineages.end(TRACE[3:35], 2)
    assert lineages.read(text) == Lineage(0, TRACE)


@pytest.mark.parametrize(
    "text",
    [
        b',"traceparent":"00-x-y-01"',
        b',"traceparent":null',
        b',"traceparent":{}',
        b',"baggage":["a"]',
        b',"traceparent":"%b' % TRACE.encode(),
        b',"baggage":"%b"' % (b"x" * 9000),
        b',"traceparent":"00-%b-b7ad6b7169203331-01"' % (b"0" * 32),
        b',"traceparent":"00-0af7651916cd43dd8448eb211c80319c-%b-01"' % (b"0" * 16),
        b',"traceparent":"ff%b"' % TRACE[2:].encode(),
        b',"traceparent":"%b\\n"' % TRACE.encode(),
    ],
)
def test_what_is_no_trace_is_nothing(text: bytes) -> None:
    assert lineages.read(text) is None


def test_text_that_is_kept_reads_back_and_any_other_is_nothing() -> None:
    for lineage in (Lineage(), Lineage(3), Lineage(3, TRACE, 'a="ü"')):
        assert lineages.decode(lineages.encode(lineage)) == lineage
    others = (b'{"hops":-1}', b'{"hops":65536}', b'{"traceparent":"00"}', b'{"traceparent":"%b\\",\\"x\\":\\""}' % TRACE.encode())
    for text in (b"", b"{", b"[]", b'{"hops":"x"}', b"\xff", *others):
        assert lineages.decode(text) is None


def test_nothing_that_was_made_within_a_call_stays_behind_it() -> None:
    text = b',"traceparent":"%b"' % TRACE.encode()
    assert lineages.inside(text, lineages.current) == Lineage(0, TRACE)
    assert lineages.current() is None
    with pytest.raises(ZeroDivisionError):
        lineages.inside(text, lambda: 1 // 0)
    assert lineages.current() is None


@pytest.mark.parametrize("forged", ["iii-state-hops=99999", "iii-state-hops=1,iii-state-hops=500", " iii-state-hops = 65535 "])
def test_a_baggage_cannot_say_more_hops_than_one_of_ours_ever_does(forged: str) -> None:
    text = b',"traceparent":"%b","baggage":"%b,a=b"' % (TRACE.encode(), forged.encode())
    assert lineages.read(text) == Lineage(HOPS_IN_ONE_TRACE, TRACE, "a=b")


def test_a_baggage_that_was_taken_comes_back_with_its_hops_however_long_it_is() -> None:
    longest = Lineage(0, TRACE, "a=" + "b" * (MAX_BAGGAGE - 2))
    last = followed(longest, HOPS_IN_ONE_TRACE)
    assert last == Lineage(HOPS_IN_ONE_TRACE, TRACE, longest.baggage)
