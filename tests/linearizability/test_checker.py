"""The checker itself: histories made by hand, and generated ones against trying every order."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations, permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.linearizability.checker import Undecided, Violation, check
from tests.linearizability.operations import (
    UNTOLD,
    Listing,
    Operation,
    by_place,
    canonical,
    carried_out,
    unseen_marks_as_one,
)

PLACE = ("s", "k")


def op(kind: str, argument: Any, invoked: int, returned: int | None, response: Any = None, mark: str = "") -> Operation:
    return Operation(PLACE, kind, argument, invoked, returned, response, mark)


def add(by: int, invoked: int, returned: int | None, response: Any = None) -> Operation:
    return op("update", [{"type": "increment", "path": "n", "by": by}], invoked, returned, response)


def is_linearizable(*operations: Operation) -> bool:
    return not isinstance(check(operations), Violation)


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_operations_one_after_the_other() -> None:
    first = (op("set", 1, 0, 1), op("get", None, 2, 3, 1), op("delete", None, 4, 5, 1))
    assert is_linearizable(*first, op("get", None, 6, 7))
    assert not is_linearizable(*first, op("get", None, 6, 7, 1))


def test_a_read_during_a_write_sees_either_value_and_one_after_it_the_new_one() -> None:
    writes = (op("set", 1, 0, 1), op("set", 2, 2, 10, 1))
    for seen in (1, 2):
        assert is_linearizable(*writes, op("get", None, 3, 4, seen))
    assert not is_linearizable(*writes, op("get", None, 11, 12, 1)), "a stale read"


def test_a_value_that_has_been_seen_does_not_go_back() -> None:
    writes = (op("set", 1, 0, 1), op("set", 2, 2, 20, 1))
    assert is_linearizable(*writes, op("get", None, 3, 4, 1), op("get", None, 5, 6, 2))
    assert not is_linearizable(*writes, op("get", None, 3, 4, 2), op("get", None, 5, 6, 1))


def test_a_lost_update() -> None:
    assert is_linearizable(add(1, 0, 10, (None, {"n": 1})), add(1, 0, 10, ({"n": 1}, {"n": 2})), op("get", None, 11, 12, {"n": 2}))
    assert not is_linearizable(add(1, 0, 10, (None, {"n": 1})), add(1, 0, 10, (None, {"n": 1})))
    assert not is_linearizable(add(1, 0, 10, (None, {"n": 1})), op("get", None, 11, 12))


def test_a_write_that_is_applied_twice() -> None:
    assert not is_linearizable(add(1, 0, 10, (None, {"n": 1})), op("get", None, 11, 12, {"n": 2}))
    assert not is_linearizable(add(1, 0, None), op("get", None, 11, 12, {"n": 2}))
    assert is_linearizable(add(1, 0, None), add(1, 1, None), op("get", None, 11, 12, {"n": 2}))


@pytest.mark.parametrize("seen", [None, {"n": 1}])
def test_an_open_operation_takes_effect_or_does_not(seen: Any) -> None:
    assert is_linearizable(add(1, 0, None), op("get", None, 5, 6, seen))


def test_an_open_operation_takes_effect_at_any_time_after_its_call_once() -> None:
    late = (op("set", 2, 0, None), op("set", 1, 5, 6), op("get", None, 7, 8, 1), op("get", None, 9, 10, 2))
    assert is_linearizable(*late)
    assert not is_linearizable(*late, op("set", 3, 11, 12, 2), op("get", None, 13, 14, 2))
    assert not is_linearizable(op("get", None, 0, 1, 2), op("set", 2, 5, None)), "not before its call"


def test_a_straggler_of_a_write_that_was_refused() -> None:
    """What was refused is not in the history, so nothing explains its value."""
    assert not is_linearizable(op("set", 1, 0, 1), op("get", None, 2, 3, 1), op("get", None, 4, 5, 9))


def test_a_write_that_comes_after_its_answer() -> None:
    assert not is_linearizable(op("set", 1, 0, 1), op("set", 2, 2, 3, 1), op("get", None, 4, 5, 1), op("get", None, 6, 7, 2))


def test_a_write_whose_answer_does_not_tell_what_it_replaced_was_made_before_it() -> None:
    assert is_linearizable(op("set", 1, 0, 10, UNTOLD), op("get", None, 11, 12, 1))
    assert not is_linearizable(op("set", 1, 0, 10, UNTOLD), op("get", None, 11, 12))


def test_a_chain_of_open_operations_explains_a_value() -> None:
    opened = [op("update", [{"type": "append", "path": ["log"], "value": [mark]}], 0, None) for mark in "abcde"]
    seen = {"log": [[mark] for mark in "dbe"]}
    assert is_linearizable(*opened, op("get", None, 5, 6, seen))
    assert not is_linearizable(*opened, op("get", None, 5, 6, {"log": [["d"], ["b"], ["d"]]}))


def test_a_violation_names_the_operation_and_what_could_be_reached() -> None:
    found = check([op("set", 1, 0, 1), op("get", None, 2, 3, 2)])
    assert isinstance(found, Violation)
    assert found.operation.kind == "get"
    assert found.states == ["1"]
    assert [each.kind for each in found.explained] == ["set"]
    assert "get  -> 2 [2, 3]" in str(found)


# -- conditions and transactions ---------------------------------------------------------------------------------------


CREATE: dict[str, Any] = {"value": {"w": "a"}, "if": [{"absent": True}]}
UNMET = {"unmet": 0, "step": None}


def test_a_condition_is_judged_on_what_is_there_at_its_moment() -> None:
    made = op("change", CREATE, 0, 10, (None, {"w": "a"}))
    assert is_linearizable(made, op("change", CREATE, 0, 10, UNMET))
    assert not is_linearizable(made, op("change", CREATE, 0, 10, (None, {"w": "a"}))), "both created it"
    assert not is_linearizable(op("change", CREATE, 0, 10, UNMET)), "there was nothing"
    assert not is_linearizable(op("set", 1, 0, 1), op("change", CREATE, 2, 3, (1, {"w": "a"}))), "a stale value"


def test_a_refusal_tells_what_was_there_and_changes_nothing() -> None:
    telling = {**CREATE, "if_failed": True}
    refused = op("change", telling, 2, 3, {**UNMET, "value": 1})
    assert is_linearizable(op("set", 1, 0, 1), refused, op("get", None, 4, 5, 1))
    assert not is_linearizable(op("set", 2, 0, 1), refused)
    assert not is_linearizable(op("set", 1, 0, 1), refused, op("get", None, 4, 5, {"w": "a"})), "applied after all"


def test_an_open_change_takes_effect_only_where_its_condition_holds() -> None:
    opened = op("change", CREATE, 0, None)
    assert is_linearizable(opened, op("get", None, 5, 6, {"w": "a"}))
    assert is_linearizable(op("set", 1, 0, 1), opened, op("delete", None, 5, 6, 1), op("get", None, 7, 8, {"w": "a"}))
    assert not is_linearizable(op("set", 1, 0, 1), opened, op("get", None, 2, 3, 1), op("get", None, 4, 5, {"w": "a"}))


OTHER = ("s", "other")


def both(invoked: int, returned: int | None, response: Any = None, **more: Any) -> Operation:
    steps = [{"key": "k", "value": 1}, {"key": "other", "value": 2, **more}]
    return op("transact", {"steps": steps, "if_failed": False}, invoked, returned, response)


def of_other(kind: str, argument: Any, invoked: int, returned: int | None, response: Any = None) -> Operation:
    return replace(op(kind, argument, invoked, returned, response), place=OTHER)


def test_a_transaction_changes_all_at_one_moment_or_nothing() -> None:
    made = both(0, 10, [(None, 1), (None, 2)])
    seen = (op("get", None, 3, 4, 1), of_other("get", None, 5, 6, 2))
    assert is_linearizable(made, *seen)
    assert not is_linearizable(made, seen[0], of_other("get", None, 5, 6)), "half of it"
    assert not is_linearizable(both(0, None), op("get", None, 3, 4, 1), of_other("get", None, 5, 6)), "half of an open one"
    refused = both(2, 3, {"unmet": 0, "step": 1}, **{"if": [{"absent": True}]})
    assert is_linearizable(of_other("set", 7, 0, 1), refused, op("get", None, 4, 5))
    assert not is_linearizable(of_other("set", 7, 0, 1), refused, op("get", None, 4, 5, 1)), "refused, and half applied"


def test_an_open_write_of_one_key_stays_before_one_of_another() -> None:
    """Of one key it could be left out there, since nobody would see it."""
    opened = (op("set", 1, 0, None), of_other("set", 2, 0, None), both(90, None))
    assert is_linearizable(*opened, op("get", None, 5, 6, 1), of_other("get", None, 7, 8, 2))
    assert is_linearizable(*opened, of_other("get", None, 5, 6, 2), op("get", None, 7, 8, 1))


# -- listings ----------------------------------------------------------------------------------------------------------


def listed(*keys: str, invoked: int, returned: int) -> Listing:
    return Listing("s", keys, invoked, returned)


def with_listing(listing: Listing, *operations: Operation) -> tuple[bool, list[str]]:
    histories, problems = by_place(operations, [listing], [PLACE, ("s", "other"), ("t", "k")])
    return all(not isinstance(check(history), Violation) for history in histories.values()), problems


def test_a_listing_has_what_was_there_throughout_and_nothing_that_was_not() -> None:
    there = op("set", 1, 0, 1)
    assert with_listing(listed("k", invoked=2, returned=3), there) == (True, [])
    assert with_listing(listed(invoked=2, returned=3), there) == (False, [])
    assert with_listing(listed("k", invoked=4, returned=5), there, op("delete", None, 2, 3, 1)) == (False, [])
    assert with_listing(listed("k", "other", invoked=2, returned=3), there) == (False, []), "nobody ever wrote it"


@pytest.mark.parametrize("keys", [("k",), ()])
def test_what_comes_or_goes_during_a_listing_may_be_in_it(keys: tuple[str, ...]) -> None:
    listing = listed(*keys, invoked=2, returned=9)
    assert with_listing(listing, op("set", 1, 0, 1), op("delete", None, 4, 5, 1)) == (True, [])
    assert with_listing(listing, op("set", 1, 4, 5)) == (True, [])
    assert with_listing(listing, op("set", 1, 0, None)) == (True, [])


def test_a_listing_with_a_key_twice_or_a_strange_one_is_wrong_in_itself() -> None:
    _, problems = with_listing(listed("k", "k", invoked=2, returned=3), op("set", 1, 0, 1))
    assert "twice" in problems[0]
    _, problems = with_listing(listed("k", "odd", invoked=2, returned=3), op("set", 1, 0, 1))
    assert "nobody wrote" in problems[0]


# -- against trying every order ----------------------------------------------------------------------------------------


def precedes(one: Operation, other: Operation) -> bool:
    return one.returned is not None and one.returned < other.invoked


def explains(order: Sequence[Operation]) -> bool:
    """Whether an order keeps to the times, and gives the answers that were given."""
    if any(precedes(later, earlier) for earlier, later in combinations(order, 2)):
        return False
    state: str | None = None
    for each in order:
        state, response = carried_out(each.kind, each.argument, state)
        told = each.returned is not None and each.response is not UNTOLD
        if told and canonical(response) != canonical(each.response):
            return False
    return True


def by_brute_force(operations: Iterable[Operation]) -> bool:
    answered = [each for each in operations if each.returned is not None]
    opened = [each for each in operations if each.returned is None]
    return any(
        explains(order)
        for count in range(len(opened) + 1)
        for chosen in combinations(opened, count)
        for order in permutations([*answered, *chosen])
    )


def argument_of(kind: str, chance: random.Random, mark: str) -> Any:
    if kind == "set":
        return {"n": 0, "w": mark}
    if kind != "update":
        return None
    return chance.choice(
        [
            [{"type": "increment", "path": "n", "by": 1}],
            [{"type": "append", "path": ["log"], "value": [mark]}],
            [{"type": "increment", "path": "n", "by": 1}, {"type": "set", "path": "w", "value": mark}],
        ]
    )


def real_run(chance: random.Random, count: int, reach: int, *, opens: float = 0.25, marks: int = 10**9) -> list[Operation]:
    """A history that is linearizable because it was made one operation after the other, at ever later moments; calls and answers
    lie up to `reach` moments around. An open one has been made or not. There are no more than so many `marks`."""
    state: str | None = None
    made = []
    for moment in range(count):
        kind = chance.choice(["get", "set", "update", "update", "delete", "present"])
        mark = f"m{moment % marks}"
        argument = argument_of(kind, chance, mark)
        is_open = chance.random() < opens
        response: Any = None
        if not is_open or chance.random() < 0.5:
            state, response = carried_out(kind, argument, state)
        invoked, returned = moment * 10 - chance.randrange(reach), moment * 10 + chance.randrange(reach)
        shown = "" if marks < count else mark
        if is_open:
            made.append(op(kind, argument, invoked, None, mark=shown))
        else:
            untold = kind in ("set", "update", "delete") and chance.random() < 0.05
            made.append(op(kind, argument, invoked, returned, UNTOLD if untold else response, shown))
    chance.shuffle(made)
    return made


def spoilt(chance: random.Random, history: list[Operation]) -> list[Operation]:
    """The same with one answer, or one time, that is another."""
    answered = [each for each in history if each.returned is not None]
    if len(answered) < 2:
        return history
    one, other = chance.sample(answered, 2)
    match chance.randrange(4):
        case 0:
            changed = replace(one, response=other.response) if one.kind == other.kind else replace(one, invoked=one.invoked - 25)
        case 1:
            changed = replace(one, invoked=other.invoked, returned=other.returned)
        case 2:
            changed = replace(one, invoked=(one.returned or 0) + 10, returned=(one.returned or 0) + 12)
        case _:
            return [each for each in history if each is not one]
    return [changed if each is one else each for each in history]


SEEDS = st.integers(0, 2**32)


@given(seed=SEEDS, count=st.integers(1, 40), reach=st.sampled_from([1, 15, 60]))
@settings(max_examples=400, deadline=None)
def test_what_was_made_one_after_the_other_is_linearizable_however_calls_overlap(seed: int, count: int, reach: int) -> None:
    history = real_run(random.Random(seed), count, reach)
    order = check(history)
    assert not isinstance(order, Violation), str(order)
    assert explains(order)
    assert sorted(each.invoked for each in order if each.returned is not None) == sorted(
        each.invoked for each in history if each.returned is not None
    )


@given(seed=SEEDS, count=st.integers(1, 6), reach=st.sampled_from([1, 15, 40]), marks=st.sampled_from([1, 10]))
@settings(max_examples=800, deadline=None)
def test_the_checker_and_trying_every_order_agree(seed: int, count: int, reach: int, marks: int) -> None:
    chance = random.Random(seed)
    history = spoilt(chance, real_run(chance, count, reach, marks=marks))
    found = check(history)
    assert (not isinstance(found, Violation)) == by_brute_force(history), "\n".join(map(str, history))


def test_spoiling_makes_both_kinds() -> None:
    """The test above would say nothing if all that it makes were alike."""
    found = []
    for seed in range(200):
        chance = random.Random(seed)
        found.append(isinstance(check(spoilt(chance, real_run(chance, 6, 15))), Violation))
    assert 40 < sum(found) < 160


# -- length ------------------------------------------------------------------------------------------------------------


def test_a_long_history_with_many_open_operations_is_decided() -> None:
    """Each of eight open increments and eight open appends may have been made or not at any point of the rest: told apart, that
    would be 2^16 possibilities at each of the answers."""
    chance = random.Random(5)
    history = real_run(chance, 200, 45, opens=0)
    for at in range(8):
        history.append(op("update", argument_of("update", random.Random(0), f"lost {at}"), at * 150, None, mark=f"lost {at}"))
        history.append(add(1, at * 150 + 5, None))
    assert not isinstance(check(history), Violation)
    reads = sorted((each for each in history if each.kind == "get" and each.returned is not None), key=lambda each: each.invoked)
    wrong = reads[len(reads) // 2]
    assert isinstance(check([replace(each, response={"w": "?"}) if each is wrong else each for each in history]), Violation)


def test_a_search_that_would_not_end_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.linearizability.checker.MAX_CONFIGURATIONS", 10)
    with pytest.raises(Undecided, match="10 tried"):
        check([op("get", None, 0, 9)] * 4 + [op("set", at, 0, None) for at in range(20)] + [op("get", None, 20, 30, 99)])


def test_marks_that_nobody_has_seen_are_one() -> None:
    seen, unseen = (op("set", {"w": mark}, 0, None, mark=mark) for mark in ("a", "b"))
    history = [seen, unseen, op("get", None, 5, 6, {"w": "a"})]
    assert [each.argument for each in unseen_marks_as_one(history)] == [{"w": "a"}, {"w": "?"}, None]
