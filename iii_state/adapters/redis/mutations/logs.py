"""What the fleet has agreed on about change logs: which scopes have one, and since when without a break."""

from __future__ import annotations

import secrets

import msgspec

from iii_state import values
from iii_state.errors import StoreError
from iii_state.history import LogRule, LogRules

REMEMBERED = 10_000
"""The scopes of which it is remembered whether they have a log."""


class GenerationOf(msgspec.Struct, frozen=True):
    """A rule, and which time it was added: another one where it had been away meanwhile, so that changes may be missing."""

    generation: str
    rule: LogRule


class ScopeRule(msgspec.Struct, frozen=True):
    """Of one scope: the generation of its log, and how many changes are kept for how long."""

    generation: bytes
    rule: LogRule


_setting = msgspec.json.Decoder(list[GenerationOf])


class LogSetting:
    """The setting as it lies among the routes. Raises `StoreError` for a text that is none."""

    def __init__(self, text: bytes) -> None:
        try:
            given = _setting.decode(text)
        except msgspec.MsgspecError as error:
            raise StoreError(f"the setting of the change logs in Redis cannot be read: {text[:200]!r}: {error}") from None
        self._rules = LogRules([each.rule for each in given])
        self._generations = {each.rule.scopes: each.generation.encode() for each in given}
        self._of: dict[str, ScopeRule | None] = {}

    @property
    def rules(self) -> LogRules:
        """The rules without their generations."""
        return self._rules

    def of(self, scope: str) -> ScopeRule | None:
        """What holds for a scope, None where it has no log."""
        try:
            return self._of[scope]
        except KeyError:
            pass
        rule = self._rules.of(scope)
        found = None if rule is None else ScopeRule(self._generations[rule.scopes], rule)
        if len(self._of) >= REMEMBERED:
            self._of.clear()
        self._of[scope] = found
        return found


def setting_of(rules: LogRules, before: bytes) -> bytes:
    """The text of the setting that holds these rules where `before` has held so far; empty for none. A rule that stays keeps its
    generation, also with other bounds."""
    try:
        known = {each.rule.scopes: each.generation for each in _setting.decode(before)} if before else {}
    except msgspec.MsgspecError:
        known = {}
    given = [GenerationOf(known.get(rule.scopes) or secrets.token_hex(6), rule) for rule in rules.rules]
    return values.encode(sorted(given, key=values.encode)) if given else b""
