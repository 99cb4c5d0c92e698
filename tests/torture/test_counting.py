"""Counting as a stream finds what was lost and what was made twice, and takes a call of unknown outcome for what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.torture.counting import LATE_SECONDS, Counter
from tests.torture.long import table
from tests.torture.memory import MB, Memory
from tests.torture.parts import Part, go_on


def counted(*numbers: int) -> Counter:
    counter = Counter()
    for number in numbers:
        assert counter.raised(number, 0.0) == ""
    return counter


def test_numbers_that_follow_each_other_are_right() -> None:
    counter = counted(1, 2, 3)
    assert counter.read(3, 0.0) == ""


@pytest.mark.parametrize(("number", "wrong"), [(3, "lost"), (2, "lost"), (5, "made twice"), (9, "made twice")])
def test_a_number_that_does_not_follow_is_found(number: int, wrong: str) -> None:
    assert counted(1, 2, 3).raised(number, 0.0).startswith(wrong)


@pytest.mark.parametrize(("number", "wrong"), [(2, "lost"), (4, "made twice")])
def test_a_read_of_another_number_is_found(number: int, wrong: str) -> None:
    assert counted(1, 2, 3).read(number, 0.0).startswith(wrong)


@pytest.mark.parametrize(("number", "wrong"), [(3, ""), (4, ""), (5, "made twice"), (2, "lost")])
def test_a_call_of_unknown_outcome_was_made_or_not(number: int, wrong: str) -> None:
    counter = counted(1, 2, 3)
    counter.lost_sight(0.0)
    assert counter.read(number, 1.0).partition(":")[0] == wrong


def test_a_call_of_unknown_outcome_counts_once() -> None:
    counter = counted(1)
    counter.lost_sight(0.0)
    assert counter.read(2, 1.0) == ""
    assert counter.resolved_as_made == 1
    assert counter.raised(4, 1.0).startswith("made twice")


def test_a_late_call_counts_for_a_while_and_then_never_more() -> None:
    for now, wrong in ((LATE_SECONDS - 1, ""), (LATE_SECONDS + 1, "made twice")):
        counter = counted(1)
        counter.lost_sight(0.0)
        assert counter.read(1, 1.0) == ""
        assert counter.raised(3, now).partition(":")[0] == wrong


def test_memory_that_grows_is_found_and_memory_that_falls_is_not() -> None:
    memory = Memory()
    for number in range(100):
        memory.add("grows", (50 + number) * MB)
        memory.add("falls", (150 - number) * MB)
        memory.add("stays", 50 * MB)
        memory.add("gone", None)
    assert [problem.split()[1] for problem in memory.problems()] == ["grows"]
    assert memory.figures()["stays"] == {"first_quarter": 50.0, "last_quarter": 50.0, "most": 50.0}


def quiet(what: str) -> None:
    pass


def test_parts_that_are_done_are_not_done_again_and_histories_stay_where_something_is_wrong(tmp_path: Path) -> None:
    done: list[str] = []

    def part(name: str, problems: list[str]) -> Part:
        def work(directory: Path, tell: Any) -> dict[str, Any]:
            done.append(name)
            (directory / "history").write_text("what happened")
            return {"problems": problems}

        return Part(name, work)

    def broken(directory: Path, tell: Any) -> dict[str, Any]:
        raise RuntimeError("the machine is on fire")

    parts = [part("torture-0", []), part("torture-1", ["lost"]), Part("torture-2", broken)]
    first = go_on(parts, tmp_path, quiet)
    next(first)  # the first part is being looked at, and another call goes on with the others
    assert [part.name for part, _ in go_on(parts, tmp_path, quiet)] == ["torture-1", "torture-2"]
    first.close()
    assert list(go_on(parts, tmp_path, quiet)) == []
    assert done == ["torture-0", "torture-1"]
    results = [part.result(tmp_path) for part in parts]
    assert [result and result["problems"] for result in results] == [
        [],
        ["lost"],
        ["broke off: RuntimeError('the machine is on fire')"],
    ]
    kept = [path.parent.name for path in tmp_path.glob("*/history")]
    assert [name.startswith("torture-1-") for name in kept] == [True]
    assert not list(tmp_path.glob("torture-0-*"))


def test_the_table_adds_up_the_parts_of_each_adapter(tmp_path: Path) -> None:
    for number in range(2):
        tortured = {"part": f"torture-{number}", "adapter": "kv", "minutes": 5.0, "faults": {"kill engine": 3, "noticed": 9}}
        tortured |= {"writes": {"all": 1000, "ok": 999, "unknown": 1}, "deliveries": 2000, "lost": 0, "problems": []}
        called = {"part": f"calls-{number}", "adapter": "kv", "calls": 500_000, "calls_per_second": 9000 + number, "problems": []}
        called |= {"memory_mb": {"engine 0": {"first_quarter": 50.0 + number, "last_quarter": 51.0, "most": 52.0}}}
        for part in (tortured, called):
            (tmp_path / f"{part['part']}.json").write_text(json.dumps(part))
    text = table(tmp_path)
    assert "| kv | 10 | 6 | 2,000 | 2 | 4,000 |" in text
    assert "| kv | 1,000,000 | 9,000 to 9,001 |" in text
    assert "| kv | engine 0 | 50.0 to 51.0 | 51.0 to 51.0 | 52.0 to 52.0 |" in text
