"""Something that happens again and again, and who is told of it: for parts that are made after the one that notices."""

from __future__ import annotations

from collections.abc import Callable


class Signal:
    """Calls every callback that is connected, in turn, whenever it is emitted."""

    __slots__ = ("_callbacks",)

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], None]] = []

    def connect(self, *callbacks: Callable[[], None]) -> None:
        """Call these, too, from now on."""
        self._callbacks += callbacks

    def emit(self) -> None:
        """It has happened."""
        for callback in self._callbacks:
            callback()
