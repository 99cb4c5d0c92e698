"""JSON text: normal form, framing, and what is never stored."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iii_state import values
from iii_state.errors import InvalidValue
from tests.support.strategies import DOCUMENTS
from tests.support.vectors import exact


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        (b"{}", b"{}"),
        (b" [ ] ", b"[]"),
        (b'{"a":1}', b'{\t\n"a":1\n}'),
        (b'{ "a" : [ 1 , {"b": 2} ], "c":"x y" }', b'{\t\n"a":[1,{"b":2}],\n"c":"x y"\n}'),
        (b'{"a":1,"b":2,"a":3}', b'{\t\n"a":3,\n"b":2\n}'),
        (b'{"\\u0041":"\\/\\u00e9\\ud83d\\ude00\\u0007\\t"}', b'{\t\n"A":"/\xc3\xa9\xf0\x9f\x98\x80\\u0007\\t"\n}'),
        (b"1E+5", b"1E+5"),
        (b"-0", b"-0"),
        (b"123456789012345678901234567890", b"123456789012345678901234567890"),
        (b'[{"b":1,"b":2}]', b'[{"b":1,"b":2}]'),
        (b'{"quote\\"":1,"line\\n":2}', b'{\t\n"quote\\"":1,\n"line\\n":2\n}'),
    ],
)
def test_stored_form(text: bytes, stored: bytes) -> None:
    assert values.to_stored(text) == stored
    assert values.to_stored(stored) == stored
    assert values.compact_size(stored) == len(values.unframe(stored))


@settings(max_examples=400, deadline=None)
@given(DOCUMENTS, st.sampled_from([None, 0, 1, 4]), st.booleans())
def test_any_spelling_of_a_document_has_one_stored_form(value: Any, indent: int | None, ascii_only: bool) -> None:
    compact = values.to_stored(values.encode(value))
    spelled = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    assert exact(values.decode(compact)) == exact(value)
    assert exact(values.decode(values.to_stored(spelled))) == exact(value)
    assert values.unframe(compact) == values.encode(value)
    assert compact.count(b"\n") == (0 if not isinstance(value, dict) or not value else len(value) + 1)


@pytest.mark.parametrize("text", [b"1e400", b"-1e999", b'{"a":[1E+309]}', b"9" * 309, b"1" + b"0" * 250 + b"e99"])
def test_numbers_beyond_a_double_are_refused(text: bytes) -> None:
    with pytest.raises(InvalidValue, match="number out of range"):
        values.normalize(text)


@pytest.mark.parametrize("text", [b'"7e1234"', b"1e-400", b"1" * 308, b'"' + b"9" * 400 + b'"', b"1.7976931348623157e308"])
def test_what_only_looks_too_large_is_stored(text: bytes) -> None:
    assert values.normalize(text) == text


def test_nesting_is_bounded_exactly() -> None:
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        inner = b"1" if opening != b"[" else b""
        values.normalize(opening * 512 + inner + closing * 512)
        with pytest.raises(InvalidValue, match="512"):
            values.normalize(opening * 513 + inner + closing * 513)
    values.normalize(b"[" + b",".join([b"[[]]"] * 5000) + b"]")
    values.normalize(b'["' + b"[" * 5000 + b'"]')


@settings(max_examples=300, deadline=None)
@given(DOCUMENTS)
def test_nesting_depth(value: Any) -> None:
    def depth(item: Any) -> int:
        if isinstance(item, dict | list):
            return 1 + max(map(depth, item.values() if isinstance(item, dict) else item), default=0)
        return 0

    assert values.nesting_depth(values.encode(value)) == depth(value)


def test_nesting_depth_of_deep_texts() -> None:
    assert values.nesting_depth(b"[" * 600 + b"]" * 600) == 600
    assert values.nesting_depth(b"[" + b"[]," * 3 + b"[" * 100 + b"]" * 100 + b"]") == 101


@pytest.mark.parametrize(
    "value", [float("nan"), [None, float("inf")], {"a": (1, float("-inf"))}, "\ud800", {"\udfff": 1}, object()]
)
def test_what_is_no_json_is_refused(value: Any) -> None:
    with pytest.raises(InvalidValue):
        values.encode(value)
