"""Update ops: parsed, validated and compiled once, into the one form that every adapter applies.

What can be decided without the stored value is decided here: paths, limits, forbidden names, merge values. Ops that fail
already here become errors of the plan and are not applied; what depends on the stored value (types, ranges) is left to
those that apply the plan: `iii_state.values.apply` for kv, a Lua script for Redis. Both get the same `Plan`, and both name a failed
op by its index and a `Failure`, of which `Plan.error` makes the error that a caller sees.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Raw, UnsetType

from iii_state import values
from iii_state.errors import InvalidOp, InvalidValue
from iii_state.values import Json

MAX_SEGMENTS = 32
MAX_SEGMENT_BYTES = 256
MAX_MERGE_MEMBERS = 1024
MAX_MERGE_DEPTH = 16
MAX_ERROR_BYTES = 30 * 1024 * 1024
"""What the errors of an op list may take: its answer holds the old value and the new one, too, and has to fit into a frame."""
ERROR_BYTES = 200
"""An error as JSON, without the path that it names, at most."""
FORBIDDEN_NAMES = frozenset({"__proto__", "constructor", "prototype"})

INTEGER_MIN = -(2**63)
INTEGER_MAX = 2**64 - 1

OpType = Literal["set", "merge", "increment", "decrement", "append", "remove"]
Failure = Literal["target_not_object", "not_number", "out_of_range", "type_mismatch"]


class OpError(msgspec.Struct, frozen=True):
    """Why one op was skipped; `op_index` counts from 0. `doc_url` is there where a remote engine gives one."""

    op_index: int
    code: str
    message: str
    doc_url: str | UnsetType = UNSET


class OpRequest(msgspec.Struct):
    """One op as a caller writes it: `compile_text` decodes op lists into these, and `UpdateRequest` says what is wrong with one."""

    type: OpType
    path: str | list[str] | None = None
    value: Raw | UnsetType = UNSET
    by: int | float | UnsetType = UNSET


class Op(msgspec.Struct, frozen=True):
    """One compiled op.

    `names` are the member names down to the target, none for the root; `tokens` the same as JSON strings in normal form.
    `line` is how the line of the first of them begins in a framed object: LF, its token, a colon.
    `value` is compact JSON in normal form: what is set or appended (stored form for a `set` of the root), the signed
    operand of `increment` (`decrement` is compiled into it, with the sign changed), empty otherwise; `operand` is the same as a
    number.
    `members` are those of a `merge`: pairs of name and compact text, each name once.
    """

    index: int
    type: Literal["set", "merge", "increment", "append", "remove"]
    names: tuple[str, ...]
    tokens: tuple[bytes, ...]
    line: bytes
    value: bytes
    members: tuple[tuple[str, bytes], ...]
    operand: int | float
    requested: OpRequest


class Plan(NamedTuple):
    """A compiled op list: the ops to apply, in order, and the errors of those that could not be compiled, by op index.

    `text` is the op list as JSON text as its caller wrote it.
    """

    ops: tuple[Op, ...]
    errors: tuple[OpError, ...]
    text: bytes

    def error(self, op: Op, failure: Failure, found: str) -> OpError:
        """The error of an op that failed on the stored value; `found` is the JSON type that was in the way."""
        word = op.requested.type
        path = op.requested.path
        shown = shown_path(path)
        if failure == "target_not_object":
            if word == "append" and isinstance(path, str):
                shown = f"[{path}]"
            message = f"Cannot {word} at path '{shown}': target is {found}, expected object."
        elif failure == "not_number":
            message = f"Expected number at path '{shown}', got {found}."
        elif failure == "out_of_range":
            failure = "not_number"
            message = f"Result at path '{shown}' is out of range."
        else:
            last = op.names[-1] if op.names else "root"
            if found == "string":
                given = values.type_name(op.value)
                message = f"Expected string append value at path '{last}', got {given}."
            else:
                message = f"Cannot append at path '{last}': target is {found}, expected array, string, null, or missing field."
        return OpError(op.index, f"{word}.{failure}", message)

    def all_errors(self, failed: list[OpError]) -> list[OpError]:
        """The errors of a call: those found when compiling and those found when applying, in the order of the ops."""
        if not self.errors:
            return failed
        return sorted([*self.errors, *failed], key=lambda error: error.op_index)


def shown_path(path: str | list[str] | None) -> str:
    """A path as messages name it: `root`, the name, or `[a, b]`."""
    if not path:
        return "root"
    return path if isinstance(path, str) else f"[{', '.join(path)}]"


_requests = msgspec.json.Decoder(list[OpRequest])


class _Plans(dict[bytes, Plan]):
    """The text of an op list → its plan. Callers send the same few op lists again and again, so the last short ones are kept."""

    def __missing__(self, text: bytes) -> Plan:
        if len(self) >= 1024:
            self.clear()
        plan = _compile_all(_requests.decode(text), text)
        if len(text) <= 512:
            self[text] = plan
        return plan


_plans = _Plans()


def compile_text(text: Json) -> Plan:
    """The plan of an op list as JSON text.

    Raises `InvalidOp` for an op that makes the whole call invalid (a missing or unusable field), msgspec's errors for no op list.
    """
    return _plans[bytes(text)]


def _compile_all(requests: list[OpRequest], text: bytes) -> Plan:
    ops: list[Op] = []
    errors: list[OpError] = []
    _check_errors_size(len(requests) * ERROR_BYTES)
    for index, request in enumerate(requests):
        op = _compile(index, request)
        if isinstance(op, Op):
            ops.append(op)
        else:
            errors.append(op)
    if len(text) * 10 > MAX_ERROR_BYTES:
        _check_errors_size(len(requests) * ERROR_BYTES + sum(2 * len(op.tokens) + sum(map(len, op.tokens)) for op in ops))
    return Plan(tuple(ops), tuple(errors), text)


def _check_errors_size(size: int) -> None:
    """A change whose errors cannot be told must not be made. `size` is what they take at most."""
    if size > MAX_ERROR_BYTES:
        raise InvalidOp(
            f"ops: their errors can take {size} bytes, and an answer has room for {MAX_ERROR_BYTES}; send them in several calls"
        )


def _compile(index: int, request: OpRequest) -> Op | OpError:
    word = request.type
    names, tokens, line, fault = compiled_path(request.path)
    value = b""
    operand: int | float = 0
    if word == "increment" or word == "decrement":
        operand = _operand(index, request)
        value = values.encode_float(operand) if isinstance(operand, float) else b"%d" % operand
    elif word != "remove":
        value = _value(index, request)
    if fault is not None:
        return OpError(index, f"{word}.path.{fault[0]}", fault[1])
    members: tuple[tuple[str, bytes], ...] = ()
    if word == "merge":
        if not value.startswith(b"{"):
            return OpError(index, "merge.value.not_an_object", "Merge value must be a JSON object")
        given_members = values.members(value)
        fault = _merge_fault(given_members, value)
        if fault is not None:
            return OpError(index, f"merge.value.{fault[0]}", fault[1])
        members = tuple((name, bytes(text)) for name, text in given_members.items())
        value = b""
    elif value:
        _check_depth(index, request, value, len(names))
        if word == "set" and not names:
            value = values.frame(value)
    kind: Any = "increment" if word == "decrement" else word
    return Op(index, kind, names, tokens, line, value, members, operand, request)


def _value(index: int, request: OpRequest) -> bytes:
    """The value in normal form, of any depth: what an op has limits of its own for is judged by these."""
    given = request.value
    if isinstance(given, UnsetType):
        if request.type != "set":
            raise InvalidOp(f"ops[{index}]: missing field `value`")
        return b"null"
    try:
        return values.normalize_any_depth(given)
    except InvalidValue as error:
        raise InvalidOp(f"ops[{index}].value: {error}") from None


def _check_depth(index: int, request: OpRequest, value: bytes, levels: int) -> None:
    if request.type == "append":
        levels += 1
    if values.nesting_exceeds(value, values.MAX_DEPTH - levels):
        at = "at this path it would nest" if levels else "nesting"
        raise InvalidOp(f"ops[{index}].value: {at} deeper than {values.MAX_DEPTH} levels")


def _operand(index: int, request: OpRequest) -> int | float:
    by = request.by
    if isinstance(by, UnsetType):
        raise InvalidOp(f"ops[{index}]: missing field `by`")
    if request.type == "decrement":
        by = -by
    if isinstance(by, float) or INTEGER_MIN <= by <= INTEGER_MAX:
        return by
    return 10**20 if by > 0 else -(10**20)  # these fail all alike; a bounded text keeps the scripts' arithmetic simple


Fault = tuple[str, str]
"""The end of an error's code, and its message."""

