"""The examples of the public docstrings, run as written over each adapter."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import doctest
import inspect
import io
from typing import Any

import pytest

import iii_state
from iii_state import (
    Engine,
    Event,
    Retry,
    SetResult,
    State,
    StateChange,
    StepResult,
    Stored,
    UpdateResult,
    Watch,
    conditions,
    ops,
    steps,
)

OBJECTS: list[Any] = [State, Watch, Event, SetResult, UpdateResult, StepResult, Stored, StateChange, Retry, ops, conditions, steps]
"""Whose docstrings, and those of their public functions and methods, have examples."""

WITHOUT = {"Watch.aclose"}
"""What the example of its class shows."""

_checker = doctest.OutputChecker()
_flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def documented() -> dict[str, str]:
    """The public docstrings, by the names of what they are about."""
    found = {}
    for about in OBJECTS:
        name = about.__name__.removeprefix("iii_state.state.")
        found[name] = inspect.getdoc(about) or ""
        for member_name, member in vars(about).items():
            is_own = inspect.isfunction(member) and member.__module__ in (about.__name__, getattr(about, "__module__", ""))
            if is_own and not member_name.startswith("_"):
                found[f"{name}.{member_name}"] = inspect.getdoc(member) or ""
    return found


DOCUMENTED = documented()


async def run(example: doctest.Example, namespace: dict[str, Any]) -> str:
    """What an example prints, run as at Python's own prompt, with `await` at the top."""
    printed = io.StringIO()
    code = compile(example.source, "<example>", "single", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    with contextlib.redirect_stdout(printed):
        outcome = eval(code, namespace)
        if inspect.isawaitable(outcome):
            async with asyncio.timeout(20):
                await outcome
    return printed.getvalue()


def test_everything_public_has_an_example() -> None:
    assert sorted(name for name, text in DOCUMENTED.items() if ">>> " not in text) == sorted(WITHOUT)


@pytest.mark.parametrize("name", [name for name in DOCUMENTED if name not in WITHOUT])
async def test_an_example_prints_what_it_says(name: str, embedded: Engine, state: State) -> None:
    namespace = {word: getattr(iii_state, word) for word in iii_state.__all__}
    namespace |= {"__name__": "__main__", "asyncio": asyncio, "engine": embedded, "state": state}
    examples = doctest.DocTestParser().get_examples(DOCUMENTED[name])
    for example in examples:
        printed = await run(example, namespace)
        assert _checker.check_output(example.want, printed, _flags), f"{example.source}printed\n{printed}instead of\n{example.want}"
