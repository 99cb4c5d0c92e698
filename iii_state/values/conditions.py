"""Preconditions: the member `if` of a mutation, parsed and checked once, and judged on the stored value.

What this judges in Python, for kv, `lua/lib/values/judge.lua` judges in Redis, on the same stored texts and with the same result.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Raw, UnsetType

from iii_state import values
from iii_state.errors import ConditionFailed, InvalidValue
from iii_state.values import Json
from iii_state.values.equality import compared, equal, place
from iii_state.values.ops import compiled_path, shown_path
from iii_state.values.requests import describe, within

MAX_CONDITIONS = 32
MAX_EQUALS_BYTES = 64 * 1024
"""Of the compact text that `equals` and `not_equals` compare with."""
MAX_REVISION = 2**53
_MOST_ETAG_BYTES = 128

Type = Literal["null", "boolean", "number", "string", "array", "object"]
Test = Literal["equals", "not_equals", "absent", "present", "type", "lt", "lte", "gt", "gte", "etag", "revision"]


class ConditionRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A condition as its caller writes it: a path, and one of the others."""

    path: str | list[str] | None = None
    equals: Raw | UnsetType = UNSET
    not_equals: Raw | UnsetType = UNSET
    absent: bool | UnsetType = UNSET
    present: bool | UnsetType = UNSET
    type: Type | UnsetType = UNSET
    lt: Raw | UnsetType = UNSET
    lte: Raw | UnsetType = UNSET
    gt: Raw | UnsetType = UNSET
    gte: Raw | UnsetType = UNSET
    etag: str | UnsetType = UNSET
    revision: int | UnsetType = UNSET


TESTS: tuple[Test, ...] = (
    "equals",
    "not_equals",
    "absent",
    "present",
    "type",
    "lt",
    "lte",
    "gt",
    "gte",
    "etag",
    "revision",
)


class Condition(NamedTuple):
    """One compiled condition.

    `names`, `tokens` and `line` are those of its path, as of an `Op`. `value` is what the test compares with: JSON in normal
    form, of the root in stored form; a type's name, an etag, a revision; empty for the others. `shown` is the path as messages
    name it.
    """

    test: Test
    names: tuple[str, ...]
    tokens: tuple[bytes, ...]
    line: bytes
    value: bytes
    shown: str

    def holds(self, stored: bytes | None, revision: int | None = None) -> bool:
        """Whether it is true of a stored text (None for a missing key), which has this revision where there is a change log."""
        test = self.test
        found = place(stored, self.names, self.line)
        if found is None:
            return test == "absent" or test == "not_equals"
        value = self.value
        if test == "equals":
            return equal(found, value)
        if test == "not_equals":
            return not equal(found, value)
        if test == "present" or test == "absent":
            return test == "present"
        if test == "etag":
            return values.etag(found).encode() == value
        if test == "revision":
            return revision == int(value)
        kind = values.type_name(found)
        if test == "type":
            return kind.encode() == value
        return kind == "number" and compared(found, value) in _ORDERS[test]

    def canonical(self) -> bytes:
        """It as JSON text, the same for all that mean the same and are only written in another way."""
        test = self.test
        if test in ("absent", "present"):
            value = b"true"
        elif test in ("type", "etag"):
            value = values.encode_string(self.value.decode())
        else:
            value = values.unframe(self.value)
        path = b'"path":[%b],' % b",".join(self.tokens) if self.tokens else b""
        return b'{%b"%b":%b}' % (path, test.encode(), value)

    def words(self) -> tuple[bytes, ...]:
        """It as arguments of a script: test, number of names, the names, value."""
        if not self.names:
            return self.test.encode(), b"0", self.value
        return self.test.encode(), b"%d" % len(self.names), self.line, *self.tokens[1:], self.value


_ORDERS: dict[str, tuple[int, ...]] = {"lt": (-1,), "lte": (-1, 0), "gt": (1,), "gte": (0, 1)}


class Conditions:
    """What has to hold for a mutation to be made. `text` is the JSON array that it was parsed from."""

    __slots__ = ("_words", "all", "text")

    def __init__(self, conditions: tuple[Condition, ...], text: bytes) -> None:
        self.all = conditions
        self.text = text
        self._words: list[bytes] | None = None

    def failing(self, stored: bytes | None, revision: int | None = None) -> int | None:
        """The index of the first that does not hold for a stored text (None for a missing key); None where all do."""
        for index, condition in enumerate(self.all):
            if not condition.holds(stored, revision):
                return index
        return None

    def check(self, scope: str, key: str, stored: bytes | None, revision: int | None = None) -> None:
        """Raises `ConditionFailed` where one does not hold for the text that is stored at a place (None for nothing)."""
        index = self.failing(stored, revision)
        if index is not None:
            raise self.failure(index, scope, key, stored)

    def failure(
        self, index: int, scope: str, key: str, stored: bytes | None, *, step: int | None = None, is_recorded: bool = True
    ) -> ConditionFailed:
        """The error that says that the one of this index does not hold."""
        path = self.all[index].shown if index < len(self.all) else "root"  # made again with others: the id is another call's
        return ConditionFailed(index, path, (scope, key), stored, step=step, is_recorded=is_recorded)

    def arguments(self, judged: bytes | None = None) -> list[bytes]:
        """The group of arguments that begin a mutation's own: `if`, how many words follow, the words of each condition.

        With `judged`, a stored text, conditions on etags are told by it: for servers that cannot work an etag out.
        """
        if judged is not None:
            return _group([word for condition in self.all for word in _resolved(condition, judged)])
        if self._words is None:
            self._words = _group([word for condition in self.all for word in condition.words()])
        return self._words


