"""Hypothesis strategies for JSON documents, op lists and what is done to a store, with small alphabets so that they meet."""

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

HOUR_MS = 3_600_000
PLACES = st.tuples(st.sampled_from(["s", "t"]), st.sampled_from(["a", "b"]))
TTLS = st.one_of(st.none(), st.integers(1, 3).map(lambda hours: hours * HOUR_MS))
SMALL_OPS = st.lists(
    st.one_of(
        _op(type=st.just("increment"), path=st.just("n"), by=st.just(1)),
        _op(type=st.just("set"), path=st.none(), value=SCALARS),
        _op(type=st.just("remove"), path=st.just("n")),
    ),
    max_size=3,
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), PLACES, SCALARS, TTLS),
        st.tuples(st.just("update"), PLACES, SMALL_OPS, TTLS),
        st.tuples(st.just("delete"), PLACES),
        st.tuples(st.just("get"), PLACES),
        st.tuples(st.just("list"), st.sampled_from(["s", "t"])),
        st.tuples(st.just("groups")),
        st.tuples(st.just("elapse"), st.integers(1, 3)),
    ),
    min_size=1,
    max_size=25,
)
"""What is done to a store, word first; times in hours."""
