"""The keys of a scope in order, kept while the scope changes: made when a listing first asks for an order."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator

from iii_state.adapters.selection import KeySelection

FEW = 32
"""So many changes are put into the list one by one, which moves what is behind each; more are merged by one pass over it."""


class SortedKeys:
    """A list of keys, and what has changed since it was looked at: a change costs the same whatever the number of keys.

    Python compares texts by their code points, which is the order of their UTF-8.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = sorted(keys)
        self._added: set[str] = set()
        self._removed: set[str] = set()

    def add(self, key: str) -> None:
        """A key that was not there."""
        if key in self._removed:
            self._removed.remove(key)
        else:
            self._added.add(key)

    def remove(self, key: str) -> None:
        """A key that was there."""
        if key in self._added:
            self._added.remove(key)
        else:
            self._removed.add(key)

    def select(self, selection: KeySelection) -> Iterator[str]:
        """The keys that are asked for, but for the limit, in their order: ascending if there is none."""
        keys = self._settled()
        prefix, after = selection.prefix, selection.after
        size = len(prefix)
        start = bisect_left(keys, prefix)
        stop = bisect_right(keys, prefix, lo=start, key=lambda key: key[:size]) if prefix else len(keys)
        if not selection.is_descending:
            if after is not None:
                start = max(start, bisect_right(keys, after))
            return map(keys.__getitem__, range(start, stop))
        if after is not None:
            stop = min(stop, bisect_left(keys, after))
        return map(keys.__getitem__, range(stop - 1, start - 1, -1))

    def _settled(self) -> list[str]:
        added, removed = self._added, self._removed
        if not added and not removed:
            return self._keys
        if len(added) + len(removed) <= FEW:
            for key in removed:
                del self._keys[bisect_left(self._keys, key)]
            for key in added:
                insort(self._keys, key)
        else:
            kept = [key for key in self._keys if key not in removed] if removed else self._keys
            kept += sorted(added)
            kept.sort()  # two runs that are in order: they are merged
            self._keys = kept
        added.clear()
        removed.clear()
        return self._keys