def _group(words: list[bytes]) -> list[bytes]:
    return [b"if", b"%d" % len(words), *words]


def _resolved(condition: Condition, judged: bytes) -> tuple[bytes, ...]:
    if condition.test != "etag":
        return condition.words()
    return b"is" if condition.holds(judged) else b"is_not", b"0", judged


_requests = msgspec.json.Decoder(list[ConditionRequest])


class _Parsed(dict[bytes, Conditions]):
    """Text → conditions. Callers send the same few again and again, so the last short ones are kept."""

    def __missing__(self, text: bytes) -> Conditions:
        if len(self) >= 1024:
            self.clear()
        parsed = Conditions(_parse_all(text), text)
        if len(text) <= 256:
            self[text] = parsed
        return parsed


_parsed = _Parsed()


def parse(text: Json) -> Conditions:
    """The conditions in the member `if`, as JSON text whose syntax has been checked.

    Raises `InvalidValue` for what is none; its message names the condition and the field.
    """
    return _parsed[bytes(text)]


def _parse_all(text: bytes) -> tuple[Condition, ...]:
    try:
        requests = _requests.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise InvalidValue(_fault(text, error)) from None
    if not 1 <= len(requests) <= MAX_CONDITIONS:
        raise InvalidValue(f"if: invalid length: {len(requests)}, expected 1 to {MAX_CONDITIONS} conditions")
    return tuple([compile_condition(f"if[{index}]", request) for index, request in enumerate(requests)])


class _List(msgspec.Struct):
    conditions: list[ConditionRequest]


def _fault(text: bytes, error: Exception) -> str:
    told = describe(b'{"conditions":%b}' % text, _List, error)
    return f"if{told.removeprefix('conditions')}" if told.startswith("conditions") else f"if: {told}"


def compile_condition(where: str, request: ConditionRequest) -> Condition:
    """A condition, checked. Raises `InvalidValue`, whose message begins with `where`."""
    given = [test for test in TESTS if getattr(request, test) is not UNSET]
    if len(given) != 1:
        found = ", ".join(f"`{test}`" for test in given) or "none"
        raise InvalidValue(f"{where}: expected exactly one of {', '.join(f'`{test}`' for test in TESTS)}, found {found}")
    test = given[0]
    wanted: Any = getattr(request, test)
    if request.path and test in ("etag", "revision"):
        raise InvalidValue(f"{where}: `{test}` is of the whole value, and takes no `path`")
    names, tokens, line, fault = compiled_path(request.path)
    if fault is not None:
        raise InvalidValue(f"{where}.path: {fault[1]}")
    value = _compared_with(f"{where}.{test}", test, wanted)
    if not names and test in ("equals", "not_equals"):
        value = values.frame(value)
    return Condition(test, names, tokens, line, value, shown_path(request.path))


def _compared_with(where: str, test: Test, wanted: Any) -> bytes:
    if test == "absent" or test == "present":
        if wanted is not True:
            raise InvalidValue(f"{where}: invalid value: false, expected true")
        return b""
    if test == "type":
        return str(wanted).encode()
    if test == "etag":
        spelled = str(wanted).encode()
        if not 1 <= len(spelled) <= _MOST_ETAG_BYTES:
            raise InvalidValue(f"{where}: invalid length: {len(spelled)}, expected an etag, as `meta` tells it")
        return spelled
    if test == "revision":
        within(where, wanted, 1, MAX_REVISION)
        return b"%d" % wanted
    try:
        value = values.normalize(wanted)
    except InvalidValue as error:
        raise InvalidValue(f"{where}: {error}") from None
    if test in _ORDERS:
        if (kind := values.type_name(value)) != "number":
            raise InvalidValue(f"{where}: invalid type: {kind}, expected a number")
    elif len(value) > MAX_EQUALS_BYTES:
        raise InvalidValue(f"{where}: {len(value)} bytes, expected at most {MAX_EQUALS_BYTES}")
    return value
