"""A handler that is counted: it does what it did, and every end of a call is counted as what it was."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from iii_state.errors import FunctionError
from iii_state.host import LOCAL, Caller
from iii_state.state.functions.counted import CALLS, DURATION, MOST_CODES, OPEN, CountedFunction
from iii_state.tasks.results import Result
from iii_state.values import Json


def counts(function: CountedFunction) -> dict[str, object]:
    return {figure.labels[2]: figure.value for figure in function.figures("f", "kv") if figure.family is CALLS}


async def test_calls_that_are_answered_later_are_open_until_then() -> None:
    answers: list[asyncio.Future[bytes | None]] = []

    def handler(data: Json, caller: Caller) -> Result[bytes | None]:
        answers.append(asyncio.get_running_loop().create_future())
        return answers[-1]

    function = CountedFunction(handler)
    futures = [function(b"", LOCAL) for _ in range(4)]
    assert futures == answers
    assert counts(function) == {"ok": 0}
    assert [figure.value for figure in function.figures("f", "kv") if figure.family is OPEN] == [4]
    answers[0].set_result(b"1")
    answers[1].set_exception(FunctionError("SOME_CODE", "no"))
    answers[2].set_exception(KeyError("x"))
    answers[3].cancel()
    await asyncio.sleep(0)
    assert counts(function) == {"ok": 1, "SOME_CODE": 1, "invocation_failed": 1, "cancelled": 1}
    assert function.open == 0


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
        function(b"", LOCAL)
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
            function(b"C%d" % number, LOCAL)
    counted = counts(function)
    assert counted.pop("ok") == 0
    assert counted.pop("other") == 7
    assert counted == {f"C{number}": 1 for number in range(MOST_CODES)}
