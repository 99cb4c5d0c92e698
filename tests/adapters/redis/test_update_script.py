"""values/update.lua against iii_state.values.apply, byte for byte."""

from __future__ import annotations

import json
import math
import random
import struct
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from iii_state import values
from iii_state.adapters.base import Updated
from iii_state.adapters.redis.scripts.mutations import ForeignText, plan_arguments, refusal, update_arguments
from iii_state.errors import FunctionError, too_large
from iii_state.values.apply import apply
from tests.support.redis.script_engine import LIMIT, Engine, plan_of
from tests.support.strategies import DOCUMENTS, FLOATS, INTEGERS, OP_LISTS
from tests.support.vectors import VECTORS

NOTHING = object()


def examples(count: int) -> settings:
    """Many examples on one server: every one begins by deleting what the one before it left."""
    return settings(max_examples=count, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def stored_form(value: Any) -> bytes:
    return values.to_stored(values.encode(value))


def check(engine: Engine, old: bytes | None, ops: list[dict[str, Any]]) -> None:
    """The script makes of `old` what Python makes of it."""
    engine.client.delete(engine.keys.values(b"s"))
    if old is not None:
        engine.put(b"s", b"k", old)
    before = None if old is None else values.to_stored(old)
    new, errors = apply(plan_of(ops), before)
    assert engine.update(b"s", b"k", ops) == Updated(before, new, errors)
    assert engine.stored(b"s", b"k") == new


def test_every_vector_of_the_contract(client: redis.Redis) -> None:
    engine = Engine(client)
    assert len(VECTORS) >= 490
    for case in VECTORS:
        client.delete(engine.keys.values(b"s"))
        if "old" in case:
            engine.put(b"s", b"k", stored_form(case["old"]))
        result = engine.update(b"s", b"k", case["ops"])
        assert result.new == stored_form(case["new"]), case["name"]
        errors = [{"op_index": error.op_index, "code": error.code, "message": error.message} for error in result.errors]
        assert errors == case["errors"], case["name"]
        assert engine.stored(b"s", b"k") == result.new, case["name"]


@examples(400)
@given(old=st.one_of(st.just(NOTHING), DOCUMENTS), ops=OP_LISTS)
def test_random_ops_on_random_documents(real: redis.Redis, old: Any, ops: list[dict[str, Any]]) -> None:
    check(Engine(real), None if old is NOTHING else stored_form(old), ops)


@examples(200)
@given(document=DOCUMENTS, ops=OP_LISTS, indent=st.sampled_from([None, 0, 1, 2, 4, "\t"]), escape=st.booleans())
def test_foreign_spellings(real: redis.Redis, document: Any, ops: list[dict[str, Any]], indent: Any, escape: bool) -> None:
    check(Engine(real), json.dumps(document, indent=indent, ensure_ascii=escape).encode(), ops)


FOREIGN = [
    b'{"name":"Ada","visits":3}',
    b'{\n"name":"Ada",\n"visits":3\n}',
    b'{\n"name":{\n"visits":1\n},\n"visits":3\n}',
    b'{\t\n  "name": "Ada",\n  "visits": 3\n}',
    b'{\r\n\t"visits" : 3 , "name":"x"\r\n}',
    b' \n\t{"visits":3}',
    b'{"visits":1,"x":2,"visits":3}',
    b'{"\\u0076isits":3}',
    b'{"visits":3,"\\u0076isits":4}',
    b'{"s":"\\u00e9\\ud83d\\ude00\\/\\u0001","visits":1E+5}',
    b"{ }",
    b"[ 1, 2 ]",
    b"[1,2]",
    b'"caf\xc3\xa9"',
    b'"\\u0041"',
    b" 7",
    b"7 ",
    b"-0",
    b"1E+5",
]


@pytest.mark.parametrize("text", FOREIGN, ids=lambda text: text.decode())
def test_foreign_text_is_framed_by_the_first_update(client: redis.Redis, text: bytes) -> None:
    engine = Engine(client)
    check(engine, text, [{"type": "increment", "path": "visits", "by": 1}])
    check(engine, text, [{"type": "append", "path": "", "value": "x"}, {"type": "increment", "path": ["a", "b"], "by": 1}])
    check(engine, text, [{"type": "merge", "path": "name", "value": {"first": "Ada"}}])


NOT_JSON = [
    b"",
    b"{",
    b'{"a":1,}',
    b"[1,]",
    b"01",
    b"1.",
    b".5",
    b"+1",
    b"-",
    b"1e",
    b"0x10",
    b"NaN",
    b"Infinity",
    b"nulls",
    b"True",
    b"1e400",
    b"-1e400",
    b"9" * 400,
    b'"a',
    b'"a"b"',
    b'"\\x"',
    b'"\x01"',
    b'"\xff"',
    b'{"a":"\xff"}',
    b'"\\ud800"',
    b"{}{}",
    b"{}\n",
    b"1 2",
    b"[" * 513 + b"]" * 513,
]


@pytest.mark.parametrize("text", NOT_JSON, ids=lambda text: repr(text[:20]))
def test_what_is_no_plain_stored_form_is_handed_back_and_left(client: redis.Redis, text: bytes) -> None:
    engine = Engine(client)
    engine.put(b"s", b"k", text)
    plan = plan_of([{"type": "set", "path": "", "value": 1}])
    reply = engine.run("values/update", b"s", b"k", update_arguments(plan_arguments(plan), LIMIT))
    assert refusal(reply, LIMIT) == ForeignText(text)
    assert engine.stored(b"s", b"k") == text


def test_a_foreign_text_that_changed_meanwhile_is_handed_back_again(client: redis.Redis) -> None:
    engine = Engine(client)
    engine.put(b"s", b"k", b"[ 2 ]")
    plan = plan_of([{"type": "append", "path": "", "value": 3}])
    reply = engine.run("values/update", b"s", b"k", update_arguments(plan_arguments(plan), LIMIT, b"[ 1 ]", b"[1]"))
    assert reply == [b"FOREIGN", b"[ 2 ]"]
    assert engine.stored(b"s", b"k") == b"[ 2 ]"


PLAIN = [b"null", b"true", b"false", b"[]", b"{}", b'""', b'"a b"']
PLAIN += [b"0", b"-0", b"7", b"-12", b"1.5", b"1e5", b"1.5E-7", b"18446744073709551615"]


@pytest.mark.parametrize("text", PLAIN, ids=bytes.decode)
def test_a_plain_text_needs_no_second_call(client: redis.Redis, text: bytes) -> None:
    engine = Engine(client)
    engine.put(b"s", b"k", text)
    plan = plan_of([])
    reply = engine.run("values/update", b"s", b"k", update_arguments(plan_arguments(plan), LIMIT))
    assert reply == [b"OK", text, text, b""]


TRICKY = [
    {"a": '\n"visits":9', "visits": 1},
    {"a": {"visits": 9}, "visits": 1},
    {'"visits': 1, "visits": 2, 'visits"': 3, "\\visits": 4, "visits\\": 5},
    {"visits": "}", "a": ']{[\\"', "b": ["}", "{", "\\\\", ",", ":"]},
    {"a": {"b": '}"', 'c\\"': {"d": [1, {"e": "]"}]}, "b\\": 1}},
    {"a": {}, "b": {"a": []}, "c": ""},
]
TRICKY_OPS: list[list[dict[str, Any]]] = [
    [{"type": "increment", "path": "visits", "by": 1}],
    [{"type": "set", "path": ["a", "b"], "value": {"x": [1, "}"]}}],
    [{"type": "increment", "path": ["a", 'c\\"', "d"], "by": 1}, {"type": "append", "path": ["a", 'c\\"', "d"], "value": "]"}],
    [{"type": "remove", "path": ["a", "b"]}, {"type": "remove", "path": ["a", "nothing", "there"]}],
    [{"type": "remove", "path": "visits"}, {"type": "set", "path": "visits", "value": 1}, {"type": "remove", "path": "a"}],
    [{"type": "merge", "path": "", "value": {"visits": 0, "z": 1}}, {"type": "increment", "path": "z", "by": 1}],
    [{"type": "set", "path": "z", "value": 1}, {"type": "set", "path": "a", "value": 2}, {"type": "remove", "path": "z"}],
    [{"type": "append", "path": "a", "value": "x"}, {"type": "append", "path": "a", "value": "y"}],
    [{"type": "merge", "path": "a", "value": {"b": 1}}, {"type": "merge", "path": ["a", "c", "d"], "value": {"e": {}}}],
    [{"type": "set", "path": "z"}, {"type": "set", "path": "", "value": {"q": 1}}, {"type": "set", "path": "q", "value": 2}],
    [{"type": "set", "path": "z", "value": 1}, {"type": "remove", "path": ""}, {"type": "merge", "path": ["a"], "value": {}}],
]


@pytest.mark.parametrize("ops", TRICKY_OPS)
def test_names_and_strings_that_look_like_structure(client: redis.Redis, ops: list[dict[str, Any]]) -> None:
    engine = Engine(client)
    for document in TRICKY:
        check(engine, stored_form(document), ops)


def test_deeper_duplicates_stay_until_an_op_edits_their_object(client: redis.Redis) -> None:
    engine = Engine(client)
    text = b'{"a":{"n":1,"b":{"x":1,"x":2},"n":2},"c":1}'
    for ops in (
        [{"type": "increment", "path": "c", "by": 1}],
        [{"type": "increment", "path": ["a", "n"], "by": 1}],
        [{"type": "set", "path": ["a", "n"], "value": 2}],
        [{"type": "remove", "path": ["a", "n"]}],
        [{"type": "remove", "path": ["a", "other"]}],
        [{"type": "remove", "path": ["a", "b", "x"]}],
        [{"type": "remove", "path": ["a", "b", "other"]}],
        [{"type": "merge", "path": ["a", "b"], "value": {}}],
        [{"type": "merge", "path": "a", "value": {"n": 3}}],
        [{"type": "increment", "path": ["a", "b"], "by": 1}],
    ):
        check(engine, values.to_stored(text), ops)


def test_a_merge_of_many_members(client: redis.Redis) -> None:
    engine = Engine(client)
    document = {f"m{number}": {"n": number} for number in range(0, 900, 3)}
    merged = {f"m{number}": number for number in range(0, 1000)}
    for path in ("", "m3", ["m3", "deeper"]):
        check(engine, stored_form(document), [{"type": "merge", "path": path, "value": merged}])
        check(engine, None, [{"type": "merge", "path": path, "value": merged}])


def test_the_size_of_the_result_is_that_of_its_compact_text(client: redis.Redis) -> None:
    engine = Engine(client)
    engine.put(b"s", b"k", stored_form({"a": 1, "b": 2}))
    ops = [{"type": "set", "path": "c", "value": 3}]
    size = len(b'{"a":1,"b":2,"c":3}')
    with pytest.raises(FunctionError) as refused:
        engine.update(b"s", b"k", ops, limit=size - 1)
    assert str(refused.value) == str(too_large(size, size - 1))
    assert engine.stored(b"s", b"k") == stored_form({"a": 1, "b": 2})
    assert engine.update(b"s", b"k", ops, limit=size).new == stored_form({"a": 1, "b": 2, "c": 3})
    with pytest.raises(FunctionError, match="VALUE_TOO_LARGE"):
        engine.update(b"s", b"new", [{"type": "set", "path": "", "value": "xxxx"}], limit=5)


def test_a_document_at_the_deepest_nesting(client: redis.Redis) -> None:
    engine = Engine(client)
    text = b'{"a":' * 511 + b"[]" + b"}" * 511
    ops = [{"type": "set", "path": ["a", "b"], "value": 1}, {"type": "set", "path": "b", "value": 1}]
    check(engine, values.to_stored(text), ops)
    check(engine, values.to_stored(text), [{"type": "remove", "path": ["a"] * 32}])


BOUNDARIES = [0, 1, 9, 10**10 - 1, 10**10, 2**53 - 1, 2**53, 2**53 + 1, 10**15, 10**16 - 1, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 2]
BOUNDARIES += [2**64 - 1, 2**64, 10**19, 10**20, 10**21]
WHOLE = [*BOUNDARIES, *(-number for number in BOUNDARIES)]


def test_integers_are_exact_over_the_whole_range(real: redis.Redis) -> None:
    engine = Engine(real)
    for left in WHOLE:
        ops = [{"type": "increment", "path": f"n{index}", "by": by} for index, by in enumerate(WHOLE)]
        document = {f"n{index}": left for index in range(len(WHOLE))}
        check(engine, values.to_stored(values.encode(document)), ops)


@examples(300)
@given(left=st.one_of(INTEGERS, FLOATS), by=st.one_of(INTEGERS, FLOATS), word=st.sampled_from(["increment", "decrement"]))
@example(left=0.1, by=0.2, word="increment")
@example(left=2**64 - 1, by=0.5, word="increment")
@example(left=-0.0, by=-0.0, word="increment")
def test_sums(real: redis.Redis, left: float, by: float, word: str) -> None:
    check(Engine(real), stored_form({"n": left}), [{"type": word, "path": "n", "by": by}, {"type": word, "path": "m", "by": by}])


@pytest.mark.parametrize("text", [b"-0", b"-0.0", b"0e5", b"-0E-7", b"1E5", b"0." + b"1" * 300, b"1" * 300, b"-1e-400"])
def test_number_spellings(client: redis.Redis, text: bytes) -> None:
    engine = Engine(client)
    for by in (0, 1, -1, 0.5, -0.0, 2**64 - 1, 1e308):
        check(engine, b'{\t\n"n":%b\n}' % text, [{"type": "increment", "path": "n", "by": by}])


def spelled(engine: Engine, numbers: list[float]) -> None:
    """Adding 0.0 spells each number anew."""
    for start in range(0, len(numbers), 500):
        some = numbers[start : start + 500]
        document = {f"n{index}": number for index, number in enumerate(some)}
        ops = [{"type": "increment", "path": name, "by": 0.0} for name in document]
        engine.put(b"s", b"k", stored_form(document))
        result = engine.update(b"s", b"k", ops)
        assert result.errors == []
        assert result.new == stored_form({name: number + 0.0 for name, number in document.items()})


def test_every_power_of_two_and_ten_is_spelled_as_in_python(client: redis.Redis) -> None:
    powers = [math.ldexp(1.0, exponent) for exponent in range(-1074, 1024)]
    powers += [float(f"{digits}e{exponent}") for exponent in range(-330, 308) for digits in ("1", "1.5", "9.999999999999999")]
    neighbours = [math.nextafter(power, direction) for power in powers for direction in (0.0, math.inf)]
    spelled(Engine(client), [number for number in powers + neighbours if math.isfinite(number)])


def test_random_doubles_are_spelled_as_in_python(real: redis.Redis) -> None:
    dice = random.Random(7)
    numbers = [struct.unpack("d", dice.randbytes(8))[0] for _ in range(20_000)]
    numbers += [dice.uniform(-1000, 1000) for _ in range(5_000)] + [round(dice.uniform(0, 1000), 2) for _ in range(5_000)]
    spelled(Engine(real), [number for number in numbers if math.isfinite(number)])


ITEMS = ["1", "-20", "0", "0.5", "-1.25", "true", "false", "null", '"a"', '""', '"a, b]"']
BROKEN = ["01", "-", "1.", ".5", "1e5", "tru", "nul", '"', '"\\n"', '"\u00e9"', "[1]", "{}", "", " 1", "1 ", "-01", "+1", "9" * 400]


def given_back(engine: Engine, text: bytes) -> bool:
    """Whether an update wants the text to be checked first."""
    engine.put(b"s", b"k", text)
    plan = plan_of([{"type": "set", "path": ["a", "b"], "value": 1}])
    reply = engine.run("values/update", b"s", b"k", update_arguments(plan_arguments(plan), LIMIT))
    return reply[0] == b"FOREIGN"


@pytest.mark.parametrize("count", [1, 2, 32])
def test_a_short_flat_array_is_updated_in_one_call(client: redis.Redis, count: int) -> None:
    engine = Engine(client)
    for item in ITEMS:
        assert not given_back(engine, b"[%b]" % ",".join([item] * count).encode()), item
    assert given_back(engine, b"[%b]" % b",".join([b"1"] * 33))
    assert given_back(engine, b'["%b"]' % (b"x" * 510))


@examples(400)
@given(
    items=st.lists(st.sampled_from(ITEMS + BROKEN), min_size=1, max_size=6),
    cut=st.one_of(st.just(None), st.integers(0, 40)),
    tail=st.sampled_from(["", "]", ",", " ", "1", "\n"]),
)
def test_what_is_no_array_in_stored_form_is_never_taken_for_one(
    real: redis.Redis, items: list[str], cut: int | None, tail: str
) -> None:
    text = ("[" + ",".join(items) + "]").encode()[:cut] + tail.encode()
    if not given_back(Engine(real), text):
        assert values.to_stored(text) == text
