"""The conditions of a change as Python calls: each function returns one, as the JSON object that `if` of a request carries.

They are judged on what is stored, in the same atomic step as the change. Where one does not hold, nothing changes.

    >>> await state.set("shop", "tea", {"stock": 1})
    SetResult(old_value=None, new_value={'stock': 1})
    >>> in_stock = [conditions.gte("stock", 1)]
    >>> (await state.update("shop", "tea", [ops.decrement("stock")], only_if=in_stock)).new_value
    {'stock': 0}
    >>> try:
    ...     await state.update("shop", "tea", [ops.decrement("stock")], only_if=in_stock)
    ... except ConditionUnmet as unmet:
    ...     print(unmet.message, unmet.value)
    Condition 0 does not hold at path 'stock' of scope 'shop', key 'tea' {'stock': 0}

`path` is where in the value to look, as in `iii_state.ops`: a member's name, the names down to it, or None for the value itself.
A stored null is present. What is absent fulfils `absent` and `not_equals` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from iii_state.state.ops import OpPath

Condition: TypeAlias = Mapping[str, Any]
"""What the functions here return, or a dict that is written by hand."""

JsonType: TypeAlias = Literal["null", "boolean", "number", "string", "array", "object"]


def absent(path: OpPath = None) -> dict[str, Any]:
    """Nothing is there. So the first of several callers gets a place:

    >>> await state.set("leader", "printing", "a", only_if=[conditions.absent()])
    SetResult(old_value=None, new_value='a')
    >>> try:
    ...     await state.set("leader", "printing", "b", only_if=[conditions.absent()])
    ... except ConditionUnmet as unmet:
    ...     print("it is", unmet.value)
    it is a
    """
    return _condition(path, "absent", True)


def present(path: OpPath = None) -> dict[str, Any]:
    """Something is there, be it null.

    >>> conditions.present(["address", "city"])
    {'path': ['address', 'city'], 'present': True}
    """
    return _condition(path, "present", True)


def equals(path: OpPath, value: Any) -> dict[str, Any]:
    """What is there is equal to `value`, any JSON up to 64 KiB; integers exactly, and `1` equals `1.0`.

    >>> await state.set("flags", "beta", False)
    SetResult(old_value=None, new_value=False)
    >>> await state.set("flags", "beta", True, only_if=[conditions.equals(None, False)])
    SetResult(old_value=False, new_value=True)
    """
    return _condition(path, "equals", value)


def not_equals(path: OpPath, value: Any) -> dict[str, Any]:
    """What is there differs from `value`, or nothing is there.

    >>> conditions.not_equals("status", "paid")
    {'path': 'status', 'not_equals': 'paid'}
    """
    return _condition(path, "not_equals", value)


def type(path: OpPath, name: JsonType) -> dict[str, Any]:
    """What is there is of this JSON type.

    >>> conditions.type("items", "array")
    {'path': 'items', 'type': 'array'}
    """
    return _condition(path, "type", name)


def lt(path: OpPath, number: int | float) -> dict[str, Any]:
    """A number is there that is less than this one.

    >>> conditions.lt("attempts", 3)
    {'path': 'attempts', 'lt': 3}
    """
    return _condition(path, "lt", number)


def lte(path: OpPath, number: int | float) -> dict[str, Any]:
    """A number is there that is this one or less.

    >>> conditions.lte("attempts", 3)
    {'path': 'attempts', 'lte': 3}
    """
    return _condition(path, "lte", number)


def gt(path: OpPath, number: int | float) -> dict[str, Any]:
    """A number is there that is more than this one.

    >>> conditions.gt(None, 0.5)
    {'gt': 0.5}
    """
    return _condition(path, "gt", number)


def gte(path: OpPath, number: int | float) -> dict[str, Any]:
    """A number is there that is this one or more.

    >>> conditions.gte("stock", 1)
    {'path': 'stock', 'gte': 1}
    """
    return _condition(path, "gte", number)


def etag(of: str) -> dict[str, Any]:
    """The stored value has this etag, as `get(..., meta=True)` and results with `meta` have it: nobody has changed it since.

    >>> await state.set("pages", "home", {"title": "Home"})
    SetResult(old_value=None, new_value={'title': 'Home'})
    >>> page = await state.get("pages", "home", meta=True)
    >>> page.value["title"] = "Welcome"
    >>> await state.set("pages", "home", page.value, only_if=[conditions.etag(page.etag)])
    SetResult(old_value={'title': 'Home'}, new_value={'title': 'Welcome'})
    """
    return {"etag": of}


def revision(number: int) -> dict[str, Any]:
    """The stored value has this revision, where its scope has a change log: unlike an etag it also tells a value that came back.

    >>> await state.set("ledger", "l1", 1)
    SetResult(old_value=None, new_value=1)
    >>> entry = await state.get("ledger", "l1", meta=True)
    >>> await state.set("ledger", "l1", 2, only_if=[conditions.revision(entry.revision)])
    SetResult(old_value=1, new_value=2)
    """
    return {"revision": number}


def _condition(path: OpPath, test: str, value: Any) -> dict[str, Any]:
    return {test: value} if path is None else {"path": path, test: value}
