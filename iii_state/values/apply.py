"""Applies a compiled plan to a stored text, by cutting and joining text: what the Lua script does, in Python, for kv."""

from __future__ import annotations

import math
from collections.abc import Callable

from iii_state import values
from iii_state.values import Json
from iii_state.values.ops import INTEGER_MAX, INTEGER_MIN, Failure, Op, OpError, Plan

EMPTY = b"{}"
MANY_MEMBERS = 8
"""From this many members on, a merge takes the object apart once instead of editing it member by member."""

_BRACE, _COMMA, _QUOTE, _BRACKET, _NEWLINE = b'{,"[\n'


class _Failed(Exception):
    def __init__(self, failure: Failure, target: bytes) -> None:
        super().__init__(failure)
        self.failure: Failure = failure
        self.found = values.type_name(target)


def apply(plan: Plan, old: bytes | None) -> tuple[bytes, list[OpError]]:
    """The stored text that `plan` makes of `old` (None for a missing key), and the errors of the ops that were skipped."""
    root = EMPTY if old is None else old
    absent = old is None
    failed: list[OpError] = []
    for op in plan.ops:
        try:
            root = _at_path(op, root) if op.names else _at_root(op, None if absent else root)
            absent = False
        except _Failed as failure:
            failed.append(plan.error(op, failure.failure, failure.found))
    return root, plan.all_errors(failed)


def _at_root(op: Op, root: bytes | None) -> bytes:
    if op.type == "merge":
        if root is None:
            root = EMPTY
        elif root[0] != _BRACE:
            raise _Failed("target_not_object", root)
        if len(op.members) >= MANY_MEMBERS:
            return values.frame_members(_merged(op, root))
        for name, text in op.members:
            root = _set_member(root, values.encode_string(name), text)
        return root
    return _EDITS[op.type](op, root) or b"null"


def _at_path(op: Op, root: bytes) -> bytes:
    if root[0] != _BRACE:
        if op.type != "merge":
            raise _Failed("target_not_object", root)
        root = EMPTY
    line = root.find(op.line)
    if line < 0:
        new = _below(op, None, 1)
        return root if new is None else _add_member(root, op.tokens[0], new)
    start = line + len(op.line)
    end = _value_end(root, start)
    new = _below(op, root[start:end], 1)
    if new is not None:
        return b"".join((root[:start], new, root[end:]))
    if root[end] == _COMMA:
        return root[: line + 1] + root[end + 2 :]
    if line == len(values.FRAME_START) - 1:
        return EMPTY
    return root[: line - 1] + root[end:]


def _value_end(root: bytes, start: int) -> int:
    """Where the value of a member of a framed object ends."""
    end = root.index(_NEWLINE, start)
    return end - 1 if root[end - 1] == _COMMA else end


def _set_member(root: bytes, token: bytes, value: bytes) -> bytes:
    head = b"\n%b:" % token
    line = root.find(head)
    if line < 0:
        return _add_member(root, token, value)
    start = line + len(head)
    return b"".join((root[:start], value, root[_value_end(root, start) :]))


def _add_member(root: bytes, token: bytes, value: bytes) -> bytes:
    if root == EMPTY:
        return b"{\t\n%b:%b\n}" % (token, value)
    return b"%b,\n%b:%b\n}" % (root[:-2], token, value)


def _below(op: Op, text: bytes | None, depth: int) -> bytes | None:
    """The new compact text of the value `depth` names down the path; None: nothing is to be there.

    Every object on the way is edited, so of its members of one name the last value stays, in the first position; a
    `remove` of what is not there edits nothing.
    """
    if depth == len(op.names):
        return _EDITS[op.type](op, text)
    if text is not None and text[0] == _BRACE:
        level: dict[str, Json] = dict(values.members(text))
    elif op.type == "remove":
        return text
    else:
        level = {}
    name = op.names[depth]
    found = level.get(name)
    target = None if found is None else bytes(found)
    new = _below(op, target, depth + 1) if target is not None or op.type != "remove" else None
    if new == target and op.type == "remove":
        return text
    if new is None:
        del level[name]
    else:
        level[name] = new
    return values.compact_members(level)


def _set(op: Op, target: bytes | None) -> bytes:
    return op.value


def _remove(op: Op, target: bytes | None) -> None:
    return None


def _merge(op: Op, target: bytes | None) -> bytes:
    return values.compact_members(_merged(op, target if target is not None and target[0] == _BRACE else EMPTY))


def _merged(op: Op, target: bytes) -> dict[str, Json]:
    return {**values.members(target), **dict(op.members)}


def _increment(op: Op, target: bytes | None) -> bytes:
    if target is None:
        return _sum(0, op.operand, b"0") if isinstance(op.operand, int) else op.value
    try:
        number: int | float = int(target)
    except ValueError:
        if values.type_name(target) != "number":
            raise _Failed("not_number", target) from None
        number = float(target)
    return _sum(number, op.operand, target)


def _sum(number: int | float, by: int | float, target: bytes) -> bytes:
    total = number + by
    if isinstance(total, int):
        if INTEGER_MIN <= total <= INTEGER_MAX and INTEGER_MIN <= number <= INTEGER_MAX and INTEGER_MIN <= by <= INTEGER_MAX:
            return b"%d" % total
    elif math.isfinite(total):
        whole = by if isinstance(number, float) else number
        if isinstance(whole, float) or INTEGER_MIN <= whole <= INTEGER_MAX:
            return values.encode_float(total)
    raise _Failed("out_of_range", target)


def _append(op: Op, target: bytes | None) -> bytes:
    value = op.value
    if target is None:
        return value if value[0] == _QUOTE and len(op.names) < 2 else b"[%b]" % value
    first = target[0]
    if first == _BRACKET:
        return b"[%b]" % value if target == b"[]" else b"%b,%b]" % (target[:-1], value)
    if target == b"null":
        return value if value[0] == _QUOTE else b"[%b]" % value
    if first != _QUOTE or value[0] != _QUOTE:
        raise _Failed("type_mismatch", target)
    return target[:-1] + value[1:]


_EDITS: dict[str, Callable[[Op, bytes | None], bytes | None]] = {
    "set": _set,
    "remove": _remove,
    "merge": _merge,
    "increment": _increment,
    "append": _append,
}
