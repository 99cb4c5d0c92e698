"""Preconditions: what may be asked, what holds, and that Python and Lua judge alike."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iii_state import values
from iii_state.errors import InvalidValue
from iii_state.values.conditions import MAX_EQUALS_BYTES, Conditions, parse
from iii_state.values.equality import equal
from tests.support.lua_conditions import LuaJudge
from tests.support.strategies import DOCUMENTS, FLOATS, INTEGERS, NAMES, VALUES
from tests.support.vectors import CONDITION_VECTORS, condition_case

LUA = LuaJudge()
WITHOUT_HASHES = LuaJudge(can_hash=False)


@pytest.mark.parametrize("vector", CONDITION_VECTORS, ids=[vector["name"] for vector in CONDITION_VECTORS])
def test_every_vector(vector: dict[str, Any]) -> None:
    stored, text = condition_case(vector)
    assert parse(text).failing(stored) == vector["failing"]
    assert LUA.failing(parse(text), stored) == vector["failing"]


# --- Python and Lua

NUMBERS = st.one_of(INTEGERS, FLOATS, st.integers(-(10**40), 10**40), st.integers(2**53 - 3, 2**53 + 3))


def respelled(value: Any, draw: Any) -> str:
    """A JSON text of a value, in one of its spellings: members in any order and twice, numbers as floats, escapes."""
    if isinstance(value, dict):
        names = draw(st.permutations(list(value)))
        members = [(name, respelled(value[name], draw)) for name in names]
        if members and draw(st.booleans()):
            members.insert(0, (members[-1][0], "7"))
        return "{" + ",".join(f"{json.dumps(name, ensure_ascii=draw(st.booleans()))}:{text}" for name, text in members) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(respelled(item, draw) for item in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=draw(st.booleans()))
    text = values.encode(value).decode()
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53 and draw(st.booleans()):
        text = draw(st.sampled_from([f"{value}.0", f"{value}e0", f"{value}0E-1" if value else "-0"]))
    return text


@st.composite
def related(draw: Any) -> tuple[bytes, bytes]:
    """Two stored texts that are often equal, or nearly so."""
    value = draw(DOCUMENTS)
    other = value if draw(st.integers(0, 3)) else draw(DOCUMENTS)
    return tuple(values.to_stored(respelled(each, draw).encode()) for each in (value, other))  # type: ignore[return-value]


def judged_alike(conditions: Conditions, stored: bytes | None) -> int | None:
    failing = conditions.failing(stored)
    assert LUA.failing(conditions, stored) == failing
    return failing


@settings(max_examples=1500, deadline=None)
@given(texts=related())
def test_equality_is_the_same_in_lua(texts: tuple[bytes, bytes]) -> None:
    left, right = texts
    same = equal(left, right)
    member = b'{\t\n"m":%b\n}' % values.unframe(left)
    for test, failing in ((b"equals", None if same else 0), (b"not_equals", 0 if same else None)):
        assert judged_alike(parse(b'[{"%b":%b}]' % (test, right)), left) == failing
        assert judged_alike(parse(b'[{"path":"m","%b":%b}]' % (test, right)), member) == failing


@settings(max_examples=500, deadline=None)
@given(value=DOCUMENTS, data=st.data())
def test_every_spelling_of_a_value_is_equal(value: Any, data: st.DataObject) -> None:
    one, other = (values.to_stored(respelled(value, data.draw).encode()) for _ in range(2))
    assert equal(one, other)
    assert judged_alike(parse(b'[{"equals":%b}]' % other), one) is None


@settings(max_examples=1500, deadline=None)
@given(left=NUMBERS, right=NUMBERS, spelled=st.booleans())
def test_numbers_order_alike(left: int | float, right: int | float, spelled: bool) -> None:
    texts = [values.encode(left), values.encode(right)]
    stored = texts[0] if spelled else b'{\t\n"n":%b\n}' % texts[0]
    path = b"" if spelled else b'"path":"n",'
    exact = isinstance(left, int) and isinstance(right, int)
    one, other = (left, right) if exact else (float(left), float(right))
    holds = {"lt": one < other, "lte": one <= other, "gt": one > other, "gte": one >= other, "equals": one == other}
    for test, expected in holds.items():
        conditions = parse(b'[{%b"%b":%b}]' % (path, test.encode(), texts[1]))
        assert judged_alike(conditions, stored) == (None if expected else 0), test


PATHS = st.one_of(st.none(), NAMES, st.lists(NAMES, max_size=3))
KINDS = ["null", "boolean", "number", "string", "array", "object"]
TESTS = st.one_of(
    st.builds(lambda value: {"equals": value}, VALUES),
    st.builds(lambda value: {"not_equals": value}, VALUES),
    st.sampled_from([{"absent": True}, {"present": True}, *({"type": kind} for kind in KINDS)]),
    st.builds(lambda test, number: {test: number}, st.sampled_from(["lt", "lte", "gt", "gte"]), NUMBERS),
)


@settings(max_examples=1500, deadline=None)
@given(document=st.one_of(st.none(), DOCUMENTS), conditions=st.lists(st.tuples(PATHS, TESTS), min_size=1, max_size=4))
def test_conditions_are_judged_alike(document: Any, conditions: list[tuple[Any, dict[str, Any]]]) -> None:
    text = values.encode([{"path": path, **test} for path, test in conditions])
    try:
        parsed = parse(text)
    except InvalidValue:
        return
    judged_alike(parsed, None if document is None else values.to_stored(values.encode(document)))


@settings(max_examples=200, deadline=None)
@given(document=DOCUMENTS, other=DOCUMENTS)
def test_an_etag_is_equal_for_equal_stored_texts_only(document: Any, other: Any) -> None:
    texts = [values.to_stored(values.encode(each)) for each in (document, other)]
    tags = [values.etag(text) for text in texts]
    assert tags == [hashlib.sha1(text).hexdigest() for text in texts]
    conditions = parse(values.encode([{"etag": tags[1]}]))
    assert judged_alike(conditions, texts[0]) == (None if texts[0] == texts[1] else 0)


def test_a_server_without_hashes_asks_for_an_etag() -> None:
    conditions = parse(values.encode([{"present": True}, {"etag": values.etag(b"1")}]))
    with pytest.raises(LookupError):
        WITHOUT_HASHES.failing(conditions, b"1")
    assert WITHOUT_HASHES.failing(conditions, None) == 0
    assert WITHOUT_HASHES.failing_words(conditions.arguments(b"1")[2:], b"1") is None
    assert WITHOUT_HASHES.failing_words(conditions.arguments(b"2")[2:], b"2") == 1
    with pytest.raises(LookupError):
        WITHOUT_HASHES.failing_words(conditions.arguments(b"1")[2:], b"2")


def test_a_revision_is_compared_where_there_is_one() -> None:
    conditions = parse(b'[{"revision":7}]')
    for revision, failing in ((7, None), (8, 0), (None, 0)):
        assert conditions.failing(b"1", revision) == failing
        assert LUA.failing(conditions, b"1", revision) == failing
        assert conditions.failing(None, revision) == 0
        assert LUA.failing(conditions, None, revision) == 0


def test_the_deepest_values_can_be_compared() -> None:
    for opening, closing, inner in (("[", "]", "1"), ('{"a":', "}", "1")):
        deep = (opening * 512 + inner + closing * 512).encode()
        other = (opening * 512 + "1.0" + closing * 512).encode()
        stored = values.to_stored(deep)
        assert judged_alike(parse(b'[{"equals":%b}]' % other), stored) is None
        assert judged_alike(parse(b'[{"equals":%b}]' % other.replace(b"1.0", b"2")), stored) == 0


def test_duplicates_at_every_level_take_no_longer_than_the_text() -> None:
    """A walk that came back to a level for each of its duplicates would not end."""
    stored = other = b"1"
    for _ in range(200):
        stored, other = b'{"a":%b,"b":0,"b":1}' % stored, b'{"a":%b,"b":2,"b":1.0}' % other
    assert judged_alike(parse(b'[{"equals":%b}]' % other), values.to_stored(stored)) is None


# --- what may be asked

MALFORMED = [
    ("null", "if: invalid type: null, expected a sequence"),
    ('{"absent":true}', "if: invalid type: map, expected a sequence"),
    ("[]", "if: invalid length: 0, expected 1 to 32 conditions"),
    (json.dumps([{"absent": True}] * 33), "if: invalid length: 33, expected 1 to 32 conditions"),
    ("[1]", "if[0]: invalid type: integer, expected an object"),
    ("[{}]", "if[0]: expected exactly one of"),
    ('[{"absent":true},{"path":"a"}]', "if[1]: expected exactly one of"),
    ('[{"absent":true,"equals":1}]', "found `equals`, `absent`"),
    ('[{"absent":false}]', "if[0].absent: invalid value: false, expected true"),
    ('[{"present":1}]', "if[0].present: invalid type: integer, expected a boolean"),
    ('[{"path":1,"present":true}]', "if[0].path: invalid type: integer, expected a string or a sequence"),
    ('[{"path":[""],"present":true}]', "if[0].path: Path contains an empty segment"),
    ('[{"path":"__proto__","present":true}]', "if[0].path: Path segment '__proto__' is not allowed"),
    (json.dumps([{"path": ["a"] * 33, "present": True}]), "if[0].path: Path depth 33 exceeds maximum of 32"),
    (json.dumps([{"path": "é" * 129, "present": True}]), "if[0].path: Path segment of 258 bytes exceeds maximum of 256"),
    ('[{"type":"integer"}]', "if[0].type: unknown variant `integer`, expected one of `null`, `boolean`"),
    ('[{"lt":"1"}]', "if[0].lt: invalid type: string, expected a number"),
    ('[{"gte":null}]', "if[0].gte: invalid type: null, expected a number"),
    ('[{"gt":1e400}]', "if[0].gt: number out of range: 1e400"),
    ('[{"equals":1e400}]', "if[0].equals: number out of range: 1e400"),
    ('[{"path":"a","etag":"x"}]', "if[0]: `etag` is of the whole value, and takes no `path`"),
    ('[{"path":["a"],"revision":1}]', "if[0]: `revision` is of the whole value, and takes no `path`"),
    ('[{"etag":""}]', "if[0].etag: invalid length: 0"),
    ('[{"revision":0}]', "if[0].revision: invalid value: 0"),
    ('[{"revision":"1"}]', "if[0].revision: invalid type: string, expected an integer"),
    ('[{"equal":1}]', "if[0]: unknown field `equal`"),
    (json.dumps([{"equals": "x" * (MAX_EQUALS_BYTES - 1)}]), f"if[0].equals: {MAX_EQUALS_BYTES + 1} bytes, expected at most"),
    (f'[{{"not_equals":{"[" * 513 + "]" * 513}}}]', "if[0].not_equals: nesting deeper than 512 levels"),
]


@pytest.mark.parametrize(("text", "told"), MALFORMED, ids=[told for _, told in MALFORMED])
def test_what_is_malformed_is_told_by_its_field(text: str, told: str) -> None:
    with pytest.raises(InvalidValue) as raised:
        parse(text.encode())
    assert told in str(raised.value)


def test_the_limits_themselves_pass() -> None:
    assert len(parse(json.dumps([{"absent": True}] * 32).encode()).all) == 32
    text = values.encode([{"equals": "x" * (MAX_EQUALS_BYTES - 2)}])
    assert parse(text).failing(values.encode("x" * (MAX_EQUALS_BYTES - 2))) is None
