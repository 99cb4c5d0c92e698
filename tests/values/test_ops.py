"""Update ops: the shared vectors, and random documents against a plain model."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iii_state import values
from iii_state.errors import InvalidOp
from iii_state.values.apply import apply
from iii_state.values.ops import OpError, compile_text
from tests.support import model
from tests.support.strategies import DOCUMENTS, OP_LISTS, VALUES
from tests.support.vectors import VECTORS, exact


def run(old: Any, ops: list[dict[str, Any]]) -> tuple[bytes, list[OpError]]:
    stored = None if old is model.ABSENT else values.to_stored(values.encode(old))
    return apply(compile_text(values.encode(ops)), stored)


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_update_vectors(vector: dict[str, Any]) -> None:
    new, errors = run(vector.get("old", model.ABSENT), vector["ops"])
    assert exact(values.decode(new)) == exact(vector["new"])
    assert [msgspec.to_builtins(error) for error in errors] == vector["errors"]


@settings(max_examples=600, deadline=None)
@given(old=st.one_of(st.just(model.ABSENT), DOCUMENTS), ops=OP_LISTS)
def test_random_ops_do_what_the_model_does(old: Any, ops: list[dict[str, Any]]) -> None:
    new, errors = run(old, ops)
    expected, expected_errors = model.update(old, ops)
    assert exact(values.decode(new)) == exact(expected)
    assert [msgspec.to_builtins(error) for error in errors] == expected_errors
    assert new == values.to_stored(new), "the result is in stored form"


@settings(max_examples=200, deadline=None)
@given(
    old=st.dictionaries(st.text("abcdefgh", min_size=1), VALUES), merged=st.dictionaries(st.text("abcdefgh", min_size=1), VALUES)
)
def test_a_large_merge_and_one_member_at_a_time_make_the_same_text(old: dict[str, Any], merged: dict[str, Any]) -> None:
    at_once, errors = run(old, [{"type": "merge", "value": merged}])
    one_by_one, _ = run(old, [{"type": "set", "path": name, "value": value} for name, value in merged.items()])
    if not errors:
        assert at_once == one_by_one


def test_numbers_keep_their_spelling_when_another_member_changes() -> None:
    old = values.to_stored(b'{"x":1E+5,"y":1.50,"big":123456789012345678901234567890,"n":1}')
    new, errors = apply(compile_text(b'[{"type":"increment","path":"n","by":1}]'), old)
    assert not errors
    assert values.unframe(new) == b'{"x":1E+5,"y":1.50,"big":123456789012345678901234567890,"n":2}'


def test_a_nested_edit_keeps_the_last_of_duplicate_members_on_its_way() -> None:
    old = values.to_stored(b'{"a":{"x":1,"y":2,"x":3},"other":{"x":1,"x":2}}')
    new, _ = apply(compile_text(b'[{"type":"set","path":["a","z"],"value":0}]'), old)
    assert values.unframe(new) == b'{"a":{"x":3,"y":2,"z":0},"other":{"x":1,"x":2}}'


def test_removing_what_is_not_there_edits_nothing() -> None:
    old = values.to_stored(b'{"a":{"x":1,"x":3}}')
    new, _ = apply(compile_text(b'[{"type":"remove","path":["a","b","c"]},{"type":"remove","path":["a","q"]}]'), old)
    assert new == old


@pytest.mark.parametrize(
    ("op", "message"),
    [
        ('{"type":"increment","path":"n"}', "ops[0]: missing field `by`"),
        ('{"type":"append","path":"n"}', "ops[0]: missing field `value`"),
        ('{"type":"merge"}', "ops[0]: missing field `value`"),
        ('{"type":"set","path":"n","value":1e999}', "ops[0].value: number out of range: 1e999"),
    ],
)
def test_an_op_that_cannot_be_used_makes_the_call_invalid(op: str, message: str) -> None:
    with pytest.raises(InvalidOp) as raised:
        compile_text(f"[{op}]".encode())
    assert str(raised.value) == message


def test_a_result_never_nests_deeper_than_what_is_stored() -> None:
    deep = "[" * 512 + "]" * 512
    compile_text(f'[{{"type":"set","value":{deep}}}]'.encode())
    for op in (f'{{"type":"set","path":"a","value":{deep}}}', f'{{"type":"append","value":{deep}}}'):
        with pytest.raises(InvalidOp, match="nest deeper than 512"):
            compile_text(f"[{op}]".encode())
