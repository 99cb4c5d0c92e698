"""JSON text: its normal form, the framed form in which objects are stored, and encoding for Python callers.

A value is JSON text from the socket to the store and back (`iii_state/docs/architecture.md`). Two forms matter:

- *compact normal form*: no white space between tokens, strings with a backslash spelled anew, numbers as written;
- *stored form*: the same, but an object has each top-level member on a line of its own, `{` TAB LF `"a":1` `,` LF … LF `}`,
  and of members of one name the last value in the first position. Nothing else in it holds a raw newline.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import msgspec
from msgspec import Raw

from iii_state.errors import MAX_VALUE_BYTES as MAX_VALUE_BYTES
from iii_state.errors import InvalidValue
from iii_state.values import native

Json = bytes | Raw
"""JSON text, as bytes or as a slice of a frame that msgspec left undecoded."""

MAX_DEPTH = 512
"""The deepest nesting that is stored (a scalar is 0, `[]` and `{}` are 1)."""

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_members = msgspec.json.Decoder(dict[str, Raw])
_text = msgspec.json.Decoder(str)
_any = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder()

# A number can leave the range of a double only with an exponent of three digits, or with very many digits: this maps
# every text to one in which either shows as a fixed string, so that two memory searches decide.
_NUMBER_SHAPE = bytes(0x30 if byte in b"0123456789+" else 0x65 if byte in b"eE" else 0x20 for byte in range(256))
_LONG_EXPONENT = b"0e000"
_MANY_DIGITS = b"0" * 200
_NO_BRACKET_NOR_QUOTE = bytes(byte for byte in range(256) if byte not in b'[]{}"')
_QUOTED = re.compile(rb'"[^"]*"')
_ROOM = 2 * MAX_DEPTH + 200
_ROUND = bytes.maketrans(b"{}", b"[]")


def encode(value: Any) -> bytes:
    """JSON text of a Python object: dict, list, tuple, str, int of any size, finite float, bool, None (and what msgspec encodes).

    Raises `InvalidValue` for NaN, infinities (also as keys), lone surrogates, objects that are no JSON, and too deep nesting.
    """
    try:
        text = _encoder.encode(value)
        if type(value) is dict and len(value) <= 2:  # most reads: strings alone hold no number
            for key, member in value.items():
                if type(key) is not str or type(member) is not str:
                    break
            else:
                return text
        find = text.find
        if find(b"null") >= 0 or find(b'nan":') >= 0 or find(b'inf":') >= 0:  # what msgspec makes of NaN and infinities
            _refuse_non_finite(value)
        return text
    except RecursionError:
        return _encode_from_deep(value)
    except UnicodeEncodeError:
        raise InvalidValue("a string holds a lone surrogate, which is no Unicode text") from None
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise InvalidValue(str(error)) from None


def _encode_from_deep(value: Any) -> bytes:
    """What `encode` does, where it may be the caller's stack that is too deep and not the value."""
    try:
        with deeper_stack():
            text = _encoder.encode(value)
            _refuse_non_finite(value)
    except RecursionError:
        raise InvalidValue(f"nesting deeper than {MAX_DEPTH} levels") from None
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise InvalidValue(str(error)) from None
    return text


def _refuse_non_finite(value: Any) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is no JSON value")
    elif isinstance(value, dict):
        for key, member in value.items():
            _refuse_non_finite(key)
            _refuse_non_finite(member)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            _refuse_non_finite(item)
    elif (names := _member_names(value)) is not None:
        for name in names:
            _refuse_non_finite(getattr(value, name, None))


def _member_names(value: Any) -> list[str] | None:
    """The members of an object of a class that msgspec takes for a JSON object."""
    if isinstance(value, msgspec.Struct):
        return list(value.__struct_fields__)
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value)]
    attributes = getattr(type(value), "__attrs_attrs__", None)
    return None if attributes is None else [attribute.name for attribute in attributes]


def decode(text: Json) -> Any:
    """The Python object of a JSON text: integers of any size stay integers, `1.0` stays a float."""
    try:
        return _any.decode(text)
    except RecursionError:
        with deeper_stack():
            return _any.decode(text)


