"""JSON as a grammar makes it, and damage to it: what frames and op lists are made of. Everything by `random.Random`, for speed."""

from __future__ import annotations

import json
import random

NAMES = ("a", "b", "n", "list", "text", "deep", "", "é", "😀", "user.name", 'q"', "back\\slash", "line\nbreak", "\x00", "a b", "/")
ODD_NAMES = ("__proto__", "constructor", "prototype", "x" * 256, "x" * 257, "é" * 128, "é" * 129)
INTEGERS = (
    *(0, 1, -1, 7, 10**25, -(10**25)),
    *(power + step for power in (2**31, 2**53, 2**63, 2**64) for step in (-1, 0, 1)),
    *(-power + step for power in (2**53, 2**63, 2**64) for step in (-1, 0, 1)),
)
FLOATS = ("0.0", "-0.0", "0.1", "1.0", "1e16", "1e-5", "1e22", "5e-324", "1.7976931348623157e308", "9007199254740992.0", "2.5")
ODD_NUMBERS = ("-0", "1E+5", "1e5", "0e0", "-0e-0", "1.0000000000000000000001", "100e-2", "123456789012345678901234567890")
NO_NUMBERS = ("1e400", "-1e400", "NaN", "Infinity", "01", "1.", ".5", "+1", "0x10", "-")
STRINGS = (
    '""',
    '"s"',
    '"\\""',
    '"\\\\"',
    '"\\n"',
    '"\\u0000"',
    '"\\u00e9"',
    '"\\ud83d\\ude00"',
    '"é😀"',
    '"\\/"',
    '"null"',
    '"a b"',
)
NO_STRINGS = ('"\\ud800"', '"\\udc00\\ud800"', '"\\x"', '"\\u12"', '"\n"', "'a'", '"', '"\\')


def integer(luck: random.Random) -> int:
    """An integer, often one at the edge of something."""
    draw = luck.random()
    if draw < 0.5:
        return luck.randint(-10, 10)
    return luck.choice(INTEGERS) if draw < 0.9 else luck.randint(-(2**63), 2**64 - 1)


def scalar(luck: random.Random) -> str:
    """The text of a scalar that a value may hold."""
    draw = luck.random()
    if draw < 0.3:
        return str(integer(luck))
    if draw < 0.5:
        return luck.choice(FLOATS)
    if draw < 0.8:
        return luck.choice(STRINGS)
    return luck.choice(("null", "true", "false"))


def value(luck: random.Random, depth: int = 3) -> str:
    """The text of a value."""
    draw = luck.random()
    if depth == 0 or draw < 0.45:
        return scalar(luck)
    if draw < 0.65:
        return f"[{','.join([value(luck, depth - 1) for _ in range(luck.randint(0, 3))])}]"
    return document(luck, depth - 1)


def document(luck: random.Random, depth: int = 2) -> str:
    """The text of an object, each member once."""
    names = luck.sample(NAMES, luck.randint(0, 5))
    return f"{{{','.join([f'{name(text, luck)}:{value(luck, depth)}' for text in names])}}}"


def name(text: str, luck: random.Random) -> str:
    """A string as JSON text, in one of its spellings."""
    return json.dumps(text, ensure_ascii=luck.random() < 0.5)


def odd(luck: random.Random) -> str:
    """A text that is JSON, but not as one expects it: odd numbers, members twice, white space, great depth or length."""
    draw = luck.random()
    if draw < 0.3:
        return luck.choice(ODD_NUMBERS)
    if draw < 0.5:
        return f'{{"a":{value(luck, 1)},"b":1,"a":{value(luck, 1)}}}'
    if draw < 0.7:
        return f' [\t{value(luck, 1)} ,\r\n{{ "a" : {value(luck, 1)} }} ] '
    if draw < 0.85:
        levels = luck.choice((15, 16, 17, 126, 127, 128, 300))
        return "[" * levels + "]" * levels
    return f'"{"x" * luck.choice((100, 1000, 5000))}"'


def broken(luck: random.Random) -> str:
    """A text that cannot be stored: no JSON, or no value."""
    draw = luck.random()
    if draw < 0.4:
        return luck.choice(NO_NUMBERS)
    if draw < 0.8:
        return luck.choice(NO_STRINGS)
    levels = luck.choice((513, 1100, 5000))
    return luck.choice(("[" * levels + "]" * levels, '{"a":' * levels + "1" + "}" * levels, "[" * levels, "[1,]", '{"a"}', "{1:2}"))


def damaged(text: bytes, other: bytes, luck: random.Random) -> bytes:
    """A text with something done to it: bits turned, a piece of another put in, a piece left out or twice, cut short."""
    damage = luck.randrange(6)
    size = len(text)
    at = luck.randrange(size) if size else 0
    end = min(size, at + luck.choice((1, 1, 2, 4, 16, 64)))
    if damage == 0 and size:
        return text[:at] + bytes((text[at] ^ (1 << luck.randrange(8)),)) + text[at + 1 :]
    if damage == 1:
        start = luck.randrange(len(other)) if other else 0
        return text[:at] + other[start : start + luck.choice((1, 8, 64))] + text[end:]
    if damage == 2:
        return text[:at] + text[end:]
    if damage == 3:
        return text[:end] + text[at:]
    if damage == 4:
        return text[:at]
    return text[:at] + luck.choice((b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x00", b'"', b"}", b"{", b",", b"\\")) + text[at:]
