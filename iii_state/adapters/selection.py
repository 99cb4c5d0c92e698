"""Which keys of a scope are asked for, and in which order: what listings take besides the scope."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import nlargest, nsmallest
from typing import Literal, NamedTuple, TypeVar

Order = Literal["asc", "desc"]

K = TypeVar("K", str, bytes)
T = TypeVar("T")


class KeySelection(NamedTuple):
    """The first `limit` keys that begin with `prefix` and come behind `after`, in this order of the bytes of their UTF-8.

    Without an order they may come in any, and any of them; `after` is given with an order only.
    """

    prefix: str = ""
    order: Order | None = None
    limit: int | None = None
    after: str | None = None

    @property
    def is_descending(self) -> bool:
        return self.order == "desc"

    def matches(self, key: bytes) -> bool:
        """Whether a key is one of those, but for the limit."""
        if not key.startswith(self.prefix.encode()):
            return False
        if self.after is None:
            return True
        after = self.after.encode()
        return key < after if self.is_descending else key > after

    def first(self, keys: Iterable[bytes]) -> list[bytes]:
        """Of keys that match, those that are asked for, in their order; not the whole of them is held where there is a limit."""
        if self.limit is None:
            return list(keys) if self.order is None else sorted(keys, reverse=self.is_descending)
        if self.order is None:
            return [key for key, _ in zip(keys, range(self.limit), strict=False)]
        return nlargest(self.limit, keys) if self.is_descending else nsmallest(self.limit, keys)

    def sorted_rows(self, rows: list[tuple[str, T]]) -> list[tuple[str, T]]:
        """Rows in order of their keys. Python compares texts by their code points, which is the order of their UTF-8."""
        if self.order is None:
            return rows
        return sorted(rows, key=lambda row: row[0], reverse=self.is_descending)
