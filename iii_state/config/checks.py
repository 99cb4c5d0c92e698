"""Checks of one setting: what it has to be, and errors that name the key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from iii_state.errors import ConfigError
from iii_state.events import FOREVER

T = TypeVar("T")

Check = Callable[[str, Any], Any]
"""Takes a key's full name and its value; returns the value as it is used, or raises `ConfigError`."""

_USER = re.compile(r"://[^/\s]*@")
_QUERY = re.compile(r"(?<=[?&])([^=&\s]*=)[^&\s]*")

MAX_MS = 10**13


def section(where: str, value: Any, checks: Mapping[str, Check]) -> dict[str, Any]:
    """Check a mapping key by key; unknown keys are errors that name the nearest known one."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where.rstrip('.') or 'the configuration'} has to be a mapping, not {shown(value)}")
    checked = {}
    for key, item in value.items():
        if key not in checks:
            near = difflib.get_close_matches(str(key), checks, 1, 0.5)
            hint = f"did you mean {where}{near[0]}?" if near else f"known here: {', '.join(sorted(checks))}"
            raise ConfigError(f"unknown key {where}{key}; {hint}")
        checked[key] = checks[key](f"{where}{key}", item)
    return checked


def boolean(where: str, value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{where} has to be true or false, not {shown(value)}")
    return value


def string(where: str, value: Any) -> str:
    """A string that is not empty."""
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where} has to be a string that is not empty, not {shown(value)}")
    return value


def secret(where: str, value: Any) -> str:
    """A string that is not empty, and that no error quotes."""
    if not isinstance(value, str) or not value:
        raise ConfigError(
            f"{where} has to be a string that is not empty, not {'an empty one' if value == '' else type(value).__name__}"
        )
    return value


def websocket_url(where: str, value: Any) -> str:
    """`ws://HOST:PORT` or `wss://HOST:PORT`."""
    url = string(where, value)
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("ws", "wss") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        quoted = (
            repr(url) if "@" not in url and "?" not in url else "one that cannot be read (it is not shown: it may hold a secret)"
        )
        raise ConfigError(f"{where} has to be an address like ws://localhost:49134, not {quoted}")
    return url


def integer(low: int, high: int | None = None) -> Check:
    """A whole number from `low` to `high`."""

    def check(where: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
            bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
            raise ConfigError(f"{where} has to be a whole number {bounds}, not {shown(value)}")
        return value

    return check


def one_of(*known: str) -> Check:
    """One of some words."""

    def check(where: str, value: Any) -> str:
        if value not in known:
            near = difflib.get_close_matches(str(value), known, 1, 0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            given = shown(value).removeprefix("str ")
            raise ConfigError(f"{where} has to be one of {', '.join(known)}, not {given}{hint}")
        return str(value)

    return check


def optional(check: Check) -> Check:
    """Null as well."""
    return lambda where, value: None if value is None else check(where, value)


def retention(where: str, value: Any) -> int | str:
    """Milliseconds, or "forever"."""
    if value == FOREVER:
        return FOREVER
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_MS:
        raise ConfigError(f'{where} has to be a number of milliseconds or "forever", not {shown(value)}')
    return value


def kind(value: Any) -> str:
    """What a value is, for an error's text that is not to quote it: what stands in the wrong place may be anything."""
    return "null" if value is None else f"a {type(value).__name__}"


def shown(value: Any) -> str:
    """A value for an error's text: nothing of what is large, and no password of a URL, in its query neither."""
    if value is None:
        return "null"
    if isinstance(value, str):
        text = _USER.sub("://***@", value)
        text = _QUERY.sub(r"\1***", text) if "://" in text else text
        return f"str {text if len(text) <= 60 else text[:60] + '…'!r}"
    return f"{type(value).__name__} {value!r}" if isinstance(value, bool | int | float) else f"a {type(value).__name__}"
