"""The setting `history`: which scopes have a change log."""

from __future__ import annotations

from typing import Any

from iii_state.config.checks import MAX_MS, Check, integer, optional, section, shown
from iii_state.errors import ConfigError
from iii_state.history import LogRule

MAX_LENGTH = 10_000_000


def history(where: str, value: Any) -> tuple[LogRule, ...]:
    """A list of rules, each of one scope, or of all that begin so."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where} has to be a list of mappings with scope or scope_prefix, not {shown(value)}")
    rules: list[LogRule] = []
    for number, item in enumerate(value):
        rule = _rule(f"{where}[{number}]", item)
        if any(rule.scopes == other.scopes for other in rules):
            raise ConfigError(f"{where}[{number}] is about the same scopes as an earlier one; keep one")
        rules.append(rule)
    return tuple(rules)


def _rule(where: str, value: Any) -> LogRule:
    given = section(f"{where}.", value, _CHECKS)
    if ("scope" in given) == ("scope_prefix" in given):
        raise ConfigError(f"{where} has to have either scope or scope_prefix")
    return LogRule(**given)


def _name(where: str, value: Any) -> str:
    """Any string: the empty one is a scope, too."""
    if not isinstance(value, str):
        raise ConfigError(f"{where} has to be a string, not {shown(value)}")
    return value


_CHECKS: dict[str, Check] = {
    "scope": _name,
    "scope_prefix": _name,
    "max_length": integer(1, MAX_LENGTH),
    "max_age_ms": optional(integer(1, MAX_MS)),
}
