"""Long lists in parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """So many at once."""
    return (items[at : at + size] for at in range(0, len(items), size))
