"""What Python callers and workers may get wrong, at the edges: an error with a code and true words, and nothing stored."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from iii_state import Engine, FunctionError, StateModule, values
from iii_state.errors import MAX_MESSAGE, InvalidValue, bounded
from iii_state.events import Failure
from iii_state.host import LOCAL


@dataclasses.dataclass
class Reading:
    degrees: float


class Row(msgspec.Struct):
    degrees: float


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with Engine() as running:
        await running.add_module(StateModule())
        yield running


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_no_json_are_refused_wherever_they_stand(number: float) -> None:
    for value in (Reading(number), Row(number), [{"a": Reading(number)}], {number: 1}, {"a": [{number: None}]}, {number}):
        with pytest.raises(InvalidValue, match=f"{number} is no JSON value"):
            values.encode(value)
    assert values.encode({"nan": None, "inf": Reading(1.5)}) == b'{"nan":null,"inf":{"degrees":1.5}}'


@pytest.mark.parametrize(
    "request_",
    [
        {"function_id": 5},
        {"function_id": None},
        {"function_id": []},
        {"function_id": "\ud800"},
        {},
        5,
        {"function_id": "state::get", "timeout_ms": "5"},
        {"function_id": "state::get", "timeout_ms": math.nan},
        {"function_id": "state::get", "timeout_ms": -1},
        {"function_id": "state::get", "action": 5},
        {"function_id": "state::get", "namespace": 5},
        {"function_id": "state::get", "metadata": math.nan},
        {"function_id": "state::get", "metadata": {"a": "\ud800"}},
        {"function_id": "state::get", "payload": {"scope": "\ud800"}},
    ],
    ids=str,
)
async def test_a_call_that_is_none_is_refused(engine: Engine, request_: Any) -> None:
    with pytest.raises(FunctionError) as refused:
        await engine.trigger(request_)
    assert refused.value.code == "deserialization_error"


@pytest.mark.parametrize(
    "wrong",
    [
        {"function_id": 5},
        {"type": None},
        {"id": 5},
        {"namespace": []},
        {"metadata": math.nan},
        {"metadata": "\ud800"},
        {"config": {"scope": "\ud800"}},
    ],
    ids=str,
)
async def test_a_trigger_that_is_none_is_refused(engine: Engine, wrong: dict[str, Any]) -> None:
    with pytest.raises(FunctionError) as refused:
        await engine.register_trigger({"type": "state", "function_id": "f", **wrong})
    assert refused.value.code == "trigger_registration_failed"
    assert list(engine.triggers) == []


def test_a_function_id_is_text() -> None:
    engine = Engine()
    for wrong in (5, None, "\ud800"):
        with pytest.raises(ValueError, match="strings of Unicode text"):
            engine.register_function(wrong, print)  # type: ignore[arg-type]


@pytest.mark.parametrize("frames", [0, 100, pytest.param(900, marks=pytest.mark.untraced)])
async def test_the_deepest_value_passes_however_deep_the_caller_stands(engine: Engine, frames: int) -> None:
    at = {"scope": "s", "key": "k"}

    async def deep(left: int) -> Any:
        if left:
            return await deep(left - 1)
        await engine.trigger({"function_id": "state::set", "payload": {**at, "value": nested(512)}})
        return await engine.trigger({"function_id": "state::get", "payload": at})

    assert values.nesting_depth(values.encode(await deep(frames))) == 512
    with pytest.raises(FunctionError, match="nesting deeper than 512 levels"):
        await engine.trigger({"function_id": "state::set", "payload": {**at, "value": nested(513)}})


async def test_a_size_that_nobody_has_configured_is_not_called_configured(engine: Engine) -> None:
    large = {"scope": "s", "key": "k", "value": "x" * 17_000_000}
    with pytest.raises(FunctionError, match="value of 17000002 bytes exceeds the limit of 16777216 bytes for any value"):
        await engine.trigger({"function_id": "state::set", "payload": large})


@pytest.mark.parametrize("text", [b'"\\ud800"', b'"\\udc00"', b'{"a":["\\ud800x"]}', b'"\\\\\\ud800"'])
async def test_half_a_surrogate_pair_is_called_that(engine: Engine, text: bytes) -> None:
    function = engine.functions.find("default", "state::set")
    assert function.handler is not None
    with pytest.raises(FunctionError, match="lone surrogate"):
        function.handler(b'{"scope":"s","key":"k","value":%b}' % text, LOCAL)
    assert values.fault(b'"abc', ValueError("truncated")) == "truncated"
    assert values.fault(b'"\\ud83d\\ude00', ValueError("truncated")) == "truncated"


async def test_texts_of_errors_are_bounded_and_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = {"name": "kv", "config": {"store_method": "file_based", "file_path": str(tmp_path)}}
    async with Engine() as engine:
        await engine.add_module(StateModule({"adapter": store, "dispatch": {"max_attempts": 1}}))

        def fail(event: Any) -> None:
            raise RuntimeError("boom " + "é" * 9 * 2**20)

        engine.register_function("fail", fail)
        await engine.register_trigger({"type": "state", "function_id": "fail"})
        with pytest.raises(FunctionError) as failed:
            await engine.trigger({"function_id": "fail"})
        for text, limit in (
            (failed.value.message, MAX_MESSAGE),
            (str(failed.value), MAX_MESSAGE),
            (failed.value.stacktrace, 16384),
        ):
            assert text is not None
            assert len(text) <= limit + 300
            assert "(cut: " in text
        for number in range(9):
            payload = {"scope": "s", "key": str(number), "value": 1}
            await engine.trigger({"function_id": "state::set", "payload": payload})
        async with asyncio.timeout(30):
            while (listed := await engine.trigger({"function_id": "iii-state::dead_list", "payload": {}}))["total"] < 9:
                await asyncio.sleep(0.02)
    errors = [row["error"] for row in listed["dead"]]
    assert all(error.startswith("invocation_failed: boom é") and error.count("(cut: 9437189 characters)") == 1 for error in errors)
    assert max(map(len, errors)) < MAX_MESSAGE + 300
    assert max(len(record.getMessage()) for record in caplog.records) < MAX_MESSAGE + 600


async def test_dead_letters_are_shown_as_far_as_they_fit_into_an_answer() -> None:
    async with Engine() as engine:
        await engine.add_module(StateModule({"dispatch": {"max_attempts": 1}}))

        def fail(event: Any) -> None:
            raise RuntimeError("boom")

        engine.register_function("fail", fail)
        await engine.register_trigger({"type": "state", "function_id": "fail"})
        for number in range(4):
            payload = {"scope": "s", "key": str(number), "value": "x" * 15_000_000}
            await engine.trigger({"function_id": "state::set", "payload": payload})
        async with asyncio.timeout(30):
            while (shown := await engine.trigger({"function_id": "iii-state::dead_show", "payload": {}}))["total"] < 4:
                await asyncio.sleep(0.02)
    assert [letter["key"] for letter in shown["dead"]] == ["0", "1"]


def test_what_was_cut_is_not_cut_again() -> None:
    text = bounded("x" * 10_000)
    assert text == f"{'x' * MAX_MESSAGE}… (cut: 10000 characters)"
    assert bounded(text) == text
    assert str(Failure("code", text)) == f"code: {text}"
    assert bounded("x" * MAX_MESSAGE) == "x" * MAX_MESSAGE
