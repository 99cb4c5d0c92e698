"""Tables on a terminal: columns that line up, nothing of a name is cut, and no line is wider than the terminal."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import click
import pytest

from iii_state.cli.changes import change_line
from iii_state.cli.layout import laid_out, width_of, wrapped
from iii_state.cli.sampling import Sample
from iii_state.cli.sections import summary
from iii_state.cli.tables import TRIGGER_HEAD
from tests.cli.test_stats import Running, Terminal, running

__all__ = ["running"]

HEAD = ("FUNCTION", "WAITING", "OLDEST", "STATE")
LONG = "inventory::reserve-stock-in-the-nearest-warehouse"


def lines(head: tuple[str, ...], rows: list[tuple[str, ...]], columns: int) -> list[str]:
    return [click.unstyle(line) for line in laid_out(head, rows, columns)]


def test_words_stand_to_the_left_and_numbers_to_the_right() -> None:
    assert lines(HEAD, [("orders::changed", "1,402", "4.4 s", "-"), ("mail", "0", "-", "paused 3 s")], 80) == [
        "FUNCTION         WAITING  OLDEST  STATE",
        "orders::changed    1,402   4.4 s  -",
        "mail                   0       -  paused 3 s",
    ]


def test_a_name_that_is_too_long_has_a_line_of_its_own() -> None:
    assert lines(HEAD, [(LONG, "402", "4.4 s", "-"), ("mail", "0", "-", "-")], 40) == [
        "FUNCTION          WAITING  OLDEST  STATE",
        LONG,
        "                      402   4.4 s  -",
        "mail                    0       -  -",
    ]


def test_what_does_not_fit_in_columns_is_a_block_for_each_row() -> None:
    head = ("ID", "FUNCTION", "KEY", "ATTEMPTS", "STATE", "ERROR")
    assert lines(head, [("17-0:da", "mail", "k1", "5", "-", "no: it does not answer")], 24) == [
        "17-0:da",
        "  function mail  key k1",
        "  attempts 5",
        "  error no: it does not",
        "  answer",
    ]


def test_letters_that_take_two_columns_count_as_two() -> None:
    first, second = lines(("SCOPE", "KEY"), [("日本語", "a"), ("orders", "b")], 80)[1:]
    assert width_of(first[: first.index("a")]) == width_of(second[: second.index("b")]) == 8


@pytest.mark.parametrize("columns", [40, 80, 120, 200])
def test_no_line_of_triggers_is_wider_than_the_terminal(columns: int) -> None:
    row = (
        LONG,
        "日本語のスコープ",
        "*",
        "once",
        "vm:6674",
        *["18446744073709551615"] * 6,
        "paused 3 min",
        "da044e57",
    )
    assert all(width_of(line) <= columns or line == LONG for line in lines(TRIGGER_HEAD, [row], columns))


def test_a_sentence_is_cut_between_words_alone() -> None:
    assert wrapped("To do: iii-state triggers remove FUNCTION", 22, "  ") == "  To do: iii-state\n  triggers remove\n  FUNCTION"


def test_a_change_says_on_which_day_it_was_unless_that_is_today() -> None:
    event = {"event_type": "state:created", "scope": "orders", "key": "o1", "old_value": None, "new_value": 1}
    today = datetime.now()
    assert click.unstyle(change_line(event, today)) == f"{today:%H:%M:%S} created  orders o1  1"
    before = today - timedelta(days=1)
    assert click.unstyle(change_line(event, before)) == f"{before:%Y-%m-%d %H:%M:%S} created  orders o1  1"


def test_a_summary_leaves_out_whole_counts_where_it_does_not_fit() -> None:
    taken = Sample(0.0, [], [{"name": "vm:1"}], {})
    assert summary(taken) == "0 waiting, 0 out, 0 dead letters, 0 triggers, 1 engine"
    assert summary(taken, columns=47) == "0 waiting, 0 out, 0 dead letters, 0 triggers"
    assert summary(taken, columns=1) == "0 waiting"


async def test_commands_for_operators_fit_a_terminal_of_80_columns(running: Running) -> None:
    await running.set("k", "bad")
    await running.set("日本語のキー", "bad")
    async with asyncio.timeout(20):
        while (await running.engine.trigger({"function_id": "iii-state::dead_list", "payload": {}}))["total"] < 2:
            await asyncio.sleep(0.02)
    by_url = [[*command, "--url", running.url] for command in (["stats"], ["triggers"], ["dead", "list"], ["doctor"])]
    for command in (*by_url, ["lua-load", *running.redis[:2]]):
        terminal = Terminal(*command)
        try:
            assert await terminal.ends() == 0
        finally:
            terminal.close()
        printed = click.unstyle(terminal.drawn.decode()).split("\r\n")
        assert any("orders::changed" in line or "values/set" in line for line in printed), printed
        assert max(map(width_of, printed)) <= 80, printed
