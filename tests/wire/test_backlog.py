"""What waits for peers that are behind: its sum, and whose turn is next."""

from __future__ import annotations

import pytest

from iii_state.wire import backlog
from iii_state.wire.backlog import Backlog, Turns


def test_a_backlog_is_full_until_enough_has_been_read_or_its_peer_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "MAX_BYTES", 100)
    waiting = Backlog()
    told: list[str] = []
    first, second = object(), object()
    waiting.note(first, 60)
    waiting.note(second, 30)
    waiting.note(first, 70)
    assert (waiting.total, waiting.is_full) == (100, False)
    waiting.note(second, 31)
    assert waiting.is_full
    waiting.when_room(lambda: told.append("room"))
    waiting.note(second, 40)
    assert not told
    waiting.note(first, 0)
    assert (waiting.total, waiting.is_full, told) == (40, False, ["room"])
    waiting.note(first, 0)
    assert (waiting.total, told) == (40, ["room"])


def test_calls_and_events_take_turns_and_calls_begin() -> None:
    turns = Turns()
    seen: list[str] = []
    for number in range(3):
        turns.events.append(lambda number=number: seen.append(f"event {number}"))  # type: ignore[misc]
    for number in range(2):
        turns.calls.append(lambda number=number: seen.append(f"call {number}"))  # type: ignore[misc]
    while turns.call_next():
        pass
    assert seen == ["call 0", "event 0", "call 1", "event 1", "event 2"]


def test_what_is_being_worked_out_counts_until_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "MAX_BYTES", 100)
    waiting = Backlog()
    told: list[str] = []
    waiting.promise(60)
    waiting.note(object(), 50)
    assert waiting.is_full
    waiting.when_room(lambda: told.append("room"))
    waiting.promise(-60)
    assert (waiting.is_full, told) == (False, ["room"])


def test_a_call_is_expected_to_bring_as_much_as_the_same_one_did_before() -> None:
    waiting = Backlog()
    asked = (b'"state::list"', b'{"scope":"large"}')
    assert waiting.expected(asked) == 0
    waiting.brought(asked, 2 * backlog.LARGE_RESULT_BYTES)
    assert waiting.expected((b'"state::list"', b'{"scope":"large"}')) == 2 * backlog.LARGE_RESULT_BYTES
    assert waiting.expected((b'"state::list"', b'{"scope":"small"}')) == 0
    waiting.brought(asked, backlog.LARGE_RESULT_BYTES)
    assert waiting.expected(asked) == 0


def test_so_many_large_calls_are_remembered_and_the_latest_of_them() -> None:
    waiting = Backlog()
    calls = [(b'"f"', b"%d" % number) for number in range(1500)]
    for asked in calls:
        waiting.brought(asked, 2 * backlog.LARGE_RESULT_BYTES)
    assert [asked for asked in calls if waiting.expected(asked)] == calls[500:]


def test_who_waits_again_when_all_are_called_is_not_called_twice() -> None:
    turns = Turns()
    calls = 0

    def again() -> None:
        nonlocal calls
        calls += 1
        turns.events.append(again)

    turns.events.append(again)
    turns.call_all()
    assert (calls, len(turns.events)) == (1, 1)
