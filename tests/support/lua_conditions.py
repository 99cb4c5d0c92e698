"""Conditions judged by `lua/lib/values/judge.lua`, outside of Redis."""

from __future__ import annotations

import hashlib
from typing import Any

from lupa import lua51

from iii_state.adapters.redis.scripts.loader import script
from iii_state.values.conditions import Conditions

_HARNESS = b"""
local sha1hex = ...
local redis = {sha1hex = sha1hex}
%b
return function(text, words, revision)
  return failing_condition(text, words, 1, #words, revision)
end
"""


class LuaJudge:
    """The part, compiled once; `can_hash` says whether its server has `sha1hex`."""

    def __init__(self, *, can_hash: bool = True) -> None:
        self._runtime = lua51.LuaRuntime(encoding=None)
        load = self._runtime.eval(b"function(text) return assert(loadstring(text)) end")
        hashed = (lambda text: hashlib.sha1(text).hexdigest().encode()) if can_hash else None
        self._judge: Any = load(_HARNESS % script("lib/values/judge").source)(hashed)

    def failing(self, conditions: Conditions, stored: bytes | None, revision: int | None = None) -> int | None:
        """As `Conditions.failing`. Raises `LookupError` where an etag has to be worked out by the caller."""
        return self.failing_words(conditions.arguments()[2:], stored, revision)

    def failing_words(self, words: list[bytes], stored: bytes | None, revision: int | None = None) -> int | None:
        """The same of words."""
        table = self._runtime.table_from(words)
        found = self._judge(False if stored is None else stored, table, None if revision is None else b"%d" % revision)
        if isinstance(found, tuple):
            raise LookupError(found[0])
        return None if found is None else int(found)
