"""Hypothesis strategies for JSON documents and op lists, with small alphabets so that paths meet."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

NAMES = st.one_of(
    st.sampled_from(["a", "b", "c", "n", "user.name", 'q"uote', "back\\slash", "line\nbreak", "é", "😀", "a b", "\x00", "/"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6),
)
INTEGERS = st.one_of(
    st.integers(-10, 10),
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, 2**63, -(2**63), 2**64 - 1, 2**64, -(2**63) - 1, 10**25]),
)
FLOATS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1.0, 0.1, 1e16, 1e-5, 1e22, 5e-324, 1.7976931348623157e308, 2.0**53, 2.0**63]),
)
STRINGS = st.one_of(st.sampled_from(["", "s", '"', "\\", "\n", "\t{\n", "null", "7e999"]), st.text(max_size=8))
SCALARS = st.one_of(st.none(), st.booleans(), INTEGERS, FLOATS, STRINGS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=5)),
    max_leaves=12,
)
DOCUMENTS = st.one_of(st.dictionaries(NAMES, VALUES, max_size=6), VALUES)
PATHS = st.one_of(
    st.none(),
    st.just(""),
    NAMES,
    st.lists(NAMES, max_size=4),
    st.sampled_from([[""], ["a", ""], "__proto__", ["a", "constructor"], "x" * 257, ["a"] * 33, "é" * 128, "é" * 129]),
)


def _op(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(fields)


OPS = st.one_of(
    _op(type=st.just("set"), path=PATHS, value=VALUES),
    _op(type=st.just("merge"), path=PATHS, value=st.one_of(st.dictionaries(NAMES, VALUES, max_size=12), VALUES)),
    _op(type=st.sampled_from(["increment", "decrement"]), path=PATHS, by=st.one_of(INTEGERS, FLOATS)),
    _op(type=st.just("append"), path=PATHS, value=VALUES),
    _op(type=st.just("remove"), path=PATHS),
)
OP_LISTS = st.lists(OPS, max_size=8)