@contextmanager
def deeper_stack() -> Iterator[None]:
    """Room for a value of the deepest nesting, whatever the depth of the stack that is there: for code that does not wait."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + _ROOM)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def fault(text: bytes, error: Exception) -> str:
    """Why a text is no JSON, in words. Where a string ends in half a surrogate pair, msgspec says that the input was truncated."""
    try:
        json.dumps(json.loads(text), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "a string holds a lone surrogate, which is no Unicode text"
    except (ValueError, RecursionError):
        pass
    return str(error)


def encode_string(text: str) -> bytes:
    """A string as JSON text in normal form."""
    return _encoder.encode(text)


def encode_float(number: float) -> bytes:
    """A finite float that an op computed: the fewest digits that read back, spelled as msgspec does (`1e16`, `0.00001`)."""
    return _encoder.encode(number)


def members(text: Json) -> dict[str, Raw]:
    """The members of a JSON object with their texts; of one name the last value, in the first position."""
    return _members.decode(text)


def normalize(text: Json) -> bytes:
    """The compact normal form of a JSON text whose syntax and UTF-8 have been checked.

    Raises `InvalidValue` for what is never stored: nesting beyond `MAX_DEPTH`, numbers beyond a double.
    """
    if (made := native.normalize(text)) is not None:
        return made
    text = normalize_any_depth(text)
    if nesting_exceeds(text, MAX_DEPTH):
        raise InvalidValue(f"nesting deeper than {MAX_DEPTH} levels")
    return text


def normalize_any_depth(text: Json) -> bytes:
    """What `normalize` makes of a text, however deep it nests; for who judges that himself."""
    if not isinstance(text, bytes):
        text = bytes(text)
    # Looking for a byte by its number is a memory search; `b" " in text` takes five times as long on a short text.
    if 0x20 in text or 0x0A in text or 0x0D in text or 0x09 in text:
        text = msgspec.json.format(text, indent=-1)
    if 0x5C in text:
        text = _STRING.sub(_respell, text)
    if len(text) >= 200 or 0x65 in text or 0x45 in text:
        shape = text.translate(_NUMBER_SHAPE)
        if shape.find(_LONG_EXPONENT) >= 0 or shape.find(_MANY_DIGITS) >= 0:
            _refuse_infinite_numbers(text)
    return text


def _respell(match: re.Match[bytes]) -> bytes:
    string = match.group()
    return _encoder.encode(_text.decode(string)) if 0x5C in string else string


def _refuse_infinite_numbers(text: bytes) -> None:
    def check(number: str) -> None:
        if math.isinf(float(number)):
            shown = number if len(number) <= 40 else f"{number[:37]}…"
            raise InvalidValue(f"number out of range: {shown}")

    json.loads(text, parse_float=check, parse_int=check)


def nesting_exceeds(text: bytes, limit: int) -> bool:
    """Whether a compact JSON text nests deeper than `limit`; almost always two byte counts."""
    if len(text) <= 2 * limit:
        return False
    if (exceeds := native.nesting_exceeds(text, limit)) is not None:
        return exceeds
    return text.count(b"[") + text.count(b"{") > limit and nesting_depth(text) > limit


def nesting_depth(text: bytes) -> int:
    """How deep a JSON text nests: a scalar 0, `{}` and `[]` 1."""
    if 0x5C in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = text.translate(_ROUND, _NO_BRACKET_NOR_QUOTE).replace(b'""', b"")
    if 0x22 in brackets:  # strings that hold brackets
        brackets = _QUOTED.sub(b"", brackets)
    for depth in range(64):
        if not brackets:
            return depth
        brackets = brackets.replace(b"[]", b"")
    return 64 + max(accumulate(92 - bracket for bracket in brackets))


def type_name(text: bytes) -> str:
    """The JSON type of a text: null, boolean, number, string, array or object."""
    return _TYPES[text[0]]


_TYPES = {
    ord("n"): "null",
    ord("t"): "boolean",
    ord("f"): "boolean",
    ord('"'): "string",
    ord("["): "array",
    ord("{"): "object",
}
_TYPES.update(dict.fromkeys(b"-0123456789", "number"))


def unreadable(error: UnicodeDecodeError | RecursionError | msgspec.MsgspecError) -> InvalidValue:
    """What another program's text is refused with, of which the reading failed with this error."""
    if isinstance(error, UnicodeDecodeError):
        return InvalidValue(f"byte {error.start} is no UTF-8")
    if isinstance(error, RecursionError):
        return InvalidValue(f"nesting deeper than {MAX_DEPTH} levels")
    return InvalidValue(str(error))
