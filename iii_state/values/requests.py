"""Says in words why a request could not be used: which field, what was expected, what came.

Only failed requests come here, so they are taken apart slowly; the words are those of the stock engine (serde), with the field
named.
"""

from __future__ import annotations

import types
import typing
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Raw

from iii_state import values
from iii_state.errors import Code, FunctionError, InvalidValue
from iii_state.values import Json

S = TypeVar("S", bound=msgspec.Struct)


def read(function_id: str, data: Json, expected: type[S]) -> S:
    """The request of a function that need not be fast; null counts as an object without members. Raises `refusal`."""
    text = bytes(data)
    try:
        return msgspec.json.decode(b"{}" if text == b"null" else text, type=expected)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise refusal(function_id, data, expected, error) from None


def refusal(function_id: str, data: Json, expected: type[msgspec.Struct], error: Exception) -> FunctionError:
    """What a caller is told whose request could not be used."""
    cause = describe(bytes(data), expected, error)
    return FunctionError(Code.DESERIALIZATION_ERROR, f"Failed to deserialize input for {function_id}: {cause}")


def describe(data: bytes, expected: type[msgspec.Struct], error: Exception) -> str:
    """Why `data` could not be decoded into `expected`, or the message of `error` where decoding is not what failed."""
    if isinstance(error, RecursionError):
        return f"nesting deeper than {values.MAX_DEPTH} levels"
    if not isinstance(error, msgspec.MsgspecError):
        return str(error)
    try:
        given = values.decode(data)
    except RecursionError:
        return f"nesting deeper than {values.MAX_DEPTH} levels"
    except (msgspec.MsgspecError, UnicodeError) as undecodable:
        return values.fault(data, undecodable)
    return _mismatch(given, expected, "") or str(error)


def within(name: str, given: int, least: int, most: int) -> None:
    """Raises `InvalidValue` for a number out of range."""
    if not least <= given <= most:
        raise InvalidValue(f"{name}: invalid value: {given}, expected an integer from {least} to {most}")


def _mismatch(given: Any, expected: Any, where: str) -> str | None:
    """What is wrong with a value that is to be of a type, None if nothing is."""
    if expected in (Any, Raw, msgspec.UnsetType):
        return None
    if isinstance(expected, type) and issubclass(expected, msgspec.Struct):
        if not isinstance(given, dict):
            return _invalid_type(given, "an object", where)
        hints = typing.get_type_hints(expected)
        fields = {field.encode_name: field for field in msgspec.structs.fields(expected)}
        for name, field in fields.items():
            if name not in given:
                if field.required:
                    return f"{_at(where)}missing field `{name}`"
                continue
            problem = _mismatch(given[name], hints[field.name], f"{where}.{name}" if where else name)
            if problem is not None:
                return problem
        if expected.__struct_config__.forbid_unknown_fields and (unknown := [name for name in given if name not in fields]):
            return f"{_at(where)}unknown field `{unknown[0]}`, expected one of {', '.join(f'`{name}`' for name in fields)}"
        return None
    origin = get_origin(expected)
    if origin is list:
        if not isinstance(given, list):
            return _invalid_type(given, "a sequence", where)
        problems = (_mismatch(item, get_args(expected)[0], f"{where}[{index}]") for index, item in enumerate(given))
        return next((problem for problem in problems if problem is not None), None)
    if origin is Literal:
        known = get_args(expected)
        if given in known:
            return None
        if not isinstance(given, str):
            return _invalid_type(given, "a string", where)
        return f"{_at(where)}unknown variant `{given}`, expected one of {', '.join(f'`{word}`' for word in known)}"
    if origin in (Union, types.UnionType):
        options = [option for option in get_args(expected) if option is not msgspec.UnsetType]
        problems_of = [_mismatch(given, option, where) for option in options]
        if None in problems_of:
            return None
        named = [option for option in options if option is not type(None)]
        if len(named) == 1 or (isinstance(given, list) and any(get_origin(option) is list for option in named)):
            wanted = named[0] if len(named) == 1 else next(option for option in named if get_origin(option) is list)
            return _mismatch(given, wanted, where)
        return _invalid_type(given, " or ".join(dict.fromkeys(_words(option) for option in named)), where)
    if expected is type(None):
        return None if given is None else _invalid_type(given, "null", where)
    if expected is float and isinstance(given, int) and not isinstance(given, bool):
        return None
    if expected is bool or not isinstance(given, bool):
        kind = get_origin(expected) or expected
        if isinstance(given, kind):
            return None
    return _invalid_type(given, _words(expected), where)


def _at(where: str) -> str:
    return f"{where}: " if where else ""


def _invalid_type(given: Any, expected: str, where: str) -> str:
    return f"{_at(where)}invalid type: {_TYPE_WORDS.get(type(given), 'value')}, expected {expected}"


_TYPE_WORDS = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "floating point number",
    str: "string",
    list: "sequence",
    dict: "map",
}


def _words(expected: Any) -> str:
    if get_origin(expected) is Literal:
        return " or ".join(f"`{word}`" for word in get_args(expected))
    kind = get_origin(expected) or expected
    return {str: "a string", int: "an integer", float: "a number", bool: "a boolean", list: "a sequence", dict: "a map"}.get(
        kind, "null"
    )
