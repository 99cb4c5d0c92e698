"""Checks calls and triggers that a program hands over as dicts."""

from __future__ import annotations

from typing import Any

from iii_state import values
from iii_state.errors import Code, FunctionError

MAX_TIMEOUT_MS = 10**13


def optional_text(value: Any) -> bytes | None:
    """The JSON text of a member that may be left out. Raises `InvalidValue` for what is no JSON value."""
    return None if value is None else values.encode(value)


def wrong_request(request: Any) -> FunctionError:
    """What a caller is told whose call is none."""
    wrong = wrong_member(request) if isinstance(request, dict) else "expected a dict"
    return FunctionError(Code.DESERIALIZATION_ERROR, f"Failed to deserialize the call: {wrong}")


def wrong_member(
    request: dict[str, Any], required: tuple[str, ...] = ("function_id",), optional: tuple[str, ...] = ("namespace",)
) -> str | None:
    """What is wrong with a call or a trigger, None if nothing is."""
    for name in (*required, *optional):
        given = request.get(name)
        if name in required and name not in request:
            return f"missing field `{name}`"
        if not isinstance(given, str) and (given is not None or name in required):
            return f"{name}: invalid type: {type(given).__name__}, expected a string"
        if isinstance(given, str) and not given.isascii() and not _is_unicode(given):
            return f"{name}: a lone surrogate is no Unicode text"
    action, timeout_ms = request.get("action"), request.get("timeout_ms")
    if action is not None and not isinstance(action, dict):
        return f"action: invalid type: {type(action).__name__}, expected a dict"
    is_number = isinstance(timeout_ms, int | float) and not isinstance(timeout_ms, bool)
    if timeout_ms is not None and not (is_number and 0 <= timeout_ms <= MAX_TIMEOUT_MS):
        return f"timeout_ms: invalid value: {timeout_ms!r}, expected a number of milliseconds"
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
