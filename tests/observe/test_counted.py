"""A handler that is counted: it does what it did, and every end of a call is counted as what it was."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable

import pytest

from iii_state.errors import FunctionError
from iii_state.host import LOCAL, Caller
from iii_state.state.functions.counted import CALLS, DURATION, FIRST_LOOK, LARGE_BYTES, MOST_CODES, OPEN, CountedFunction
from iii_state.tasks.results import Result
from iii_state.values import Json
from tests.support.waiting import until


def counts(function: CountedFunction) -> dict[str, object]:
    return {figure.labels[2]: figure.value for figure in function.figures("f", "kv") if figure.family is CALLS}


async def test_calls_that_are_answered_later_are_open_until_then() -> None:
    answers: list[asyncio.Future[bytes | None]] = []

    def handler(data: Json, caller: Caller) -> Result[bytes | None]:
        answers.append(asyncio.get_running_loop().create_future())
        return answers[-1]

    function = CountedFunction(handler)
    futures = [function.call(b"", LOCAL) for _ in range(4)]
    assert futures == answers
    assert counts(function) == {"ok": 0}
    assert [figure.value for figure in function.figures("f", "kv") if figure.family is OPEN] == [4]
    answers[0].set_result(b"1")
    answers[1].set_exception(FunctionError("SOME_CODE", "no"))
    answers[2].set_exception(KeyError("x"))
    answers[3].cancel()
    await asyncio.sleep(0)
    assert counts(function) == {"ok": 1, "SOME_CODE": 1, "invocation_failed": 1, "cancelled": 1}
    assert [figure.value for figure in function.figures("f", "kv") if figure.family is OPEN] == [0]


@pytest.mark.parametrize("answers_later", [False, True])
async def test_one_call_in_sixteen_is_timed(answers_later: bool) -> None:
    def handler(data: Json, caller: Caller) -> Result[bytes | None]:
        if not answers_later:
            return b"1"
        answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        answer.set_result(b"1")
        return answer

    function = CountedFunction(handler)
    for _ in range(16 * 5 + 15):
        function.call(b"", LOCAL)
    await asyncio.sleep(0)
    (durations,) = [figure.value for figure in function.figures("f", "kv") if figure.family is DURATION]
    assert durations is function.durations
    assert sum(function.durations.buckets) == 5
    assert counts(function) == {"ok": 95}


async def test_errors_are_raised_as_they_were_and_their_codes_are_bounded() -> None:
    def failing(code: str) -> Callable[[Json, Caller], Result[bytes | None]]:
        def handler(data: Json, caller: Caller) -> Result[bytes | None]:
            raise FunctionError(bytes(data).decode(), "no")

        return handler

    function = CountedFunction(failing(""))
    for number in range(MOST_CODES + 7):
        with pytest.raises(FunctionError, match=f"C{number}: no"):
            function.call(b"C%d" % number, LOCAL)
    counted = counts(function)
    assert counted.pop("ok") == 0
    assert counted.pop("other") == 7
    assert counted == {f"C{number}": 1 for number in range(MOST_CODES)}


async def test_an_answer_is_held_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iii_state.state.functions.counted.LOOK_SECONDS", 0.01)
    made: list[weakref.ref[asyncio.Future[bytes | None]]] = []

    def handler(data: Json, caller: Caller) -> Result[bytes | None]:
        answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        made.append(weakref.ref(answer))
        answer.set_result(b"1")
        return answer

    function = CountedFunction(handler)
    function.call(b"", LOCAL)
    assert made[0]() is not None
    await until(lambda: made[0]() is None)
    for _ in range(10_000):
        function.call(b"", LOCAL)
    assert sum(ref() is not None for ref in made) <= FIRST_LOOK + 10_000 // 16, (
        "but for those that are timed, whose turn has not come"
    )
    await until(lambda: not any(ref() for ref in made))
    assert counts(function) == {"ok": 10_001}


async def test_large_answers_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    def handler(data: Json, caller: Caller) -> Result[bytes | None]:
        answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        answer.set_result(bytes(LARGE_BYTES + 1))
        return answer

    function = CountedFunction(handler)
    for _ in range(FIRST_LOOK + 1):
        function.call(b"", LOCAL)
    await asyncio.sleep(0)
    for _ in range(20):
        answer = function.call(b"", LOCAL)
        assert isinstance(answer, asyncio.Future)
        reference = weakref.ref(answer)
        del answer
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert reference() is None
    assert counts(function) == {"ok": FIRST_LOOK + 21}


async def test_many_open_calls_are_not_looked_at_again_and_again() -> None:
    looked = 0

    class Answer(asyncio.Future[bytes | None]):
        def done(self) -> bool:
            nonlocal looked
            looked += 1
            return super().done()

    function = CountedFunction(lambda data, caller: Answer())
    for _ in range(10_000):
        function.call(b"", LOCAL)
    assert looked < 10_000
    assert [figure.value for figure in function.figures("f", "kv") if figure.family is OPEN] == [10_000]
