"""A plain, obviously right model of update ops on Python objects, and of a store with deadlines: oracles of the property tests.

Floats and integers are kept apart as Python does; members keep their order. It knows nothing of text.
"""

from __future__ import annotations

import copy
import math
from typing import Any

ABSENT = object()
FORBIDDEN = {"__proto__", "constructor", "prototype"}


class Skipped(Exception):
    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message


def kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    names: dict[type, str] = {str: "string", list: "array", dict: "object"}
    return names[type(value)]


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


def update(old: Any, ops: list[dict[str, Any]]) -> tuple[Any, list[dict[str, Any]]]:
    """The new value (`old` is ABSENT for a missing key) and the errors."""
    box = {"root": {} if old is ABSENT else copy.deepcopy(old)}
    absent = old is ABSENT
    errors = []
    for index, op in enumerate(ops):
        saved = copy.deepcopy(box["root"])
        try:
            one(box, op, absent)
            absent = False
        except Skipped as skipped:
            box["root"] = saved
            errors.append({"op_index": index, "code": skipped.code, "message": skipped.message})
    return box["root"], errors


def one(box: dict[str, Any], op: dict[str, Any], absent: bool) -> None:
    word, path = op["type"], op.get("path")
    names = [] if not path else [path] if isinstance(path, str) else path
    shown = "root" if not path else path if isinstance(path, str) else f"[{', '.join(path)}]"
    check_path(word, names)
    if word == "merge":
        check_merge(op["value"])
    root = box["root"]
    if names and word != "merge" and not isinstance(root, dict):
        at = f"[{path}]" if word == "append" and isinstance(path, str) else shown
        raise Skipped(f"{word}.target_not_object", f"Cannot {word} at path '{at}': target is {kind(root)}, expected object.")
    if word == "merge" and not names and not isinstance(root, dict):
        raise Skipped("merge.target_not_object", f"Cannot merge at path 'root': target is {kind(root)}, expected object.")
    holder: Any = box
    last: str = "root"
    for name in names:
        level = holder.get(last, ABSENT)
        if not isinstance(level, dict):
            if word == "remove":
                return
            level = holder[last] = {}
        holder, last = level, name
    target = ABSENT if absent and not names else holder.get(last, ABSENT)
    if word == "set":
        holder[last] = copy.deepcopy(op.get("value"))
    elif word == "remove":
        if not names:
            box["root"] = None
        else:
            holder.pop(last, None)
    elif word == "merge":
        if not isinstance(target, dict):
            target = holder[last] = {}
        target.update(copy.deepcopy(op["value"]))
    elif word == "append":
        holder[last] = appended(target, op["value"], names)
    else:
        holder[last] = added(word, target, op["by"], shown)


def check_path(word: str, names: list[str]) -> None:
    if len(names) > 32:
        raise Skipped(f"{word}.path.too_deep", f"Path depth {len(names)} exceeds maximum of 32")
    for name in names:
        size = len(name.encode())
        if not size:
            raise Skipped(f"{word}.path.empty_segment", "Path contains an empty segment")
        if size > 256:
            raise Skipped(f"{word}.path.segment_too_long", f"Path segment of {size} bytes exceeds maximum of 256")
        if name in FORBIDDEN:
            raise Skipped(f"{word}.path.proto_polluted", f"Path segment '{name}' is not allowed (prototype pollution).")


def check_merge(value: Any) -> None:
    if not isinstance(value, dict):
        raise Skipped("merge.value.not_an_object", "Merge value must be a JSON object")
    if len(value) > 1024:
        message = f"Merge value has {len(value)} top-level keys, exceeds maximum of 1024"
        raise Skipped("merge.value.too_many_keys", message)
    for name in value:
        if name in FORBIDDEN:
            message = f'Merge value top-level key "{name}" is a prototype-pollution sink'
            raise Skipped("merge.value.proto_polluted", message)
    if depth(value) > 16:
        message = f"Merge value JSON nesting depth {depth(value)} exceeds maximum of 16"
        raise Skipped("merge.value.too_deep", message)


def appended(target: Any, value: Any, names: list[str]) -> Any:
    if target is ABSENT:
        return value if isinstance(value, str) and len(names) < 2 else [value]
    if target is None:
        return value if isinstance(value, str) else [value]
    if isinstance(target, list):
        return [*target, value]
    last = names[-1] if names else "root"
    if isinstance(target, str):
        if isinstance(value, str):
            return target + value
        raise Skipped("append.type_mismatch", f"Expected string append value at path '{last}', got {kind(value)}.")
    raise Skipped(
        "append.type_mismatch",
        f"Cannot append at path '{last}': target is {kind(target)}, expected array, string, null, or missing field.",
    )


def added(word: str, target: Any, by: Any, shown: str) -> Any:
    if target is not ABSENT and kind(target) != "number":
        raise Skipped(f"{word}.not_number", f"Expected number at path '{shown}', got {kind(target)}.")
    out_of_range = Skipped(f"{word}.not_number", f"Result at path '{shown}' is out of range.")
    signed = by if word == "increment" else -by
    operands = [signed] if target is ABSENT else [target, signed]
    if any(isinstance(number, int) and not -(2**63) <= number < 2**64 for number in operands):
        raise out_of_range
    total = signed if target is ABSENT else target + signed
    if isinstance(total, float) and not math.isfinite(total):
        raise out_of_range
    if isinstance(total, int) and not -(2**63) <= total < 2**64:
        raise out_of_range
    return total


Place = tuple[str, str]


class Store:
    """Values by scope and key, each with its deadline, and the events of each place. Time passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0
        self.values: dict[Place, tuple[Any, int | None]] = {}
        self.events: dict[Place, list[tuple[str, Any, Any]]] = {}

    def elapse(self, ms: int) -> None:
        self.now += ms
        for place, (_, deadline) in list(self.values.items()):
            if deadline is not None and deadline <= self.now:
                self.change(place, ABSENT, None)

    def get(self, place: Place) -> Any:
        return self.values.get(place, (ABSENT, None))[0]

    def change(self, place: Place, new: Any, deadline: int | None) -> Any:
        """The old value. ABSENT is none, before and after."""
        old = self.get(place)
        if new is ABSENT:
            self.values.pop(place, None)
        else:
            self.values[place] = (new, deadline)
        kind = "deleted" if new is ABSENT else "created" if old is ABSENT else "updated"
        self.events.setdefault(place, []).append((kind, old, new))
        return old

    def set(self, place: Place, value: Any, ttl_ms: int | None) -> Any:
        return self.change(place, value, None if ttl_ms is None else self.now + ttl_ms)

    def delete(self, place: Place) -> Any:
        return self.change(place, ABSENT, None)

    def update(self, place: Place, ops: list[dict[str, Any]], ttl_ms: int | None) -> tuple[Any, Any]:
        """The old value and the new one."""
        old, deadline = self.values.get(place, (ABSENT, None))
        new, _ = update(old, ops)
        return self.change(place, new, deadline if ttl_ms is None else self.now + ttl_ms), new
