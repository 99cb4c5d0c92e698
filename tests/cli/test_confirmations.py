"""What a person is asked at a terminal before something is lost: it names what that is, and no is no."""

from __future__ import annotations

import pytest

from tests.cli.test_stats import Running, Terminal, running

__all__ = ["running"]


@pytest.mark.parametrize(("answer", "code", "left"), [("n\n", 1, 3), ("y\n", 0, 0)])
async def test_a_purge_at_a_terminal_names_what_is_lost_and_asks(running: Running, answer: str, code: int, left: int) -> None:
    for number in range(3):
        await running.set(f"k{number}", number)
    terminal = Terminal("triggers", "purge", "orders::paused", "--url", running.url)
    try:
        await terminal.shows("orders::paused (scope orders, key *", "3 events will be dropped", "Drop 3 events, for good?")
        terminal.press(answer)
        assert await terminal.ends() == code
    finally:
        terminal.close()
    rows = (await running.engine.trigger({"function_id": "iii-state::triggers", "payload": {}}))["triggers"]
    assert {row["function_id"]: row["waiting"] for row in rows}["orders::paused"] == left