Path = tuple[tuple[str, ...], tuple[bytes, ...], bytes, Fault | None]
"""Names, tokens, the beginning of the first one's line, and what is wrong with the path."""


class _NamePaths(dict[str, Path]):
    """A path of one name, compiled. Callers use few names, so the last ones are kept."""

    def __missing__(self, name: str) -> Path:
        if len(self) >= 4096:
            self.clear()
        token = values.encode_string(name)
        path = (name,), (token,), b"\n%b:" % token, _segment_fault(name)
        if len(name) <= MAX_SEGMENT_BYTES:
            self[name] = path
        return path


_name_paths = _NamePaths()


def compiled_path(given: str | list[str] | None) -> Path:
    """A path as its caller gives it, with what is wrong with it."""
    if not given:
        return (), (), b"", None
    if isinstance(given, str):
        return _name_paths[given]
    paths = [_name_paths[name] for name in given]
    if len(paths) > MAX_SEGMENTS:
        fault: Fault | None = ("too_deep", f"Path depth {len(paths)} exceeds maximum of {MAX_SEGMENTS}")
    else:
        fault = next((path[3] for path in paths if path[3] is not None), None)
    return tuple(given), tuple([path[1][0] for path in paths]), paths[0][2], fault


def _segment_fault(name: str) -> Fault | None:
    if not name:
        return "empty_segment", "Path contains an empty segment"
    size = len(name.encode())
    if size > MAX_SEGMENT_BYTES:
        return "segment_too_long", f"Path segment of {size} bytes exceeds maximum of {MAX_SEGMENT_BYTES}"
    if name in FORBIDDEN_NAMES:
        return "proto_polluted", f"Path segment '{name}' is not allowed (prototype pollution)."
    return None


def _merge_fault(members: dict[str, Raw], value: Json) -> Fault | None:
    if len(members) > MAX_MERGE_MEMBERS:
        return (
            "too_many_keys",
            f"Merge value has {len(members)} top-level keys, exceeds maximum of {MAX_MERGE_MEMBERS}",
        )
    for name in members:
        if name in FORBIDDEN_NAMES:
            return "proto_polluted", f'Merge value top-level key "{name}" is a prototype-pollution sink'
    if values.nesting_exceeds(bytes(value), MAX_MERGE_DEPTH):
        depth = values.nesting_depth(bytes(value))
        return "too_deep", f"Merge value JSON nesting depth {depth} exceeds maximum of {MAX_MERGE_DEPTH}"
    return None
