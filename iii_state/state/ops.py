"""The ops of `state::update` as Python calls: each function returns one op, as the JSON object that a request carries.

`path` is where in the value an op works. A string is the name of one member, taken literally: `"user.name"` is the member called
`user.name`. A list of names goes down one level each. None, `""` or `[]` is the value itself.

    >>> await state.update("shop", "o1", [ops.set("status", "new"), ops.increment("n"), ops.append(["lines", "books"], "Emma")])
    UpdateResult(old_value=None, new_value={'status': 'new', 'n': 1, 'lines': {'books': ['Emma']}}, errors=[])

They are plain dicts, so that they can be printed, compared, and sent with an SDK as well:

    >>> ops.increment("n", 2)
    {'type': 'increment', 'path': 'n', 'by': 2}
    >>> payload = {"scope": "shop", "key": "o2", "ops": [ops.increment("n")]}
    >>> await engine.trigger({"function_id": "state::update", "payload": payload})
    {'old_value': None, 'new_value': {'n': 1}}

An op that cannot be applied to the value that is stored is skipped, and reported in `UpdateResult.errors`; the others still count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

OpPath: TypeAlias = str | Sequence[str] | None
"""A member's name, the names down to it, or nothing for the value itself."""


def set(path: OpPath, value: Any) -> dict[str, Any]:
    """Replace a member, or the whole value, by `value`, any JSON. Levels on the way that are missing or no object become objects.

    >>> await state.update("docs", "set", [ops.set(None, {"a": 1}), ops.set(["b", "c"], [2])])
    UpdateResult(old_value=None, new_value={'a': 1, 'b': {'c': [2]}}, errors=[])
    """
    return {"type": "set", "path": path, "value": value}


def merge(path: OpPath, value: Mapping[str, Any]) -> dict[str, Any]:
    """Put the members of `value` into an object, in place of those of the same names; the others stay. It is shallow.

    >>> await state.update("docs", "merge", [ops.merge(None, {"a": 1, "b": {"x": 1}}), ops.merge(None, {"b": {"y": 2}})])
    UpdateResult(old_value=None, new_value={'a': 1, 'b': {'y': 2}}, errors=[])
    """
    return {"type": "merge", "path": path, "value": value}


def increment(path: OpPath = None, by: int | float = 1) -> dict[str, Any]:
    """Add `by` to a number; one that is missing becomes `by`. Integers stay exact, up to 64 bits.

    >>> await state.update("docs", "increment", [ops.increment("n"), ops.increment("n", 2**60)])
    UpdateResult(old_value=None, new_value={'n': 1152921504606846977}, errors=[])
    """
    return {"type": "increment", "path": path, "by": by}


def decrement(path: OpPath = None, by: int | float = 1) -> dict[str, Any]:
    """Take `by` from a number; one that is missing becomes `-by`.

    >>> await state.update("docs", "decrement", [ops.decrement("n"), ops.decrement("n", 0.5)])
    UpdateResult(old_value=None, new_value={'n': -1.5}, errors=[])
    """
    return {"type": "decrement", "path": path, "by": by}


def append(path: OpPath, value: Any) -> dict[str, Any]:
    """Add `value` to an array as one element, or a string to a string.

    What is missing or null becomes `[value]`, except a string: of that it becomes the string itself, to be appended to as a text.
    (Only at the end of a path of two names or more a missing member becomes `[value]` always.) So a list of strings begins as
    one: set it to `[]` when the value is made.

    >>> await state.set("docs", "append", {"items": []})
    SetResult(old_value=None, new_value={'items': []})
    >>> result = await state.update("docs", "append", [ops.append("items", "book"), ops.append("log", "a"), ops.append("log", "b")])
    >>> result.new_value
    {'items': ['book'], 'log': 'ab'}
    """
    return {"type": "append", "path": path, "value": value}


def remove(path: OpPath = None) -> dict[str, Any]:
    """Drop a member; one that is missing is no error. Without a path the value becomes null.

    >>> await state.update("docs", "remove", [ops.set(None, {"a": 1, "b": 2}), ops.remove("a")])
    UpdateResult(old_value=None, new_value={'b': 2}, errors=[])
    """
    return {"type": "remove", "path": path}
