"""The change log of a scope: which scopes have one, what it tells, and where in it a reader is.

A revision is the number of a change in its scope, from 1, in the order of the commits, without gaps. A reader says how far it has
come by a *position*, `<store id>:<revision>`: what comes after it can be read for as long as the log keeps it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from iii_state.errors import Compacted, InvalidValue, StoreError

MOST_NAMED = 5
"""So many scopes are named in a line of the log."""

MAX_LENGTH = 10_000
"""So many changes of a scope are kept where nothing else is said."""

MOST_CHANGES = 1000
"""The most changes of one page."""

PAGE_CHANGES = 100
"""The changes of a page where nothing else is asked for."""

PAGE_BYTES = 1_000_000
"""A page ends with the change that reaches so many bytes of keys and values; it has one change at least, whatever that takes."""

MAX_REVISION = 2**53 - 1
"""Lua's numbers count so far."""


class LogRule(msgspec.Struct, frozen=True, omit_defaults=True):
    """Scopes that have a change log: one, or all that begin so; and how many changes of each are kept, for how long."""

    scope: str | None = None
    scope_prefix: str | None = None
    max_length: int = MAX_LENGTH
    max_age_ms: int | None = None

    @property
    def scopes(self) -> tuple[str | None, str | None]:
        """Which scopes it is about."""
        return self.scope, self.scope_prefix


class LogRules:
    """Of each scope the rule that counts: the one that names it, else the one with the longest prefix of it."""

    def __init__(self, rules: Sequence[LogRule] = ()) -> None:
        self.rules = tuple(rules)
        self._named = {rule.scope: rule for rule in rules if rule.scope is not None}
        prefixed = [(rule.scope_prefix, rule) for rule in rules if rule.scope_prefix is not None]
        self._prefixed = sorted(prefixed, key=lambda pair: len(pair[0]), reverse=True)

    def __bool__(self) -> bool:
        return bool(self.rules)

    def of(self, scope: str) -> LogRule | None:
        """The rule of a scope, None where it has no change log."""
        rule = self._named.get(scope)
        if rule is not None:
            return rule
        for prefix, rule in self._prefixed:
            if scope.startswith(prefix):
                return rule
        return None


NO_LOGS = LogRules()
"""No scope has a log."""


class Logged(NamedTuple):
    """A change as the log has it: its revision, when it was made (milliseconds since 1970), and its event, a JSON object."""

    revision: int
    at_ms: int
    event: bytes


class LogPage(NamedTuple):
    """Changes, oldest first; the position behind the last one that was looked at; and the oldest revision that is kept, or the next
    one where none is."""

    changes: list[Logged]
    next_after: str
    first: int


def no_log(scope: str) -> StoreError:
    """What a reader is told of a scope that has no change log."""
    return StoreError(f"scope {scope!r} has no change log: the setting `history` of the engine that stores it names none for it")


class Position(NamedTuple):
    """Up to where a reader has come: the store, and the revision of the last change that it has read there."""

    store: str
    revision: int

    def __str__(self) -> str:
        return f"{self.store}:{self.revision}"


def parse_position(after: str) -> Position:
    """The position of a text. Raises `InvalidValue`."""
    store, colon, number = after.rpartition(":")
    if not colon or not (number.isascii() and number.isdigit()) or len(number) > 16 or int(number) > MAX_REVISION:
        raise InvalidValue(f"after: invalid value: {after[:100]!r}, expected a position, `<store id>:<revision>`")
    return Position(store, int(number))


def check_kept(after: Position, store: str | None, first: int, last: int) -> None:
    """Raises `Compacted` where not all changes behind a position are kept; `first` is the oldest that is, `last` the latest one."""
    if after.store != store:
        raise Compacted(f"the position {str(after)[:100]!r} is of another store than this one, {store}: read the values again")
    if after.revision > last:
        raise Compacted(f"there has been no revision {after.revision} yet; the latest is {last}: read the values again")
    if after.revision + 1 < first:
        raise Compacted(f"not all that came after revision {after.revision} is kept; the oldest is {first}: read the values again")


def ended_in_words(scopes: Sequence[str]) -> str:
    """What is said of scopes whose changes have gone, since the setting names them no more."""
    more = f" and {len(scopes) - MOST_NAMED:,} more" if len(scopes) > MOST_NAMED else ""
    named = ", ".join(map(repr, scopes[:MOST_NAMED]))
    return f"the setting `history` does not name {named}{more} any more: what their change logs held is gone (values are not)"
