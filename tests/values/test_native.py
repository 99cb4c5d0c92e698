"""The part in C and the same in Python: alike for every text, and either will do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iii_state import values
from iii_state.errors import InvalidValue
from iii_state.values import native
from tests.support.strategies import DOCUMENTS, NAMES, SCALARS

ROOT = Path(__file__).parents[2]
HAS_COMPILER = bool(shutil.which("cc") or shutil.which("gcc")) and Path(sysconfig.get_path("include"), "Python.h").exists()
PURE_PROOFS = ("tests/values", "tests/contract/test_values.py", "-k", "values or kv-memory")

built = pytest.mark.skipif(not native.is_built, reason="the part in C is not built here")

ESCAPES = st.sampled_from(
    [
        r"\/",
        r"\u0041",
        r"\u00e9",
        r"\ud83d\ude00",
        r"\u0000",
        r"\u001F",
        r"\u0022",
        r"\u005c",
        r"\b\f\n\r\t",
        "é",
        "😀",
        "\x7f",
        " {[,:]} ",
    ]
)
STRINGS = st.lists(st.one_of(ESCAPES, st.text("abc", max_size=12)), max_size=6).map(lambda parts: '"' + "".join(parts) + '"')
NUMBERS = st.one_of(
    st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,6})?([eE][+-]?[0-9]{1,4})?", fullmatch=True),
    st.sampled_from(["1e400", "1E+309", "1e-400", "9" * 199, "9" * 200, "9" * 309, "-" + "9" * 198, "0." + "0" * 300 + "1"]),
)
SPACE = st.sampled_from(["", "", "", " ", "\n", "\t", "\r\n  "])


def _spaced(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(SPACE, parts, SPACE).map("".join)


def _texts(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    members = st.lists(st.tuples(_spaced(STRINGS), _spaced(inner)).map(":".join), max_size=5).map(",".join)
    items = st.lists(_spaced(inner), max_size=5).map(",".join)
    return st.one_of(
        st.tuples(SPACE, members).map(lambda parts: "{" + "".join(parts) + "}"),
        st.tuples(SPACE, items).map(lambda parts: "[" + "".join(parts) + "]"),
    )


TEXTS = _spaced(st.recursive(st.one_of(STRINGS, NUMBERS, st.sampled_from(["true", "false", "null"])), _texts, max_leaves=12))
"""JSON texts of every spelling, those that have to be refused included."""


def outcome(function: Callable[[bytes], object], text: bytes) -> object:
    """What a function makes of a text, or its error."""
    try:
        return function(text)
    except InvalidValue as error:
        return str(error)


def in_python(function: Callable[[bytes], object], text: bytes) -> object:
    """The same without what is in C."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "to_stored", lambda text: None)
        patch.setattr(native, "normalize", lambda text: None)
        patch.setattr(native, "nesting_exceeds", lambda text, limit: None)
        return outcome(function, text)


def test_it_is_built_where_there_is_a_compiler() -> None:
    assert native.is_built or not HAS_COMPILER or os.environ.get("III_STATE_PURE") == "1"


@built
@settings(max_examples=1500, deadline=None)
@given(TEXTS)
def test_both_make_the_same_of_every_spelling(text: str) -> None:
    json.loads(text)
    for function in (values.to_stored, values.normalize):
        assert outcome(function, text.encode()) == in_python(function, text.encode())


@built
@settings(max_examples=500, deadline=None)
@given(DOCUMENTS, st.sampled_from([None, 0, 3]), st.booleans())
def test_both_make_the_same_of_every_document(value: Any, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    for function in (values.to_stored, values.normalize):
        assert outcome(function, text) == in_python(function, text)


@built
@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(NAMES, SCALARS), max_size=200))
def test_members_of_one_name_are_seen_among_many(members: list[tuple[str, Any]]) -> None:
    text = "{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in members) + "}"
    assert outcome(values.to_stored, text.encode()) == in_python(values.to_stored, text.encode())


@built
@pytest.mark.parametrize("depth", [1, 2, 511, 512, 513, 5000])
@pytest.mark.parametrize("ends", [("[", "]"), ('{"a":', "}"), ('[{"]":"}",', "")])
def test_both_count_levels_alike(depth: int, ends: tuple[str, str]) -> None:
    begin, end = ends if ends[1] else ('{"[":"{\\"[","b":', "}")
    text = (begin * depth + "1" + end * depth).encode()
    for function in (values.to_stored, values.normalize):
        assert outcome(function, text) == in_python(function, text)
    for limit in (depth - 1, depth, depth + 1):
        exceeds = lambda text, limit=limit: values.nesting_exceeds(text, limit)  # noqa: E731
        assert outcome(exceeds, text) == in_python(exceeds, text) == (depth > limit)


PIECES = st.lists(st.sampled_from([b'"', b"\\", b"{", b"}", b",", b":", b"\\u", b"d83d", b"1", b"e9", b" ", b"\n"]), max_size=40)


@built
@settings(max_examples=3000, deadline=None)
@given(st.one_of(st.binary(max_size=60), PIECES.map(b"".join)))
def test_what_is_no_json_does_no_harm(text: bytes) -> None:
    """It has been checked before it comes here; should that ever fail, memory is safe."""
    for made in (native.to_stored(text), native.normalize(text)):
        assert made is None or len(made) <= 2 * len(text) + 2
    assert native.nesting_exceeds(text, 3) in (True, False)


@built
def test_a_slice_of_a_frame_is_taken_as_it_is() -> None:
    raw = msgspec.json.decode(b'[{"a": 1}]', type=list[msgspec.Raw])[0]
    assert native.to_stored(raw) == b'{\t\n"a":1\n}'
    with pytest.raises(TypeError):
        native.to_stored("text")  # type: ignore[arg-type]


@built
def test_a_long_object_with_a_name_twice_is_left_to_python() -> None:
    members = ",".join(f'"{number:07d}":{number}' for number in range(20_000))
    assert native.to_stored(f"{{{members}}}".encode()) is not None
    assert native.to_stored(f'{{{members},"0000007":1}}'.encode()) is None


@pytest.mark.slow
def test_all_of_it_holds_without_the_part_in_c() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", *PURE_PROOFS],
        cwd=ROOT,
        env={**os.environ, "III_STATE_PURE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert told.returncode == 0, told.stdout[-3000:]
    assert "the part in C is not built here" in told.stdout
