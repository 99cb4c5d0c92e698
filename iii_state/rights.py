"""What a caller may do: the rights of a token, and whose they are.

These are values and questions only. Who asks them, and what a refusal says, is for the functions and registrations that they limit.
"""

from __future__ import annotations

import fnmatch
import re
from functools import lru_cache

import msgspec

Globs = tuple[str, ...]
"""Patterns of names, whole and case by case: `*` stands for any run of characters, `?` for one; all else is literal."""

_SHORT = 256
"""Longer names are compared anew each time: what is remembered of them would be memory that callers decide on."""


class Rights(msgspec.Struct, frozen=True):
    """What a limited token may do. Globs that are None allow every name, empty ones none.

    `trigger_types` and `operate` (triggers, dead letters, doctor, backup) have to be given expressly.
    """

    functions: Globs | None = None
    register: Globs | None = None
    scopes: Globs | None = None
    read_only: bool = False
    trigger_types: bool = False
    operate: bool = False

    def allows_function(self, function_id: str) -> bool:
        """Whether this function may be called."""
        return self.functions is None or _any_matches(self.functions, function_id)

    def allows_register(self, function_id: str) -> bool:
        """Whether this function may be registered, that is, served."""
        return self.register is None or _any_matches(self.register, function_id)

    def allows_scope(self, scope: str) -> bool:
        """Whether values of this scope may be seen, and changed unless `read_only`."""
        return self.scopes is None or _any_matches(self.scopes, scope)

    def allows_scope_prefix(self, prefix: str) -> bool:
        """Whether every scope that begins with this is allowed. The empty prefix is all scopes."""
        if self.scopes is None:
            return True
        return any(glob.endswith("*") and _any_matches((glob,), prefix) for glob in self.scopes)

    def allows_write(self) -> bool:
        """Whether values may be changed."""
        return not self.read_only


class TokenLimits(msgspec.Struct, frozen=True):
    """What all connections with a token's name may have together (and how large each of their messages may be); None sets no limit
    beyond that of each connection."""

    message_bytes: int | None = None
    calls_in_flight: int | None = None
    bytes_in_flight: int | None = None
    frames_per_second: int | None = None
    registrations: int | None = None
    subscriptions: int | None = None


class Identity(msgspec.Struct, frozen=True):
    """Whose connection it is: the name of its token or certificate, and its rights (None: everything).

    Several tokens may have one name, while one takes the place of another. `credential` tells which of them it is: the hash of the
    token, or the name in a certificate.
    """

    name: str
    rights: Rights | None = None
    credential: str = ""
    limits: TokenLimits | None = None


def _any_matches(globs: Globs, name: str) -> bool:
    return _remembered(globs, name) if len(name) <= _SHORT else _pattern(globs).fullmatch(name) is not None


@lru_cache(maxsize=16_384)
def _remembered(globs: Globs, name: str) -> bool:
    return _pattern(globs).fullmatch(name) is not None


@lru_cache(maxsize=1024)
def _pattern(globs: Globs) -> re.Pattern[str]:
    # fnmatch makes patterns that do not go back: a long name cannot make them slow
    return re.compile("|".join(fnmatch.translate(glob.replace("[", "[[]")) for glob in globs) or r"(?!)")
