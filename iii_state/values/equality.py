"""What lies at a place of a stored value, whether two JSON texts are equal, and which of two numbers is larger.

Texts are in normal form, framed or not; `lua/lib/values/place.lua` and `equal.lua` say the same of each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from iii_state import values

_BRACE = 0x7B

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def place(stored: bytes | None, names: Sequence[str], line: bytes) -> bytes | None:
    """The text at the end of a path of names (the root for none) in a stored text; None where nothing is there.

    `line` is how the line of the first name begins in a framed object. A level that is missing or no object has nothing below it.
    """
    if stored is None or not names:
        return stored
    if stored[0] != _BRACE:
        return None
    found = values.top_member(stored, line)
    for name in names[1:]:
        if found is None or found[0] != _BRACE:
            return None
        member = _members.decode(found).get(name)
        found = None if member is None else bytes(member)
    return found


def equal(left: bytes, right: bytes) -> bool:
    """Whether two texts are the same JSON value: members in any order, of one name the last; numbers as `compared`."""
    if left == right:
        return True
    kind = values.type_name(left)
    if kind != values.type_name(right) or kind in ("string", "boolean", "null"):
        return False
    if kind == "number":
        return compared(left, right) == 0
    one, other = values.decode(left), values.decode(right)
    try:
        return _same(one, other)
    except RecursionError:
        with values.deeper_stack(), values.deeper_stack():
            return _same(one, other)


def compared(left: bytes, right: bytes) -> int:
    """-1, 0 or 1, as the first of two numbers is smaller, equal or larger: integers by their exact values, of any size; with a
    float on either side as 64-bit floats."""
    if left.isdigit() and right.isdigit():
        one: int | float = int(left)
        other: int | float = int(right)
    else:
        one, other = values.decode(left), values.decode(right)
        if isinstance(one, float) or isinstance(other, float):
            one, other = float(one), float(other)
    return (one > other) - (one < other)


def _same(left: Any, right: Any) -> bool:
    """Whether two decoded values are: Python itself takes True for 1, and compares an integer with a float exactly."""
    kind = type(left)
    if kind is dict:
        return (
            type(right) is dict
            and len(left) == len(right)
            and all(name in right and _same(text, right[name]) for name, text in left.items())
        )
    if kind is list:
        return type(right) is list and len(left) == len(right) and all(map(_same, left, right))
    if kind is type(right):
        return bool(left == right)
    if {kind, type(right)} == {int, float}:
        return float(left) == float(right)
    return False
