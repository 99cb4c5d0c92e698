"""Starting something once: what has been started and stopped does not come back."""

from __future__ import annotations

from iii_state.errors import StoreError


class Starting:
    """The beginning of a store of some `kind`, which it has once."""

    __slots__ = ("_kind", "has_begun")

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.has_begun = False
        """Set by its owner; what fails before may be tried again."""

    def check(self) -> None:
        """Raise `StoreError` for one that has been started before."""
        if self.has_begun:
            raise StoreError(f"this {self._kind} has been started before, and cannot be used again: make another one")
