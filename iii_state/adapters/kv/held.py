"""What a kv store holds, in memory: the values that have been committed, and reading them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from iii_state.adapters.base import Entries, Reading
from iii_state.adapters.kv.deadlines import KvDeadlines
from iii_state.adapters.kv.log import KvHistory
from iii_state.adapters.kv.sorted_keys import SortedKeys
from iii_state.adapters.selection import KeySelection


class Held:
    """The committed values. One whose deadline is over is not seen, though it may not have gone yet.

    `history` is there where any scope has a change log.
    """

    def __init__(self, deadlines: KvDeadlines, history: KvHistory | None) -> None:
        self._held: dict[str, dict[str, bytes]] = {}
        """Scope → key → stored text."""
        self._sorted: dict[str, SortedKeys] = {}
        """Scope → its keys in order, of scopes that have been listed so."""
        self.deadlines = self._deadlines = deadlines
        self._watched = deadlines.watched
        self._history = history

    # -- one value

    def get(self, scope: str, key: str) -> bytes | None:
        held = self._held.get(scope)
        if held is None or (self._watched and self._is_over(self._deadlines.of(scope, key))):
            return None
        return held.get(key)

    def read(self, scope: str, key: str) -> Reading:
        deadline = self._deadlines.of(scope, key)
        left = None if deadline is None else deadline - self._deadlines.now()
        if left is not None and left <= 0:
            return Reading(None)
        text = self._held.get(scope, {}).get(key)
        revision = None if text is None or self._history is None else self._history.revision(scope, key)
        return Reading(text, None if text is None else left, revision)

    def get_many(self, scope: str, keys: Sequence[str]) -> list[bytes | None]:
        held, over = self._held.get(scope, {}), self._deadlines.over(scope)
        return [None if key in over else held.get(key) for key in keys]

    # -- the values of a scope

    def texts(self, scope: str, selection: KeySelection | None = None) -> list[bytes]:
        if selection is not None:
            return [text for _, text in self._selected(scope, selection)]
        held = self._held.get(scope, {})
        over = self._deadlines.over(scope)
        return [text for key, text in held.items() if key not in over] if over else list(held.values())

    def entries(self, scope: str, selection: KeySelection | None = None) -> Entries:
        rows = list(self._held.get(scope, {}).items()) if selection is None else self._selected(scope, selection)
        deadlines, now = self._deadlines.of_scope(scope), self._deadlines.now()
        if deadlines:
            rows = [(key, text) for key, text in rows if deadlines.get(key, now + 1) > now]
        return Entries(rows, deadlines, now)

    def keys(self, scope: str, selection: KeySelection | None = None) -> list[str]:
        if selection is not None:
            return [key for key, _ in self._selected(scope, selection)]
        over = self._deadlines.over(scope)
        return [key for key in self._held.get(scope, ()) if key not in over]

    def count(self, scope: str) -> int:
        return len(self._held.get(scope, ()))

    def scopes(self) -> list[str]:
        return [scope for scope, held in self._held.items() if len(self._deadlines.over(scope)) < len(held)]

    def now(self) -> int:
        return self._deadlines.now()

    def _selected(self, scope: str, selection: KeySelection) -> list[tuple[str, bytes]]:
        held = self._held.get(scope)
        if held is None:
            return []
        keys = self._sorted.get(scope)
        if keys is None:
            keys = self._sorted[scope] = SortedKeys(held)
        over = self._deadlines.over(scope)
        return [(key, held[key]) for key in islice((key for key in keys.select(selection) if key not in over), selection.limit)]

    # -- what is committed

    def _store(self, scope: str, key: str, value: bytes | None) -> None:
        held = self._held.get(scope)
        if self._sorted and held is not None and (keys := self._sorted.get(scope)) is not None and (value is None) == (key in held):
            (keys.add if value is not None else keys.remove)(key)
        if value is not None:
            if held is None:
                held = self._held[scope] = {}
            held[key] = value
        elif held is not None and held.pop(key, None) is not None and not held:
            del self._held[scope]
            self._sorted.pop(scope, None)

    def _is_over(self, deadline: int | None) -> bool:
        return deadline is not None and deadline <= self._deadlines.now()
