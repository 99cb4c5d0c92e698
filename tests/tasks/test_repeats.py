"""Lines that are said alike are said once in a while, with how often."""

from __future__ import annotations

import logging

import pytest

from iii_state.tasks import repeats
from iii_state.tasks.repeats import Repeats


def test_a_line_that_was_just_said_is_counted_and_the_next_one_tells(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Repeats(logging.getLogger("repeats"))
    for _ in range(21):
        told.warning("no heartbeat: %s", "away", of="one")
    told.warning("no heartbeat: %s", "away", of="two")
    told.warning("no heartbeat: %s", "slow", of="one")
    told.error("gone")
    for name in ("a", "b"):
        told.warning("%s is away", name, alike="away")
    monkeypatch.setattr(repeats, "SECONDS", 0.0)
    told.warning("no heartbeat: %s", "away", of="one")
    assert [record.getMessage() for record in caplog.records] == [
        "no heartbeat: away",
        "no heartbeat: away",
        "no heartbeat: slow",
        "gone",
        "a is away",
        "no heartbeat: away (and 20 times more since it was said last)",
    ]
